"""The language model of plain families: slots and prompts in, text out. It needs no vision part.

Slots are passed as placeholder ids with their visual tokens, and transformers computes the positions. Prompts on the
same slots share one prefill.

Shape suffixes: K labels, L ids, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

from malmm.model.decoding import Decoding, TextTokens, WordStreamer
from malmm.model.families.family import Asked, LabelScores, Slots
from malmm.model.families.plain.chat import chat_ids
from malmm.model.families.plain.prefill import Prefill, common_length
from malmm.model.generation.greedy import greedy_ids
from malmm.model.generation.rows import DecoderRows, joined
from malmm.model.typed.vocabulary import Vocabulary

__all__ = ["PlainLanguage", "Wording"]


@dataclass(frozen=True)
class Wording:
    """How one family writes slots into a prompt.

    ``seen(slots)`` is the text that replaces ``placeholder``, with one ``token`` for each visual token.
    ``inputs(model, tokens, ids)`` returns the model's arguments besides the ids, from tokens [S, N, C] or [S, N, L, C]
    and ids [1, L]. It must return new objects at each call, since transformers expands its arguments in place.
    """

    template: str
    placeholder: str
    token: str
    seen: Callable[[Slots], str]
    inputs: Callable[[Any, Tensor, Tensor], dict[str, Any]]
    state_in_place: bool = False


class PlainLanguage(nn.Module):
    """Generates and scores text from slots. Stateless between calls."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, wording: Wording) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.wording = wording
        self.text_tokens = _ends(tokenizer)
        # Empty, since transformers takes settings from here that a call leaves out.
        model.generation_config = GenerationConfig()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's tokens, for typed answers. Raises VocabularyError."""
        return Vocabulary.of(self.tokenizer)

    def ids(self, asked: Asked) -> list[int]:
        """Token ids of one request. Raises ValueError without slots, and if its text contains the family's token."""
        if asked.slots is None:
            raise ValueError("this family answers from slots")
        if self.wording.token in asked.prompt or self.wording.token in (asked.system or ""):
            raise ValueError(f"a prompt may not contain the model's own token {self.wording.token}")
        return chat_ids(
            self.tokenizer,
            self.wording.template,
            placeholder=self.wording.placeholder,
            seen=self.wording.seen(asked.slots),
            prompt=asked.prompt,
            system=asked.system,
        )

    def prompt_tokens(self, asked: Asked) -> int:
        """Number of ``ids``, of which one stands for each visual token. Raises ValueError as it does."""
        return len(self.ids(asked))

    @torch.inference_mode()
    def prompt_embeddings(self, asked: Asked) -> Tensor:
        """Input embeddings [P, E] of a request: those of its ids, with the slots' tokens in their places.

        For models that are given nothing else: not those with tensors for later layers, or positions on three axes.
        Raises ValueError as ``ids``, and if the visual tokens have not as many places.
        """
        ids_L = torch.tensor(self.ids(asked), device=self.model.device)
        if asked.slots is None:
            raise ValueError("this family answers from slots")
        tokens = asked.slots.tokens.to(self.model.device, self.model.dtype)
        [seen] = self.wording.inputs(self.model, tokens, ids_L[None])["mm_encoder_outputs"].values()
        features_NE = torch.cat(list(seen.pooler_output))
        embeds_LE: Tensor = self.model.get_input_embeddings()(ids_L)
        places_L = ids_L == self.tokenizer.convert_tokens_to_ids(self.wording.token)
        if int(places_L.sum()) != len(features_NE):
            raise ValueError(f"{len(features_NE)} visual tokens, and {int(places_L.sum())} places for them")
        embeds_LE[places_L] = features_NE.to(embeds_LE.dtype)
        return embeds_LE

    @torch.inference_mode()
    def generate_texts(
        self,
        asked: Sequence[Asked],
        decoding: Decoding = Decoding(),  # noqa: B008 - immutable
        *,
        on_words: Callable[[str], None] | None = None,
    ) -> list[str]:
        """The best text for each request. Calls ``on_words`` with the words of a single text, of one beam."""
        best = replace(decoding, returned=1)
        found = self.candidate_texts(asked, best, on_words=on_words)
        return [texts[0] for texts in found]

    @torch.inference_mode()
    def candidate_texts(
        self,
        asked: Sequence[Asked],
        decoding: Decoding,
        *,
        on_words: Callable[[str], None] | None = None,
    ) -> list[list[str]]:
        """``decoding.returned`` texts for each request, the best first.

        All requests are generated together, after a prefill for each of the slots; with beams, those on the same slots.
        """
        texts: list[list[str]] = [[] for _ in asked]
        made = self._beam_ids if decoding.num_beams > 1 else self._greedy_ids
        for places, ids_KL in made(asked, decoding, on_words):
            if decoding.grammar is not None:
                found = [self.vocabulary.text(row) for row in ids_KL.tolist()]
            else:
                found = self.tokenizer.batch_decode(ids_KL, skip_special_tokens=True)
            for number, text in enumerate(found):
                texts[places[number // decoding.returned]].append(text.strip())
        return texts

    def _greedy_ids(
        self, asked: Sequence[Asked], decoding: Decoding, on_words: Callable[[str], None] | None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield new ids [K, L] and the places of their requests: of all requests at once, if their caches allow it."""
        parts, places_of = [], []
        for places, ids_KL, mask_KL, prefill in self._tails(asked):
            parts.append(self._begun(ids_KL, mask_KL, prefill))
            places_of.append(places)
        at_once = joined(parts) if parts else []
        if len(at_once) == 1:
            places_of = [[place for places in places_of for place in places]]
        for places, rows in zip(places_of, at_once, strict=True):
            yield (
                places,
                greedy_ids(
                    rows,
                    decoding,
                    self.text_tokens,
                    decoding.processors(vocabulary=lambda: self.vocabulary),
                    streamer=None if on_words is None else WordStreamer(self.tokenizer, on_words),
                ),
            )

    def _beam_ids(
        self, asked: Sequence[Asked], decoding: Decoding, _on_words: Callable[[str], None] | None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield new ids [K * R, L] and the places of their requests, by transformers' beam search."""
        for places, ids_KL, mask_KL, prefill in self._tails(asked):
            made = self.model.generate(
                input_ids=ids_KL,
                attention_mask=mask_KL,
                past_key_values=prefill.rows(self.model, len(places) * decoding.num_beams),
                generation_config=decoding.generation_config(self.text_tokens),
                logits_processor=decoding.processors(ids_KL.shape[1], vocabulary=lambda: self.vocabulary),
            )
            yield places, made[:, ids_KL.shape[1] :]

    def _tails(self, asked: Sequence[Asked]) -> Iterator[tuple[list[int], Tensor, Tensor, Prefill]]:
        """Yield the places, ids [K, L], mask [K, L] and prefill of requests that can be computed together."""
        for indices, rows, prefill in self._prefilled(asked):
            for part in _batches(rows, padded=not prefill.in_place):
                ids_KL, mask_KL = self._padded([rows[place] for place in part], prefill.length)
                yield [indices[place] for place in part], ids_KL, mask_KL, prefill

    def _begun(self, ids_KL: Tensor, mask_KL: Tensor, prefill: Prefill) -> DecoderRows:
        """Prompts computed from where their prefill ends, ready for the first new token."""
        count, _ = ids_KL.shape
        cache = prefill.rows(self.model, count)
        # Of Qwen's three axes, text has the same position in each.
        offset = 0 if prefill.offset is None else int(prefill.offset)
        positions_KL = (mask_KL.cumsum(1) - 1)[:, prefill.length :] + offset
        logits_K1V = self.model(
            input_ids=ids_KL[:, prefill.length :],
            attention_mask=mask_KL,
            position_ids=positions_KL,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return DecoderRows(self.model, cache, logits_K1V[:, -1], mask_KL, positions_KL[:, -1] + 1)

    @torch.inference_mode()
    def score_labels(
        self, asked: Sequence[Asked], labels: Sequence[str], *, batch_size: int = 32
    ) -> list[LabelScores]:
        """Score candidate labels as continuations of each prompt, at most ``batch_size`` of them at once.

        A label's score is the summed log-probability of its tokens and the end of the text; probabilities are the
        softmax of the scores over the labels. Raises ValueError without labels, with equal ones and for an empty one.
        """
        if not labels or len(set(labels)) != len(labels):
            raise ValueError("a classification needs labels that differ from each other")
        rows = [self._label(label) for label in labels]
        found: list[LabelScores | None] = [None] * len(asked)
        for indices, prompts, prefill in self._prefilled(asked):
            for index, ids in zip(indices, prompts, strict=True):
                scores = [
                    score
                    for begin in range(0, len(rows), batch_size)
                    for score in self._scores(ids, prefill, rows[begin : begin + batch_size])
                ]
                probabilities = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
                found[index] = LabelScores(tuple(labels), tuple(probabilities))
        return [scores for scores in found if scores is not None]

    def _label(self, label: str) -> Tensor:
        ids = list(self.tokenizer(label, add_special_tokens=False)["input_ids"])
        if not ids:
            raise ValueError(f"the label {label!r} has no tokens")
        return torch.tensor([*ids, *self.text_tokens.end[:1]], device=self.model.device)

    def _scores(self, ids: Sequence[int], prefill: Prefill, labels: Sequence[Tensor]) -> list[float]:
        """Log-probabilities of labels after a prompt. Padding comes after all scored tokens, so it needs no mask."""
        labels_KL = pad_sequence(list(labels), batch_first=True)
        count, length = labels_KL.shape
        rest = torch.tensor(ids[prefill.length :], device=self.model.device).expand(count, -1)
        logits_KLV = self.model(
            input_ids=torch.cat([rest, labels_KL[:, :-1]], dim=1),
            attention_mask=labels_KL.new_ones(count, len(ids) + length - 1),
            past_key_values=prefill.rows(self.model, count),
            use_cache=True,
            logits_to_keep=length,
            **prefill.positions(rows=count, length=rest.shape[1] + length - 1),
        ).logits
        # float64 stays, half precision becomes float32.
        exact = torch.promote_types(logits_KLV.dtype, torch.float32)
        found_KL = logits_KLV.to(exact).log_softmax(-1).gather(2, labels_KL[..., None])[..., 0]
        return [float(found_KL[row, : len(label)].sum()) for row, label in enumerate(labels)]

    def _padded(self, rows: Sequence[list[int]], shared: int) -> tuple[Tensor, Tensor]:
        """Ids and mask [K, L] of prompts that begin with ``shared`` ids alike, padded right after these."""
        longest = max(map(len, rows))
        ids, mask = [], []
        for row in rows:
            lacking = longest - len(row)
            ids.append([*row[:shared], *[self.text_tokens.padding] * lacking, *row[shared:]])
            mask.append([*[1] * shared, *[0] * lacking, *[1] * (len(row) - shared)])
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _prefilled(self, asked: Sequence[Asked]) -> Iterator[tuple[list[int], list[list[int]], Prefill]]:
        """Yield the requests on the same slots together: their indices, their ids, and the prefill they share."""
        groups: defaultdict[tuple[int, str | None], list[int]] = defaultdict(list)
        for index, question in enumerate(asked):
            groups[id(question.slots), question.system].append(index)
        for indices in groups.values():
            rows = [self.ids(asked[index]) for index in indices]
            prefill = self._prefill(rows[0][: common_length(rows)], asked[indices[0]].slots)
            yield indices, rows, prefill

    def _prefill(self, ids: list[int], slots: Slots | None) -> Prefill:
        if slots is None:
            raise ValueError("this family answers from slots")
        ids_1L = torch.tensor([ids], device=self.model.device)
        visual = self.tokenizer.convert_tokens_to_ids(self.wording.token)
        tokens = slots.tokens.to(self.model.device, self.model.dtype)
        expected = tokens.shape[0] * tokens.shape[1]
        # LLaVA adds one token after the last slot.
        if int((ids_1L == visual).sum()) < expected:
            raise ValueError(
                "the model's chat template puts the video behind the question, which cannot be shared"
            )
        offsets = hasattr(self.model.model, "rope_deltas")
        if offsets:
            self.model.model.rope_deltas = None
        cache = DynamicCache(config=self.model.config)
        self.model(
            input_ids=ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **self.wording.inputs(self.model, tokens, ids_1L),
        )
        offset = self.model.model.rope_deltas if offsets else None
        return Prefill(cache, len(ids), offset, self.wording.state_in_place)


def _batches(rows: Sequence[Sequence[int]], *, padded: bool) -> list[list[int]]:
    """Places of ``rows`` that are computed together: all, or where rows may not be ``padded`` those of one length."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[0 if padded else len(row)].append(place)
    return list(groups.values())


def _ends(tokenizer: PreTrainedTokenizerBase) -> TextTokens:
    """A chat ends at the tokenizer's end, or where the model writes padding, which Qwen's do as the end of a text."""
    tokens = TextTokens.of(tokenizer)
    return TextTokens(tuple(dict.fromkeys((*tokens.end, tokens.padding))), tokens.padding)
