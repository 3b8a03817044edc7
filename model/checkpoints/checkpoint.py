"""Open a checkpoint, check that it is complete, and load one part of it.

A checkpoint is a directory in Hugging Face's format, or a hub id that is downloaded into the hub's cache. Only
safetensors files are read, and no code of the checkpoint runs. A tensor that is missing, unexpected or of the wrong
size raises an error that names it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from malmm.model.checkpoints.errors import CheckpointError
from malmm.model.checkpoints.hub import WANTED_FILES, fetched, is_hub_id, pinned_id

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# torch and transformers take seconds to import. A run without work opens its checkpoints only to compare fingerprints
# and needs neither, so they are imported where a part is loaded.

__all__ = ["Checkpoint", "CheckpointError", "quiet_transformers"]

# Buffers that older releases of transformers saved and newer ones compute.
_COMPUTED = (".position_ids", ".inv_freq", ".masked_bias")
_SAMPLE_BYTES = 1 << 16
_SAMPLES_PER_FILE = 64


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' loading reports and progress bars in the block. Errors are raised, not logged."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint directory. Create one with ``Checkpoint.open``."""

    name: str
    directory: Path
    config: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, name: str, *, model_types: tuple[str, ...] | None) -> Checkpoint:
        """Find the directory of ``name``, a path or a hub id, and read its ``config.json``.

        ``model_types`` are the accepted values of ``model_type``, None for any. Raises CheckpointError.
        """
        directory = _resolve(name)
        path = directory / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"model {name!r}: {directory} has no config.json, so it is not a checkpoint"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"model {name!r}: {path} cannot be read: {error}") from error
        found = config.get("model_type") if isinstance(config, dict) else None
        if model_types is not None and found not in model_types:
            raise CheckpointError(
                f"model {name!r} is of type {found!r}; this needs {' or '.join(map(repr, model_types))}"
            )
        if not isinstance(config, dict):
            raise CheckpointError(f"model {name!r}: {path} holds no settings")
        return cls(name, directory, config)

    @property
    def pinned(self) -> str:
        """Its name, with the commit where it is a hub id: what a recipe keeps and workers open."""
        return pinned_id(self.name, self.directory)

    def parsed(self, kind: type[PreTrainedConfig]) -> Any:
        """``config.json`` parsed as a configuration class of transformers. Raises CheckpointError."""
        try:
            with quiet_transformers():
                return kind.from_dict(_without_code(self.config))
        except Exception as error:  # transformers validates with exceptions of many libraries
            reason = " ".join(str(error).split())
            raise CheckpointError(f"model {self.name!r} has an unusable config.json: {reason}") from error

    @property
    def files(self) -> dict[str, Path]:
        """The file of every tensor. Raises CheckpointError if a listed file is missing."""
        return self._headers[0]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, from the files' headers. Raises CheckpointError as ``files`` does."""
        return self._headers[1]

    @property
    def half_bytes(self) -> int:
        """Bytes of its weights at two bytes each, however they are stored. Raises CheckpointError as ``files`` does."""
        return 2 * sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def _headers(self) -> tuple[dict[str, Path], dict[str, tuple[int, ...]]]:
        index_path = self.directory / "model.safetensors.index.json"
        if index_path.exists():
            try:
                names = set(json.loads(index_path.read_text(encoding="utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"model {self.name!r}: {index_path} cannot be read: {error!r}"
                ) from error
        else:
            names = {"model.safetensors"}
        where: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name in sorted(names):
            if not isinstance(name, str) or Path(name).name != name:
                raise CheckpointError(
                    f"model {self.name!r}: its index names {name!r}, which is not a plain file name"
                )
            path = self.directory / name
            if not path.is_file():
                others = sorted(p.name for p in self.directory.glob("*.bin"))
                hint = f" (it holds {', '.join(others)}, which is pickle and never read)" if others else ""
                raise CheckpointError(f"model {self.name!r}: {path} is missing{hint}")
            with _readable(self.name, path, "np") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    where[key] = path
                    shapes[key] = tuple(file.get_slice(key).get_shape())
        return where, shapes

    def check_prefixes(
        self, prefixes: tuple[str, ...], *, optional: tuple[str, ...] = (), ignored: tuple[str, ...] = ()
    ) -> None:
        """Raise CheckpointError for tensors that belong to no part, and for parts without a tensor.

        ``prefixes`` are those of the parts, ``optional`` complete names of optional tensors, ``ignored`` prefixes of
        unused tensors.
        """
        strays = sorted(
            key
            for key in self.files
            if not key.startswith((*prefixes, *ignored))
            and key not in optional
            and not key.endswith(_COMPUTED)
        )
        if strays:
            raise CheckpointError(f"model {self.name!r} has unexpected tensors: {_some(strays)}")
        absent = [prefix for prefix in prefixes if not any(key.startswith(prefix) for key in self.files)]
        if absent:
            raise CheckpointError(f"model {self.name!r} lacks the tensors of {_some(absent)}")

    def tensor(self, key: str) -> Tensor:
        """One tensor on the CPU. Raises CheckpointError if there is none of that name."""
        if key not in self.files:
            raise CheckpointError(f"model {self.name!r} lacks the tensor {key}")
        with _readable(self.name, self.files[key]) as file:
            return file.get_tensor(key)

    def array(self, key: str) -> np.ndarray:
        """One tensor as float32, without torch. Raises CheckpointError if there is none of that name."""
        if key not in self.files:
            raise CheckpointError(f"model {self.name!r} lacks the tensor {key}")
        path = self.files[key]
        with _readable(self.name, path, "np") as file:
            if file.get_slice(key).get_dtype() != "BF16":
                return np.asarray(file.get_tensor(key), np.float32)
        # numpy has no bfloat16: it is the upper half of a float32.
        with path.open("rb") as raw:
            header_bytes = int.from_bytes(raw.read(8), "little")
            about = json.loads(raw.read(header_bytes))[key]
            begin, end = about["data_offsets"]
            raw.seek(8 + header_bytes + begin)
            halves = np.frombuffer(raw.read(end - begin), "<u2")
        return (halves.astype(np.uint32) << 16).view(np.float32).reshape(about["shape"])

    def keys(self, prefix: str) -> list[str]:
        """Names of the tensors under ``prefix``, sorted."""
        return sorted(key for key in self.files if key.startswith(prefix))

    def check(
        self,
        module: nn.Module,
        prefix: str,
        *,
        renamed: tuple[tuple[str, str], ...] = (),
        ignored: tuple[str, ...] = (),
    ) -> None:
        """Compare the tensors under ``prefix`` with a module's, reading only headers. Raises CheckpointError.

        The module may be on the meta device. Tied weights need only one of their names. ``renamed`` are pairs (regular
        expression for names in the file, replacement for the module), ``ignored`` prefixes of names in the file.
        """
        theirs = {
            _renamed(key, renamed): shape
            for key, shape in self.shapes.items()
            if key.startswith(prefix) and not key.startswith(ignored)
        }
        ours = {prefix + key: value for key, value in module.state_dict(keep_vars=True).items()}
        present = {id(value) for key, value in ours.items() if key in theirs}
        self.refuse(
            sorted(key for key, value in ours.items() if key not in theirs and id(value) not in present),
            sorted(key for key in theirs if key not in ours and not key.endswith(_COMPUTED)),
            sorted(
                f"{key} is {list(theirs[key])}, not {list(value.shape)}"
                for key, value in ours.items()
                if key in theirs and theirs[key] != tuple(value.shape)
            ),
        )

    def fill(self, module: nn.Module, prefix: str) -> None:
        """Copy the tensors under ``prefix`` into ``module``. Raises CheckpointError if any does not fit."""
        self.check(module, prefix)
        keys = [key for key in self.keys(prefix) if not key.endswith(_COMPUTED)]
        module.load_state_dict({key.removeprefix(prefix): self.tensor(key) for key in keys})

    def pretrained(
        self, kind: type[PreTrainedModel], config: Any, prefix: str, dtype: torch.dtype
    ) -> PreTrainedModel:
        """A model of transformers' class ``kind`` with the tensors under ``prefix``. Raises CheckpointError."""
        module, info = self.load(kind, config, dtype, key_mapping={f"^{prefix}".replace(".", r"\."): ""})
        # Tensors of other parts keep their names; unexpected ones under the prefix have lost it.
        unexpected = sorted(
            prefix + key
            for key in info["unexpected_keys"]
            if key not in self.files and not key.endswith(_COMPUTED)
        )
        sizes = sorted(
            f"{prefix}{key} is {list(found)}, not {list(wanted)}"
            for key, found, wanted in info["mismatched_keys"]
        )
        self.refuse(sorted(prefix + key for key in info["missing_keys"]), unexpected, sizes)
        return module

    def load(
        self, kind: type[PreTrainedModel], config: Any, dtype: torch.dtype, **options: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """A model by ``kind.from_pretrained``, and transformers' report of the tensors that did not fit.

        The caller must check the report: missing tensors are random. ``options`` are passed on. Raises CheckpointError.
        """
        self.files  # noqa: B018 - reports missing and broken files with their names
        try:
            with quiet_transformers():
                model, report = kind.from_pretrained(
                    self.directory,
                    config=config,
                    output_loading_info=True,
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,
                    dtype=dtype,
                    **options,
                )
        except Exception as error:  # a configuration can fail in as many ways as modules can be built
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"model {self.name!r} cannot be loaded: {reason}") from error
        return model.eval(), report

    def tokenizer(self, subfolder: str = "") -> PreTrainedTokenizerBase:
        """The tokenizer of the checkpoint, or of a subfolder. Raises CheckpointError."""
        place = self.directory / subfolder
        if not (place / "tokenizer_config.json").is_file() and not (place / "tokenizer.json").is_file():
            raise CheckpointError(f"model {self.name!r}: {place} has no tokenizer")
        from transformers import AutoTokenizer

        try:
            with quiet_transformers():
                return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the tokenizers library raises bare Exception on a broken file
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"model {self.name!r}: the tokenizer in {place} cannot be read: {reason}"
            ) from error

    def fingerprint(self) -> str:
        """A hash of the checkpoint: of its JSON files, and of samples of every weight file.

        Weights are sampled at evenly spaced places, since a 7-billion model has 14 GB. Any further training changes all
        weights, so samples are enough.
        """
        described = sorted(
            p for p in self.directory.rglob("*") if p.suffix in (".json", ".jinja", ".txt", ".model")
        )
        read_whole = [
            path
            for path in described
            if path.is_file() and "retrieval" not in path.relative_to(self.directory).parts[:-1]
        ]
        return _hash_of(_as_they_are(read_whole), _as_they_are(sorted(set(self.files.values()))))

    def refuse(self, missing: list[str], unexpected: list[str], sizes: list[str]) -> None:
        """Raise CheckpointError that names missing, unexpected and wrongly sized tensors, if there are any."""
        wrong = []
        if missing:
            wrong.append(f"lacks the tensors {_some(missing)}")
        if unexpected:
            wrong.append(f"has unexpected tensors {_some(unexpected)}")
        if sizes:
            wrong.append(f"has tensors of another size: {_some(sizes)}")
        if wrong:
            raise CheckpointError(
                f"model {self.name!r} {' and '.join(wrong)}: the weights in {self.directory} are not those of its "
                "config.json; take both from one revision"
            )


def _without_code(settings: Any) -> Any:
    """A configuration without settings that name code to run: an attention kernel can be a hub repository."""
    if isinstance(settings, list):
        return [_without_code(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: _without_code(value)
        for key, value in settings.items()
        if key != "auto_map" and not key.removesuffix("_internal").endswith("_implementation")
    }


def _renamed(key: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in pairs:
        key, count = re.subn(pattern, replacement, key)
        if count:
            break
    return key


def _as_they_are(paths: Iterable[Path]) -> tuple[tuple[Path, int, int, int], ...]:
    """Files with size, time of change in ns and inode: the same as long as nobody writes or replaces them."""
    stats = [(path, path.stat()) for path in paths]
    return tuple((path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats)


# A run asks for it several times, and each time it would read megabytes.
@lru_cache(maxsize=32)
def _hash_of(
    described: tuple[tuple[Path, int, int, int], ...], weights: tuple[tuple[Path, int, int, int], ...]
) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for path, *_ in described:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for path, size, *_ in weights:
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES_PER_FILE):
                file.seek(max(0, (size - _SAMPLE_BYTES) * sample // (_SAMPLES_PER_FILE - 1)))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _some(names: list[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _resolve(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"model {name!r} is a file; give the directory that holds config.json")
    if not is_hub_id(name):
        raise CheckpointError(
            f"model {name!r}: there is no such directory, and it is not a hub id (owner/name or owner/name@revision)"
        )
    return fetched(name, WANTED_FILES)


@contextmanager
def _readable(name: str, path: Path, framework: str = "pt") -> Iterator[Any]:
    try:
        with safe_open(str(path), framework=framework) as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: it cannot be mapped
        raise CheckpointError(f"model {name!r}: {path} cannot be read: {error}") from error
