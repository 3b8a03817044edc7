"""Check that a tokenizer fits its embedding table, and tokenize texts for it.

Publishers have added tokens to tokenizers without adding rows to the table: BLIP-2's retrieval checkpoints have an
``<image>`` token that only their language models look up. Plain words never become such special tokens, so a checkpoint
with them is accepted; a text that spells one out gets the unknown token. Ordinary tokens beyond the table mean that the
tokenizer belongs to another model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError

__all__ = ["TextTokens", "check_vocabulary", "within_table"]


def check_vocabulary(checkpoint: Checkpoint, tokenizer: Any, size: int, whose: str) -> None:
    """Raise CheckpointError if a transformers tokenizer has ordinary tokens beyond a table of ``size`` rows.

    ``whose`` names the table in the message.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    _check(checkpoint, tokenizer.get_vocab(), added, size, whose)


def within_table(ids: Any, size: int, unknown: int | None) -> Any:
    """Replace token ids (an array or a tensor) beyond a table of ``size`` rows by ``unknown``, or 0 if None."""
    return ids * (ids < size) + (unknown or 0) * (ids >= size)


class TextTokens:
    """Encodes texts with a checkpoint's own tokenizer, without transformers if it has a ``tokenizer.json``."""

    def __init__(self, encode: Callable[[str], list[int]], size: int, unknown: int) -> None:
        self._encode, self._size, self._unknown = encode, size, unknown

    @classmethod
    def load(cls, checkpoint: Checkpoint, size: int, longest: int) -> TextTokens:
        """For a table of ``size`` rows and texts cut to ``longest`` tokens. Raises CheckpointError."""
        path = checkpoint.directory / "tokenizer.json"
        if not path.is_file():
            # Older checkpoints have only the slow tokenizer's files, which transformers converts.
            slow = checkpoint.tokenizer()
            check_vocabulary(checkpoint, slow, size, "text table")
            return cls(
                lambda text: slow(text, truncation=True, max_length=longest)["input_ids"],
                size,
                slow.unk_token_id or 0,
            )
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception on a broken file
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"model {checkpoint.name!r}: the tokenizer in {path} cannot be read: {reason}"
            ) from error
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        _check(checkpoint, vocabulary, added, size, "text table")
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest)
        unknown = vocabulary.get(_unknown_of(checkpoint), 0)
        return cls(lambda text: list(tokenizer.encode(text).ids), size, unknown)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with the tokenizer's special tokens around it."""
        return [number if number < self._size else self._unknown for number in self._encode(text)]


def _unknown_of(checkpoint: Checkpoint) -> str:
    try:
        settings = json.loads((checkpoint.directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        token = settings.get("unk_token")
    except (OSError, ValueError, AttributeError):
        token = None
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else "[UNK]"


def _check(
    checkpoint: Checkpoint, vocabulary: dict[str, int], added: set[str], size: int, whose: str
) -> None:
    beyond = {token: number for token, number in vocabulary.items() if number >= size and token not in added}
    if beyond:
        token, number = max(beyond.items(), key=lambda item: item[1])
        raise CheckpointError(
            f"model {checkpoint.name!r}: its tokenizer has {token!r} as token {number}, but its {whose} ends at "
            f"{size - 1}: the tokenizer is another model's"
        )
