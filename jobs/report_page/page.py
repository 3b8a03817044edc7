"""The HTML report of a run. All outside text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from malmm.jobs.report_page.document import document, escaped, section, table
from malmm.jobs.report_page.plots import bars, line
from malmm.jobs.terminal.text import clock, shortened
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.schema.config import CAPTION

__all__ = ["report_page", "stage_times", "throughput"]

_EXAMPLES, _FAILURES = 12, 50
_JPEG = b"\xff\xd8\xff"


def report_page(archive: ArchiveReader, run: RunRecord) -> str:
    """Return a self-contained page without scripts or external resources. Raises ArchiveError."""
    parts = [
        f"<h1>{escaped(run.job)}: {escaped(run.status.replace('_', ' '))}</h1>",
        table(_facts(archive, run)),
        section("Throughput", line(throughput(run), title="Throughput", x="s", y="video seconds a second")),
        section("Stages", bars(stage_times(run), title="Seconds by stage", unit="s")),
        section("Failures by kind", bars(_kinds(run), title="Failures by kind", unit="")),
        section("Failed", _failures(archive, run)),
        section("Examples", _examples(archive)),
    ]
    return document(f"{run.job}, {run.started:%Y-%m-%d %H:%M}", parts)


def throughput(run: RunRecord) -> list[tuple[float, float]]:
    """Return (seconds since the start, seconds of video per second) between progress samples."""
    indexing = [sample for sample in run.samples if sample[1] in ("indexing", "waiting")]
    return [
        (float(after[0]), (after[3] - before[3]) / (after[0] - before[0]))
        for before, after in pairwise(indexing)
        if after[0] > before[0] and after[3] >= before[3]
    ]


def stage_times(run: RunRecord) -> list[tuple[str, float]]:
    """Return each stage's total seconds, in order of first start."""
    took: dict[str, float] = {}
    ends = [*(sample[0] for sample in run.samples[1:]), run.took_s]
    for sample, end in zip(run.samples, ends, strict=False):
        took[sample[1]] = took.get(sample[1], 0.0) + max(0.0, end - sample[0])
    return list(took.items())


def _facts(archive: ArchiveReader, run: RunRecord) -> Iterable[tuple[str, str]]:
    yield "Archive", archive.root
    yield "Run", f"{run.run_id} ({', '.join(run.kinds)}), by {run.trigger}"
    yield "Began", f"{run.started:%Y-%m-%d %H:%M:%S} UTC"
    yield "Took", clock(run.took_s)
    for name, value in run.counts.items():
        if value and not name.startswith("failed.") and not name.endswith("_s"):
            yield (
                name.replace("_", " ").capitalize(),
                f"{value:,.4g}" if isinstance(value, float) else f"{value:,}",
            )
    if run.error:
        yield "Error", run.error


def _kinds(run: RunRecord) -> list[tuple[str, float]]:
    return [
        (name.removeprefix("failed."), float(count))
        for name, count in run.counts.items()
        if name.startswith("failed.")
    ]


def _failures(archive: ArchiveReader, run: RunRecord) -> str:
    rows = [row for row in archive.failures().to_pylist() if row["last_seen"] >= run.started]
    if run.ended is not None:
        rows = [row for row in rows if row["last_seen"] <= run.ended]
    return table(
        [(row["uri"], f"{row['kind']} at {row['stage']}: {row['message']}") for row in rows[:_FAILURES]]
    )


def _examples(archive: ArchiveReader) -> str:
    captions = archive.captions(CAPTION.name, limit=_EXAMPLES)
    columns = ["segment_id", "video_id", "slot", "timestamp_s", "thumbnail"]
    rows = archive.memory_rows(list(captions), columns).to_pylist()
    by_segment: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_segment.setdefault(row["segment_id"], []).append(row)
    addresses = archive.addresses_of({row["video_id"] for row in rows})
    figures = []
    for segment, text in captions.items():
        slots = sorted(by_segment.get(segment, []), key=lambda row: row["slot"])
        if not slots:
            continue
        middle = slots[len(slots) // 2]
        name = addresses.get(middle["video_id"], "").rpartition("/")[2]
        at = f"{name} at {clock(round(middle['timestamp_s']))}"
        figures.append(
            f"<figure>{_picture(middle['thumbnail'], at)}<figcaption><b>{escaped(at)}</b><br>"
            f"{escaped(shortened(text, 200))}</figcaption></figure>"
        )
    return f'<div class="examples">{"".join(figures)}</div>' if figures else ""


def _picture(data: bytes | None, alt: str) -> str:
    if not data or not data.startswith(_JPEG):
        return ""
    return f'<img alt="{escaped(alt)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
