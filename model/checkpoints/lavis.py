"""Reading checkpoints of the authors' training code (LAVIS), and their tensors' names in Hugging Face's format.

Such a file is a pickle: ``{'model': tensors, 'optimizer': …, 'config': …, 'scaler': …, 'epoch': n}``. It is read with
torch's loader for weights only, which builds tensors, numbers, strings, lists and dicts and calls nothing that the file
names. ``model`` holds the tensors that were trained, and all buffers.
"""

from __future__ import annotations

import pickle
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.memory.positions import FRAME_POSITIONS_KEY

__all__ = ["LavisFile", "read_lavis"]

# The first that matches says what a tensor is called in Hugging Face's InstructBLIP.
_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"image_pe\.weight", FRAME_POSITIONS_KEY),
        (r"query_tokens", "query_tokens"),
        (r"ln_vision\.(weight|bias)", r"vision_model.post_layernorm.\1"),
        (r"(?:llm|t5|opt)_proj\.(weight|bias)", r"language_projection.\1"),
        (r"Qformer\.bert\.embeddings\.LayerNorm\.(.+)", r"qformer.embeddings.layernorm.\1"),
        (r"Qformer\.bert\.(.+?)\.(attention|crossattention)\.self\.(.+)", r"qformer.\1.\2.attention.\3"),
        (r"Qformer\.bert\.(.+)", r"qformer.\1"),
    )
)
# Buffers that transformers computes, and the head for the Q-Former's own pretraining.
_LEFT_OUT = re.compile(r".*\.(position_ids|inv_freq|masked_bias)|Qformer\.cls\..+")
_FROZEN = ("visual_encoder.", "llm_model.", "t5_model.", "opt_model.")
# Of what kind the language model is that a projection leads to: decoder-only?
_PROJECTIONS = {"llm_proj.": True, "opt_proj.": True, "t5_proj.": False}
_NAMED = 5


@dataclass(frozen=True, eq=False)
class LavisFile:
    """The trained ``tensors`` of a file under Hugging Face's names, and the ``epoch`` after which it was written.

    ``decoder_only`` is true for a language model such as Vicuna and false for T5 kinds. The tensors are mapped from the
    file and not read yet.
    """

    path: Path
    tensors: dict[str, Tensor]
    decoder_only: bool
    epoch: int | None = None


def read_lavis(path: Path) -> LavisFile:
    """Read the trained tensors of a LAVIS checkpoint. Nothing in the file is executed.

    Raises CheckpointError for a file that cannot be read, that would need code to be read, that holds other things than
    such a checkpoint, tensors of unknown names, or tensors of the parts that the authors' recipe freezes.
    """
    held = _loaded(path)
    model = held.get("model") if isinstance(held, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(
            f"{path} holds no 'model': give a checkpoint that LAVIS wrote, such as checkpoint_best.pth"
        )
    odd = [str(name) for name, value in model.items() if not (isinstance(name, str) and _is_plain(value))]
    if odd:
        raise CheckpointError(f"{path}: these are no plain tensors of numbers: {_some(odd)}")
    kept: dict[str, Tensor] = {name: value for name, value in model.items() if not _LEFT_OUT.fullmatch(name)}
    frozen = [name for name in kept if name.startswith(_FROZEN)]
    if frozen:
        raise CheckpointError(
            f"{path} holds tensors of the vision encoder or the language model, which the authors' recipe freezes and "
            f"which are taken from the base: {_some(frozen)}"
        )
    names = {name: _renamed(name) for name in kept}
    unknown = [name for name, new in names.items() if new is None]
    if unknown:
        raise CheckpointError(f"{path} holds tensors that InstructBLIP has no place for: {_some(unknown)}")
    whole = [name for name, value in kept.items() if not value.is_floating_point()]
    if whole:
        raise CheckpointError(f"{path} holds weights that are no floating numbers: {_some(whole)}")
    kinds = {kind for prefix, kind in _PROJECTIONS.items() if any(name.startswith(prefix) for name in kept)}
    if len(kinds) != 1:
        raise CheckpointError(
            f"{path} holds not one projection, but {len(kinds)} of llm_proj, opt_proj and t5_proj"
        )
    epoch = held.get("epoch")
    return LavisFile(
        path,
        {new: kept[name] for name, new in names.items() if new is not None},
        kinds.pop(),
        epoch if isinstance(epoch, int) else None,
    )


def _loaded(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the file in it, such as checkpoint_best.pth")
    # The authors publish all their checkpoints as one archive.
    if path.is_file() and tarfile.is_tarfile(path):
        raise CheckpointError(
            f"{path} is a tar archive: unpack it, and give a file of it, such as checkpoint_best.pth"
        )
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            # The format of torch before 1.6 cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} was not read: {_why_not(path)}") from error
    except Exception as error:  # a broken pickle or archive fails in as many ways as there are bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint of torch: {reason}") from error


def _why_not(path: Path) -> str:
    """Why torch's loader for weights refused a file."""
    try:
        needed = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 - of the old format and of garbage it cannot say
        needed = []
    if needed:
        return (
            f"it asks for code to be run or objects to be made ({_some(needed)}), as no file of weights does"
        )
    return "it is no file of weights, or it asks for code to be run"


def _is_plain(value: Any) -> bool:
    """Whether a value is an ordinary tensor of floating or whole numbers."""
    return type(value) is Tensor and value.layout == torch.strided and not value.is_quantized


def _renamed(name: str) -> str | None:
    for pattern, replacement in _NAMES:
        if found := pattern.fullmatch(name):
            return found.expand(replacement)
    return None


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest
