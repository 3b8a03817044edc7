"""Write a checkpoint that differs from its base in some tensors: an ordinary directory of safetensors that loads.

The directory appears when it is whole. Everything else is the base's: tokenizers, settings, the retrieval companion.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.registry import family_of

__all__ = ["refuse_output", "refuse_taken", "write_derived"]

_COPIED = (".json", ".txt", ".model", ".jinja")
_INDEX = "model.safetensors.index.json"
# Written here, and not copied.
_OWN = ("config.json", _INDEX, "model.safetensors")


def refuse_taken(output: Path) -> None:
    """Raise CheckpointError for an output that is a file, or a directory that holds something."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise CheckpointError(f"{output} is there already: name a directory that is not")


def refuse_output(output: Path, base: Checkpoint) -> None:
    """Raise CheckpointError for an output directory that holds something, or lies in the base's."""
    refuse_taken(output)
    if output.resolve().is_relative_to(base.directory.resolve()):
        raise CheckpointError(f"{output} lies in the base's own directory: name another")


def write_derived(
    base: Checkpoint,
    output: Path,
    tensors: Mapping[str, Tensor],
    *,
    card: str,
    config: Mapping[str, Any] | None = None,
    dropped: tuple[str, ...] = (),
    finish: Callable[[Path], None] = lambda made: None,
) -> None:
    """Write ``base`` with ``tensors`` in place of its own, or beside them, to the new directory ``output``.

    ``dropped`` names tensors of the base that are left out, ``config`` replaces its config.json, and ``card`` is the
    README. ``finish`` may add files to the directory before it gets its name. Weights are written file by file, so one
    file of the base has to fit in memory. Raises CheckpointError for an output that cannot be written, and if the
    result does not load as a checkpoint.
    """
    refuse_output(output, base)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error}") from error
    try:
        _copy_rest(base, made)
        text = json.dumps(base.config if config is None else config, indent=2)
        (made / "config.json").write_text(text + "\n", encoding="utf-8")
        _write_weights(base, made, tensors, dropped)
        (made / "README.md").write_text(card, encoding="utf-8")
        written = Checkpoint.open(str(made), model_types=(base.config["model_type"],))
        family_of(written).verify(written)
        finish(made)
        # As any directory that is made by hand, and not as a temporary one.
        made.chmod(0o777 & ~_umask())
        made.rename(output)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{output} cannot be written: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _copy_rest(base: Checkpoint, made: Path) -> None:
    for path in sorted(base.directory.rglob("*")):
        inner = path.relative_to(base.directory)
        companion = inner.parts[0] == "retrieval" and path.suffix == ".safetensors"
        if path.is_file() and str(inner) not in _OWN and (path.suffix in _COPIED or companion):
            (made / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, made / inner)


def _write_weights(
    base: Checkpoint, made: Path, tensors: Mapping[str, Tensor], dropped: tuple[str, ...]
) -> None:
    where = {key: path.name for key, path in base.files.items() if key not in dropped}
    # Tensors that the base does not have go into a file that is written anew anyway.
    changed = min((where[key] for key in tensors if key in where), default=min(where.values()))
    where |= {key: changed for key in tensors if key not in where}
    total = 0
    for path in sorted(set(base.files.values())):
        chosen = {key: tensors[key] for key, name in where.items() if name == path.name and key in tensors}
        if not chosen and not any(base.files.get(key) == path for key in dropped):
            shutil.copyfile(path, made / path.name)
            with safe_open(str(path), framework="pt") as opened:
                total += sum(opened.get_tensor(key).nbytes for key in opened.keys())  # noqa: SIM118
            continue
        with safe_open(str(path), framework="pt") as opened:
            metadata = opened.metadata()
            kept: dict[str, Tensor] = {
                key: opened.get_tensor(key)
                for key in opened.keys()  # noqa: SIM118 - not a mapping
                if where.get(key) == path.name and key not in chosen
            }
        # Views of one storage, which a pickle may hold, become tensors of their own.
        kept |= {key: value.clone().contiguous() for key, value in chosen.items()}
        total += sum(tensor.nbytes for tensor in kept.values())
        save_file(kept, made / path.name, metadata=metadata or {"format": "pt"})
    if (base.directory / _INDEX).is_file():
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (made / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
