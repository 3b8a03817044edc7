"""Load one part of a composite checkpoint with transformers' own class, leaving the other part empty.

transformers only reports tensors that do not fit, and fills missing ones with random numbers. Here both are errors,
except for the part that is left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_without", "tokenizer_for"]


def load_without(
    checkpoint: Checkpoint, kind: type[PreTrainedModel], config: Any, dtype: torch.dtype, *, left_out: str
) -> PreTrainedModel:
    """A model of class ``kind``, whose ``config`` was emptied of one part. Raises CheckpointError.

    ``left_out`` is a regular expression for the tensors of that part (names in the file or in the class), which may be
    unexpected, missing or of another size. All other tensors must fit exactly.
    """
    model, info = checkpoint.load(kind, config, dtype)
    ignored = re.compile(left_out)
    checkpoint.refuse(
        sorted(key for key in info["missing_keys"] if not ignored.search(key)),
        sorted(key for key in info["unexpected_keys"] if not ignored.search(key)),
        sorted(
            f"{key} is {list(found)}, not {list(wanted)}"
            for key, found, wanted in info["mismatched_keys"]
            if not ignored.search(key)
        ),
    )
    return model


def tokenizer_for(
    checkpoint: Checkpoint, rows: int, *, subfolder: str = "", part: str = "the language model"
) -> PreTrainedTokenizerBase:
    """The tokenizer for a part whose embedding table has this many rows.

    Raises CheckpointError if the tokenizer cannot be read, or has tokens beyond the table.
    """
    tokenizer = checkpoint.tokenizer(subfolder)
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if beyond:
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        number, token = max(beyond.items())
        reason = "the tokenizer is another model's"
        if special.issuperset(beyond.values()):
            reason = "a special token was added to the tokenizer without a row for it: grow the table or take it out"
        raise CheckpointError(
            f"model {checkpoint.name!r}: its tokenizer has {token!r} as {number}, but the table of {part} ends at "
            f"{rows - 1}: {reason}"
        )
    return tokenizer
