"""What goes with a release says the same everywhere."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_data_in_the_wheel_is_listed_with_its_licence() -> None:
    listed = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        if package != "*":
            folder = {pattern.partition("/")[0] for pattern in patterns if "/" in pattern} or {""}
            for name in folder:
                assert "/".join((*package.split("."), *filter(None, [name]))) in listed, package


def test_data_of_tests_is_listed_with_its_licence() -> None:
    listed = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    own = {"README.md", "archive-0.1.tar.gz"}
    for path in sorted((ROOT / "tests" / "data").iterdir()):
        if path.name not in own:
            name = "*.safetensors" if path.suffix == ".safetensors" else path.name
            assert f"tests/data/{name}" in listed, path.name
