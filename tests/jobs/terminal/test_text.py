from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from malmm.jobs.terminal.text import about, clock, printable, shortened, size


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


def test_control_characters_are_spelled_out() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert printable("\udcff") == "\\udcff"  # a byte of a file name that is no UTF-8
    assert printable("\u202e") == "\\u202e"  # turns the direction of what follows


@given(st.text(), st.integers(1, 50))
def test_shortened_text_fits(text: str, width: int) -> None:
    line = shortened(text, width)
    assert len(line) <= width
    assert line.isprintable()


def test_shortened_text_says_that_it_was() -> None:
    assert shortened("one  two\nthree", 20) == "one two three"
    assert shortened("one two three", 8) == "one two…"


def test_a_message_names_its_file_once() -> None:
    assert about("/a.mp4", "/a.mp4 is empty") == "/a.mp4 is empty"
    assert about("/a.mp4", "the file ends at 3.0 s") == "/a.mp4: the file ends at 3.0 s"
    assert about("/a\n.mp4", "no") == "/a\\n.mp4: no"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0:00"),
        (5, "0:05"),
        (65.25, "1:05.2"),
        (59.96, "1:00"),
        (3599.99, "1:00:00"),
        (3661, "1:01:01"),
        (36000.5, "10:00:00.5"),
        (-2.5, "-0:02.5"),
    ],
)
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (5e13, "50.0 TB")],
)
def test_size(count: float, said: str) -> None:
    assert size(count) == said
