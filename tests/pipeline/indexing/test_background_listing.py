from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from malmm.pipeline.indexing import background_listing
from malmm.pipeline.indexing.background_listing import BackgroundListing
from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.listing import SourceFile


def source(number: int) -> SourceFile:
    return SourceFile(f"/videos/{number}.mp4", 1, "f")


def test_files_are_there_before_the_listing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(sources: tuple[str, ...]) -> Iterator[SourceFile | SourceError]:
        yield SourceError("not there", uri="x")
        yield source(1)
        go_on.wait(60)
        yield source(2)

    monkeypatch.setattr(background_listing, "list_sources", slow)
    with BackgroundListing(["any"]).running() as listing:
        listing.wait(lambda: listing.has_file)
        assert listing.found[1:] == [source(1)]
        assert not listing.ended
        go_on.set()
        listing.wait(lambda: False)
        assert listing.ended
        assert listing.found[1:] == [source(1), source(2)]


def test_what_the_listing_raises_is_raised_by_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(sources: tuple[str, ...]) -> Iterator[SourceFile]:
        yield source(1)
        raise RuntimeError("the network went away")

    monkeypatch.setattr(background_listing, "list_sources", failing)
    with BackgroundListing(["any"]).running() as listing:
        with pytest.raises(RuntimeError, match="went away"):
            listing.wait(lambda: False)
        with pytest.raises(RuntimeError, match="went away"):
            _ = listing.ended


def test_leaving_ends_the_listing_at_the_next_file(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()

    def endless(sources: tuple[str, ...]) -> Iterator[SourceFile]:
        try:
            number = 0
            while True:
                yield source(number)
                number += 1
        finally:
            closed.set()

    monkeypatch.setattr(background_listing, "list_sources", endless)
    with BackgroundListing(["any"]).running() as listing:
        listing.wait(lambda: listing.has_file)
    assert closed.wait(60)


def test_real_sources_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with BackgroundListing([str(tmp_path), str(tmp_path / "gone.mp4")]).running() as listing:
        listing.wait(lambda: False)
    first, second = listing.found
    assert isinstance(first, SourceFile)
    assert first.uri == str(tmp_path / "a.mp4")
    assert isinstance(second, SourceError)
