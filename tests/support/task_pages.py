"""Pages of docs/ as programs: their commands, files and Python are run in order, and what they show is compared.

In a page, a block of ``sh`` is run a line at a time, a block of ``python`` is executed, and a block of ``text``
right after commands holds lines that the last of them printed ("…" stands for anything). A block with
``title="NAME"`` becomes that file. A page may begin with ``<!-- continues: OTHER.md -->``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from unittest import mock

import pytest

from support.inline_stages import InlineStages
from support.made_once import made_once
from support.processes import Ended, run_here

__all__ = ["DOCS", "Block", "Walk", "blocks_of", "continued", "steps_of", "walk"]

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"cat > (\S+) <<'(\w+)'\n(.*?)\n\2\n", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_AFTER = re.compile(r"^<!-- continues: (\S+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is, its text, and whether commands stand right before it."""

    language: str
    title: str | None
    text: str
    follows: bool = False


@dataclass
class Walk:
    """What the commands of a page did in ``folder``, in order: each line with how it ended."""

    folder: Path
    done: list[tuple[str, Ended]] = field(default_factory=list)

    def said(self, start: str) -> str:
        """The output of the first command that begins so."""
        return next(ended.stdout for line, ended in self.done if line.startswith(start))


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page in docs/."""
    text = DOCS.joinpath(page).read_text(encoding="utf-8")
    found, end, before = [], 0, ""
    for block in _BLOCK.finditer(text):
        close = before == "sh" and not text[end : block.start()].strip()
        found.append(Block(block[1], block[2], block[3], close))
        end, before = block.end(), block[1]
    return found


def steps_of(block: str) -> Iterator[str | tuple[str, str]]:
    """The lines of a block of commands, and the files that it writes as (name, content)."""
    kept = _FILE.sub(lambda file: f"\0{file[1]}\0{file[3]}\n".replace("\n", "\1") + "\n", block)
    for line in kept.replace("\\\n", " ").splitlines():
        if line.startswith("\0"):
            _, name, content = line.replace("\1", "\n").split("\0")
            yield name, content
        elif line:
            yield line


def continued(page: str) -> str | None:
    """The page whose end is this page's beginning."""
    found = _AFTER.match(DOCS.joinpath(page).read_text(encoding="utf-8"))
    return found[1] if found else None


def walk(page: str, folder: Path, factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Walk:
    """Run a page, and compare what it shows: in the folder, or where the page that it continues was run."""
    InlineStages().install(patch)
    return _run(page, folder if (first := continued(page)) is None else _left_by(first, factory))


def _left_by(page: str, factory: pytest.TempPathFactory) -> Path:
    """The folder of a page as it was left, in its own place: archives hold the paths of their videos."""

    def make(folder: Path) -> tuple[Path, Path]:
        _run(page, folder)
        return folder, Path(shutil.copytree(folder, f"{folder}-kept"))

    folder, kept = made_once(factory, f"walked-{Path(page).stem}", make)
    shutil.rmtree(folder)
    return Path(shutil.copytree(kept, folder))


def _run(page: str, folder: Path) -> Walk:
    walked = Walk(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks_of(page):
            if block.language == "sh":
                for step in steps_of(block.text):
                    if isinstance(step, tuple):
                        Path(step[0]).write_text(step[1], encoding="utf-8")
                    else:
                        walked.done.append((step, _command(step)))
            elif block.language == "python":
                exec(compile(block.text, f"{page} (python)", "exec"), {})  # noqa: S102 - our own page
            elif block.title is not None:
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "text" and block.follows:
                _compare(block.text, walked.done[-1], page)
    return walked


def _command(line: str) -> Ended:
    """Run a line: ours in this process, others in a shell. Only a line with ``||`` may end with another code than 0."""
    command, _, otherwise = line.partition(" || ")
    words = shlex.split(command)
    given = dict(word.split("=", 1) for word in takewhile(_ASSIGNMENT.match, words))
    words = words[len(given) :]
    if words[0] != "malmm":
        done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, check=False)
        ended = Ended(done.returncode, done.stdout, done.stderr)
    else:
        *words, output = (*words[:-2], words[-1]) if ">" in words[-2:-1] else (*words, "")
        with mock.patch.dict(os.environ, given):
            ended = run_here(*words[1:])
        if output:
            Path(output).write_text(ended.stdout, encoding="utf-8")
    assert ended.returncode == 0 or otherwise, f"{line}: {ended.returncode} {ended.stdout}{ended.stderr}"
    return ended


def _compare(shown: str, done: tuple[str, Ended], page: str) -> None:
    """Each line that a page shows was printed, in this order. Spaces count as one."""
    line, ended = done
    left = [" ".join(each.split()) for each in ended.stdout.splitlines()]
    for wanted in filter(str.strip, shown.splitlines()):
        pattern = ".*".join(re.escape(part) for part in " ".join(wanted.split()).split("…"))
        at = next((number for number, each in enumerate(left) if re.fullmatch(pattern, each)), None)
        assert at is not None, f"{page}: `{line}` did not print {wanted!r}, but:\n{ended.stdout}"
        left = left[at + 1 :]
