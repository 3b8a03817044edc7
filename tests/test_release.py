"""What goes with a release says the same everywhere."""

from __future__ import annotations

import re
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


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    for name in ("deploy/Dockerfile", "jobs/files/job.py", "jobs/files/example.py"):
        assert re.findall(r"malmm-ray:([0-9.]+)", (ROOT / name).read_text(encoding="utf-8")) == [version]
    newest = re.search(
        r"^## (\S+) \((\S+)\)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert newest is not None
    assert newest[1] == version
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest[2] == str(citation["date-released"])


def test_the_image_is_built_from_all_that_the_package_needs() -> None:
    copied = re.findall(
        r"^COPY (.*) \S+$", (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    there = {name for line in copied for name in line.split()}
    project = PROJECT["project"]
    folders = {path.partition("/")[0] for path in PROJECT["tool"]["setuptools"]["package-dir"].values()}
    assert {"pyproject.toml", project["readme"], *project["license-files"], *folders} <= there


def test_data_in_the_wheel_is_listed_with_its_licence() -> None:
    listed = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        if package != "*":
            folder = {pattern.partition("/")[0] for pattern in patterns if "/" in pattern} or {""}
            for name in folder:
                assert "/".join((*package.split("."), *filter(None, [name]))) in listed, package


def test_data_of_tests_is_listed_with_its_licence() -> None:
    listed = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    own = {"README.md", "archive-0.1.tar.gz", "spoken.webm"}
    for path in sorted((ROOT / "tests" / "data").iterdir()):
        if path.name not in own:
            name = "*.safetensors" if path.suffix == ".safetensors" else path.name
            assert f"tests/data/{name}" in listed, path.name
