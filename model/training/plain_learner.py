"""Fine-tuning of a plain family: its language model learns to answer from memory, by adapters or as a whole.

Vision encoder and projector are frozen, so memory is made by the shipped code, and what it would store is what the
language model learns to read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.family import Asked, Slots
from malmm.model.families.plain.chat import answer_ids
from malmm.model.families.plain.family import PlainFamily
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.adapters import LanguageTraining
from malmm.model.training.learner import Shown

__all__ = ["PlainLearner"]


class PlainLearner:
    """A checkpoint of a plain family that learns. ``language`` is ``lora`` or ``full``."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: PlainFamily,
        settings: MemorySettings,
        *,
        language: str = "lora",
        rank: int = 16,
        seed: int = 0,
        device: torch.device | str = "cpu",
        exact: bool = False,
    ) -> None:
        self.checkpoint, self.family, self.settings = checkpoint, family, settings
        self.encoder = family.load_encoder(checkpoint, device=device)
        self.reader = family.load_language(checkpoint, device=device)
        if exact:
            self.encoder.double()
            self.reader.double()
        self.language = LanguageTraining(
            self.reader.model, language, names=family.language_names, rank=rank, seed=seed
        )

    @property
    def module(self) -> nn.Module:
        """The language model."""
        return self.reader

    def answer_tokens(self, shown: Sequence[Shown]) -> int:
        """The answers' tokens with the token that ends each."""
        return sum(len(self._answer(each)) for each in shown)

    def summed_loss(self, shown: Sequence[Shown]) -> Tensor:
        """The cross-entropy of the answers' tokens, of one example after the other: their lengths differ much."""
        return torch.stack([self._loss(each) for each in shown]).sum()

    @torch.no_grad()
    def answers(self, shown: Sequence[Shown]) -> list[str]:
        """Greedy answers, as the shipped code writes them."""
        return self.reader.generate_texts([self._asked(each) for each in shown])

    def trained_tensors(self) -> dict[str, Tensor]:
        """The language model's tensors that were trained, in the type that they have in the file."""
        names: dict[str, str] = {}
        for key in self.checkpoint.shapes:
            ours = key
            for pattern, replacement in self.family.renamed:
                ours, count = re.subn(pattern, replacement, ours)
                if count:
                    break
            names[ours] = key
        return {
            names[name]: value.detach().to("cpu", self.checkpoint.tensor(names[name]).dtype)
            for name, value in self.language.tensors().items()
            if name in names
        }

    def _asked(self, shown: Shown) -> Asked:
        [encoded] = self.encoder.encode([shown.frames], [[shown.prompt]], self.settings)
        slots = Slots.of(encoded.memory, shown.times_s, shown.end_s, self.family.frames_per_step)
        # Made in inference mode, which autograd does not take.
        return Asked(shown.prompt, slots=Slots(slots.tokens.clone(), slots.times_s, slots.end_s))

    def _answer(self, shown: Shown) -> list[int]:
        return answer_ids(
            self.reader.tokenizer,
            self.reader.wording.template,
            prompt=shown.prompt,
            answer=shown.answer,
            ends=self.reader.text_tokens.end,
        )

    def _loss(self, shown: Shown) -> Tensor:
        asked, model = self._asked(shown), self.reader.model
        if asked.slots is None:
            raise ValueError("a plain family answers from slots")
        answer = self._answer(shown)
        ids_1L = torch.tensor([self.reader.ids(asked) + answer], device=model.device)
        tokens = asked.slots.tokens.to(model.device, model.dtype)
        if hasattr(model.model, "rope_deltas"):
            model.model.rope_deltas = None
        logits = model(
            input_ids=ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            use_cache=False,
            logits_to_keep=len(answer) + 1,
            **self.reader.wording.inputs(model, tokens, ids_1L),
        ).logits[0, :-1]
        exact = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(logits.to(exact), ids_1L[0, -len(answer) :], reduction="sum")
