"""Fine-tune: from a table of examples to a checkpoint directory that ``index --model`` takes."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from malmm.model.checkpoints.derived import refuse_output, write_derived
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, notice_of, open_models
from malmm.model.families.registry import family_of
from malmm.model.training.loop import Point, State
from malmm.pipeline.evaluation.answer_file import write_whole
from malmm.pipeline.finetuning.card import card, history_lines
from malmm.pipeline.finetuning.config import FinetuneConfig
from malmm.pipeline.finetuning.curve import curve
from malmm.pipeline.finetuning.event_files import EventFiles
from malmm.pipeline.finetuning.examples import read_examples
from malmm.pipeline.finetuning.feed import sampled_here
from malmm.pipeline.finetuning.plan import steps_of
from malmm.pipeline.finetuning.snapshots import Snapshots
from malmm.pipeline.finetuning.work import Job, language_training, work
from malmm.pipeline.schema.errors import ConfigError, DataSetError
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["FinetuneReport", "finetune"]

_READ_EVERY_S = 10.0
#: Trains a job, and calls its second argument now and then.
Fit = Callable[[Job, Callable[[], None]], None]


@dataclass(frozen=True)
class FinetuneReport:
    """Result: what was trained on, and each measurement. ``best`` is the measurement whose weights were written."""

    output: str
    model: str
    language: str
    examples: int
    videos: int
    held_back: int
    steps: int
    of_steps: int
    losses: list[float]
    points: list[Point] = field(default_factory=list)
    best: Point | None = None
    elapsed_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self)


def finetune(config: FinetuneConfig, *, on_progress: OnProgress | None = None) -> FinetuneReport:
    """Train a checkpoint on a table of examples, and write the best weights to a new directory.

    The same call again goes on where an interrupted one was. The output appears when it is whole.
    Raises ConfigError for impossible values, a file that is no table, and another training's snapshots; DataSetError
    for rows and videos that cannot be trained on; CheckpointError for the model and the output; WorkerError.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    config = _absolute(config)
    checkpoint = open_models(config.model, NO_RETRIEVAL).checkpoint
    output = Path(config.output)
    refuse_output(output, checkpoint)
    family_of(checkpoint).verify(checkpoint)
    language = language_training(config, checkpoint)
    tell(Progress("reading examples"))
    examples = read_examples(
        config.data,
        config.videos,
        tell=lambda done, total: tell(Progress("probing", videos_done=done, videos_total=total)),
    )
    if config.patience is not None and not examples.val:
        raise ConfigError(
            f"--patience {config.patience}: {config.data} has no rows of the split val to measure: add some"
        )
    steps, _ = steps_of(config, len(examples.train))
    # What an extra lacks is known before anything is written.
    if language == "lora":
        import peft  # noqa: F401
    fit = _fit_here if config.workers == 0 else _on_ray()
    events = EventFiles(config.tensorboard) if config.tensorboard else None
    snapshots = Snapshots(config.place)
    snapshots.begin(_recipe(config, language, checkpoint.fingerprint()))
    # Workers have a demo model of their own.
    name = config.model if notice_of(config.model) else checkpoint.pinned
    job = Job(replace(config, language=language), name, examples)
    watch = _Watch(snapshots, steps, tell, events, began)
    if snapshots.trained() is None:
        fit(job, watch)
    watch.finish()
    state, trained = snapshots.state(), snapshots.trained()
    if state is None or trained is None:
        raise DataSetError(f"{config.place} lacks the end of the training", path=config.place)
    report = FinetuneReport(
        output=str(output),
        model=config.model,
        language=language,
        examples=len(examples.train),
        videos=examples.videos,
        held_back=len(examples.val),
        steps=state.step,
        of_steps=steps,
        losses=state.losses,
        points=state.points,
        best=state.best,
        elapsed_s=time.monotonic() - began,
    )

    def finish(made: Path) -> None:
        notes = made / "training"
        notes.mkdir(exist_ok=True)
        write_whole(notes / "history.jsonl", history_lines(state))
        write_whole(notes / "curve.svg", curve(state))

    tell(Progress("writing"))
    write_derived(
        checkpoint,
        output,
        trained,
        card=card(job, checkpoint, state, _sha256(config.data)),
        finish=finish,
    )
    if config.checkpoints is None:
        snapshots.remove()
    return report


class _Watch:
    """Follows a training by its snapshots, wherever it runs: progress, and event files."""

    def __init__(
        self, snapshots: Snapshots, steps: int, tell: OnProgress, events: EventFiles | None, began: float
    ) -> None:
        self.snapshots, self.steps, self.tell, self.began = snapshots, steps, tell, began
        self.events = events
        self._state, self._read_at = State(), -math.inf

    def finish(self) -> None:
        """Follow it to its end."""
        self._read_at = -math.inf
        self()

    def __call__(self) -> None:
        # A long training's state is a large file.
        if time.monotonic() - self._read_at >= _READ_EVERY_S:
            self._state, self._read_at = self.snapshots.state() or State(), time.monotonic()
        state = self._state
        told = self.snapshots.told() or (0, 0.0)
        note = ""
        # Of measurements alone: a note that changes is a line in a log.
        if state.points:
            newest = state.points[-1]
            right = (
                "" if newest.accuracy is None else f", {newest.accuracy:.1%} of the held-back answers right"
            )
            note = f"loss {newest.loss:.3f}{right}"
        self.tell(
            Progress(
                "training",
                videos_done=max(state.step, told[0]),
                videos_total=self.steps,
                elapsed_s=time.monotonic() - self.began,
                note=note,
            )
        )
        if self.events is not None:
            self.events.follow(state)


def _fit_here(job: Job, poll: Callable[[], None]) -> None:
    last = time.monotonic()

    def tell(state: State) -> None:
        nonlocal last
        if time.monotonic() - last > 1 or state.ended:
            last = time.monotonic()
            poll()

    work(job, sampled_here(job.image_size), tell=tell)


def _on_ray() -> Fit:
    # Ray takes seconds to load, which a training in this process need not wait for.
    from malmm.pipeline.finetuning.on_ray import fit_on_ray

    return fit_on_ray


def _absolute(config: FinetuneConfig) -> FinetuneConfig:
    """Local paths made absolute: workers have another working directory."""
    place = config.place
    return replace(
        config,
        data=str(Path(config.data).expanduser().resolve()),
        output=str(Path(config.output).expanduser().absolute()),
        videos=None if config.videos is None else str(Path(config.videos).expanduser().resolve()),
        checkpoints=None
        if config.checkpoints is None
        else (place if "://" in place else str(Path(place).expanduser().absolute())),
        model=str(Path(config.model).expanduser().absolute())
        if Path(config.model).expanduser().is_dir()
        else config.model,
    )


def _recipe(config: FinetuneConfig, language: str, fingerprint: str) -> dict[str, Any]:
    """All that decides the losses."""
    return config.deciding() | {
        "language": language,
        "data": _sha256(config.data),
        "model_fingerprint": fingerprint,
    }


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
