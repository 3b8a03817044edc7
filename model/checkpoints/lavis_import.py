"""Writing a checkpoint of the authors' onto a base in Hugging Face's format: one directory of safetensors that loads.

The base gives all that the authors freeze, tokenizers and settings; the file gives the rest, bit by bit as it is. Two
settings differ between the implementations and are kept exact: the last layer norm of the vision encoder has an epsilon
of 1e-5 in the authors' code and 1e-6 in Hugging Face's class (``post_layernorm_eps`` of ``vision_config``), and a table
of positions is over frame numbers (``frame_positions.weight``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import InstructBlipConfig

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.derived import refuse_output, write_derived
from malmm.model.checkpoints.lavis import LavisFile, read_lavis
from malmm.model.families.registry import family_of
from malmm.model.memory.positions import FRAME_POSITIONS_KEY, POSITIONS_KEYS

__all__ = ["LN_VISION_EPS", "Imported", "import_lavis"]

#: The epsilon of ``ln_vision``, a plain layer norm of torch.
LN_VISION_EPS = 1e-5
_TRAINED = ("qformer.", "query_tokens", "language_projection.", "vision_model.post_layernorm.")


@dataclass(frozen=True)
class Imported:
    """What was written: ``replaced`` tensors of the base, the rows of the table of positions, None without one.

    ``prompt_begin`` are the tokens that the tokenizer puts in front of every prompt. The authors' is ``</s>``.
    """

    directory: Path
    replaced: int
    position_rows: int | None
    epoch: int | None
    prompt_begin: tuple[str, ...]


def import_lavis(source: Path, base: Checkpoint, output: Path) -> Imported:
    """Write ``base`` with the trained tensors of the LAVIS file ``source`` to the new directory ``output``.

    Weights are written file by file, so one file of the base has to fit in memory. The directory appears when it is
    whole. Raises CheckpointError for a file or a base that do not fit each other, or an output that cannot be written.
    """
    refuse_output(output, base)
    family_of(base).verify(base)
    file = read_lavis(source)
    _check(file, base)
    config = json.loads(json.dumps(base.config))
    config["vision_config"]["post_layernorm_eps"] = LN_VISION_EPS
    write_derived(
        base,
        output,
        file.tensors,
        card=_card(file, base),
        config=config,
        dropped=POSITIONS_KEYS if FRAME_POSITIONS_KEY in file.tensors else (),
    )
    positions = file.tensors.get(FRAME_POSITIONS_KEY)
    return Imported(
        output,
        sum(key in base.shapes for key in file.tensors),
        None if positions is None else positions.shape[0],
        file.epoch,
        _prompt_begin(base),
    )


def _prompt_begin(base: Checkpoint) -> tuple[str, ...]:
    tokenizer = base.tokenizer()
    first = tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    ids = list(tokenizer("a")["input_ids"])
    return tuple(tokenizer.convert_ids_to_tokens(ids[: ids.index(first[0])] if first else ids))


def _check(file: LavisFile, base: Checkpoint) -> None:
    """Raise CheckpointError where a file's tensors are not exactly the trained parts of this base."""
    decoder_only = bool(base.parsed(InstructBlipConfig).use_decoder_only_language_model)
    if decoder_only != file.decoder_only:
        kinds = {True: "a decoder-only language model such as Vicuna", False: "T5"}
        raise CheckpointError(
            f"{file.path} was trained with {kinds[file.decoder_only]}, and base {base.name!r} has {kinds[decoder_only]}"
        )
    wanted = {key: shape for key, shape in base.shapes.items() if key.startswith(_TRAINED)}
    channels = base.shapes["vision_model.post_layernorm.weight"][0]
    found = {key: tuple(value.shape) for key, value in file.tensors.items()}
    table = found.pop(FRAME_POSITIONS_KEY, None)
    sizes = sorted(
        f"{key} is {list(found[key])}, not {list(wanted[key])}"
        for key in wanted.keys() & found.keys()
        if wanted[key] != found[key]
    )
    if table is not None and (len(table) != 2 or table[0] < 1 or table[1] != channels):
        sizes.append(f"image_pe.weight is {list(table)}, not [frames, {channels}]")
    computed = {key for key in wanted if key.endswith(".position_ids")}
    try:
        base.refuse(
            sorted(wanted.keys() - found.keys() - computed), sorted(found.keys() - wanted.keys()), sizes
        )
    except CheckpointError as error:
        wrong = str(error).removeprefix(f"model {base.name!r} ")
        raise CheckpointError(
            f"{file.path} is of another model than base {base.name!r}: beside it, it {wrong}"
        ) from None


def _card(file: LavisFile, base: Checkpoint) -> str:
    epoch = "" if file.epoch is None else f", written after epoch {file.epoch}"
    return (
        f"# {file.path.stem} on {base.name}\n\n"
        f"Q-Former, queries, projection, last layer norm of the vision encoder and positions by frame number come from "
        f"`{file.path.name}`, a checkpoint of MA-LMM's authors' code{epoch}. All else is that of `{base.name}`, whose "
        "licence holds. Written by `malmm import-checkpoint`.\n"
    )
