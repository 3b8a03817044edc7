"""Fine-tuning of InstructBLIP by the paper's recipe: Q-Former, queries, projection, last layer norm and positions.

Vision encoder and language model are frozen, unless the language model is asked to learn as well. There is no dropout,
as in the authors' recorded steps, so that a step depends on its examples alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import InstructBlipConfig

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.decoding import Decoding
from malmm.model.families.batch_order import clip_tensor
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.memory.positions import (
    FRAME_POSITIONS_KEY,
    TIME_POSITIONS_KEY,
    FramePositions,
    TimePositions,
)
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.adapters import LanguageTraining
from malmm.model.training.learner import Shown
from malmm.model.training.step import Lesson, Trainee

__all__ = ["QFormerLearner", "refuse_encoder_decoder"]

# As many rows as the authors' table.
_NEW_POSITIONS = 120
_FRAMES_AT_ONCE = 64
# The beginnings of names here and in a checkpoint.
_NAMES = (
    ("norm.", "vision_model.post_layernorm."),
    ("qformer.qformer.", "qformer."),
    ("qformer.query_tokens", "query_tokens"),
    ("language.projection.", "language_projection."),
)


def refuse_encoder_decoder(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for an InstructBLIP checkpoint with an encoder-decoder language model."""
    if not checkpoint.parsed(InstructBlipConfig).use_decoder_only_language_model:
        raise CheckpointError(
            f"model {checkpoint.name!r} has an encoder-decoder language model (FLAN-T5), for which there is no "
            "training step: take a checkpoint with Vicuna"
        )


class QFormerLearner:
    """An InstructBLIP checkpoint that learns. ``language`` is one of ``malmm.model.training.choices.LANGUAGE``.

    A checkpoint without positions gets a table of zeros over relative time. Raises CheckpointError for an
    encoder-decoder language model.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: MemorySettings,
        *,
        language: str = "frozen",
        rank: int = 16,
        seed: int = 0,
        device: torch.device | str = "cpu",
        exact: bool = False,
    ) -> None:
        refuse_encoder_decoder(checkpoint)
        encoder = Encoder.load(checkpoint, device=device)
        model = LanguageModel.load(checkpoint, device=device)
        if encoder.vision is None:
            raise ValueError("an encoder that learns needs its vision encoder")
        self.checkpoint, self.settings = checkpoint, settings
        self.encoder, self.vision = encoder, encoder.vision
        norm: nn.LayerNorm = self.vision.model.post_layernorm
        # What it normalises is asked for as it is: the norm is trained, and the encoder is not.
        self.vision.model.post_layernorm = nn.Identity()
        positions = encoder.positions
        if positions is None:
            positions = TimePositions(torch.zeros(_NEW_POSITIONS, self.vision.channels)).to(device)
        self.trainee = Trainee(norm.float(), positions, encoder.qformer, model)
        if exact:
            self.trainee.double()
            self.vision.double()
        self.trainee.freeze()
        self.language = LanguageTraining(model.model, language, rank=rank, seed=seed)

    @property
    def module(self) -> nn.Module:
        """The model but for its vision encoder."""
        return self.trainee

    def answer_tokens(self, shown: Sequence[Shown]) -> int:
        """The answers' tokens with the token that ends each."""
        return sum(len(self._answer(each)) - 1 for each in shown)

    def summed_loss(self, shown: Sequence[Shown]) -> Tensor:
        """The loss of ``Trainee``, summed over the answers' tokens."""
        return self.trainee.summed_loss(self._lesson(shown), self.settings)[0]

    @torch.no_grad()
    def answers(self, shown: Sequence[Shown]) -> list[str]:
        """Greedy answers, as the shipped code writes them."""
        outputs = self.trainee.query_output(self._lesson(shown), self.settings)
        return self.trainee.language.generate(outputs, [each.prompt for each in shown], Decoding())

    def trained_tensors(self) -> dict[str, Tensor]:
        """What was trained: the language model's tensors in the type that they have in the file, others in float32."""
        found = {}
        for name, value in self.language.tensors().items():
            key = f"language_model.{name}"
            # Of tied weights a file has one name.
            if key in self.checkpoint.shapes:
                found[key] = value.detach().to("cpu", self.checkpoint.tensor(key).dtype)
        for name, parameter in self.trainee.named_parameters():
            if not name.startswith("language.model."):
                found[self._named(name)] = parameter.detach().to("cpu", torch.float32)
        return found

    def _named(self, name: str) -> str:
        if name == "positions.weight":
            by_frame = isinstance(self.trainee.positions, FramePositions)
            return FRAME_POSITIONS_KEY if by_frame else TIME_POSITIONS_KEY
        ours, theirs = next(pair for pair in _NAMES if name.startswith(pair[0]))
        return theirs + name.removeprefix(ours)

    def _lesson(self, shown: Sequence[Shown]) -> Lesson:
        prompts = self.encoder.prompt_tokens([[each.prompt] for each in shown])
        language = self.trainee.language
        asked = self._padded(language.prompt_ids([each.prompt for each in shown]))
        told = self._padded([self._answer(each) for each in shown])
        frames = torch.cat([clip_tensor(each.frames) for each in shown])
        with torch.no_grad():
            raw = torch.cat([self.vision(part) for part in frames.split(_FRAMES_AT_ONCE)])
        raw = raw.to(self.trainee.norm.weight.dtype)
        return Lesson(
            raw.split([len(each.frames) for each in shown]), prompts[0][:, 0], prompts[1][:, 0], *asked, *told
        )

    def _answer(self, shown: Shown) -> list[int]:
        tokenizer = self.trainee.language.tokenizer
        ends = list(self.trainee.language.text_tokens.end[:1])
        # The first is dropped behind a prompt, whatever it is.
        return [*(ends or [0]), *tokenizer(shown.answer, add_special_tokens=False)["input_ids"], *ends]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        ids = [[*row, *[0] * (longest - len(row))] for row in rows]
        mask = [[*[1] * len(row), *[0] * (longest - len(row))] for row in rows]
        device = self.encoder.qformer.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
