"""Indexing real files on a local Ray cluster, from the folder to what a plain LanceDB client reads."""

from __future__ import annotations

import itertools
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.archive_contents import contents, versions
from support.calling_program import Program
from support.flow_rows import picture
from support.inline_evaluation import InlineEvaluation
from support.inline_stages import InlineStages
from support.listed_videos import knowing
from support.mixed_folder import BROKEN, FPS, LENGTH, NAMES, PROMPTS, SEGMENT_S, SPECS, go, good, make_folder
from support.object_store import ObjectStore, reached, running
from support.processes import run_here
from support.small_ray import small_ray
from support.tiny_whisper import make_whisper, said_by_transformers

from malmm.model.checkpoints.resolve import open_models
from malmm.model.decoding import Decoding
from malmm.model.demo.questions import description, questions
from malmm.model.demo.videos import draw_video
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.slots import Memory, merge_memories
from malmm.model.towers.blip2 import RetrievalModel
from malmm.operators.media.audio import RATE, read_sound, voiced_spans
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.media.sampling import plan_spans
from malmm.pipeline import dataset
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.evaluation.catalogue import DATA_SETS
from malmm.pipeline.evaluation.config import EvaluateConfig
from malmm.pipeline.evaluation.run import evaluate
from malmm.pipeline.indexing import compiler_check, speech_pass
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.indexing.transcribe import transcribe
from malmm.pipeline.schema.config import AnnotateConfig, Prompt
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.progress import Progress
from malmm.pipeline.schema.transcribe_config import TranscribeConfig

# Ray warns of settings of its own.
pytestmark = pytest.mark.filterwarnings("ignore:`use_\\w+` is deprecated:DeprecationWarning:ray.data.context")

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_stage.py"
SPOKEN = Path(__file__).parents[1] / "data" / "spoken.webm"
VIDEOS, PLACE = "s3://films/for-workers", "s3://films/by-workers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def _cluster(_own_cache: None, store: ObjectStore) -> Iterator[None]:
    """One Ray for all tests of this file, whose workers find the store."""
    with small_ray(store.environment):
        yield


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def program(_cluster: None) -> Program:
    return Program()


@pytest.fixture(scope="module")
def first(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, program: Program, told: list[Progress]
) -> tuple[ArchiveReader, IndexReport]:
    """The folder, indexed once by a program with work of its own. Copy the archive to go on with it."""
    place = tmp_path_factory.mktemp("archives") / "first"
    program.before = program.settings()
    report = go(place, folder, on_progress=told.append)
    program.after = program.settings()
    return ArchiveReader.open(str(place)), report


@pytest.fixture
def copied(first: tuple[ArchiveReader, IndexReport], tmp_path: Path) -> Path:
    return Path(shutil.copytree(first[0].uri, tmp_path / "archive"))


def test_the_calling_program_is_left_as_it_was(
    first: tuple[ArchiveReader, IndexReport], program: Program
) -> None:
    assert program.before == program.after
    assert program.go_on() == list(range(50))


def test_every_good_video_is_stored(first: tuple[ArchiveReader, IndexReport], folder: Path) -> None:
    archive, _ = first
    stored = {row["uri"]: row for row in archive.videos().to_pylist()}
    assert set(stored) == {str(path) for path in [*good(folder), folder / "short.mkv"]}
    for path in good(folder):
        info, row = probe(str(path)), stored[str(path)]
        for name in ("start_s", "duration_s", "fps", "width", "height", "codec"):
            assert row[name] == getattr(info, name)
        spans = [(part["start_s"], part["end_s"]) for part in archive.segments(row["video_id"]).to_pylist()]
        assert spans == plan_spans(info.start_s, info.duration_s, SEGMENT_S, FPS)


def test_each_broken_file_fails_once_and_says_why(
    first: tuple[ArchiveReader, IndexReport], folder: Path
) -> None:
    archive, report = first
    assert report.exit_code == 3
    expected = {str(folder / name): kind for name, kind in BROKEN.items()} | {
        str(folder / "short.mkv"): "truncated"
    }
    assert sorted((failure.uri, failure.kind) for failure in report.failures) == sorted(expected.items())
    rows = archive.failures().to_pylist()
    assert sorted((row["uri"], row["kind"]) for row in rows) == sorted(expected.items())
    assert {row["attempts"] for row in rows} == {1}


