"""Subtitles beside videos and in them are stored once, read again when they change, and nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import versions
from support.inline_runs import Go
from support.inline_stages import InlineStages
from support.listed_videos import knowing
from support.media import run_ffmpeg
from support.processes import run_here
from support.tiny_whisper import make_whisper

from malmm.model.checkpoints.errors import CheckpointError
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing import graph, speech_pass
from malmm.pipeline.indexing import transcribe as module
from malmm.pipeline.indexing.transcribe import transcribe
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.transcribe_config import TranscribeConfig

SRT = "1\n00:00:01,000 --> 00:00:02,500\n{}\n"


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of ten seconds with subtitle tracks in two languages."""
    folder = tmp_path_factory.mktemp("talk")
    for language, text in (("eng", "in the file"), ("ger", "in der {\\i1}Datei")):
        (folder / f"{language}.srt").write_text(SRT.format(text))
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=blue:s=64x48:r=5:d=10"),
        *("-i", folder / "eng.srt", "-i", folder / "ger.srt"),
        *("-map", "0", "-map", "1", "-map", "2", "-c:s", "srt"),
        *("-metadata:s:s:0", "language=eng", "-metadata:s:s:1", "language=ger", folder / "talk.mkv"),
    )
    return folder / "talk.mkv"


def said(archive: ArchiveReader, video: Path | str) -> list[tuple[str, float, float, str]]:
    rows = archive.annotations(video_id(str(video))).to_pylist()
    return sorted((row["language"] or "", row["start_s"], row["end_s"], row["text"]) for row in rows)


def test_tracks_and_files_go_in_once(talk: Path, tmp_path: Path) -> None:
    video = tmp_path / "talk.mkv"
    video.symlink_to(talk)
    (tmp_path / "talk.fr.srt").write_text(SRT.format("à côté"), encoding="cp1252")
    archive = knowing(tmp_path / "archive", video)
    report = transcribe(TranscribeConfig(archive.root, encoding="cp1252"))
    assert (report.exit_code, report.done, report.transcripts, report.new) == (0, 2, 3, 3)
    assert said(archive, video) == [
        ("eng", 1.0, 2.5, "in the file"),
        ("fr", 1.0, 2.5, "à côté"),
        ("ger", 1.0, 2.5, "in der Datei"),
    ]
    before = versions(archive, "annotations", "passes")
    again = transcribe(TranscribeConfig(archive.root, encoding="cp1252"))
    assert (again.missing, again.new, again.exit_code) == (0, 0, 0)
    assert versions(archive, "annotations", "passes") == before


def test_a_changed_file_takes_the_place_of_its_old_texts(tmp_path: Path) -> None:
    video, subtitles = tmp_path / "a.mp4", tmp_path / "a.srt"
    subtitles.write_text(SRT.format("first") + "\n2\n00:00:03,000 --> 00:00:04,000\ngone later\n")
    # Its first frame is shown at 100 s of the video's own clock.
    archive = knowing(tmp_path / "archive", video, start_s=100.0)
    files = TranscribeConfig(archive.root, ("files",))
    transcribe(files)
    subtitles.write_text(SRT.format("corrected"))
    report = transcribe(files)
    assert (report.changed, report.new) == (1, 0)
    assert said(archive, video) == [("", 101.0, 102.5, "corrected")]


def test_what_cannot_be_read_is_said_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    (tmp_path / "good.srt").write_text(SRT.format("hello") + "\n2\n00:01:00,000 --> 00:01:01,000\nlate\n")
    (tmp_path / "bad.vtt").write_text("<html>")
    archive = knowing(tmp_path / "archive", good, bad)
    options = ("transcribe", "--archive", archive.root, "--subtitles", "files", "--json", "--quiet")
    done = run_here(*options)
    told = json.loads(done.stdout)
    assert (done.returncode, told["done"], told["new"]) == (3, 1, 1)
    assert sorted(told["problems"])[1].endswith(
        "good.srt, line 6: the cue begins at 60.0 s of a video of 10.0 s, and is left out"
    )
    assert "bad.vtt holds no subtitle" in sorted(told["problems"])[0]
    assert said(archive, good) == [("", 1.0, 2.5, "hello")]
    assert json.loads(run_here(*options).stdout)["missing"] == 1


