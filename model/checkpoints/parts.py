"""Loading one part of a composite checkpoint by transformers' own class, with the other part left empty.

transformers reports tensors that found no place, and goes on; here they are errors, but for those of the part that was
left out. Tensors that are missing would be random.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError, quiet_transformers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_without", "tokenizer_for"]


def load_without(
    checkpoint: Checkpoint, kind: type[PreTrainedModel], config: Any, dtype: torch.dtype, *, left_out: str
) -> PreTrainedModel:
    """A model of ``kind`` whose ``config`` has been emptied of one part. Raises CheckpointError.

    ``left_out`` is a regular expression for the names, as in the file or in the class, of tensors that may be
    unexpected or of another size for that. All others have to be there, and all of the class too.
    """
    checkpoint.files  # noqa: B018 - reports missing and broken files with their names
    try:
        with quiet_transformers():
            model, info = kind.from_pretrained(
                checkpoint.directory,
                config=config,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                dtype=dtype,
            )
    except Exception as error:  # a configuration can fail in as many ways as modules can be built
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"model {checkpoint.name!r} cannot be loaded: {reason}") from error
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
    return model.eval()


def tokenizer_for(
    checkpoint: Checkpoint, rows: int, *, subfolder: str = "", part: str = "the language model"
) -> PreTrainedTokenizerBase:
    """The tokenizer of a part whose table of embeddings has so many rows.

    Raises CheckpointError for a tokenizer that cannot be read, or that knows tokens beyond the table.
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
