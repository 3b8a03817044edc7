from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import malmm.pipeline.indexing.index
from malmm.jobs.commands import index
from malmm.pipeline.indexing.run_reports import IndexReport, Plan
from malmm.pipeline.schema.config import CAPTION, IndexConfig
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.progress import Progress
from malmm.pipeline.schema.records import Failure


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    index.add_parser(parser.add_subparsers())
    return parser.parse_args(["index", "videos", "--archive", "archive", *options])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., IndexConfig]:
    """The settings that ``malmm index`` asks for, without doing it."""

    def run(*options: str) -> IndexConfig:
        given: list[IndexConfig] = []

        def pretend(config: IndexConfig, **named: Any) -> IndexReport:
            given.append(config)
            return IndexReport(config.archive, config.model)

        monkeypatch.setattr(malmm.pipeline.indexing.index, "index", pretend)
        assert index.run(parsed("--quiet", *options)) == 0
        return given[0]

    return run


def test_without_options_settings_are_the_defaults(asked: Callable[..., IndexConfig]) -> None:
    assert asked() == IndexConfig(sources=("videos",), archive="archive")


def test_every_option_reaches_the_settings(asked: Callable[..., IndexConfig]) -> None:
    options = {
        "--model": "a/model",
        "--retrieval-model": "none",
        "--fps": "2.5",
        "--segment-s": "30",
        "--bank-length": "7",
        "--merge-policy": "frame",
        "--max-new-tokens": "9",
        "--batch-segments": "3",
        "--decoder": "decord",
        "--limit": "12",
        "--system": "Be brief.",
        "--decode-limit-s": "90",
        "--resource": "decode_workers=3",
        "--beams": "5",
        "--repetition-penalty": "1.5",
        "--length-penalty": "0",
        "--min-new-tokens": "2",
        "--begin-token": "1",
        "--leave-out": "copies.jsonl",
    }
    config = asked(
        *(part for option in options.items() for part in option),
        "--prune",
        "--dry-run",
        "--reindex",
        "--compile",
    )
    assert config == IndexConfig(
        sources=("videos",),
        archive="archive",
        model="a/model",
        retrieval_model="none",
        fps=2.5,
        segment_s=30.0,
        bank_length=7,
        merge_policy="frame",
        max_new_tokens=9,
        batch_segments=3,
        decoder="decord",
        limit=12,
        decode_limit_s=90.0,
        resources=(("decode_workers", 3.0),),
        texts=TextSettings(5, 1.5, 0.0, 2, 1, "Be brief."),
        compile=True,
        prune=True,
        dry_run=True,
        reindex=True,
        leave_out="copies.jsonl",
    )


def test_ways_of_sampling(asked: Callable[..., IndexConfig]) -> None:
    assert (asked("--keyframes").sampling, asked("--keyframes").fps) == ("keyframes", 1.0)
    config = asked("--frames-per-segment", "60", "--segment-s", "30")
    assert (config.sampling, config.fps) == ("count", 2.0)


