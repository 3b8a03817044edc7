"""The report of an evaluation: figures beside published ones, missing videos, costs, and examples."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from malmm.model.checkpoints.resolve import BUILT_IN
from malmm.pipeline.evaluation.config import EvaluateConfig
from malmm.pipeline.evaluation.formats.reading import Reading
from malmm.pipeline.evaluation.metrics.resampling import Figure
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.evaluation.scoring import Answered, Scores, difference, score
from malmm.pipeline.schema.exit_codes import exit_code_of

__all__ = ["EvaluationReport", "Part", "WayReport", "make_report", "markdown", "ways_table"]

_EXAMPLES = 5
_NAMED = 20


@dataclass
class WayReport:
    """Figures of one way of watching and its costs: seconds and tokens a clip or question, on average.

    ``less_first`` is its first figure less that of the first way, on the same videos; None for the first way.
    """

    way: str
    figures: list[Figure]
    tasks: dict[str, Figure]
    encode_s: float
    answer_s: float
    stored_bytes: float
    visual_tokens: float
    language_tokens: float
    less_first: Figure | None = None


@dataclass
class EvaluationReport:
    """The result of an evaluation. ``ways`` has the figures of each way of watching; the first one is compared.

    ``published`` are figures of others with the difference to the own one. ``reservations`` are the reasons for which
    the own figure is not comparable with them.
    """

    dataset: str
    title: str
    recipe: dict[str, Any]
    questions: int
    answered: int
    ways: list[WayReport] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    reservations: list[str] = field(default_factory=list)
    missing_videos: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    right: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    elapsed_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 if all questions were answered, 3 if some were, 1 if none, 130 if interrupted."""
        return exit_code_of(
            interrupted=self.interrupted, failed=self.answered < self.questions, done=self.answered > 0
        )

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"exit_code": self.exit_code}

    def to_json(self) -> str:
        """The report as a JSON file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


@dataclass(frozen=True, eq=False)
class Part:
    """Questions by clip, and the stored ``rows`` by clip's id: answers, or a failure."""

    reading: Reading
    clips: Mapping[Clip, Sequence[Question]]
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def told(self) -> dict[Clip, Mapping[str, Any]]:
        """The rows of clips that have answers."""
        return {
            clip: self.rows[clip.clip_id] for clip in self.clips if "ways" in self.rows.get(clip.clip_id, {})
        }

    def answered(self, way: str) -> list[Answered]:
        """The answers by a way of watching."""
        return [
            Answered(question, tuple(row["ways"][way]["texts"][question.question_id]))
            for clip, row in self.told.items()
            for question in self.clips[clip]
        ]

    def failures(self) -> list[dict[str, str]]:
        """The clips that failed."""
        return [
            {"video": clip.video, "clip": clip.clip_id} | dict(self.rows[clip.clip_id]["failure"])
            for clip in self.clips
            if "failure" in self.rows.get(clip.clip_id, {})
        ]


def make_report(
    config: EvaluateConfig,
    recipe: dict[str, Any],
    parts: Sequence[Part],
    *,
    missing: Sequence[str],
    leaked: Sequence[str],
) -> EvaluationReport:
    """Score the stored answers and collect the report."""
    told = [row for part in parts for row in part.told.values()]
    report = EvaluationReport(
        config.dataset,
        config.kind.title,
        recipe,
        sum(len(asked) for part in parts for asked in part.clips.values()),
        sum(len(part.clips[clip]) for part in parts for clip in part.told),
        missing_videos=list(missing),
        leaked=list(leaked),
        notes=list(dict.fromkeys(note for part in parts for note in part.reading.notes)),
    )
    report.failures = [failure for part in parts for failure in part.failures()]
    if not told:
        return report
    first: Scores | None = None
    for way in config.ways:
        answered = [each for part in parts for each in part.answered(way)]
        scores = score(config.kind, answered, seed=config.seed)
        report.ways.append(_way(way, scores, [row["ways"][way] for row in told], len(answered)))
        if first is not None:
            report.ways[-1].less_first = difference(
                config.kind, answered, scores.marks, first.marks, seed=config.seed
            )
        else:
            first = scores
            report.notes += scores.notes
            report.right, report.wrong = _examples(config, answered, scores)
    report.reservations = _reservations(config, report)
    figures = {figure.name: figure for figure in report.ways[0].figures}
    report.published = [
        asdict(each)
        | {"own": figures[each.figure].value, "difference": figures[each.figure].value - each.value}
        for each in config.kind.published
        if each.figure in figures
    ]
    return report


def _way(way: str, scores: Scores, rows: Sequence[Mapping[str, Any]], questions: int) -> WayReport:
    def mean(name: str) -> float:
        return float(sum(row[name] for row in rows)) / len(rows)

    return WayReport(
        way,
        list(scores.figures),
        scores.tasks,
        encode_s=mean("encode_s"),
        answer_s=float(sum(row["answer_s"] for row in rows)) / questions,
        stored_bytes=mean("stored_bytes"),
        visual_tokens=mean("visual_tokens"),
        language_tokens=mean("language_tokens"),
    )


