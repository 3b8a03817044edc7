"""The loss of a training step, as the authors compute it.

The banks hold detached tensors (He et al., CVPR 2024: their implementation): a pass without gradient fills them,
then the last frame's step is computed once more with gradient, from the frame's own tokens on. So the norm and the
positions learn from the last frame alone, and the Q-Former, its queries and the projection from its step. The vision
encoder and the language model are frozen. The loss is the mean cross-entropy over the answers' tokens.

Shape suffixes: B videos, T frames, N visual tokens, C channels, L prompt tokens of the Q-Former, I prompt tokens of the
language model, O answer tokens, J = I + O - 1, Q queries, P = Q + L, D hidden size, X places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import OnlineQFormer
from malmm.model.memory.positions import Positions
from malmm.model.memory.settings import MemorySettings, falling_order
from malmm.model.training.banked_pass import remembered
from malmm.model.training.last_step import last_step

__all__ = ["IGNORED", "Lesson", "Trainee", "joined"]

#: The label of a place whose token is not part of an answer.
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Lesson:
    """A batch: ``raw_tokens``, of each of B videos [T, N, C] of the vision encoder, before its last layer norm, and
    texts as token ids. Videos may have different numbers of frames.

    Masks are 1 for tokens and 0 for padding, which stands at the end: ``qformer_ids`` and ``qformer_mask`` [B, L],
    ``prompt_ids`` and ``prompt_mask`` [B, I], ``answer_ids`` and ``answer_mask`` [B, O]. An answer begins with the
    token that the tokenizer begins every text with, which is dropped behind the prompt, and ends with the end token.
    """

    raw_tokens: Sequence[Tensor] | Tensor
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

    def tokens(self, raw_TNC: Tensor, begin: int, count: int) -> Tensor:
        """Visual tokens [T, N, C] of frames from ``begin`` on, of a video of ``count`` frames, with their positions."""
        tokens_TNC = self.norm(raw_TNC)
        if self.positions is None:
            return tokens_TNC
        return tokens_TNC + self.positions.of_frames(count)[begin : begin + len(raw_TNC), None]

    def query_output(self, lesson: Lesson, settings: MemorySettings) -> Tensor:
        """The Q-Former's output [B, Q, D] after the last frame; that frame's step alone has gradient.

        Raises ValueError without query banks: a pass without them keeps no past to learn from.
        """
        order = falling_order([len(raw) for raw in lesson.raw_tokens])
        raw = [lesson.raw_tokens[place] for place in order]
        ids, mask = lesson.qformer_ids[order], lesson.qformer_mask[order]
        with torch.no_grad():
            entries = [self.tokens(raw_TNC, 0, len(raw_TNC)) for raw_TNC in raw]
        held = remembered(self.qformer, entries, ids, mask, settings)
        newest = [self.tokens(raw_TNC[-1:], len(raw_TNC) - 1, len(raw_TNC)) for raw_TNC in raw]
        newest_B1NC = torch.stack(newest).to(held.visual.dtype)
        visual_BSNC = torch.cat([held.visual[:, :-1], newest_B1NC], dim=1)
        output_BPD = last_step(
            self.qformer, ids, mask, visual_BSNC, held.visual_present, held.past, held.past_present
        )
        back = torch.tensor(order, device=output_BPD.device).argsort()
        return output_BPD[back, : self.qformer.query_tokens.shape[1]]

    def loss(self, lesson: Lesson, settings: MemorySettings) -> Tensor:
        """The mean cross-entropy over the answers' tokens, a scalar. For decoder-only language models.

        Raises ValueError for an encoder-decoder language model, and as ``query_output`` does.
        """
        total, count = self.summed_loss(lesson, settings)
        return total / count

    def summed_loss(self, lesson: Lesson, settings: MemorySettings) -> tuple[Tensor, int]:
        """The sum of the cross-entropy over the answers' tokens, and their number, so that parts of a batch can be
        computed one by one, or by several workers. Raises ValueError as ``loss`` does.
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
        logits_XV = logits[:, queries - 1 : -1].flatten(0, 1)
        exact = torch.promote_types(logits_XV.dtype, torch.float32)
        total = F.cross_entropy(
            logits_XV.to(exact), labels_BJ.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total, int((labels_BJ != IGNORED).sum())