def test_prompts(asked: Callable[..., IndexConfig]) -> None:
    config = asked("--prompt", "people=How many = people?", "--prompt", "place=Where?")
    assert [(prompt.name, prompt.text) for prompt in config.all_prompts] == [
        ("caption", CAPTION.text),
        ("people", "How many = people?"),
        ("place", "Where?"),
    ]
    config = asked("--prompt", "caption=Say it.")
    assert [(prompt.name, prompt.text) for prompt in config.all_prompts] == [("caption", "Say it.")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prompt", "no text"], "has no '='"),
        (["--prompt", "a b=text"], "not usable"),
        (["--prompt", "a="], "has no text"),
        (["--prompt", "a=x", "--prompt", "a=y"], "given twice"),
        (["--fps", "0"], "--fps 0"),
        (["--fps", "nan"], "--fps nan"),
        (["--segment-s", "inf"], "--segment-s inf"),
        (["--segment-s", "0.5"], "less than one frame"),
        (["--bank-length", "0"], "--bank-length 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["--batch-segments", "-1"], "--batch-segments -1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        index.run(parsed(*options))


def failures(count: int, kind: str = "no_frames") -> list[Failure]:
    return [
        Failure("aa" * 12, None, f"/videos/{number}.mp4", "decode", kind, "it gives no frame")
        for number in range(count)
    ]


def report(**changes: Any) -> IndexReport:
    counts: dict[str, Any] = {
        "videos_listed": 4,
        "videos_unchanged": 1,
        "videos_indexed": 2,
        "segments_indexed": 5,
        "frames": 600,
        "video_s": 600.0,
        "memories": 100,
        "annotations": 17,
        "elapsed_s": 62.0,
        "indexing_s": 60.0,
    }
    return IndexReport(**({"archive": "/archive", "model": "debug"} | counts | changes))


def test_the_summary_counts_what_was_done() -> None:
    said = index.summary(report())
    assert "2 indexed, 1 unchanged, 4 listed" in said
    assert "5 stored\n" in said
    assert "10:00 in 600 frames, 10.0x real time" in said
    assert "100 memory slots, 17 texts" in said
    assert "Took      1:02" in said
    assert "Failed" not in said
    assert "Interrupted" not in said


def test_the_summary_says_what_an_earlier_run_stored() -> None:
    assert "5 stored, 3 stored by an earlier run" in index.summary(report(segments_resumed=3))


def test_the_summary_ends_with_what_failed() -> None:
    lines = index.summary(report(failures=failures(3) + failures(1, "truncated"))).splitlines()
    assert lines[-5:] == [
        "Failed: 3 no_frames, 1 truncated",
        "  /videos/0.mp4: it gives no frame",
        "  /videos/1.mp4: it gives no frame",
        "  /videos/2.mp4: it gives no frame",
        "  /videos/0.mp4: it gives no frame",
    ]


def test_many_failures_are_not_all_printed() -> None:
    lines = index.summary(report(failures=failures(100))).splitlines()
    assert len(lines) < 40
    assert lines[-1] == "  and 80 more: malmm failures --archive /archive"


def test_an_interrupted_run_says_what_to_do_first() -> None:
    assert index.summary(report(interrupted=True)).startswith("Interrupted.")


def test_a_dry_run_is_summed_up_as_what_would_be_done() -> None:
    plan = Plan(
        2, 40, 3600.0, 3600, 800, 5_000_000, 42, ("/videos/gone.mp4",), 7_000_000, 0.5, 4.0, "earlier runs"
    )
    said = index.summary(report(plan=plan, videos_left=3))
    assert said.startswith("Nothing was changed.")
    for part in (
        "2 to index",
        "3 left",
        "1:00:00 (1.0 hours)",
        "800 memory slots",
        "5.0 MB",
        "7.0 MB of files",
        "about 30:00, 4 GPU hours, by earlier runs",
        "/videos/gone.mp4",
    ):
        assert part in said
    unknown = index.summary(report(plan=replace(plan, hours=None, gpu_hours=None, basis="no earlier run")))
    assert "not known: no earlier run" in unknown


def test_what_was_not_tried_again_is_said_with_the_way_to_do_it() -> None:
    said = index.summary(report(failures=failures(2), videos_given_up=2))
    assert said.splitlines()[-1].endswith("malmm failures --archive /archive --retry does")


def test_file_names_do_not_steer_the_terminal() -> None:
    steering = Failure("aa" * 12, None, "/a\x1b[2J.mp4", "probe", "empty_file", "/a\x1b[2J.mp4 is empty")
    assert "\x1b" not in index.summary(report(failures=[steering], archive="/x\x1b[0m"))


def test_json_and_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        malmm.pipeline.indexing.index, "index", lambda config, **named: report(failures=failures(1))
    )
    assert index.run(parsed("--json", "--quiet")) == 3
    shown = capsys.readouterr()
    content = json.loads(shown.out)
    assert (content["segments_indexed"], content["exit_code"]) == (5, 3)
    assert content["failures"][0]["uri"] == "/videos/0.mp4"
    assert shown.err == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_what_others_print_meanwhile_is_not_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    def pretend(config: IndexConfig, **named: Any) -> IndexReport:
        print("(raylet) a task failed")
        return report()

    monkeypatch.setattr(malmm.pipeline.indexing.index, "index", pretend)
    index.run(parsed("--json", "--quiet", *["--verbose"] * verbose))
    shown = capsys.readouterr()
    assert json.loads(shown.out)["segments_indexed"] == 5
    assert shown.err == ("(raylet) a task failed\n" if verbose else "")


def test_progress_goes_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(
        config: IndexConfig, *, on_progress: Callable[[Progress], None], verbose: bool
    ) -> IndexReport:
        on_progress(Progress("listing"))
        on_progress(Progress("indexing", 1, 4, 2, 8, 20.0, 80.0, 0, 10.0))
        return report()

    monkeypatch.setattr(malmm.pipeline.indexing.index, "index", pretend)
    index.run(parsed())
    shown = capsys.readouterr()
    assert shown.out == index.summary(report()) + "\n"
    assert shown.err.splitlines() == [
        "Listing sources",
        "Indexing, 1 of 4 videos, 2 of 8 segments, 2.0x real time, 0:30 left",
    ]
