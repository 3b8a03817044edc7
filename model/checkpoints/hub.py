"""Models on a hub of Hugging Face's kind: what a download would be, and the download with its progress.

A commit that was fetched whole is read from the hub's cache without asking the hub again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmm.model.checkpoints.errors import CheckpointError

__all__ = ["WANTED_FILES", "HubModel", "OnBytes", "fetched", "is_hub_id", "look_up", "pinned_id"]

#: What is fetched of a repository: weights, settings, tokenizer and chat template.
WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "qformer_tokenizer/*"]
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")

#: Called with the bytes that are there so far.
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class HubModel:
    """A repository at one commit. ``licence`` is what its model card says, None where that was not asked or is empty.

    ``missing_bytes`` is what the cache lacks of it: 0 where nothing is to be downloaded.
    """

    repository: str
    commit: str
    licence: str | None
    missing_bytes: int

    @property
    def name(self) -> str:
        """The hub id with the commit, which names the same files for ever."""
        return f"{self.repository}@{self.commit}"


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: ``owner/name``, or ``owner/name@revision``."""
    repository, at, revision = name.partition("@")
    return _HUB_ID.fullmatch(repository) is not None and bool(revision) == bool(at)


def pinned_id(name: str, folder: Path) -> str:
    """A hub id with the commit whose files ``folder`` holds; any other name as it is."""
    if is_hub_id(name) and folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return f"{name.partition('@')[0]}@{folder.name}"
    return name


def look_up(name: str) -> HubModel:
    """Ask the hub for a model's commit, licence and size. Downloads nothing.

    Asks nothing about a commit that the cache holds whole, and settles for the cache where the hub cannot be reached.
    Raises CheckpointError where neither has the model.
    """
    from huggingface_hub import HfApi, snapshot_download

    repository, _, revision = name.partition("@")
    if _COMMIT.fullmatch(revision) and (folder := _cached(name)) is not None:
        return HubModel(repository, folder.name, None, 0)
    try:
        about = HfApi().model_info(repository, revision=revision or None)
        commit = str(about.sha)
        files = snapshot_download(repository, revision=commit, allow_patterns=WANTED_FILES, dry_run=True)
    except _errors() as error:
        if (folder := _cached(name)) is not None:
            return HubModel(repository, folder.name, None, 0)
        raise _not_fetched(name, error) from error
    licence = getattr(about.card_data, "license", None)
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    return HubModel(repository, commit, str(licence) if licence else None, missing)


def fetched(name: str, patterns: list[str], *, on_bytes: OnBytes | None = None) -> Path:
    """The folder in the hub's cache that holds those files of a hub id. Downloads what is not there.

    Without a network, or with ``HF_HUB_OFFLINE``, uses what the cache holds of the revision. ``on_bytes`` is called as
    bytes come, in place of the hub's own progress bars. Raises CheckpointError.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    options = {} if on_bytes is None else {"tqdm_class": _told(on_bytes)}
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns, **options)
        )
    except _errors() as error:
        raise _not_fetched(name, error) from error


def _cached(name: str) -> Path | None:
    """The folder of a revision that the cache holds whole."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=WANTED_FILES, local_files_only=True
            )
        )
    except _errors():
        return None


def _errors() -> tuple[type[Exception], ...]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    return HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx2.TransportError, OSError


def _not_fetched(name: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"model {name!r} is not a local directory and could not be fetched from the hub: {reason.rstrip('.')}; "
        "give a directory or a model that is in the hub's cache, or --model demo, which knows drawn videos alone"
    )


def _told(on_bytes: OnBytes) -> type:
    """A progress bar for the hub's library that shows nothing and tells how many bytes there are."""
    from tqdm.std import tqdm

    class Told(tqdm):
        def __init__(self, *values: Any, **options: Any) -> None:
            super().__init__(*values, **(options | {"file": io.StringIO(), "mininterval": 0.2}))

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.unit == "B":
                on_bytes(int(self.n))
            return True

    return Told