def test_a_run_that_ends_between_texts_and_passes_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.srt").write_text(SRT.format("hello"))
    archive = knowing(tmp_path / "archive", tmp_path / "a.mp4")
    files = TranscribeConfig(archive.root, ("files",))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "finish_passes", killed)
        assert transcribe(files).exit_code == 130
    report = transcribe(files)
    assert (report.new, report.unchanged, report.done) == (0, 1, 1)
    assert module.finished(archive.tables) != set()


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(SRT.format("hello"))
    archive = knowing(tmp_path / "archive", tmp_path / "a.mp4")
    before = versions(archive, "annotations", "videos")
    done = run_here("transcribe", "--archive", archive.root, "--dry-run", "--quiet")
    assert "Nothing was changed. 2 files, videos and spans are to be read." in done.stdout
    assert versions(archive, "annotations", "videos") == before


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of ten seconds with a tone in it."""
    path = tmp_path_factory.mktemp("loud") / "loud.mp4"
    run_ffmpeg(
        *(
            "-f",
            "lavfi",
            "-i",
            "color=blue:s=64x48:r=5:d=10",
            "-f",
            "lavfi",
            "-i",
            "sine=440:d=10",
            "-shortest",
        ),
        path,
    )
    return path


def test_speech_is_recognised_once_and_videos_without_sound_are_no_failure(
    whisper: Path, loud: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = InlineStages()
    stages.install(monkeypatch)
    monkeypatch.setattr(speech_pass, "SPAN_S", 4.0)
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    archive = knowing(tmp_path / "archive", loud, talk, broken)
    config = TranscribeConfig(archive.root, (), model=str(whisper), language="en")
    report = transcribe(config)
    # Three spans each; those of the file that is not a video fail.
    assert (report.exit_code, report.missing, report.done, len(report.problems)) == (3, 9, 6, 3)
    rows = archive.annotations().to_pylist()
    assert {row["video_id"] for row in rows} <= {video_id(str(loud))}
    assert {(row["source"], row["mode"], row["origin"], row["language"]) for row in rows} <= {
        ("model", "recognised", str(whisper), "en")
    }
    assert all(0 <= row["start_s"] < row["end_s"] <= 10 for row in rows)
    again = transcribe(config)
    assert (again.missing, again.done, again.new) == (3, 0, 0)
    assert stages.calls["listened"] == 12
    # In another language it is another transcript, beside the first.
    assert transcribe(replace(config, language="de", where=f"uri = '{loud}'")).missing == 3


def test_recognition_that_was_interrupted_goes_on(
    whisper: Path, loud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = InlineStages()
    stages.install(monkeypatch)
    monkeypatch.setattr(speech_pass, "SPAN_S", 4.0)
    archive = knowing(tmp_path / "archive", loud)
    config = TranscribeConfig(archive.root, (), model=str(whisper), language="en")
    whole = stages.transcribing

    def cut_short(*given: Any, **options: Any) -> Iterator[Any]:
        yield next(whole(*given, **options))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(graph, "transcribing", cut_short)
        assert transcribe(config).exit_code == 130
    report = transcribe(config)
    assert (report.missing, report.done, report.exit_code) == (2, 2, 0)
    ids = [row["annotation_id"] for row in archive.annotations().to_pylist()]
    assert len(ids) == len(set(ids))


def test_a_run_that_indexes_stores_what_is_said_too(
    go: Go, place: str, whisper: Path, loud: Path, tmp_path: Path
) -> None:
    video = tmp_path / "loud.mp4"
    video.symlink_to(loud)
    (tmp_path / "loud.en.srt").write_text(SRT.format("hello"))
    report = go(video, transcribe=str(whisper))
    assert report.transcripts is not None
    assert (report.exit_code, report.segments_indexed > 0, report.transcripts.problems) == (0, True, [])
    # A file, the tracks in the video, and a span of sound.
    assert (report.transcripts.missing, report.transcripts.done) == (3, 3)
    archive = ArchiveReader.open(place)
    said = [row for row in archive.annotations().to_pylist() if row["task"] == "transcript"]
    assert ("file", "hello") in {(row["source"], row["text"]) for row in said}
    again = go(video, transcribe=str(whisper))
    assert again.transcripts is not None
    assert (again.segments_indexed, again.transcripts.missing) == (0, 0)
    given = go(video, transcribe="subtitles").transcripts
    assert given is not None
    assert given.missing == 0


def test_a_speech_model_that_is_not_there_is_said_before_anything_is_indexed(
    go: Go, place: str, loud: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError):
        go(loud, transcribe=str(tmp_path / "none"))
    assert not Path(place).exists()


def test_other_weights_of_the_same_name_take_the_place_of_what_was_recognised(
    loud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_pass, "SPAN_S", 4.0)
    whisper = tmp_path / "whisper"
    archive = knowing(tmp_path / "archive", loud)
    config = TranscribeConfig(archive.root, (), model=str(whisper), language="en")
    rows = []
    for seed, place in ((0, archive), (1, archive), (1, knowing(tmp_path / "fresh", loud))):
        # Models are kept by their paths.
        InlineStages().install(monkeypatch)
        make_whisper(whisper, seed=seed)
        report = transcribe(replace(config, archive=place.root))
        assert (report.exit_code, report.done) == (0, 3)
        rows.append(said(place, loud))
    assert rows[0] != rows[1] == rows[2]


def test_only_videos_without_subtitles_are_recognised(
    whisper: Path, loud: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InlineStages().install(monkeypatch)
    # Subtitles beside the one, in the next, none in the third, and a file without a text beside the fourth.
    beside, inside, silent, empty = (tmp_path / name for name in ("a.mp4", "b.mkv", "c.mp4", "d.mp4"))
    for path, source in ((beside, loud), (inside, talk), (silent, loud), (empty, loud)):
        path.symlink_to(source)
    (tmp_path / "a.de.srt").write_text(SRT.format("hallo"))
    (tmp_path / "d.vtt").write_text("WEBVTT\n")
    archive = knowing(tmp_path / "archive", beside, inside, silent, empty)
    config = TranscribeConfig(archive.root, model=str(whisper), language="en", skip_subtitled=True)
    # Nobody has read the tracks of the second one yet, nor the file of the fourth.
    plan = transcribe(replace(config, dry_run=True))
    assert (plan.subtitled, plan.missing) == (2, 2 + 4 + 2)
    report = transcribe(config)
    assert (report.videos, report.subtitled, report.missing) == (4, 2, 2 + 4 + 2)
    by_model = {row["video_id"] for row in archive.annotations().to_pylist() if row["source"] == "model"}
    assert by_model <= {video_id(str(silent)), video_id(str(empty))}
    again = transcribe(config)
    assert (again.subtitled, again.done) == (2, 0)
    # Without the option, the others follow.
    assert transcribe(replace(config, skip_subtitled=False, dry_run=True)).missing == again.missing + 2


def test_skipping_subtitled_videos_needs_a_model(tmp_path: Path) -> None:
    for command in (("transcribe",), ("index", str(tmp_path), "--transcribe", "subtitles")):
        done = run_here(*command, "--archive", str(tmp_path / "archive"), "--skip-subtitled", "--quiet")
        assert (done.returncode, "--skip-subtitled needs" in done.stderr) == (2, True)