def test_a_file_that_is_cut_short_is_stored_as_far_as_it_goes(
    first: tuple[ArchiveReader, IndexReport], folder: Path
) -> None:
    archive, report = first
    segments = archive.segments(video_id(str(folder / "short.mkv"))).to_pylist()
    assert [part["start_s"] for part in segments] == [0.0, 5.0, 10.0]
    end_s = segments[-1]["end_s"]
    assert 10.0 < end_s < 12.0
    [note] = [failure for failure in report.failures if failure.kind == "truncated"]
    assert note.segment_id == segments[-1]["segment_id"]
    assert f"{end_s:.1f} s" in note.message
    slots = archive.memory_rows([segments[-1]["segment_id"]]).to_pylist()
    assert slots[-1]["end_s"] == end_s
    assert max(slot["timestamp_s"] for slot in slots) < end_s


def test_slots_tile_each_video(first: tuple[ArchiveReader, IndexReport]) -> None:
    archive, _ = first
    for video in archive.videos().to_pylist():
        segments = archive.segments(video["video_id"]).to_pylist()
        slots = archive.memory_rows([part["segment_id"] for part in segments]).to_pylist()
        assert slots[0]["start_s"] == video["start_s"]
        assert slots[-1]["end_s"] == segments[-1]["end_s"]
        for before, after in itertools.pairwise(slots):
            assert before["end_s"] == after["start_s"]
        for part in segments:
            own = [slot for slot in slots if slot["segment_id"] == part["segment_id"]]
            assert [slot["slot"] for slot in own] == list(range(len(own)))
            assert len(own) == min(LENGTH, part["frame_count"])
            assert sum(slot["frame_count"] for slot in own) == part["frame_count"]
            assert (own[0]["start_s"], own[-1]["end_s"]) == (part["start_s"], part["end_s"])
            for slot in own:
                assert slot["start_s"] <= slot["timestamp_s"] <= slot["end_s"]


def test_counts_are_those_of_the_rows(
    first: tuple[ArchiveReader, IndexReport], folder: Path, told: list[Progress]
) -> None:
    archive, report = first
    segments = archive.segments().to_pylist()
    assert report.videos_listed == len(SPECS) + len(BROKEN) + 1
    assert report.videos_indexed == archive.count("videos") == len(SPECS) + 1
    assert report.segments_indexed == len(segments)
    assert report.frames == sum(part["frame_count"] for part in segments)
    assert report.video_s == pytest.approx(sum(part["end_s"] - part["start_s"] for part in segments))
    assert report.memories == archive.count("memories")
    assert report.annotations == archive.count("annotations") == len(NAMES) * (len(segments) + len(SPECS) + 1)
    assert (report.segments_resumed, report.videos_unchanged, report.interrupted) == (0, 0, False)
    # A note says what a busy machine is waited for. Nothing connects: this process is connected already.
    assert list(dict.fromkeys(progress.stage for progress in told if not progress.note)) == [
        "listing",
        "starting",
        "probing",
        "indexing",
        "describing",
        "building indexes",
    ]
    last = [progress for progress in told if progress.stage == "indexing"][-1]
    assert last.segments_done == last.segments_total == len(segments)


def test_every_prompt_is_answered_for_every_segment_and_whole_video(
    first: tuple[ArchiveReader, IndexReport],
) -> None:
    archive, _ = first
    texts = archive.annotations().to_pylist()
    for video in archive.videos().to_pylist():
        of_video = [text for text in texts if text["video_id"] == video["video_id"]]
        subjects = {None, *(part["segment_id"] for part in archive.segments(video["video_id"]).to_pylist())}
        assert {text["segment_id"] for text in of_video} == subjects
        for subject in subjects:
            of_subject = [text for text in of_video if text["segment_id"] == subject]
            assert sorted(text["prompt_name"] for text in of_subject) == sorted(NAMES)
            assert {text["mode"] for text in of_subject} == {"replay" if subject is None else "online"}
    for text in texts:
        labelled = text["prompt_name"] == "place"
        assert labelled == (text["score"] is not None)
        assert not labelled or text["text"] in ("indoors", "outdoors")


