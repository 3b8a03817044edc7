"""What a run tells other systems when it has ended: a trace (OpenTelemetry) and one event of lineage (OpenLineage).

Off unless their own variables say where to: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``) and
``OPENLINEAGE_URL``. The trace is made of the run's record: a span for the run, and one for each stage that its progress
showed. A system that cannot be reached costs a note, and never a run.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version

from malmm.jobs.extras import needing
from malmm.jobs.terminal.text import printable
from malmm.pipeline.archive.location import resolve
from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["stages_of", "tell_of"]

_TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_LINEAGE = "OPENLINEAGE_URL"
_PATIENCE_S = 5
_STATES = {"done": "COMPLETE", "some_failed": "COMPLETE", "interrupted": "ABORT"}


def tell_of(run: RunRecord, archive: str) -> None:
    """Send a trace and an event of lineage of a run that has ended, to where the environment says."""
    for told, wanted in ((_trace, _TRACES), (_lineage, (_LINEAGE,))):
        if any(os.environ.get(name) for name in wanted):
            try:
                told(run, archive)
            except (ConfigError, OSError, ValueError) as error:
                why = printable(str(error))
                print(f"note: {wanted[0]} is set, and the run was not told of: {why}", file=sys.stderr)


def stages_of(run: RunRecord) -> Iterator[tuple[str, float, float]]:
    """The stages of a run, as its progress showed them: name, begin and end in seconds since the run's start."""
    begun: tuple[str, float] | None = None
    for at, stage, *_ in run.samples:
        if begun is None or begun[0] != stage:
            if begun is not None:
                yield (*begun, float(at))
            begun = (str(stage), float(at))
    if begun is not None:
        yield (*begun, max(begun[1], run.took_s))


def _trace(run: RunRecord, archive: str) -> None:
    with needing("telemetry", _TRACES[0]):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import Status, StatusCode, set_span_in_context
    name = os.environ.get("OTEL_SERVICE_NAME", "malmm-ray")
    # Of its own: the program's provider, if it has one, is left alone.
    provider = TracerProvider(
        resource=Resource.create({"service.name": name, "service.version": version("malmm-ray")})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_PATIENCE_S)))
    tracer = provider.get_tracer("malmm")
    begin = run.started.timestamp()
    whole = tracer.start_span(f"malmm {run.job}", start_time=_nanoseconds(begin))
    whole.set_attributes(
        {
            "malmm.archive": archive,
            "malmm.run_id": run.run_id,
            "malmm.kinds": list(run.kinds),
            "malmm.trigger": run.trigger,
            "malmm.status": run.status,
            **{f"malmm.count.{key}": value for key, value in run.counts.items()},
        }
    )
    if run.status not in ("done", "some_failed"):
        whole.set_status(Status(StatusCode.ERROR, run.error or run.status))
    for stage, from_s, to_s in stages_of(run):
        part = tracer.start_span(
            stage, context=set_span_in_context(whole), start_time=_nanoseconds(begin + from_s)
        )
        part.end(_nanoseconds(begin + to_s))
    whole.end(_nanoseconds(begin + run.took_s))
    provider.shutdown()


def _lineage(run: RunRecord, archive: str) -> None:
    with needing("telemetry", _LINEAGE):
        from openlineage.client import OpenLineageClient
        from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
    place = resolve(archive)
    scheme, separator, rest = place.partition("://")
    bucket, _, path = rest.partition("/")
    dataset = OutputDataset(f"{scheme}://{bucket}", path) if separator else OutputDataset("file", place)
    client = OpenLineageClient()
    client.emit(
        RunEvent(
            eventTime=(run.ended or datetime.now(UTC)).isoformat(),
            eventType=RunState[_STATES.get(run.status, "FAIL")],
            # Its ids are UUIDs, and a run's of ours always the same one.
            run=Run(str(uuid.uuid5(uuid.NAMESPACE_URL, f"{place}#{run.run_id}"))),
            job=Job(os.environ.get("OPENLINEAGE_NAMESPACE", "malmm"), run.job),
            producer=f"https://pypi.org/project/malmm-ray/{version('malmm-ray')}",
            outputs=[dataset],
        )
    )
    client.close(_PATIENCE_S)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