def _examples(
    config: EvaluateConfig, answered: Sequence[Answered], scores: Scores
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Examples of right and wrong answers; for captions, the best and the worst by CIDEr."""

    def row(each: Answered) -> dict[str, Any]:
        question = each.question
        return {
            "question_id": question.question_id,
            "video": question.clip.video,
            "prompt": question.prompt,
            "answers": list(question.answers[:3]),
            "texts": list(each.texts),
            "score": scores.marks[question.question_id],
        }

    if config.kind.scoring == "captions":
        ordered = sorted(answered, key=lambda each: -scores.marks[each.question.question_id])
        half = len(ordered) // 2
        best, worst = ordered[: min(_EXAMPLES, half)], ordered[half:][-_EXAMPLES:]
        return [row(each) for each in best], [row(each) for each in reversed(worst)]
    chance = random.Random(config.seed)  # noqa: S311
    found = []
    for mark in (1.0, 0.0):
        of_mark = [each for each in answered if scores.marks[each.question.question_id] == mark]
        found.append([row(each) for each in chance.sample(of_mark, min(_EXAMPLES, len(of_mark)))])
    return found[0], found[1]


def _reservations(config: EvaluateConfig, report: EvaluationReport) -> list[str]:
    """Why the figure is not comparable with published ones."""
    kind, found = config.kind, []
    own, usual = config.protocol.to_dict(), kind.protocol.to_dict()
    changed = [
        f"{name} {own[name]!r} in place of {usual[name]!r}" for name in own if own[name] != usual[name]
    ]
    if changed:
        found.append(f"asked otherwise: {', '.join(changed)}")
    built_in = sorted({config.model, *(model for _, model in config.models)} & set(BUILT_IN))
    if built_in and kind.published:
        found.append(f"the model {' and '.join(built_in)}, which knows drawn videos at most")
    if report.answered < report.questions:
        found.append(f"{report.questions - report.answered} of {report.questions} questions are not answered")
    if config.limit is not None:
        found.append(f"a sample of {config.limit} clips")
    if config.chosen_split != kind.split:
        found.append(f"the split {config.chosen_split} in place of {kind.split}")
    if kind.tasks and (lacking := [task for task in kind.tasks if task not in report.ways[0].tasks]):
        found.append(f"without the tasks {', '.join(lacking)}")
    if report.leaked:
        found.append(f"{len(report.leaked)} videos are in training too")
    return found


def markdown(report: EvaluationReport) -> str:
    """The report as Markdown."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: EvaluationReport) -> Iterator[str]:
    recipe = report.recipe
    yield f"# {report.title}, {recipe['split']}"
    yield ""
    yield (
        f"Model `{recipe['model']}` ({recipe['model_fingerprint'][:12]}), {report.answered} of {report.questions} "
        "questions answered. Intervals are 95 %, by resampling videos 1000 times."
    )
    yield from _table(
        ("figure", "own", "95 % interval", "answers", "videos"),
        [
            (each.name, f"{each.value:.1f}", f"{each.low:.1f} to {each.high:.1f}", each.count, each.videos)
            for each in report.ways[0].figures
        ],
    )
    if report.published:
        yield from _table(
            ("published", "figure", "value", "own less published"),
            [
                (each["of"], each["figure"], f"{each['value']:.1f}", f"{each['difference']:+.1f}")
                for each in report.published
            ],
        )
    if report.reservations:
        yield ""
        what = (
            "Not comparable with published figures"
            if report.published
            else "Not as the data set is asked by default"
        )
        yield f"{what}: {'; '.join(report.reservations)}."
    if report.ways[0].tasks:
        yield from _table(
            ("task", "top-1", "95 % interval", "answers"),
            [
                (task, f"{each.value:.1f}", f"{each.low:.1f} to {each.high:.1f}", each.count)
                for task, each in report.ways[0].tasks.items()
            ],
        )
    if len(report.ways) > 1:
        yield ""
        yield "## Ways of watching"
        yield from ways_table(report.ways)
    for title, examples in (("Right", report.right), ("Wrong", report.wrong)):
        if examples:
            yield from ("", f"## {title}", "")
            for each in examples:
                said = " / ".join(_flat(text) for text in each["texts"][:5]) or "(nothing)"
                yield f"- {_flat(each['video'])}: {_flat(each['prompt'])} **{said}**, truth {_flat(each['answers'][0])}"
    if report.missing_videos:
        yield from ("", f"## Missing videos ({len(report.missing_videos)})", "")
        yield from _named(report.missing_videos)
    if report.failures:
        yield from ("", f"## Failed clips ({len(report.failures)})", "")
        yield from _named([f"{each['video']}: {each['message']}" for each in report.failures])
    yield from ("", "## Recipe", "", "```json", json.dumps(recipe, indent=2), "```")
    for note in report.notes:
        yield from ("", note)


def ways_table(ways: Sequence[WayReport]) -> Iterator[str]:
    """Figures and costs of each way of watching as a Markdown table."""
    return _table(
        (
            "way",
            ways[0].figures[0].name,
            "95 % interval",
            f"less {ways[0].way}",
            "visual tokens",
            "tokens in the language model",
            "encode, s a clip",
            "answer, s a question",
            "stored, KiB a clip",
        ),
        [
            (
                each.way,
                f"{each.figures[0].value:.1f}",
                f"{each.figures[0].low:.1f} to {each.figures[0].high:.1f}",
                ""
                if (less := each.less_first) is None
                else f"{less.value:+.1f} ({less.low:+.1f} to {less.high:+.1f})",
                f"{each.visual_tokens:.0f}",
                f"{each.language_tokens:.0f}",
                f"{each.encode_s:.2f}",
                f"{each.answer_s:.3f}",
                f"{each.stored_bytes / 1024:.1f}",
            )
            for each in ways
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_flat(str(cell)) for cell in row)} |"


def _named(names: Sequence[str]) -> Iterator[str]:
    for name in names[:_NAMED]:
        yield f"- {_flat(name)}"
    if len(names) > _NAMED:
        yield f"- and {len(names) - _NAMED} more, in report.json"


def _flat(text: str) -> str:
    """A text on one line that cannot end a table's cell or begin markup."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat.replace("<", "&lt;").replace("`", "'").replace("[", "\\[")
