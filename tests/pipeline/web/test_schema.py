"""Requests made of the OpenAPI document, good ones and bad ones: every answer has to be one that it describes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.drawn_archive import Drawn
from support.served import Served, in_this_process

from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

EXAMPLES = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# Nothing about these can be wrong.
WITHOUT_INPUT = {"GET /api/health", "GET /api/session", "DELETE /api/session", "GET /api/archive"}
# A filter is a language of its own, which a schema cannot describe: most texts are refused with 422.
FILTERED = {
    "GET /api/search",
    "GET /api/search/videos",
    "GET /api/search/facets",
    "GET /api/videos",
    "POST /api/ask",
}


@pytest.fixture(autouse=True)
def _no_collection_while_modules_are_read() -> Iterator[None]:
    """Collect no garbage here.

    pytest parses schemathesis's modules as they are loaded, since it is a plugin. Garbage that is collected meanwhile
    may log an error, for whose traceback Python 3.11 parses too, within the first: a SystemError.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def served(drawn: Drawn) -> Iterator[Served]:
    with in_this_process(make_app(ServeConfig(drawn.place)), drawn.place) as server:
        yield server


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_api_is_as_its_document_says(served: Served, mode: str) -> None:
    # Takes seconds to load, which no other test needs.
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{served.address}api/openapi.json")
    tried = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @EXAMPLES
        @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
        def answers_are_described(case: Any) -> None:
            is_filtered = case.operation.label in FILTERED
            case.call_and_validate(excluded_checks=[positive_data_acceptance] if is_filtered else [])

        if mode == "negative" and operation.label in WITHOUT_INPUT:
            continue
        answers_are_described()
        tried.add(operation.label)
    assert tried >= FILTERED or mode == "negative"
    assert {"GET /api/search", "POST /api/ask", "GET /api/videos/{video_id}/media"} < tried
