"""The loss of a training step, as the authors compute it.

The banks hold detached tensors (He et al., CVPR 2024: their implementation): a pass without gradient fills them,
then the last frame's step is computed once more with gradient, from the frame's own tokens on. So the norm and the
positions learn from the last frame alone, and the Q-Former, its queries and the projection from its step. The vision
encoder and the language model are frozen. The loss is the mean cross-entropy over the answers' tokens.

Shape suffixes: B videos, T frames, N visual tokens, C channels, L prompt tokens of the Q-Former, I prompt tokens of the
language model, O answer tokens, J = I + O - 1, Q queries, P = Q + L, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import OnlineQFormer
from malmm.model.memory.positions import Positions
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.last_step import last_step

__all__ = ["IGNORED", "Lesson", "Trainee", "joined"]

#: The label of a place whose token is not part of an answer.
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Lesson:
    """A batch: ``raw_tokens`` [B, T, N, C] of the vision encoder, before its last layer norm, and texts as token ids.

    Masks are 1 for tokens and 0 for padding, which stands at the end: ``qformer_ids`` and ``qformer_mask`` [B, L],
    ``prompt_ids`` and ``prompt_mask`` [B, I], ``answer_ids`` and ``answer_mask`` [B, O]. An answer begins with the
    token that the tokenizer begins every text with, which is dropped behind the prompt, and ends with the end token.
    """

    raw_tokens: Tensor
    qformer_ids: Tensor
    qformer_mask: Tensor
    prompt_ids: Tensor
    prompt_mask: Tensor
    answer_ids: Tensor
    answer_mask: Tensor


def joined(lesson: Lesson, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels [B, J] of prompts with their answers behind them, padded at the end."""
    prompt = lesson.prompt_mask.bool()
    answer = lesson.answer_mask.bool().clone()
    answer[:, 0] = False
    ids = torch.cat([lesson.prompt_ids, lesson.answer_ids], dim=1)
    kept = torch.cat([prompt, answer], dim=1)
    labels = torch.cat([torch.full_like(lesson.prompt_ids, IGNORED), lesson.answer_ids], dim=1)
    # A stable sort by what is padding keeps the order of the tokens.
    order = (~kept).long().argsort(dim=1, stable=True)[:, : ids.shape[1] - 1]
    mask = kept.gather(1, order)
    return (
        ids.gather(1, order).masked_fill(~mask, padding),
        mask.long(),
        labels.gather(1, order).masked_fill(~mask, IGNORED),
    )


class Trainee(nn.Module):
    """An InstructBLIP model but for its frozen vision encoder, whose last layer norm ``norm`` is trained."""

    def __init__(
        self, norm: nn.LayerNorm, positions: Positions | None, qformer: OnlineQFormer, language: LanguageModel
    ) -> None:
        super().__init__()
        self.norm = norm
        self.positions = positions
        self.qformer = qformer
        self.language = language

    def freeze(self) -> None:
        """Freeze the language model; everything else is trained."""
        self.requires_grad_(True)
        self.language.model.requires_grad_(False)

    def tokens(self, raw_BTNC: Tensor, begin: int, count: int) -> Tensor:
        """Visual tokens of frames from ``begin`` on, of videos of ``count`` frames, with their positions."""
        tokens_BTNC = self.norm(raw_BTNC)
        if self.positions is None:
            return tokens_BTNC
        return tokens_BTNC + self.positions.of_frames(count)[begin : begin + raw_BTNC.shape[1], None]

    def query_output(self, lesson: Lesson, settings: MemorySettings) -> Tensor:
        """The Q-Former's output [B, Q, D] after the last frame; that frame's step alone has gradient.

        Raises ValueError without query banks: a pass without them keeps no past to learn from.
        """
        if not settings.query:
            raise ValueError("training needs the query banks")
        steps = lesson.raw_tokens.shape[1]
        with torch.no_grad():
            state = self.qformer.start(
                lesson.qformer_ids[:, None],
                lesson.qformer_mask[:, None],
                steps=steps,
                tokens_per_frame=lesson.raw_tokens.shape[2],
                settings=settings,
            )
            self.qformer.step(state, self.tokens(lesson.raw_tokens, 0, steps), want_output=False)
            seen_BSNC = torch.stack([held.tokens for held in state.visual.entries()])
            past = [torch.stack([held.tokens[:-1] for held in bank.entries()]) for bank in state.query]
        newest_B1NC = self.tokens(lesson.raw_tokens[:, -1:], steps - 1, steps)
        visual_BSNC = torch.cat([seen_BSNC[:, :-1], newest_B1NC.to(seen_BSNC.dtype)], dim=1)
        present = lesson.qformer_mask.new_ones
        output_BPD = last_step(
            self.qformer,
            lesson.qformer_ids,
            lesson.qformer_mask,
            visual_BSNC,
            present(visual_BSNC.shape[:2], dtype=torch.bool),
            past,
            present((len(seen_BSNC), min(steps, settings.length + 1) - 1), dtype=torch.bool),
        )
        return output_BPD[:, : self.qformer.query_tokens.shape[1]]

    def loss(self, lesson: Lesson, settings: MemorySettings) -> Tensor:
        """The mean cross-entropy over the answers' tokens, a scalar. For decoder-only language models.

        Raises ValueError for an encoder-decoder language model, and as ``query_output`` does.
        """
        language = self.language
        if language.is_encoder_decoder:
            raise ValueError("the loss is of a decoder-only language model")
        prefix_BQE = language.projection(self.query_output(lesson, settings))
        ids_BJ, mask_BJ, labels_BJ = joined(lesson, language.text_tokens.padding)
        embeds = language.model.get_input_embeddings()(ids_BJ)
        queries = prefix_BQE.shape[1]
        logits = language.model(
            inputs_embeds=torch.cat([prefix_BQE.to(embeds.dtype), embeds], dim=1),
            attention_mask=F.pad(mask_BJ, (queries, 0), value=1),
            use_cache=False,
        ).logits
        # The place before a token predicts it: the last query predicts the prompt's first.
        return F.cross_entropy(
            logits[:, queries - 1 : -1].flatten(0, 1), labels_BJ.flatten(), ignore_index=IGNORED
        )
