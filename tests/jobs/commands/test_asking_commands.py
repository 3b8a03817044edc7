from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.drawn_archive import Drawn

from malmm.jobs.cli import main


def said(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = main(list(options))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_moments_are_listed(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    name, _, _ = drawn.only_once()[0]
    code, out, _ = said(capsys, "search", f"a {name}", "--archive", drawn.place, "-k", "2")
    assert code == 0
    assert out.startswith("  1. 0:")
    assert "similarity" in out
    code, out, _ = said(capsys, "search", f"a {name}", "--archive", drawn.place, "-k", "2", "--json")
    moments = json.loads(out)["moments"]
    assert len(moments) == 2
    assert {"video_id", "uri", "start_s", "end_s", "score", "signals", "caption"} <= moments[0].keys()


def test_videos_dates_and_moments_are_understood(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "search", "a cross", "--archive", drawn.place, "--video", "1.mp4", "--json")
    assert {each["uri"].rsplit("/", 1)[1] for each in json.loads(out)["moments"]} == {"1.mp4"}
    code, out, _ = said(capsys, "search", "a cross", "--archive", drawn.place, "--until", "2020-01-01")
    assert (code, out) == (0, "Nothing found.\n")
    code, out, _ = said(
        capsys, "search", "--like", "1.mp4@0:05", "--archive", drawn.place, "-k", "1", "--json"
    )
    assert code == 0
    assert len(json.loads(out)["moments"]) == 1


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (("search", "", "--archive", "{}"), 2, "an empty query"),
        (("search", "a", "--archive", "{}", "-k", "0"), 2, "-k 0"),
        (("search", "a", "--archive", "{}", "--video", "gone.mp4"), 2, "holds no video 'gone.mp4'"),
        (("search", "a", "--archive", "{}", "--since", "soon"), 2, "--since 'soon'"),
        (("search", "a", "--archive", "{}", "--where", "a = 1"), 2, "no column 'a'"),
        (("show", "--archive", "{}", "--where", "start_s <"), 2, "at its end"),
        (("show", "1.mp4", "--archive", "{}", "--where", "fps > 1"), 2, "leave it out"),
        (("ask", "What?", "--archive", "{}", "--where", "fps = 'x'"), 2, "fps is a number"),
        (("export", "--archive", "{}", "--format", "csv", "--where", "start_s = true"), 2, "seconds"),
        (("search", "--like", "1.mp4", "--archive", "{}"), 2, "VIDEO@TIME"),
        (("search", "--like", "1.mp4@9:99", "--archive", "{}"), 2, "is no time"),
        (("search", "a", "--archive", "{}", "--retrieval-model", "/gone"), 1, "cannot be opened"),
        (("search", "a", "--archive", "/gone"), 1, "there is no archive at /gone"),
        (("ask", "", "--archive", "{}"), 2, "an empty question"),
        (("ask", "What?", "--archive", "{}", "--video", "gone.mp4"), 2, "holds no video"),
        (("ask", "What?", "--archive", "/gone"), 1, "there is no archive"),
        (("annotate", "--archive", "{}", "--prompt", "a=b", "--labels", "one"), 2, "at least two labels"),
        (("annotate", "--archive", "{}"), 2, "no prompt"),
        (("export", "--archive", "{}", "--format", "vtt"), 2, "--output"),
        (
            ("export", "--archive", "{}", "--format", "csv", "--output", "/gone/x.csv"),
            2,
            "cannot write /gone/x.csv",
        ),
        (("optimize", "--archive", "/gone"), 1, "there is no archive"),
    ],
)
def test_errors_are_one_sentence(
    drawn: Drawn, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: int, error: str
) -> None:
    found, out, err = said(capsys, *(drawn.place if option == "{}" else option for option in options))
    assert found == code
    assert out == ""
    assert error in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_questions_are_answered_or_said_not_to_be(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    name, _, _ = drawn.only_once()[0]
    question = f"Which way does the {name} move?"
    code, out, _ = said(capsys, "ask", question, "--archive", drawn.place, "-k", "1")
    assert code == 0
    assert "see 0:" in out
    code, out, _ = said(capsys, "ask", question, "--archive", drawn.place, "--min-similarity", "1.01")
    assert code == 4
    assert out.startswith("Nothing relevant was found (the nearest is ")
    assert out.endswith("is put to one video: --video NAME\n")
    code, out, _ = said(capsys, "ask", question, "--archive", drawn.place, "--video", "*.mp4", "--json")
    assert len(json.loads(out)["answers"]) == 3


def test_filters_leave_what_passes(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    where = "uri LIKE '%/1.mp4' and start_s < 10"
    code, out, _ = said(capsys, "search", "a cross", "--archive", drawn.place, "--where", where, "--json")
    assert code == 0
    moments = json.loads(out)["moments"]
    assert moments
    assert all(each["uri"].endswith("/1.mp4") and each["start_s"] < 10 for each in moments)
    code, out, _ = said(capsys, "show", "--archive", drawn.place, "--where", where, "--json")
    assert [each["uri"].rsplit("/", 1)[1] for each in json.loads(out)["videos"]] == ["1.mp4"]
    code, out, _ = said(capsys, "export", "--archive", drawn.place, "--format", "jsonl", "--where", where)
    assert {json.loads(line)["start_s"] for line in out.splitlines()} == {0.0}
    code, out, _ = said(capsys, "ask", "What?", "--archive", drawn.place, "--where", "start_s < 0")
    assert (code, out) == (4, "Nothing relevant was found.\n")


def test_moments_are_grouped_counted_and_explained(drawn: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (
        "search",
        "a cross",
        "--archive",
        drawn.place,
        "-k",
        "2",
        "--by",
        "video",
        "--facets",
        "--explain",
    )
    code, out, _ = said(capsys, *asked, "--json")
    assert code == 0
    found = json.loads(out)
    assert [each["found"] >= 1 for each in found["videos"]] == [True, True]
    assert {each["video_id"] for each in found["moments"]} == {each["video_id"] for each in found["videos"]}
    assert found["moments"][0]["explanation"]["vector_rank"] == 1
    assert found["facets"][0]["name"] == "video"
    code, out, _ = said(capsys, *asked)
    assert code == 0
    assert "by vectors: 0.01639" in out
    assert "video_id = " in out
    assert out.splitlines()[0].endswith("moments)")


def test_annotations_are_written_to_files(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "export", "--archive", drawn.place, "--format", "jsonl")
    assert code == 0
    assert len(out.splitlines()) == drawn.reader.count("annotations")
    code, out, _ = said(
        capsys, "export", "--archive", drawn.place, "--format", "srt", "--output", str(tmp_path / "s")
    )
    assert [Path(line).name for line in out.splitlines()] == ["0.srt", "1.srt", "2.srt"]
