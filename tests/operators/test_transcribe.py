"""Spans of sound become what is said in them, on the video's clock; silence and missing sound become nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.media import run_ffmpeg
from support.tiny_whisper import make_whisper

from malmm.model.speech.whisper import Utterance
from malmm.operators.listen import listen_to_spans
from malmm.operators.media.audio import RATE
from malmm.operators.media.sandbox.client import Sandbox
from malmm.operators.transcribe import TranscribeSpans
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import AUDIBLE, PLANNED, Carried, carried, rows_table, with_arrays

VIDEO = Video("a" * 24, "/videos/a.mp4", "first", 0.0, 60.0, 25.0, 64, 48, "h264")


def planned(uri: str, start_s: float, end_s: float) -> Carried:
    return Carried(
        replace(VIDEO, uri=uri), Segment("b" * 24, VIDEO.video_id, uri, 0, start_s, end_s, True), None
    )


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> TranscribeSpans:
    return TranscribeSpans(
        model=str(make_whisper(tmp_path_factory.mktemp("whisper"))), language="en", device="cpu"
    )


def heard(transcriber: TranscribeSpans, sound: np.ndarray) -> pa.Table:
    row = with_arrays(planned("/videos/a.mp4", 100.0, 160.0).columns(), sound=sound.astype(np.int16))
    return transcriber(rows_table([row], AUDIBLE))


def test_times_are_on_the_videos_clock(transcriber: TranscribeSpans, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []

    def recognise(audio: np.ndarray, language: str) -> list[Utterance]:
        lengths.append(len(audio) / RATE)
        return [Utterance(0.5, 1.0, "hello", language)]

    monkeypatch.setattr(transcriber.recogniser, "recognise", recognise)
    sound = np.zeros(60 * RATE)
    sound[10 * RATE : 12 * RATE] = sound[30 * RATE : 31 * RATE] = 8000
    [said] = heard(transcriber, sound)["utterances"].to_pylist()
    # Each stretch begins a third of a second early.
    assert [round(each["start_s"], 2) for each in said] == [110.2, 130.2]
    assert {each["language"] for each in said} == {"en"}
    assert lengths == pytest.approx([2.6, 1.6], abs=0.11)


def test_silence_needs_no_model(transcriber: TranscribeSpans) -> None:
    assert heard(transcriber, np.zeros(RATE))["utterances"].to_pylist() == [[]]
    assert heard(transcriber, np.zeros(0))["utterances"].to_pylist() == [[]]


def test_a_language_that_the_model_lacks_is_a_failure_of_the_span(
    transcriber: TranscribeSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriber, "language", "xx")
    [row] = carried(heard(transcriber, np.full(RATE, 8000)))
    assert row.failure is not None
    assert "does not know the language 'xx'" in row.failure.message


def test_files_are_listened_to_and_broken_ones_fail_alone(tmp_path: Path) -> None:
    good = tmp_path / "good.mp4"
    run_ffmpeg(
        *(
            "-f",
            "lavfi",
            "-i",
            "color=blue:s=64x48:r=5:d=2",
            "-f",
            "lavfi",
            "-i",
            "sine=440:d=2",
            "-shortest",
            good,
        )
    )
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    rows = rows_table([planned(str(path), 0.0, 2.0).columns() for path in (good, bad)], PLANNED)
    with Sandbox() as sandbox:
        first, second = listen_to_spans(rows, sandbox=sandbox)
    assert first["sound_shape"].to_pylist() == [[2 * RATE]]
    [row] = carried(second)
    assert row.failure is not None
    assert (row.failure.stage, row.failure.kind) == ("listen", "not_a_video")
