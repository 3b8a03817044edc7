"""Fine-tuning from a table to a checkpoint, in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.drawn_lessons import write_table
from support.tiny_families import save_tiny

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.debug import save_debug_checkpoint
from malmm.model.checkpoints.resolve import open_models
from malmm.model.memory.positions import TIME_POSITIONS_KEY
from malmm.model.training.loop import State
from malmm.pipeline.finetuning import run
from malmm.pipeline.finetuning.config import FinetuneConfig
from malmm.pipeline.finetuning.examples import read_examples
from malmm.pipeline.finetuning.feed import PlannedFeed, sampled_here
from malmm.pipeline.finetuning.plan import Plan
from malmm.pipeline.finetuning.run import FinetuneReport, finetune
from malmm.pipeline.finetuning.work import learner_of
from malmm.pipeline.schema.errors import ConfigError, DataSetError
from malmm.pipeline.schema.progress import Progress

TRAINED = ("qformer.", "query_tokens", "language_projection.", "vision_model.post_layernorm.")


@dataclass
class Tuned:
    """A training that is done: its settings, its report, and what was told meanwhile."""

    config: FinetuneConfig
    report: FinetuneReport
    told: list[Progress]


def config_of(lessons: Path, base: Path, folder: Path) -> FinetuneConfig:
    return FinetuneConfig(
        str(lessons),
        str(base),
        str(folder / "tuned"),
        workers=0,
        epochs=2,
        batch=4,
        at_once=2,
        frames=3,
        bank_length=2,
        rate=1e-2,
    )


@pytest.fixture
def config(lessons: Path, base: Path, tmp_path: Path) -> FinetuneConfig:
    return config_of(lessons, base, tmp_path)


@pytest.fixture(scope="module")
def tuned(lessons: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Read it."""
    folder = tmp_path_factory.mktemp("tuned")
    config = replace(config_of(lessons, base, folder), tensorboard=str(folder / "events"))
    told: list[Progress] = []
    return Tuned(config, finetune(config, on_progress=told.append), told)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def test_a_table_becomes_a_checkpoint(tuned: Tuned, base: Path) -> None:
    report = tuned.report
    output = Path(report.output)
    assert (report.examples, report.videos, report.held_back) == (6, 2, 2)
    assert (report.steps, report.language) == (3, "frozen")
    assert report.best in report.points
    assert [point.step for point in report.points] == [2, 3]
    # What the paper trains differs from the base, and a table of positions is new; all else is the base's.
    before, after = tensors(base), tensors(output)
    assert after.keys() - before.keys() == {TIME_POSITIONS_KEY}
    changed = {key for key in before if not torch.equal(before[key], after[key].to(before[key].dtype))}
    assert changed
    assert all(key.startswith(TRAINED) for key in changed)
    assert {key.split(".")[0] for key in changed} >= {"qformer", "query_tokens", "language_projection"}
    # It loads with its retrieval companion, as index --model does.
    assert open_models(str(output)).retrieval is not None
    card = (output / "README.md").read_text()
    assert "6 examples of 2 videos" in card
    assert "Held back: 2 rows to choose the weights, 0 for an evaluation" in card
    history = [json.loads(line) for line in (output / "training" / "history.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in history] == report.losses
    assert [row["step"] for row in history if "accuracy" in row] == [2, 3]
    assert (output / "training" / "curve.svg").read_text().count("<circle") == 2
    [events] = (output.parent / "events").iterdir()
    assert events.stat().st_size > 0
    # Snapshots are gone.
    assert sorted(path.name for path in output.parent.iterdir()) == ["events", "tuned"]
    assert tuned.told[-1].stage == "writing"


def test_the_written_checkpoint_answers_as_the_trained_model_did(tuned: Tuned, lessons: Path) -> None:
    config, report = tuned.config, tuned.report
    assert report.best is not None
    examples = read_examples(str(lessons), None)
    written = open_models(report.output).checkpoint
    learner = learner_of(config, written, torch.device("cpu"))
    feed = PlannedFeed(Plan(examples.train, config), examples.val, sampled_here(_side(report.output)))
    [shown] = feed.measuring()
    with torch.no_grad():
        loss = float(learner.summed_loss(shown)) / learner.answer_tokens(shown)
    assert loss == pytest.approx(report.best.held_back_loss, rel=1e-5)


def _side(directory: str) -> int:
    return int(json.loads((Path(directory) / "config.json").read_text())["vision_config"]["image_size"])


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a training in this process end as by Ctrl-C, once, after a step."""
    work = run.work

    def killed(job: Any, sampled: Any, **options: Any) -> State:
        def tell(state: State) -> None:
            if state.step == step:
                monkeypatch.undo()
                raise KeyboardInterrupt

        return work(job, sampled, tell=tell)

    monkeypatch.setattr(run, "work", killed)


def test_a_killed_training_goes_on_from_any_place(
    config: FinetuneConfig, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the losses and weights of one that was not killed."""
    config = replace(config, checkpoints="memory://bucket/training")
    killed_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        finetune(config)
    assert not Path(config.output).exists()
    files = fsspec.filesystem("memory")
    names = {Path(name).name for name in files.ls("/bucket/training", detail=False)}
    assert names >= {"recipe.json", "latest.json", "step-00000002.safetensors"}
    # Other settings, or another table, are another training.
    with pytest.raises(ConfigError, match=r"holds another training \(seed: 0, now 1\)"):
        finetune(replace(config, seed=1))
    report = finetune(config)
    assert (report.losses, report.points) == (tuned.report.losses, tuned.report.points)
    ours, theirs = tensors(Path(report.output)), tensors(Path(tuned.report.output))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    # A place that was named is kept.
    assert files.exists("/bucket/training/trained.safetensors")


def test_every_part_of_a_language_model_may_learn(config: FinetuneConfig, base: Path) -> None:
    report = finetune(replace(config, language="full", epochs=1))
    before, after = tensors(base), tensors(Path(report.output))
    language = [key for key in before if key.startswith("language_model.")]
    assert all(after[key].dtype == before[key].dtype for key in language)
    assert sum(not torch.equal(before[key], after[key]) for key in language) > len(language) / 2
    assert "and the language model" in (Path(report.output) / "README.md").read_text()


def test_a_plain_family_learns_by_adapters(config: FinetuneConfig, tmp_path: Path) -> None:
    base = tmp_path / "smol"
    save_tiny(base, "smolvlm")
    report = finetune(replace(config, model=str(base), epochs=1))
    assert report.language == "lora"
    before, after = tensors(base), tensors(Path(report.output))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.startswith("model.text_model.layers.") and key.endswith("proj.weight") for key in changed)
    assert "low-rank adapters of rank 16" in (Path(report.output) / "README.md").read_text()


def test_an_epoch_shows_each_example_once(config: FinetuneConfig, lessons: Path) -> None:
    plan = Plan(read_examples(str(lessons), None).train, replace(config, batch=3))
    for epoch in range(3):
        seen = [plan.example(2 * epoch + step, place) for step in range(2) for place in range(3)]
        assert sorted(map(repr, seen)) == sorted(map(repr, plan.examples))
    # Other frames and other crops each time, the same for the same step.
    rows = [plan.training_row(step, 0) for step in (0, 0, 2, 4)]
    assert rows[0].equals(rows[1])
    assert len({str(row["box"]) for row in rows}) == 3


def test_crops_are_parts_of_the_picture(config: FinetuneConfig, lessons: Path) -> None:
    examples = read_examples(str(lessons), None)
    whole = PlannedFeed(Plan(examples.train, replace(config, crops=False)), (), sampled_here(24))
    cropped = PlannedFeed(Plan(examples.train, config), (), sampled_here(24))
    for whole_step, cropped_step in zip(whole.training(0, 1), cropped.training(0, 1), strict=True):
        for one, other in zip(whole_step, cropped_step, strict=True):
            assert one.frames.shape == other.frames.shape == (len(one.times_s), 24, 24, 3)
            assert one.times_s == other.times_s
            assert np.abs(one.frames.astype(int) - other.frames).mean() > 0


def refused(kind: type[Exception], said: str, config: FinetuneConfig) -> None:
    """The training is refused in one sentence, and nothing is written."""
    with pytest.raises(kind) as caught:
        finetune(config)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(config.place).exists()


def test_what_cannot_be_is_refused_before_anything_is_written(
    config: FinetuneConfig, base: Path, lessons: Path, tmp_path: Path
) -> None:
    refused(ConfigError, "cannot be read", replace(config, data=str(tmp_path / "none.csv")))
    refused(CheckpointError, "there is no such directory", replace(config, model=str(tmp_path / "none")))
    alone = write_table(tmp_path / "alone.csv", [("drawn0.mp4", "", "", "Q?", "A", "train")])
    held = replace(config, data=str(alone), videos=str(lessons.parent), patience=2)
    refused(ConfigError, "has no rows of the split val to measure", held)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    refused(CheckpointError, "is there already", replace(config, output=str(tmp_path / "taken")))
    refused(CheckpointError, "lies in the base's own directory", replace(config, output=str(base / "in")))
    save_debug_checkpoint(tmp_path / "t5", kind="encoder-decoder")
    refused(CheckpointError, "take a checkpoint with Vicuna", replace(config, model=str(tmp_path / "t5")))


def test_a_plain_family_needs_its_language_model_to_learn(config: FinetuneConfig, tmp_path: Path) -> None:
    save_tiny(tmp_path / "smol", "smolvlm")
    refused(
        ConfigError,
        "--language frozen: SmolVLM2 has no Q-Former, so nothing would be trained: take lora",
        replace(config, model=str(tmp_path / "smol"), language="frozen"),
    )


def test_a_video_that_breaks_meanwhile_ends_the_training(
    config: FinetuneConfig, lessons: Path, tmp_path: Path
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    video = videos / "drawn0.mp4"
    whole = (lessons.parent / "drawn0.mp4").read_bytes()
    # The header is whole, and most pictures are not there.
    video.write_bytes(whole[: len(whole) // 3] + bytes(len(whole) - len(whole) // 3))
    table = write_table(tmp_path / "t.csv", [("drawn0.mp4", "", "", "Q?", "A", "train")])
    with pytest.raises(DataSetError, match=r"drawn0\.mp4"):
        finetune(replace(config, data=str(table), videos=str(videos)))
    assert not Path(config.output).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 1, "workers": 2}, "--batch 1: fewer examples a step than --workers 2"),
        ({"rate": 0}, "--rate 0: above 0"),
        ({"epochs": float("nan")}, "--epochs nan: above 0"),
        ({"decay": 1}, "--decay 1: from 0 to below 1"),
        ({"patience": 0}, "--patience 0: at least 1"),
        ({"merge_policy": "x"}, "--merge-policy 'x': one of"),
        ({"language": "x"}, "--language 'x': one of frozen, lora, full"),
        ({"output": ""}, "--output: name the directory to write"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    config: FinetuneConfig, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(config, **changes)
    assert said in str(caught.value)