def test_rows_are_what_a_plain_pass_over_each_segment_gives(
    first: tuple[ArchiveReader, IndexReport], folder: Path
) -> None:
    """Decode, encode and answer each segment alone, with neither batches nor Ray."""
    archive, _ = first
    models = open_models("debug")
    assert models.retrieval is not None
    encoder = Encoder.load(models.instructblip)
    retrieval = RetrievalModel.load(models.retrieval, instructblip=models.instructblip)
    language = LanguageModel.load(models.instructblip)
    settings = MemorySettings(LENGTH, "token")
    stored_texts = {
        (text["segment_id"] or text["video_id"], text["prompt_name"]): text["text"]
        for text in archive.annotations().to_pylist()
    }
    prompts = [*PROMPTS[:1], Prompt("caption", "Write a short description of the video.", task="caption")]

    def check_texts(subject: str, outputs: torch.Tensor | None) -> None:
        assert outputs is not None
        for prompt, output in zip(prompts, outputs, strict=True):
            [text] = language.generate(output[None], [prompt.text], Decoding(6))
            assert stored_texts[subject, prompt.name] == text

    for path in [*good(folder), folder / "short.mkv"]:
        own_segments = archive.segments(video_id(str(path))).to_pylist()
        memories = []
        for part in own_segments:
            # The planned end of the last segment of a file that is cut short is another than the stored one.
            planned_end_s = (
                min(part["start_s"] + SEGMENT_S, 12.0) if path.name == "short.mkv" else part["end_s"]
            )
            last = part is own_segments[-1]
            span = decode_span(SpanRequest(str(path), part["start_s"], planned_end_s, FPS, 56, is_last=last))
            [encoded] = encoder.encode([span.frames], [[prompt.text for prompt in prompts]], settings)
            rows = archive.memory_rows(
                [part["segment_id"]], ("vectors", "timestamp_s", "start_s", "end_s", "thumbnail")
            ).to_pylist()
            [(_, tokens, sizes)] = archive.memory_tokens([part["segment_id"]])
            np.testing.assert_array_equal(sizes, encoded.memory.sizes.numpy())
            expected = encoded.memory.tokens.numpy().astype(np.float16)
            np.testing.assert_allclose(
                tokens.astype(np.float32), expected.astype(np.float32), rtol=2e-3, atol=1e-3
            )
            vectors = retrieval.slot_vectors(encoded.memory.tokens).numpy()
            np.testing.assert_allclose(
                np.array([row["vectors"] for row in rows], np.float32), vectors, atol=2e-3
            )
            spans = encoded.memory.spans(span.timestamps_s.tolist(), part["start_s"], part["end_s"])
            assert [(row["start_s"], row["end_s"], row["timestamp_s"]) for row in rows] == [
                (slot.start_s, slot.end_s, slot.timestamp_s) for slot in spans
            ]
            check_texts(part["segment_id"], encoded.query_output)
            memories.append(
                Memory.stored(
                    torch.from_numpy(tokens.astype(np.float32)), torch.from_numpy(sizes), part["frame_count"]
                )
            )
            info = probe(str(path))
            image = picture(rows[0]["thumbnail"])
            assert image.width / image.height == pytest.approx(info.width / info.height, rel=0.03)
        merged = merge_memories(memories, length=LENGTH) if len(memories) > 1 else memories[0]
        [output] = encoder.replay([merged], [[prompt.text for prompt in prompts]], settings)
        check_texts(video_id(str(path)), output)


def test_workers_put_new_prompts_to_stored_memory_then_nothing_is_left(copied: Path) -> None:
    archive, colour = ArchiveReader.open(str(copied)), Prompt("colour", "Which colour is it?")
    kept = versions(archive, "videos", "segments", "memories")
    done = run_here("annotate", "--archive", copied, "--prompt", f"{colour.name}={colour.text}", "--quiet")
    assert done.returncode == 0, done.stderr
    made = [row for row in archive.annotations().to_pylist() if row["prompt_name"] == "colour"]
    assert len(made) == archive.count("segments") + archive.count("videos")
    assert {row["mode"] for row in made} == {"replay"}
    assert f"{len(made)} made" in done.stdout
    again = annotate(AnnotateConfig(str(copied), (colour,)))
    assert (again.missing, again.texts, again.there) == (0, 0, len(made))
    assert versions(archive, "videos", "segments", "memories") == kept


# Ray's read_lance takes a filter in a way, and asks for a file's path in a way, that are to go.
@pytest.mark.filterwarnings("ignore:The `filter` argument is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:DataFile.path\\(\\) is deprecated:DeprecationWarning")
def test_rows_on_workers_are_those_of_the_archive(first: tuple[ArchiveReader, IndexReport]) -> None:
    archive, report = first
    texts = dataset(archive.uri, "annotations", columns=["text"], where="segment_id IS NULL")
    whole = [row["text"] for row in archive.annotations().to_pylist() if row["segment_id"] is None]
    assert sorted(row["text"] for row in texts.take_all()) == sorted(whole)
    assert dataset(archive.uri, "memories").count() == report.memories


