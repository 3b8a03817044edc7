"""JSON schemas that answers can be decoded under: their check, and the plain form in which they are kept.

Everything that would let an answer grow without end is refused by name, with its place, and so is every keyword that
decoding cannot hold. An answer is valid under the schema as it was written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["MOST_ITEMS", "SchemaError", "plain_schema"]

#: The largest ``maxItems`` and ``maxLength``.
MOST_ITEMS = 64
_MOST_CHARACTERS = 1000
_DEEPEST = 8
_LARGEST = 10**15

_NOTES = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment"})
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "number": {"minimum", "maximum"},
    "boolean": set(),
    "null": set(),
}
_ADVICE = {
    "pattern": "list the values with enum",
    "format": "list the values with enum, or leave it out",
    "oneOf": "write anyOf",
    "allOf": "write the properties into one object",
    "uniqueItems": "leave it out",
    "multipleOf": "leave it out",
    "exclusiveMinimum": "write minimum",
    "exclusiveMaximum": "write maximum",
}


class SchemaError(ValueError):
    """A schema that answers cannot be decoded under. The message names the place and the keyword."""


def plain_schema(schema: object) -> dict[str, Any]:
    """The schema without notes and references, checked. Raises SchemaError.

    Each part is one of ``{"enum": [...]}``, ``{"anyOf": [...]}`` and ``{"type": ...}`` with that type's bounds. Objects
    list their ``properties`` in the order in which they are written, and which of them are ``required``.
    """
    if not isinstance(schema, Mapping):
        raise SchemaError(f"a schema is a JSON object, not {_shown(schema)}")
    named = {
        f"#/{where}/{name}": part
        for where in ("$defs", "definitions")
        for name, part in (schema[where].items() if isinstance(schema.get(where), Mapping) else ())
    }
    own = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
    return _plain(own, "#", named, ())


def _plain(schema: object, at: str, named: Mapping[str, object], inside: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise SchemaError(f"{at}: a schema is a JSON object, not {_shown(schema)}")
    if at.count("/") > 2 * _DEEPEST:
        raise SchemaError(f"{at}: parts lie more than {_DEEPEST} deep in one another")
    given = {key: value for key, value in schema.items() if key not in _NOTES}
    if "$ref" in given:
        _only(given, {"$ref"}, at)
        name = given["$ref"]
        if name not in named:
            raise SchemaError(f"{at}: $ref {_shown(name)} names nothing in $defs")
        if name in inside:
            raise SchemaError(f"{at}: $ref {name} leads back to itself, so that an answer could be endless")
        return _plain(named[name], at, named, (*inside, name))
    if "const" in given:
        _only(given, {"const", "type"}, at)
        return _enum(given | {"enum": [given["const"]]}, at)
    if "enum" in given:
        return _enum(given, at)
    if "anyOf" in given:
        _only(given, {"anyOf"}, at)
        parts = given["anyOf"]
        if not isinstance(parts, list) or not parts:
            raise SchemaError(f"{at}: anyOf is a list of schemas")
        return {"anyOf": [_plain(part, f"{at}/anyOf/{n}", named, inside) for n, part in enumerate(parts)]}
    kind = given.get("type")
    if isinstance(kind, list) and kind:
        allowed = {"type"}.union(*(_OF_TYPE.get(str(each), set()) for each in kind))
        _only(given, allowed, at)
        parts = [
            {"type": each} | {k: v for k, v in given.items() if k in _OF_TYPE.get(str(each), ())}
            for each in kind
        ]
        return {"anyOf": [_plain(part, at, named, inside) for part in parts]}
    if not isinstance(kind, str) or kind not in _OF_TYPE:
        what = "says no type" if kind is None else f"has type {_shown(kind)}"
        _only(given, {"type"}, at)
        raise SchemaError(f"{at}: it {what}: one of {', '.join(_OF_TYPE)}, or enum, const or anyOf")
    _only(given, {"type"} | _OF_TYPE[kind], at)
    if kind == "object":
        return _object(given, at, named, inside)
    if kind == "array":
        return _array(given, at, named, inside)
    if kind == "string":
        low, high = _lengths(given, "minLength", "maxLength", _MOST_CHARACTERS, at)
        return {"type": kind, "minLength": low, "maxLength": high}
    if kind in ("integer", "number"):
        return {"type": kind} | _range(given, kind, at)
    return {"type": kind}


def _only(given: Mapping[str, Any], allowed: set[str], at: str) -> None:
    """Refuse the first keyword that is not ``allowed``."""
    for keyword in given:
        if keyword not in allowed:
            advice = _ADVICE.get(keyword, "leave it out")
            raise SchemaError(f"{at}: {keyword!r} cannot be held while decoding: {advice}")


def _enum(given: Mapping[str, Any], at: str) -> dict[str, Any]:
    _only(given, {"enum", "const", "type"}, at)
    values, kinds = given["enum"], given.get("type")
    if not isinstance(values, list) or not values:
        raise SchemaError(f"{at}: enum is a list of values")
    allowed = kinds if isinstance(kinds, list) else [kinds]
    fitting = [_fixed(value, at) for value in values if kinds is None or _is_of(value, allowed)]
    if not fitting:
        raise SchemaError(f"{at}: no value of {_shown(values)} has type {_shown(kinds)}")
    return {"enum": fitting}


def _is_of(value: object, kinds: list[Any]) -> bool:
    """Whether a value has one of the types, as JSON schemas count: 2.0 is an integer, and true is no number."""
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, (int, float)):
        return "number" in kinds or ("integer" in kinds and float(value).is_integer())
    names = {str: "string", list: "array", dict: "object", type(None): "null"}
    return names.get(type(value)) in kinds


def _fixed(value: object, at: str) -> object:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError) as error:
        raise SchemaError(f"{at}: {_shown(value)} cannot be written as JSON in UTF-8") from error
    return value


def _object(
    given: Mapping[str, Any], at: str, named: Mapping[str, object], inside: tuple[str, ...]
) -> dict[str, Any]:
    properties = given.get("properties", {})
    if not isinstance(properties, Mapping):
        raise SchemaError(f"{at}: properties is a JSON object")
    if not properties:
        raise SchemaError(f"{at}: an object needs properties: what should its fields be?")
    if len(properties) > MOST_ITEMS:
        raise SchemaError(f"{at}: {len(properties)} properties, and {MOST_ITEMS} are the most")
    required = given.get("required", [])
    unknown = (
        [name for name in required if name not in properties] if isinstance(required, list) else [required]
    )
    if unknown:
        raise SchemaError(f"{at}: required names {_shown(unknown[0])}, which is not among its properties")
    parts = {
        str(_fixed(name, at)): _plain(part, f"{at}/properties/{name}", named, inside)
        for name, part in properties.items()
    }
    # Others are never written, whatever additionalProperties allows.
    return {"type": "object", "properties": parts, "required": [name for name in parts if name in required]}


def _array(
    given: Mapping[str, Any], at: str, named: Mapping[str, object], inside: tuple[str, ...]
) -> dict[str, Any]:
    if "items" not in given:
        raise SchemaError(f"{at}: an array needs items: what should it hold?")
    low, high = _lengths(given, "minItems", "maxItems", MOST_ITEMS, at)
    items = _plain(given["items"], f"{at}/items", named, inside)
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


def _lengths(given: Mapping[str, Any], least: str, most: str, limit: int, at: str) -> tuple[int, int]:
    low, high = given.get(least, 0), given.get(most)
    if high is None:
        raise SchemaError(f"{at}: it needs {most}, so that the answer has an end")
    for name, value in ((least, low), (most, high)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise SchemaError(f"{at}: {name} {_shown(value)} is a whole number from 0 to {limit}")
    if low > high:
        raise SchemaError(f"{at}: {least} {low} is above {most} {high}")
    return low, high


def _range(given: Mapping[str, Any], kind: str, at: str) -> dict[str, Any]:
    for name in ("minimum", "maximum"):
        value = given.get(name)
        if value is None:
            raise SchemaError(f"{at}: it needs {name}, so that the answer has an end")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or abs(value) > _LARGEST:
            raise SchemaError(f"{at}: {name} {_shown(value)} is a number of at most 15 digits")
    if given["minimum"] > given["maximum"]:
        raise SchemaError(f"{at}: minimum {given['minimum']} is above maximum {given['maximum']}")
    if kind == "integer" and math.ceil(given["minimum"]) > math.floor(given["maximum"]):
        raise SchemaError(f"{at}: no whole number lies from {given['minimum']} to {given['maximum']}")
    return {"minimum": given["minimum"], "maximum": given["maximum"]}


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
