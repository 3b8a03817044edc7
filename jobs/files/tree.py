"""Parse YAML into plain values with line numbers.

Values are those of JSON: maps with text keys, lists, text, numbers, booleans and null. No tag runs code, and files with
nested aliases or excessive depth are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from malmm.jobs.files.problems import JobFileError, Problem

__all__ = ["MARK", "Tree", "parse"]

Path = tuple[str | int, ...]

#: ``${env:NAME}``, or with a default ``${env:NAME:-default}``; ``$${env:`` is left as text.
MARK = re.compile(r"(?<!\$)\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MOST_BYTES, _MOST_VALUES, _MOST_DEEP = 1 << 20, 20_000, 30
_PLAIN_TAGS = ("null", "bool", "int", "float", "str")


@dataclass
class Tree:
    """A parsed file. ``places`` maps each value of ``content`` to its line and column; ``variables`` maps each
    variable used to whether it has a default."""

    path: str
    content: Any = None
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    options: dict[Path, str] = field(default_factory=dict)
    variables: dict[str, bool] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Path, message: str) -> Problem:
        """Return an error at a path, or at its nearest parent that the file contains."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.options:
                return Problem(0, 0, self.options[path[:length]], message)
            if path[:length] in self.places:
                line, column = self.places[path[:length]]
                return Problem(line, column, f"{self.path}:{line}:{column}", message)
        return Problem(1, 1, self.path, message)


def parse(text: bytes, path: str, environment: Mapping[str, str] | None = None) -> Tree:
    """Parse a job file, putting environment variables in where they are marked.

    ``environment`` is the process's own by default. Raises JobFileError when it is no YAML at all; what is wrong with
    single values is in ``problems``.
    """
    tree = Tree(path)
    if len(text) > _MOST_BYTES:
        raise JobFileError(
            path, [Problem(1, 1, path, f"a job file of {len(text)} bytes: at most {_MOST_BYTES}")]
        )
    try:
        node = yaml.compose(text.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise JobFileError(path, [Problem(1, 1, path, f"not UTF-8 text: {error.reason}")]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise JobFileError(
            path, [Problem(line, column, f"{path}:{line}:{column}", f"not YAML: {said}")]
        ) from error
    except yaml.YAMLError as error:
        raise JobFileError(
            path, [Problem(1, 1, path, f"not YAML: {' '.join(str(error).split())}")]
        ) from error
    except (RecursionError, ValueError) as error:
        # ValueError: an escape such as "\UFFFFFFFF" that names no character.
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise JobFileError(path, [Problem(1, 1, path, f"not YAML: {reason}")]) from error
    _Builder(tree, os.environ if environment is None else environment).build(node)
    return tree


class _Builder:
    """Converts YAML nodes to values and collects places and errors."""

    def __init__(self, tree: Tree, environment: Mapping[str, str]) -> None:
        self.tree = tree
        self.environment = environment
        self.values = 0

    def build(self, node: yaml.Node | None) -> None:
        self.tree.content = None if node is None else self._value(node, ())

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self.tree.places.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        self.values += 1
        if self.values > _MOST_VALUES or len(path) > _MOST_DEEP:
            what = f"more than {_MOST_VALUES} values" if self.values > _MOST_VALUES else "nested too deep"
            raise JobFileError(self.tree.path, [self.tree.problem(path, f"{what}: no job file needs that")])
        if isinstance(node, yaml.MappingNode):
            return self._map(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, (*path, index)) for index, each in enumerate(node.value)]
        return self._scalar(node, path)

    def _map(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            place = f"{self.tree.path}:{line}:{column}"
            if not isinstance(key_node, yaml.ScalarNode):
                self.tree.problems.append(Problem(line, column, place, "a key must be a word"))
                continue
            key = key_node.value
            if key in found:
                self.tree.problems.append(Problem(line, column, place, f"{key!r} is given twice"))
                continue
            # Of a value's faults, the line of its key is the one to show.
            self.tree.places[(*path, key)] = (line, column)
            found[key] = self._value(value_node, (*path, key))
        return found

    def _scalar(self, node: Any, path: Path) -> Any:
        text, tag = str(node.value), node.tag
        expanded = MARK.sub(lambda match: self._variable(match, path), text)
        if expanded != text and node.style is None:
            # Unquoted, what a variable holds is read as if it had been written here.
            tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, expanded, (True, False))
        kind = tag.rpartition(":")[2]
        if kind not in _PLAIN_TAGS or not tag.startswith("tag:yaml.org,2002:"):
            if kind == "timestamp":
                return expanded
            self._fault(path, f"{tag} is not read here: write text, a number, true or false")
            return None
        if kind == "str":
            return expanded.replace("$${env:", "${env:")
        try:
            scalar = yaml.ScalarNode(tag, expanded, node.start_mark, node.end_mark)
            return yaml.SafeLoader("").construct_object(scalar)
        except (ValueError, KeyError, yaml.YAMLError):
            # Such as !!int x, or a number of ten thousand digits.
            self._fault(path, f"{expanded[:40]!r} is no {kind}")
            return None

    def _variable(self, match: re.Match[str], path: Path) -> str:
        name, default = match.group(1), match.group(2)
        self.tree.variables[name] = self.tree.variables.get(name, True) and default is not None
        found = self.environment.get(name, default)
        if found is None:
            self._fault(
                path, f"the environment variable {name} is not set: set it, or write ${{env:{name}:-default}}"
            )
            return ""
        return found

    def _fault(self, path: Path, message: str) -> None:
        self.tree.problems.append(self.tree.problem(path, message))
