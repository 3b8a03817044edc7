from __future__ import annotations

from fuzz.http_ranges import fuzz


def test_no_request_breaks_the_rule() -> None:
    assert fuzz(seed=1, cases=150) == 150
