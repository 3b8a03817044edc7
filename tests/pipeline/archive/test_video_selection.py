from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, WHEN, video_table

from malmm.pipeline.archive.video_selection import one_video, parse_time, select_videos
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.tables import VIDEOS

URIS = ("/videos/a.mp4", "/videos/b.mp4", "/videos/c[1].mp4", "s3://bucket/a.mp4")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    made = Archive.create_or_open(str(tmp_path_factory.mktemp("archive")), RECIPE, VECTOR_SIZE)
    rows = [
        video_table(number).to_pylist()[0] | {"uri": uri, "indexed_at": WHEN + timedelta(days=number)}
        for number, uri in enumerate(URIS)
    ]
    made.put_videos(pa.Table.from_pylist(rows, schema=VIDEOS))
    return made


def uris(archive: Archive, *names: str, **options: object) -> list[str]:
    return select_videos(archive, names, **options)["uri"].to_pylist()  # type: ignore[arg-type]


def test_names_globs_ids_and_addresses(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    assert uris(archive) == list(URIS)
    assert uris(archive, "b.mp4") == ["/videos/b.mp4"]
    assert uris(archive, "a.mp4") == ["/videos/a.mp4", "s3://bucket/a.mp4"]
    assert uris(archive, "s3://bucket/*") == ["s3://bucket/a.mp4"]
    assert uris(archive, "?.mp4") == [URIS[0], URIS[1], URIS[3]]
    assert uris(archive, "c[1].mp4") == ["/videos/c[1].mp4"]
    assert uris(archive, "b.mp4", "s3://bucket/a.mp4") == [URIS[1], URIS[3]]
    monkeypatch.chdir("/")
    assert uris(archive, "videos/*.mp4") == list(URIS[:3])
    identity = archive.videos()["video_id"][1].as_py()
    assert uris(archive, identity) == ["/videos/b.mp4"]


def test_times_and_conditions(archive: Archive) -> None:
    assert uris(archive, since=WHEN + timedelta(days=1)) == list(URIS[1:])
    assert uris(archive, until=WHEN + timedelta(days=1)) == ["/videos/a.mp4"]
    assert uris(archive, condition="uri LIKE 's3:%'") == ["s3://bucket/a.mp4"]


@pytest.mark.parametrize("where", ["uri LIKE", "colour = 'red'", "1; DROP TABLE videos"])
def test_a_condition_that_is_none_names_the_columns(archive: Archive, where: str) -> None:
    with pytest.raises(ConfigError, match="the columns are video_id"):
        uris(archive, condition=where)


@pytest.mark.parametrize("name", ["d.mp4", "d*.mp4", str(Path("/videos/d.mp4"))])
def test_an_unknown_name_is_said(archive: Archive, name: str) -> None:
    with pytest.raises(ConfigError, match="holds no video"):
        uris(archive, name)


def test_one_name_means_one_video(archive: Archive) -> None:
    rows = archive.videos()
    assert one_video(rows, "b.mp4")["uri"] == "/videos/b.mp4"
    with pytest.raises(ConfigError, match="2 videos are called"):
        one_video(rows, "a.mp4")


def test_dates_are_in_utc_unless_they_say_otherwise() -> None:
    assert parse_time("--since", "2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    assert parse_time("--since", "2026-03-01T12:00+02:00") == datetime(2026, 3, 1, 10, tzinfo=UTC)
    with pytest.raises(ConfigError, match="--since 'soon'"):
        parse_time("--since", "soon")
