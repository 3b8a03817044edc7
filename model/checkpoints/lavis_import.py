"""Writing a checkpoint of the authors' onto a base in Hugging Face's format: one directory of safetensors that loads.

The base gives all that the authors freeze, tokenizers and settings; the file gives the rest, bit by bit as it is. Two
settings differ between the implementations and are kept exact: the last layer norm of the vision encoder has an epsilon
of 1e-5 in the authors' code and 1e-6 in Hugging Face's class (``post_layernorm_eps`` of ``vision_config``), and a table
of positions is over frame numbers (``frame_positions.weight``).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import InstructBlipConfig

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.lavis import LavisFile, read_lavis
from malmm.model.families.registry import family_of
from malmm.model.memory.positions import FRAME_POSITIONS_KEY, POSITIONS_KEYS

__all__ = ["LN_VISION_EPS", "Imported", "import_lavis"]

#: The epsilon of ``ln_vision``, a plain layer norm of torch.
LN_VISION_EPS = 1e-5
_TRAINED = ("qformer.", "query_tokens", "language_projection.", "vision_model.post_layernorm.")
_COPIED = (".json", ".txt", ".model")
_INDEX = "model.safetensors.index.json"
# Written here, and not copied.
_OWN = ("config.json", _INDEX, "model.safetensors")


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
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise CheckpointError(f"{output} is there already: name a directory that is not")
    if output.resolve().is_relative_to(base.directory.resolve()):
        raise CheckpointError(f"{output} lies in the base's own directory: name another")
    family_of(base).verify(base)
    file = read_lavis(source)
    _check(file, base)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error}") from error
    try:
        _write(file, base, made)
        written = Checkpoint.open(str(made), model_types=("instructblip",))
        family_of(written).verify(written)
        # As any directory that is made by hand, and not as a temporary one.
        made.chmod(0o777 & ~_umask())
        made.rename(output)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{output} cannot be written: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
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


def _write(file: LavisFile, base: Checkpoint, made: Path) -> None:
    for path in sorted(base.directory.rglob("*")):
        inner = path.relative_to(base.directory)
        companion = inner.parts[0] == "retrieval" and path.suffix == ".safetensors"
        if path.is_file() and str(inner) not in _OWN and (path.suffix in _COPIED or companion):
            (made / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, made / inner)
    config = json.loads(json.dumps(base.config))
    config["vision_config"]["post_layernorm_eps"] = LN_VISION_EPS
    (made / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_weights(file, base, made)
    (made / "README.md").write_text(_card(file, base), encoding="utf-8")


def _write_weights(file: LavisFile, base: Checkpoint, made: Path) -> None:
    dropped = POSITIONS_KEYS if FRAME_POSITIONS_KEY in file.tensors else ()
    where = {key: path.name for key, path in base.files.items() if key not in dropped}
    if dropped:
        where[FRAME_POSITIONS_KEY] = where["query_tokens"]
    total = 0
    for path in sorted(set(base.files.values())):
        chosen = {
            key: file.tensors[key] for key, name in where.items() if name == path.name and key in file.tensors
        }
        if not chosen and not any(base.files.get(key) == path for key in dropped):
            shutil.copyfile(path, made / path.name)
            with safe_open(str(path), framework="pt") as opened:
                total += sum(opened.get_tensor(key).nbytes for key in opened.keys())  # noqa: SIM118
            continue
        with safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata()
            tensors: dict[str, Tensor] = {
                key: opened.get_tensor(key)
                for key in opened.keys()  # noqa: SIM118 - not a mapping
                if key in where and key not in chosen
            }
        # Views of one storage, which a pickle may hold, become tensors of their own.
        tensors |= {key: value.clone().contiguous() for key, value in chosen.items()}
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, made / path.name, metadata=metadata or {"format": "pt"})
    if (base.directory / _INDEX).is_file():
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (made / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _card(file: LavisFile, base: Checkpoint) -> str:
    epoch = "" if file.epoch is None else f", written after epoch {file.epoch}"
    return (
        f"# {file.path.stem} on {base.name}\n\n"
        f"Q-Former, queries, projection, last layer norm of the vision encoder and positions by frame number come from "
        f"`{file.path.name}`, a checkpoint of MA-LMM's authors' code{epoch}. All else is that of `{base.name}`, whose "
        "licence holds. Written by `malmm import-checkpoint`.\n"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
