"""A second or two of the fuzz targets for listing and for ranges, which run for as long as wanted as scripts."""

from __future__ import annotations

import pytest
from fuzz import listing, ranges


def test_listing_never_raises_and_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    rounds, sources = listing.run(0.0, seed=1, rounds=9)
    assert rounds == 9
    assert sources > 50


def test_ranges_are_the_files_own_bytes_or_an_error() -> None:
    outcomes = ranges.run(0.0, seed=1, rounds=60)
    assert outcomes["read"] > 20
    assert outcomes.keys() - {"read"}
