"""The HTML report of an evaluation. All outside text is escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from malmm.jobs.report_page.document import document, escaped, section, table
from malmm.jobs.report_page.plots import bars, intervals
from malmm.pipeline.evaluation.report import EvaluationReport

__all__ = ["evaluation_page"]


def evaluation_page(report: EvaluationReport) -> str:
    """Return a self-contained page without scripts or external resources. The report has an answer at least."""
    own = report.ways[0]
    first = own.figures[0]
    compared = [("own", first.value, first.low, first.high)]
    compared += [
        (each["of"].partition(" (")[0], each["value"], each["value"], each["value"])
        for each in report.published
        if each["figure"] == first.name
    ]
    ways = [(way.way, way.figures[0].value, way.figures[0].low, way.figures[0].high) for way in report.ways]
    tasks = [(task, each.value, each.low, each.high) for task, each in own.tasks.items()]
    cost = [(way.way, way.encode_s + way.answer_s) for way in report.ways]
    several = len(report.ways) > 1
    parts = [
        f"<h1>{escaped(report.title)}: {escaped(first.name)} {first.value:.1f}</h1>",
        table(_facts(report)),
        section(first.name, intervals(compared, title=f"{first.name}, own and published")),
        section("Figures", table([(each.name, _interval(each)) for each in own.figures])),
        section("Tasks", intervals(tasks, title="top-1 by task")),
        section(
            "Ways of watching",
            intervals(ways, title=f"{first.name} by way of watching") + _differences(report),
        )
        if several
        else "",
        section("Cost", bars(cost, title="Seconds to encode a clip and answer a question", unit="s"))
        if several
        else "",
        section("Right", _examples(report.right)),
        section("Wrong", _examples(report.wrong)),
        section("Missing videos", table([(name, "") for name in report.missing_videos[:50]])),
        section("Failed clips", table([(each["video"], each["message"]) for each in report.failures[:50]])),
        section("Recipe", f"<pre>{escaped(json.dumps(report.recipe, indent=2))}</pre>"),
    ]
    return document(f"{report.title}, {first.name}", parts)


def _facts(report: EvaluationReport) -> list[tuple[str, str]]:
    recipe = report.recipe
    facts = [
        ("Split", str(recipe["split"])),
        ("Model", f"{recipe['model']} ({recipe['model_fingerprint'][:12]})"),
        ("Questions", f"{report.answered:,} of {report.questions:,} answered"),
        ("Intervals", "95 %, by resampling videos"),
    ]
    facts += [
        ("Published", f"{each['value']:.1f} {each['figure']}, {each['of']}: own {each['difference']:+.1f}")
        for each in report.published
    ]
    if report.reservations:
        facts.append(("Not comparable", "; ".join(report.reservations)))
    return facts + [("Note", note) for note in report.notes]


def _differences(report: EvaluationReport) -> str:
    """The other ways' figures less the first one's: their intervals are narrower than those of the figures suggest."""
    return table(
        [
            (f"{way.way} less {report.ways[0].way}", _interval(way.less_first))
            for way in report.ways
            if way.less_first is not None
        ]
    )


def _interval(figure: Any) -> str:
    return f"{figure.value:.1f}, from {figure.low:.1f} to {figure.high:.1f}"


def _examples(rows: Sequence[dict[str, Any]]) -> str:
    return table(
        [
            (
                f"{row['video']}: {row['prompt']}",
                f"{' / '.join(row['texts'])} (truth: {' / '.join(row['answers'])})",
            )
            for row in rows
        ]
    )
