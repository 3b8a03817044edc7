"""Servers of the page, as processes and in this one, over archives that tests may write."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lance
import uvicorn
from fastapi import FastAPI

from malmm.pipeline.archive.reader import ArchiveReader
from support.drawn_archive import Drawn
from support.processes import command

__all__ = ["HOSTILE", "Served", "as_process", "copied", "in_this_process", "with_hostile_words"]

#: What would run if any of it were taken for markup.
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@dataclass(frozen=True)
class Served:
    """A running server and its archive."""

    address: str
    place: str

    @property
    def reader(self) -> ArchiveReader:
        return ArchiveReader.open(self.place)


def copied(drawn: Drawn, folder: Path) -> str:
    """An archive of the same rows that may be written."""
    shutil.copytree(drawn.place, folder / "archive")
    return str(folder / "archive")


def with_hostile_words(place: str, folder: Path) -> str:
    """Give one video a name, captions and prompts that are markup; gives its id."""
    row = ArchiveReader.open(place).videos().to_pylist()[-1]
    path = folder / f"{HOSTILE.replace('/', '')}.mp4"
    shutil.copy(row["uri"], path)
    chosen = f"video_id = '{row['video_id']}'"
    quoted = {
        name: "'" + text.replace("'", "''") + "'"
        for name, text in {"uri": str(path), "text": HOSTILE}.items()
    }
    lance.dataset(f"{place}/videos.lance").update({"uri": quoted["uri"]}, where=chosen)
    texts = lance.dataset(f"{place}/annotations.lance")
    texts.update({"text": quoted["text"], "prompt": quoted["text"]}, where=chosen)
    return str(row["video_id"])


@contextlib.contextmanager
def as_process(place: str, notes: Path, *options: str, **environment: str) -> Iterator[Served]:
    """``malmm serve`` on a free port."""
    with (notes / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            command("serve", "--archive", place, "--port", "0", *options),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert " at http" in said, (notes / "errors.txt").read_text()
        yield Served(said.rsplit(" at ", 1)[1].strip(), place)
    finally:
        process.terminate()
        process.wait(300)
        process.stdout.close()


@contextlib.contextmanager
def in_this_process(app: FastAPI, place: str) -> Iterator[Served]:
    """The application on a free port, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}/", place)
    finally:
        server.should_exit = True
        thread.join()