@pytest.mark.usefixtures("_cluster")
def test_without_a_compiler_a_run_says_so_and_begins_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, environment = compiler_check._problem, {"CXX": str(tmp_path / "none")}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "cache")

    def without_a_compiler() -> str | None:
        os.environ.update(environment)
        return real()

    monkeypatch.setattr(compiler_check, "_problem", without_a_compiler)
    archive = tmp_path / "archive"
    done = run_here(
        "index", good(folder)[0], "--archive", archive, "--model", "debug", "--compile", "--quiet"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "--compile needs a C++ compiler, and " in done.stderr
    assert done.stderr.strip().endswith("or run without --compile")
    assert not archive.exists()


@pytest.mark.usefixtures("_cluster")
def test_workers_read_from_a_store_and_write_to_it(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    with reached(store):
        for name in ("constant.mp4", "turned.mp4", "text.mp4"):
            store.put(f"for-workers/{name}", folder / name)
        # So that no batch depends on which segment came late.
        one_by_one: dict[str, Any] = {"batch_segments": 1}
        with pytest.MonkeyPatch.context() as patch:
            InlineStages().install(patch)
            assert go(tmp_path / "clean", VIDEOS, **one_by_one).exit_code == 3
        clean = contents(ArchiveReader.open(str(tmp_path / "clean")))
        report = go(PLACE, VIDEOS, **one_by_one)
        assert (report.exit_code, report.videos_indexed, report.segments_indexed) == (3, 2, 4)
        assert [failure.kind for failure in report.failures] == ["not_a_video"]
        assert contents(ArchiveReader.open(PLACE)) == clean
        again = go(PLACE, VIDEOS, **one_by_one)
        assert (again.exit_code, again.videos_unchanged, again.videos_given_up) == (3, 2, 1)
        assert again.segments_indexed == 0


@pytest.mark.usefixtures("_cluster")
def test_a_stage_of_ones_own_between_decode_and_encode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example as it is, run as a program is."""
    scenes = draw_video(tmp_path / "drawn.mp4", seconds=20, seed=(9, 1))
    (tmp_path / "text.mp4").write_text("no video")
    drawn, text, archive = (str(tmp_path / name) for name in ("drawn.mp4", "text.mp4", "archive"))
    monkeypatch.setattr(sys, "argv", ["own_stage.py", archive, drawn, text])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{text}: ") for line in lines)
    assert f"{video_id(drawn)} 0-20 s: {description(scenes)}" in lines
    assert ArchiveReader.open(archive).recipe.stages == "no dark frames, 1"


@pytest.mark.usefixtures("_cluster")
def test_questions_of_a_data_set_are_asked_on_the_cluster(tmp_path: Path) -> None:
    asked = ["video,question,answer"]
    for number in range(2):
        scenes = draw_video(tmp_path / f"{number}.mp4", seconds=4.0, seed=(11, number))
        asked += [
            f"{number},{each.prompt},{each.answer}" for each in questions(scenes) if each.kind == "first"
        ]
    (tmp_path / "2.mp4").write_bytes(b"no video")
    (tmp_path / "questions.csv").write_text("\n".join([*asked, "2,What appears first?,a star"]))
    protocol = replace(DATA_SETS["own"].protocol, frames=4, bank_length=3, max_length=20)
    config = EvaluateConfig("own", tmp_path / "questions.csv", tmp_path, tmp_path / "cluster", protocol)
    report = evaluate(config)
    assert (report.exit_code, report.answered, report.questions) == (3, 2, 3)
    assert [(each["video"], each["stage"]) for each in report.failures] == [("2", "pick")]
    here = evaluate(replace(config, output=tmp_path / "here"), run=InlineEvaluation())
    assert report.ways[0].figures == here.ways[0].figures
    assert [row["texts"] for row in report.right] == [row["texts"] for row in here.right]


@pytest.mark.usefixtures("_cluster")
def test_speech_is_recognised_on_workers_as_transformers_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whisper = make_whisper(tmp_path / "whisper")
    monkeypatch.setattr(speech_pass, "SPAN_S", 4.0)
    archive = knowing(tmp_path / "archive", SPOKEN, start_s=0.0, duration_s=7.0)
    config = TranscribeConfig(archive.root, (), model=str(whisper), language="en")
    report = transcribe(config)
    assert (report.exit_code, report.missing, report.done, report.problems) == (0, 2, 2, [])
    expected = []
    for start_s, end_s in ((0.0, 4.0), (4.0, 7.0)):
        sound = (np.rint(read_sound(str(SPOKEN), start_s, end_s).samples * 32767) / 32767).astype(np.float32)
        for begin, end in voiced_spans(sound):
            at_s = start_s + begin / RATE
            said = said_by_transformers(whisper, sound[begin:end], "en")
            expected += [(at_s + first, at_s + last, text) for first, last, text in said]
    rows = archive.annotations().to_pylist()
    assert expected
    assert sorted((row["start_s"], row["end_s"], row["text"]) for row in rows) == sorted(expected)
    assert transcribe(config).missing == 0
