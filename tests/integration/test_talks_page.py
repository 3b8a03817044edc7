"""The commands of docs/talks.md, one after the other, as they are written there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.inline_stages import InlineStages
from support.processes import Ended, run_here

PAGE = Path(__file__).parents[2] / "docs" / "talks.md"
_FILE = re.compile(r"cat > (\S+) <<'(\w+)'\n(.*?)\n\2\n", re.DOTALL)


def steps() -> list[str]:
    """The commands of the page in order, and the files that it writes as ``FILE content``."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        kept = _FILE.sub(lambda file: f"\0{file[1]}\0{file[3]}\n".replace("\n", "\1") + "\n", block)
        found += [line.replace("\1", "\n") for line in kept.splitlines() if line]
    return found


def test_each_step_does_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    InlineStages().install(monkeypatch)
    done: list[tuple[str, Ended]] = []
    for step in steps():
        if step.startswith("\0"):
            _, name, content = step.split("\0")
            Path(name).write_text(content, encoding="utf-8")
            continue
        program, *arguments = shlex.split(step)
        assert program == "malmm"
        ended = run_here(*arguments)
        assert ended.returncode == 0, f"{step}: {ended.stderr}"
        done.append((arguments[0], ended))
    said = [ended.stdout for _, ended in done]
    assert [name for name, _ in done] == [
        *("demo-videos", "index", "transcribe", "search", "show", "export"),
        *("import-annotations", "search", "export", "forget"),
    ]
    assert "1 transcripts: 2 new texts" in said[2]
    assert "The red square is where the ferry lands." in said[3]
    assert "0:05 to 0:09" in said[3]
    assert "transcript in en: 2 texts" in said[4]
    assert "Welcome to the harbour tour." in Path("subtitles/drawn-0-0.en.srt").read_text()
    assert "1: 1 new texts" in said[6]
    assert "HARBOUR TOUR 2026" in said[7]
    assert "HARBOUR TOUR 2026" in Path("back.csv").read_text()
    assert "Proved" in said[9]
