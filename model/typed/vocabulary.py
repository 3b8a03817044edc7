"""The bytes of a tokenizer's tokens, by which a grammar tells which tokens may follow.

llguidance's own way to read a tokenizer fails for byte-level ones that put a space before a text and for those of
sentencepiece without an end to a word, so that the bytes are worked out here, as the tokenizer's decoder does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from malmm.model.typed.grammar import Grammar
from malmm.model.typed.schema import SchemaError

__all__ = ["Vocabulary", "VocabularyError"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONGEST_MATCH = 16
_CONTINUED = range(0x80, 0xC0)


class VocabularyError(SchemaError):
    """A vocabulary that cannot write what a schema asks for."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens of a tokenizer: ``pieces`` has the bytes of each, none for special ones. ``end`` is the end token."""

    pieces: tuple[bytes, ...]
    special: frozenset[int]
    end: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """The vocabulary of a tokenizer. Raises VocabularyError for one without an end token."""
        end = tokenizer.eos_token_id
        if end is None:
            raise VocabularyError("the model's tokenizer has no end token, so that no typed answer could end")
        special = frozenset(map(int, tokenizer.all_special_ids)) | frozenset(
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = json.loads(backend.to_str()).get("decoder") if backend is not None else None
        byte_level = _letters_of_bytes() if "ByteLevel" in json.dumps(decoder) else None
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        pieces = tuple(
            b"" if number in special or token is None else _piece(str(token), byte_level)
            for number, token in enumerate(tokens)
        )
        return cls(pieces, special, int(end))

    def check(self, grammar: Grammar) -> None:
        """Raise VocabularyError if what an answer needs cannot be written with these tokens.

        FLAN-T5's vocabulary, for one, has no braces.
        """
        missing = sorted(letter for letter in grammar.letters if not self._writes(letter))
        if missing:
            raise VocabularyError(
                f"the model's vocabulary cannot write {' '.join(missing)}, which the answer needs: "
                + (
                    "ask for one value (enum, boolean, a number) instead of an object"
                    if set(missing) <= set("{}[]")
                    else "use another model"
                )
            )

    def _writes(self, letter: str) -> bool:
        whole = letter.encode()
        return whole in self._numbers or all(bytes([byte]) in self._numbers for byte in whole)

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        return {piece: number for number, piece in enumerate(self.pieces) if piece}

    @cached_property
    def usable(self) -> Tensor:
        """Which tokens an answer may have, bool [V]: the end token, and those that can be finished.

        A token that ends within a letter needs the letter's other bytes as tokens.
        """
        finishes = all(bytes([byte]) in self._numbers for byte in _CONTINUED)
        allowed = [bool(piece) and (finishes or _is_whole(piece)) for piece in self.pieces]
        allowed[self.end] = True
        return torch.tensor(allowed)

    @cached_property
    def tokenizer(self) -> Any:
        """llguidance's form of it. Raises ImportError without the package."""
        import llguidance

        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Wrapped(self.pieces, sorted(self.special), self.end, self._numbers)),
            n_vocab=len(self.pieces),
            eos_token=self.end,
        )

    def text(self, ids: Iterable[int]) -> str:
        """The text of generated ids, up to the end token. What is no UTF-8 becomes U+FFFD."""
        kept = bytearray()
        for number in ids:
            if number == self.end:
                break
            kept += self.pieces[number] if number < len(self.pieces) else b""
        return kept.decode(errors="replace")


class _Wrapped:
    """What llguidance asks of a tokenizer."""

    def __init__(
        self, pieces: Sequence[bytes], special: list[int], end: int, numbers: dict[bytes, int]
    ) -> None:
        # Tokens that are no text get bytes that no text has.
        self.tokens = [piece or b"\xff<" + str(n).encode() + b">" for n, piece in enumerate(pieces)]
        self.special_token_ids, self.eos_token_id, self.bos_token_id = special, end, None
        self._numbers = numbers

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a text, by the longest match. Raises ValueError for a byte that no token begins with."""
        rest = text.encode() if isinstance(text, str) else text
        ids = []
        while rest:
            size = next((n for n in range(_LONGEST_MATCH, 0, -1) if rest[:n] in self._numbers), 0)
            if not size:
                raise ValueError(f"no token begins with {rest[:1]!r}")
            ids.append(self._numbers[rest[:size]])
            rest = rest[size:]
        return ids


def _piece(token: str, byte_level: dict[str, int] | None) -> bytes:
    if byte_level is not None:
        # An added token is written as it is.
        if all(letter in byte_level for letter in token):
            return bytes(byte_level[letter] for letter in token)
        return token.encode()
    found = _BYTE.fullmatch(token)
    return bytes([int(found[1], 16)]) if found else token.replace("\u2581", " ").encode()


def _letters_of_bytes() -> dict[str, int]:
    """The letter by which byte-level tokenizers write each byte, as GPT-2 does."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


def _is_whole(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
