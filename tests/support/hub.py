"""A model hub on loopback, which remembers what it was asked for. Clients find it by ``HF_ENDPOINT``."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from support.answering import answering

__all__ = ["Hub", "running"]


@dataclass
class Hub:
    """``repositories`` maps an id to its revisions, and these to folders. ``asked`` are paths, as they came."""

    repositories: dict[str, dict[str, Path]]
    address: str = ""
    asked: list[str] = field(default_factory=list)

    def of(self, repository: str) -> list[str]:
        """What was asked of one repository."""
        return [path for path in self.asked if f"/{repository}/" in path or path.endswith(f"/{repository}")]

    def environment(self, cache: Path) -> dict[str, str]:
        """For a process that is to use this hub and a cache of its own."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def use(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """Have this process use this hub and a cache of its own."""
        for name, value in {
            "ENDPOINT": self.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            patch.setattr(f"huggingface_hub.constants.{name}", value)

    def commit(self, folder: Path) -> str:
        """The commit that a folder stands for."""
        return hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()

    def folder(self, repository: str, revision: str) -> Path | None:
        """By the name of a revision or by its commit."""
        revisions = self.repositories.get(repository, {})
        by_commit = {self.commit(folder): folder for folder in revisions.values()}
        return revisions.get(revision) or by_commit.get(revision)


def _card(folder: Path) -> dict[str, object]:
    """The metadata at the head of a model card."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    found: dict[str, object] = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    return found


@contextlib.contextmanager
def running(repositories: dict[str, dict[str, Path]]) -> Iterator[Hub]:
    """Serve folders of files as repositories."""
    hub = Hub(repositories)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append(self.path)
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._about(parts[2:])
            else:
                self._file(parts)

        do_HEAD = do_GET

        def _about(self, parts: list[str]) -> None:
            repository, rest = "/".join(parts[:2]), parts[2:]
            folder = hub.folder(repository, rest[1] if len(rest) > 1 else "main")
            if folder is None:
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [path.relative_to(folder).as_posix() for path in files]
            if rest[:1] == ["tree"]:
                about: object = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": name}
                    for name, path in zip(names, files, strict=True)
                ]
            else:
                siblings = [{"rfilename": name} for name in names]
                about = {
                    "id": repository,
                    "modelId": repository,
                    "sha": hub.commit(folder),
                    "siblings": siblings,
                    "cardData": _card(folder),
                }
            self._answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

        def _file(self, parts: list[str]) -> None:
            folder = hub.folder("/".join(parts[:2]), parts[3]) if parts[2:3] == ["resolve"] else None
            path = folder / "/".join(parts[4:]) if folder is not None else None
            if folder is None or path is None or not path.is_file():
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = path.read_bytes()
            tag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            self._answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": hub.commit(folder)})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    with answering(server):
        yield hub
