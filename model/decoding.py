"""Settings of text generation: beams, limits, and the tokens at which a text begins and ends.

Published configurations contradict their tokenizers (Vicuna v1.1's says that token 1 ends a text and -1 pads, its
tokenizer says 2 and 32000), so the tokenizer's tokens are used. A checkpoint's own generation defaults are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TextStreamer,
)

from malmm.model.typed.constraint import Constraint
from malmm.model.typed.grammar import Grammar
from malmm.model.typed.vocabulary import Vocabulary

__all__ = ["Decoding", "TextTokens", "WordStreamer"]


@dataclass(frozen=True)
class TextTokens:
    """Token ids that end and pad texts, and the one from which an encoder-decoder model's decoder starts.

    ``end`` is empty for a tokenizer without an end token: texts then have the full number of new tokens.
    """

    end: tuple[int, ...]
    padding: int
    decoder_start: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, decoder_start: int | None = None) -> TextTokens:
        """The tokenizer's tokens. If it has no padding token, texts are padded with the end token, else with 0."""
        end = tokenizer.eos_token_id
        padding = tokenizer.pad_token_id
        if padding is None:
            padding = 0 if end is None else end
        return cls(() if end is None else (int(end),), int(padding), decoder_start)


@dataclass(frozen=True)
class Decoding:
    """Settings of one generation; greedy with one beam.

    ``begin_token`` is the id with which generated sequences begin if prompts are embeddings and have no ids. It affects
    only the repetition penalty and is not part of the text. The authors' MA-LMM code began with its language model's
    configured token, 1; the default, None, begins with nothing. An encoder-decoder model ignores it, since it has a
    start token. ``returned`` is how many of the beams are returned, the best first. A beam's score is its summed
    log-probability divided by its length to the power of ``length_penalty``. ``grammar`` is what texts have to match,
    see ``under``. Raises ValueError for a count below one, more texts than beams, a penalty that is not positive, or a
    minimum above the maximum.
    """

    max_new_tokens: int = 40
    num_beams: int = 1
    begin_token: int | None = None
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    min_new_tokens: int = 0
    returned: int = 1
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise ValueError(
                f"max_new_tokens and num_beams are at least 1, not {self.max_new_tokens} and {self.num_beams}"
            )
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"a repetition penalty is positive, not {self.repetition_penalty}")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"a length penalty is a number, not {self.length_penalty}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is from 0 to max_new_tokens, {self.max_new_tokens}, not {self.min_new_tokens}"
            )
        if not 1 <= self.returned <= self.num_beams:
            raise ValueError(
                f"of {self.num_beams} beams from 1 to {self.num_beams} texts return, not {self.returned}"
            )
        if self.begin_token is not None and self.begin_token < 0:
            raise ValueError(f"a begin token is an id from 0 on, not {self.begin_token}")

    @classmethod
    def of_lengths(
        cls,
        max_length: int,
        *,
        min_length: int = 1,
        begin_token: int = 1,
        num_beams: int = 5,
        repetition_penalty: float = 1.5,
        length_penalty: float = 1.0,
        returned: int = 1,
    ) -> Decoding:
        """The authors' settings, whose lengths count the begin token. The defaults are those that they publish.

        ``max_length`` is at least 2. Raises ValueError as the class does.
        """
        return cls(
            max_new_tokens=max_length - 1,
            num_beams=num_beams,
            begin_token=begin_token,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty,
            min_new_tokens=max(0, min_length - 1),
            returned=returned,
        )

    def under(self, grammar: Grammar) -> Decoding:
        """These settings for one text that matches ``grammar``, with room for the longest: a token has a byte at least.

        Without a shortest length and a begin token, which the grammar does not know.
        """
        return replace(
            self,
            max_new_tokens=grammar.longest_bytes + 1,
            min_new_tokens=0,
            begin_token=None,
            returned=1,
            grammar=grammar,
        )

    def generation_config(self, tokens: TextTokens) -> GenerationConfig:
        """These settings as transformers' GenerationConfig, without the repetition penalty, which is a processor.

        Pass both to ``generate``, to keep other defaults out.
        """
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens or None,
            num_beams=self.num_beams,
            num_return_sequences=self.returned,
            do_sample=False,
            length_penalty=self.length_penalty,
            eos_token_id=list(tokens.end) or None,
            pad_token_id=tokens.padding,
            decoder_start_token_id=tokens.decoder_start,
        )

    def processors(
        self, prompt_tokens: int = 0, *, vocabulary: Callable[[], Vocabulary], start: int | None = None
    ) -> LogitsProcessorList:
        """The repetition penalty, and the grammar. The penalty leaves out the ``prompt_tokens`` ids that stand first.

        transformers' own takes the padding in front of embedded prompts for padding in front of the generated ids, and
        forgets as many of those. ``start`` is how many ids stand before the generated ones, if it is another number;
        ``vocabulary`` is called where there is a grammar. Raises VocabularyError where it cannot write what is asked.
        """
        found = LogitsProcessorList()
        if self.repetition_penalty != 1:
            found.append(
                RepetitionPenaltyLogitsProcessor(
                    self.repetition_penalty, prompt_ignore_length=prompt_tokens or None
                )
            )
        if self.grammar is not None:
            found.append(Constraint(vocabulary(), self.grammar, prompt_tokens if start is None else start))
        return found


class WordStreamer(TextStreamer):
    """Calls ``on_words`` with the words of one text as soon as no later token can change them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_words: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_words = on_words

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each piece of the text."""
        if text:
            self._on_words(text)
