"""The HTML report of a run. All outside text is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from malmm.jobs.report_page.plots import bars, line
from malmm.jobs.terminal.text import clock, shortened
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.schema.config import CAPTION

__all__ = ["report_page", "stage_times", "throughput"]

_EXAMPLES, _FAILURES = 12, 50
_JPEG = b"\xff\xd8\xff"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;"
    "background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}"
    "td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}"
    "svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#444}.axis{fill:none;stroke:#999}"
    ".curve{fill:none;stroke:#0b62c4;stroke-width:2}.bar{fill:#0b62c4}"
    ".examples{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:1rem}"
    "figure{margin:0}img{width:100%;border-radius:4px}figcaption{font-size:.85rem;overflow-wrap:anywhere}"
)


def report_page(archive: ArchiveReader, run: RunRecord) -> str:
    """Return a self-contained page without scripts or external resources. Raises ArchiveError."""
    parts = [
        f"<h1>{_text(run.job)}: {_text(run.status.replace('_', ' '))}</h1>",
        _table(_facts(archive, run)),
        _section("Throughput", line(throughput(run), title="Throughput", x="s", y="video seconds a second")),
        _section("Stages", bars(stage_times(run), title="Seconds by stage", unit="s")),
        _section("Failures by kind", bars(_kinds(run), title="Failures by kind", unit="")),
        _section("Failed", _failures(archive, run)),
        _section("Examples", _examples(archive)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{_text(run.job)}, {run.started:%Y-%m-%d %H:%M}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


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
    return _table(
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
            f"<figure>{_picture(middle['thumbnail'], at)}<figcaption><b>{_text(at)}</b><br>"
            f"{_text(shortened(text, 200))}</figcaption></figure>"
        )
    return f'<div class="examples">{"".join(figures)}</div>' if figures else ""


def _picture(data: bytes | None, alt: str) -> str:
    if not data or not data.startswith(_JPEG):
        return ""
    return f'<img alt="{_text(alt)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""


def _table(rows: Iterable[tuple[str, str]] | Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>" if lines else ""


def _text(text: str) -> str:
    return html.escape(text, quote=True)
