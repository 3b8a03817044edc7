"""Requests made of the OpenAPI document, good ones and bad ones: every answer has to be one that it describes."""

from __future__ import annotations

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, settings

schema = schemathesis.pytest.from_fixture("document")


@pytest.fixture
def document(client: TestClient) -> object:
    return schemathesis.openapi.from_asgi("/api/openapi.json", client.app)


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_api_is_as_its_document_says(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"Host": "localhost"})
