"""Random JSON schemas that answers can be decoded under, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.integers(-999, 999),
    st.booleans(),
    st.none(),
    st.sampled_from([0.5, "été", 'a "quote"', "\\", "<b>", "{}", "a/b-c", [1, {"x": None}]]),
)
_NAMES = st.one_of(
    st.sampled_from(["weather", "people", "a b", "ünï", 'q"', "n.1"]), st.text("abcxyz_", min_size=1)
)


@st.composite
def _numbers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    low: float
    high: float
    if kind == "integer":
        low, high = sorted(draw(st.tuples(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))))
    else:
        bound = st.decimals(-1000, 1000, places=2).map(float)
        low, high = sorted(draw(st.tuples(bound, bound)))
    return {"type": kind, "minimum": low, "maximum": high}


@st.composite
def _strings(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    return {"type": "string", "minLength": low, "maxLength": high}


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(_NAMES, inner, min_size=1, max_size=4))
        required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
        return {"type": "object", "properties": properties, "required": required}

    @st.composite
    def arrays(draw: st.DrawFn) -> dict[str, Any]:
        low, high = sorted(draw(st.tuples(st.integers(0, 3), st.integers(0, 3))))
        return {"type": "array", "items": draw(inner), "minItems": low, "maxItems": high}

    return st.one_of(
        objects(), arrays(), st.lists(inner, min_size=1, max_size=2).map(lambda of: {"anyOf": of})
    )


_LEAVES = st.one_of(
    st.lists(_VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    _numbers(),
    _strings(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
)
#: Schemas of the supported subset.
SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.recursive(_LEAVES, _nested, max_leaves=5)
