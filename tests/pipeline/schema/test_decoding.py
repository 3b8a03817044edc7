from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.errors import ConfigError

NUMBERS = st.floats(0.01, 10)


@given(
    st.builds(
        TextSettings,
        st.integers(1, 100),
        NUMBERS,
        st.floats(-5, 5),
        st.integers(0, 50),
        st.none() | st.integers(0, 40_000),
        st.text(max_size=20),
    )
)
def test_settings_go_through_the_recipes_text(settings: TextSettings) -> None:
    assert TextSettings.from_text(settings.to_text()) == settings
    assert (settings.to_text() == "") == (settings == TextSettings())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beams": 0}, "--beams 0: from 1 to 100"),
        ({"beams": 101}, "--beams 101"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty 0"),
        ({"repetition_penalty": float("nan")}, "--repetition-penalty nan"),
        ({"length_penalty": float("inf")}, "--length-penalty inf"),
        ({"min_new_tokens": -1}, "--min-new-tokens -1"),
        ({"begin_token": -1}, "--begin-token -1"),
    ],
)
def test_settings_that_cannot_be(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TextSettings(**settings)


def test_a_setting_of_a_later_release_is_named() -> None:
    with pytest.raises(ConfigError, match="'temperature', which this release does not know"):
        TextSettings.from_text('{"temperature": 0.7}')
