"""What runs tell other systems, told to servers of this test."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.answering import answering

from malmm.jobs.run_recorder import recorded
from malmm.jobs.telemetry import stages_of, tell_of
from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.schema.errors import ConfigError

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN = RunRecord(
    "nightly",
    ("index", "annotate"),
    started=BEGIN,
    ended=BEGIN + timedelta(seconds=9),
    status="some_failed",
    counts={"videos_indexed": 3},
    samples=(
        [0.5, "listing", 0, 0, 0],
        [2.0, "indexing", 1, 5, 0],
        [4.0, "indexing", 2, 9, 0],
        [7.0, "describing", 2, 9, 0],
    ),
)
Received = list[tuple[str, bytes]]


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    """What is sent to both addresses that the environment names."""
    found: Received = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            found.append((self.path, gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    with answering(server):
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OPENLINEAGE_URL", address)
        yield found


def test_a_run_is_a_trace_of_its_stages_and_one_event_of_lineage(received: Received) -> None:
    tell_of(RUN, "s3://films/archive")
    sent = dict(received)
    assert len(received) == len(sent) == 2
    trace = ExportTraceServiceRequest.FromString(sent["/v1/traces"])
    spans = trace.resource_spans[0].scope_spans[0].spans
    [whole] = [span for span in spans if not span.parent_span_id]
    assert whole.name == "malmm nightly"
    begin = whole.start_time_unix_nano
    assert begin == int(BEGIN.timestamp() * 1e9)
    spans_s = sorted(
        (
            (span.name, (span.start_time_unix_nano - begin) / 1e9, (span.end_time_unix_nano - begin) / 1e9)
            for span in spans
            if span.parent_span_id == whole.span_id
        ),
        key=lambda part: part[1],
    )
    assert spans_s == [("listing", 0.5, 2.0), ("indexing", 2.0, 7.0), ("describing", 7.0, 9.0)]
    assert list(stages_of(RUN)) == spans_s
    event = json.loads(sent["/api/v1/lineage"])
    assert (event["eventType"], event["job"]["name"]) == ("COMPLETE", "nightly")
    assert [(each["namespace"], each["name"]) for each in event["outputs"]] == [("s3://films", "archive")]


def test_failed_runs_are_told_of_too(received: Received, tmp_path: object) -> None:
    with (
        pytest.raises(ConfigError),
        recorded(str(tmp_path), RunRecord("index", ("index",))),
    ):
        raise ConfigError("no")
    event = json.loads(dict(received)["/api/v1/lineage"])
    assert event["eventType"] == "FAIL"


def test_nothing_is_sent_unless_it_is_asked_for_and_no_run_fails_by_it(
    received: Received, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.delenv("OPENLINEAGE_URL")
    tell_of(RUN, "/archive")
    assert received == []
    monkeypatch.setenv("OPENLINEAGE_URL", "no address")
    tell_of(RUN, "/archive")
    assert "note: OPENLINEAGE_URL is set, and the run was not told of: " in capsys.readouterr().err
