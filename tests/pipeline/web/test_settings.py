from __future__ import annotations

import pytest

from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.web.settings import ServeConfig, is_loopback

TOKEN = "correct-horse-battery"  # noqa: S105 - made up


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
def test_this_machine_comes_in_without_a_token(host: str) -> None:
    assert is_loopback(host)
    assert ServeConfig("archive", host=host).token is None


@pytest.mark.parametrize(
    "host", ["::", "192.168.1.7", "films.example.org", "localhost.example.org", f"{0}.0.0.0"]
)
def test_others_need_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="the page needs a token"):
        ServeConfig("archive", host=host)
    assert ServeConfig("archive", host=host, token=TOKEN).host == host


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(ServeConfig("archive", token=TOKEN))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"archive": ""}, "no archive"),
        ({"port": 70000}, "--port 70000"),
        ({"token": "short"}, "too easy to guess"),
        ({"token": "ü" * 20}, "plain characters"),
        ({"waiting": -1}, "--waiting -1"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ServeConfig(**({"archive": "archive"} | options))  # type: ignore[arg-type]
