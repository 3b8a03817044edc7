"""The language of filters: what it means, and where it is wrong."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.pipeline.archive.filter_syntax import AllOf, Condition, Node, parse_filter
from malmm.pipeline.schema.errors import ConfigError


def said(node: Node) -> str:
    if isinstance(node, Condition):
        values = " ".join(f"{value.kind}:{value.text}" for value in node.values)
        return f"{node.name} {node.operator} {values}".strip()
    joint = " & " if isinstance(node, AllOf) else " | "
    return f"({joint.join(map(said, node.parts))})"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a = 1", "a = number:1"),
        ("a == -1.5e3", "a = number:-1.5e3"),
        ("a <> 'it''s'", "a != text:it's"),
        ("a = TRUE", "a = bool:true"),
        ("a", "a IS TRUE"),
        ("not a", "a IS FALSE"),
        ("a is not null", "a IS NOT NULL"),
        ("a is not true", "a IS FALSE"),
        ("a in (1, 'x')", "a IN number:1 text:x"),
        ("a not like '%x'", "a NOT LIKE text:%x"),
        ("a between 1 and 2 and b", "(a BETWEEN number:1 number:2 & b IS TRUE)"),
        ("a or b and c", "(a IS TRUE | (b IS TRUE & c IS TRUE))"),
        ("(a or b) and c", "((a IS TRUE | b IS TRUE) & c IS TRUE)"),
        ("not (a = 1 or b < 2)", "(a != number:1 & b >= number:2)"),
        ("not (not a and b is null)", "(a IS TRUE | b IS NOT NULL)"),
        ('"camera name" = 1', "camera name = number:1"),
        ("label.time-of-day = 'x'", "label.time-of-day = text:x"),
        ('label."and" > 1', "label.and > number:1"),
        ("größe > 1", "größe > number:1"),
        ("a<-5", "a < number:-5"),
    ],
)
def test_filters_mean_what_they_mean_in_sql(text: str, meaning: str) -> None:
    assert said(parse_filter(text)) == meaning


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("", None, "is empty"),
        ("a =", "at its end", "a value should stand here"),
        ("a = north", "at character 5 (near 'north')", "single quotes: 'north'"),
        ('a = "north"', "at character 5", "single quotes: 'north'"),
        ("a = 'north", "at character 5", "never closed"),
        ("a = 1 b = 2", "at character 7 (near 'b = 2')", "AND, OR or the end"),
        ("a = NULL", "at character 5", "IS NULL"),
        ("a is 5", "at character 6", "NULL, TRUE or FALSE"),
        ("a in ()", "at character 7", "a value should stand here"),
        ("(a = 1", "at its end", "')' should stand here"),
        ("a = 1; DROP TABLE videos", "at character 6", "';' means nothing"),
        ("a = 1 -- x", "at character 7", "means nothing"),
        ("and = 1", "at character 1", "name of a column"),
        ("a not 5", "at character 7", "should follow NOT"),
        ("a = 2026-01-01", "at character 9", "AND, OR or the end"),
        ("(" * 60 + "a" + ")" * 60, "at character", "parentheses"),
        ("a" * 20_000, None, "20000 characters"),
        (f"a in ({', '.join('1' * 1001)})", "at character", "1000 values"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, place: str | None, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)) as raised:
        parse_filter(text)
    assert place is None or place in str(raised.value)


@given(st.text(alphabet="ab.'\"()=<> \n\\;-,1ANDORNTIS", max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse_filter(text)
    except ConfigError as error:
        assert "filter" in str(error)  # noqa: PT017
