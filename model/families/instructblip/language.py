"""The frozen language model: query outputs and prompts in, text out. It needs neither vision encoder nor Q-Former.

Decoder-only (Vicuna) and encoder-decoder (FLAN-T5) checkpoints work alike: the projected query outputs come before the
prompt's tokens, as InstructBLIP was trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Cache,
    GenerationConfig,
    InstructBlipConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.streamers import BaseStreamer

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.parts import tokenizer_for
from malmm.model.decoding import Decoding, TextTokens, WordStreamer
from malmm.model.families.family import Asked, LabelScores, half_precision
from malmm.model.families.instructblip.encoder import INSTRUCTBLIP_OPTIONAL, INSTRUCTBLIP_PREFIXES
from malmm.model.generation.greedy import greedy_ids
from malmm.model.generation.rows import DecoderRows, EncoderDecoderRows, Rows, joined
from malmm.model.typed.vocabulary import Vocabulary

__all__ = ["LabelScores", "LanguageModel", "language_class"]


def language_class(config: InstructBlipConfig) -> type[PreTrainedModel]:
    """The transformers class of a checkpoint's language model, as InstructBLIP itself chooses it.

    Raises CheckpointError for a type that cannot generate text.
    """
    auto = AutoModelForCausalLM if config.use_decoder_only_language_model else AutoModelForSeq2SeqLM
    try:
        return auto._model_mapping[type(config.text_config)]
    except KeyError:
        raise CheckpointError(
            f"a language model of type {config.text_config.model_type!r} cannot generate text"
        ) from None


class LanguageModel(nn.Module):
    """Generates and scores text for projected query outputs. Stateless between calls."""

    def __init__(
        self, projection: nn.Linear, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        self.projection = projection
        self.model = model
        self.tokenizer = tokenizer
        start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
        self.text_tokens = TextTokens.of(tokenizer, start)
        # Empty, since transformers takes settings from here that a call leaves out.
        model.generation_config = GenerationConfig()

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> LanguageModel:
        """The language model of an InstructBLIP checkpoint. Raises CheckpointError."""
        device = torch.device(device)
        checkpoint.check_prefixes(INSTRUCTBLIP_PREFIXES, optional=INSTRUCTBLIP_OPTIONAL)
        config = checkpoint.parsed(InstructBlipConfig)
        kind = language_class(config)
        model = checkpoint.pretrained(
            kind, config.text_config, "language_model.", dtype or half_precision(device)
        )
        hidden = int(model.get_input_embeddings().weight.shape[1])
        projection = nn.Linear(int(config.qformer_config.hidden_size), hidden)
        checkpoint.fill(projection, "language_projection.")
        rows = int(model.get_input_embeddings().weight.shape[0])
        tokenizer = tokenizer_for(checkpoint, rows)
        return cls(projection, model, tokenizer).to(device).eval().requires_grad_(False)

    @property
    def is_encoder_decoder(self) -> bool:
        """True for T5 models, whose prompt goes to the encoder."""
        return bool(self.model.config.is_encoder_decoder)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's tokens, for typed answers. Raises VocabularyError."""
        return Vocabulary.of(self.tokenizer)

    @cached_property
    def _controls(self) -> list[int]:
        """LLaMA's ids of what is no text, which published tokenizers do not all mark as special."""
        known = self.tokenizer.get_vocab()
        return [known[token] for token in ("<unk>", "<s>") if token in known]

    def _without_controls(self, ids: Tensor) -> Tensor:
        """Token ids with the end token for unknown and begin tokens, as the authors decode their sequences."""
        blank = self.text_tokens.end[0] if self.text_tokens.end else self.text_tokens.padding
        return ids.masked_fill(torch.isin(ids, ids.new_tensor(self._controls)), blank)

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, with the tokens that the tokenizer puts around them."""
        return [list(self.tokenizer(prompt)["input_ids"]) for prompt in prompts]

    def prompt_tokens(self, asked: Asked) -> int:
        """Tokens of a request: one a query, and those of the prompt. Raises ValueError as ``generate_texts`` does."""
        outputs_1QD, prompts = _outputs_and_prompts([asked])
        return outputs_1QD.shape[1] + len(self.prompt_ids(prompts)[0])

    @torch.inference_mode()
    def prompt_embeddings(self, asked: Asked) -> Tensor:
        """Input embeddings [P, E] of a request: its queries, projected, and its prompt. Raises ValueError as
        ``prompt_tokens``."""
        outputs_1QD, prompts = _outputs_and_prompts([asked])
        return self._prefix(outputs_1QD, self.prompt_ids(prompts))[0][0]

    def _prefix(self, query_BQD: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Input embeddings [B, Q+L, E] and their mask [B, Q+L]: queries, then the prompt's token ids.

        Decoder-only batches are padded on the left, so that new tokens follow the prompt in every row.
        """
        embed = self.model.get_input_embeddings()
        device, dtype = embed.weight.device, embed.weight.dtype
        rows = []
        for query_QD, prompt in zip(query_BQD, prompts, strict=True):
            ids = torch.tensor(prompt, device=device, dtype=torch.long)
            projected = self.projection(query_QD.to(device, self.projection.weight.dtype)).to(dtype)
            rows.append(torch.cat([projected, embed(ids)]))
        longest = max(len(row) for row in rows)
        embeds, mask = [], []
        for row in rows:
            gap = longest - len(row)
            padding = (gap, 0) if not self.is_encoder_decoder else (0, gap)
            embeds.append(F.pad(row, (0, 0, *padding)))
            mask.append(F.pad(torch.ones(len(row), dtype=torch.long, device=device), padding))
        return torch.stack(embeds), torch.stack(mask)

    def _before_last(self, embeds_BPE: Tensor, mask_BP: Tensor) -> Cache:
        """Keys and values of all positions but the last, for a decoder-only model: the prefill that continuations
        share.

        Each continuation computes the last position itself, since its first token follows from the output there.
        """
        mask_BN = mask_BP[:, :-1]
        outputs = self.model.base_model(
            inputs_embeds=embeds_BPE[:, :-1],
            attention_mask=mask_BN,
            position_ids=(mask_BN.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        )
        return outputs.past_key_values

    @torch.inference_mode()
    def generate_ids(
        self,
        query_output: Tensor,
        prompt_ids: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        streamer: BaseStreamer | None = None,
    ) -> Tensor:
        """Token ids [B * R, L] for ``query_output`` [B, Q, D] under prompts given as ids, padded at the end.

        Each prompt has ``decoding.returned`` rows side by side, the best first. The begin token stands in front.
        Raises ValueError for a begin token that the model does not have.
        """
        embeds, mask = self._prefix(query_output, prompt_ids)
        begin = None if self.is_encoder_decoder else decoding.begin_token
        table_rows = int(self.model.get_input_embeddings().weight.shape[0])
        if begin is not None and begin >= table_rows:
            raise ValueError(f"a begin token of {begin}: the language model's table ends at {table_rows - 1}")
        if decoding.num_beams > 1:
            return self._beam_ids(embeds, mask, begin, decoding)
        start = self.text_tokens.decoder_start if self.is_encoder_decoder else begin
        made = greedy_ids(
            self._prefilled(embeds, mask),
            decoding,
            self.text_tokens,
            self._processors(decoding),
            before=start,
            streamer=streamer,
        )
        return made if start is None else F.pad(made, (1, 0), value=start)

    def _processors(self, decoding: Decoding) -> LogitsProcessorList:
        start = 1 if self.is_encoder_decoder else 0
        return decoding.processors(vocabulary=lambda: self.vocabulary, start=start)

    def _prefilled(self, embeds_BPE: Tensor, mask_BP: Tensor) -> Rows:
        """The prompts computed, ready for the first new token."""
        if self.is_encoder_decoder:
            encoded_BPE = self._encoded(embeds_BPE, mask_BP)
            return EncoderDecoderRows(
                self.model, encoded_BPE, mask_BP, int(self.model.config.decoder_start_token_id)
            )
        made = self.model(
            inputs_embeds=embeds_BPE,
            attention_mask=mask_BP,
            position_ids=(mask_BP.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        rows = DecoderRows(self.model, made.past_key_values, made.logits[:, -1], mask_BP, mask_BP.sum(1))
        return joined([rows])[0]

    def _beam_ids(
        self, embeds_BPE: Tensor, mask_BP: Tensor, begin_token: int | None, decoding: Decoding
    ) -> Tensor:
        """``generate_ids`` with beams, by transformers."""
        before: Cache | None = None
        # transformers would compute a decoder's prompt again for each beam (an encoder's only once): share its prefill.
        if not self.is_encoder_decoder:
            before = self._before_last(embeds_BPE, mask_BP)
            before.batch_repeat_interleave(decoding.num_beams)
        begin = {}
        if begin_token is not None:
            begin["input_ids"] = mask_BP.new_full((len(mask_BP), 1), begin_token)
        ids: Tensor = self.model.generate(
            inputs_embeds=embeds_BPE,
            attention_mask=mask_BP,
            past_key_values=before,
            generation_config=decoding.generation_config(self.text_tokens),
            logits_processor=self._processors(decoding),
            **begin,
        )
        # transformers pads beams with the end token where the padding token is 0.
        tokens = self.text_tokens
        made = ids[:, 1:] if begin or self.is_encoder_decoder else ids
        ends = torch.isin(made, torch.tensor(tokens.end, device=ids.device)).long()
        made.masked_fill_(ends.cumsum(1) > ends, tokens.padding)
        return ids

    def candidates(
        self,
        query_output: Tensor,
        prompts: Sequence[str],
        decoding: Decoding,
        *,
        on_words: Callable[[str], None] | None = None,
    ) -> list[list[str]]:
        """``decoding.returned`` texts for each row of ``query_output`` [B, Q, D] under its prompt, the best first.

        Calls ``on_words`` with the words of a single text, of one beam, as they come. An exception that it raises ends
        the generation.
        """
        if not prompts:
            return []
        streamer = None if on_words is None else WordStreamer(self.tokenizer, on_words)
        ids = self.generate_ids(query_output, self.prompt_ids(prompts), decoding, streamer=streamer)
        if decoding.begin_token is not None and not self.is_encoder_decoder:
            ids = self._without_controls(ids[:, 1:])
        if decoding.grammar is not None:
            made = ids[:, 1:] if self.is_encoder_decoder else ids
            texts = [self.vocabulary.text(row) for row in made.tolist()]
        else:
            texts = [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return [texts[row : row + decoding.returned] for row in range(0, len(texts), decoding.returned)]

    def generate(
        self,
        query_output: Tensor,
        prompts: Sequence[str],
        decoding: Decoding = Decoding(),  # noqa: B008 - immutable
        *,
        on_words: Callable[[str], None] | None = None,
    ) -> list[str]:
        """The best text for each row of ``query_output`` [B, Q, D] under its prompt. As ``candidates`` otherwise."""
        return [texts[0] for texts in self.candidates(query_output, prompts, decoding, on_words=on_words)]

    def generate_texts(
        self,
        asked: Sequence[Asked],
        decoding: Decoding,
        *,
        on_words: Callable[[str], None] | None = None,
    ) -> list[str]:
        """``generate`` for requests with query outputs. Raises ValueError for a system prompt."""
        return self.generate(*_outputs_and_prompts(asked), decoding, on_words=on_words) if asked else []

    def candidate_texts(self, asked: Sequence[Asked], decoding: Decoding) -> list[list[str]]:
        """``candidates`` for requests with query outputs. Raises ValueError for a system prompt."""
        return self.candidates(*_outputs_and_prompts(asked), decoding) if asked else []

    def score_labels(self, asked: Sequence[Asked], labels: Sequence[str]) -> list[LabelScores]:
        """``classify`` for requests with query outputs. Raises ValueError for a system prompt."""
        return self.classify(*_outputs_and_prompts(asked), labels)

    @torch.inference_mode()
    def classify(
        self, query_output: Tensor, prompts: Sequence[str], labels: Sequence[str], *, batch_size: int = 32
    ) -> list[LabelScores]:
        """Score candidate labels as continuations of each prompt, at most ``batch_size`` of them at once.

        A label's score is the summed log-probability of its tokens and the end of the text; probabilities
        are the softmax of the scores over the labels. Raises ValueError without labels or with equal ones.
        """
        if not labels or len(set(labels)) != len(labels):
            raise ValueError("a classification needs labels that differ from each other")
        results = []
        rows = max(1, batch_size // len(labels))
        for begin in range(0, len(prompts), rows):
            part = slice(begin, begin + rows)
            embeds, mask = self._prefix(query_output[part], self.prompt_ids(prompts[part]))
            scores = self._continuation_scores(embeds, mask, labels, batch_size)
            for of_row in torch.tensor(scores, dtype=torch.float64).view(-1, len(labels)):
                results.append(LabelScores(tuple(labels), tuple(of_row.softmax(0).tolist())))
        return results

    @torch.inference_mode()
    def _continuation_scores(
        self, embeds_BPE: Tensor, mask_BP: Tensor, labels: Sequence[str], batch_size: int = 32
    ) -> list[float]:
        """The score of every label after every prefix, grouped by prefix.

        Prefixes are computed once; ``batch_size`` is the largest number of labels that follow each of them in one call.
        """
        given = self._encoded if self.is_encoder_decoder else self._before_last
        follow = self._decoded if self.is_encoder_decoder else self._continued
        shared = given(embeds_BPE, mask_BP)
        scores = []
        for begin in range(0, len(labels), batch_size):
            ids_KL, present_KL = self._label_ids(labels[begin : begin + batch_size])
            logits_NLV = follow(shared, embeds_BPE, mask_BP, ids_KL)
            ids_NL = ids_KL.repeat(len(embeds_BPE), 1)
            found_NL = logits_NLV.float().log_softmax(-1).gather(2, ids_NL[..., None])[..., 0]
            scores.append((found_NL.unflatten(0, (-1, len(ids_KL))) * present_KL).sum(2))
        return torch.cat(scores, dim=1).flatten().tolist()

    def _label_ids(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens [K, L] of labels with the end token, padded on the right, and their mask [K, L]."""
        end = self.tokenizer.eos_token_id
        rows = []
        for label in labels:
            ids = list(self.tokenizer(label, add_special_tokens=False)["input_ids"])
            if not ids:
                raise ValueError(f"the label {label!r} has no tokens")
            rows.append(torch.tensor(ids if end is None else [*ids, end], device=self.model.device))
        present = [torch.ones_like(row) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(present, batch_first=True)

    def _continued(self, before: Cache, embeds_BPE: Tensor, mask_BP: Tensor, ids_KL: Tensor) -> Tensor:
        """A decoder-only model's logits [B*K, L, V] for every label after every prefix.

        The padding behind a label comes after all scored tokens, so it needs no mask.
        """
        (rows, _), (copies, length) = mask_BP.shape, ids_KL.shape
        cache = copy.deepcopy(before)
        cache.batch_repeat_interleave(copies)
        labels_KLE = self.model.get_input_embeddings()(ids_KL[:, :-1])
        last_B1E = embeds_BPE[:, -1:].repeat_interleave(copies, 0)
        positions_BL = mask_BP.sum(1, keepdim=True) - 1 + torch.arange(length, device=mask_BP.device)
        return self.model(
            inputs_embeds=torch.cat([last_B1E, labels_KLE.repeat(rows, 1, 1)], dim=1),
            attention_mask=F.pad(mask_BP, (0, length - 1), value=1).repeat_interleave(copies, 0),
            position_ids=positions_BL.repeat_interleave(copies, 0),
            past_key_values=cache,
        ).logits

    def _encoded(self, embeds_BPE: Tensor, mask_BP: Tensor) -> Tensor:
        """The encoder's output for prefixes [B, P, E], for an encoder-decoder model: what continuations share."""
        return self.model.get_encoder()(inputs_embeds=embeds_BPE, attention_mask=mask_BP).last_hidden_state

    def _decoded(self, encoded_BPE: Tensor, embeds_BPE: Tensor, mask_BP: Tensor, ids_KL: Tensor) -> Tensor:
        """An encoder-decoder model's logits [B*K, L, V] for every label after every prefix."""
        rows, copies = len(mask_BP), len(ids_KL)
        start_K1 = ids_KL.new_full((copies, 1), self.model.config.decoder_start_token_id)
        return self.model(
            encoder_outputs=(encoded_BPE.repeat_interleave(copies, 0),),
            attention_mask=mask_BP.repeat_interleave(copies, 0),
            decoder_input_ids=torch.cat([start_K1, ids_KL[:, :-1]], dim=1).repeat(rows, 1),
        ).logits


def _outputs_and_prompts(asked: Sequence[Asked]) -> tuple[Tensor, list[str]]:
    """Query outputs [B, Q, D] and prompts of requests."""
    if any(question.system for question in asked):
        raise ValueError("InstructBLIP has no chat template, and no place for a system prompt")
    outputs = [question.query_output for question in asked if question.query_output is not None]
    if len(outputs) != len(asked) or not outputs:
        raise ValueError("InstructBLIP answers from query outputs")
    return torch.stack(outputs), [question.prompt for question in asked]
