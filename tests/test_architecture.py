"""The folders are the architecture: who may import whom, read from the sources."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "operators", "model", "jobs")
READERS = ("pipeline.schema", "pipeline.sources", "pipeline.archive")
STORED = ("model", "operators", *READERS, "pipeline.cluster")
# What the modules of a folder may import besides their own folder. The longest name that matches counts.
MAY_IMPORT = {
    "model": (),
    "pipeline.schema": ("model",),
    "pipeline.sources": ("model", "pipeline.schema"),
    "pipeline.archive": ("model", "pipeline.schema", "pipeline.sources"),
    "pipeline.cluster": ("model", *READERS),
    "pipeline.checkpoints": ("model", "pipeline.schema"),
    "pipeline.duplicates": READERS,
    "operators": ("model", *READERS),
    "pipeline.indexing": (*STORED, "pipeline.searching"),
    "pipeline.finetuning": (*STORED, "pipeline.evaluation"),
    "pipeline.evaluation": (*STORED, "pipeline.indexing", "pipeline.searching"),
    "pipeline.searching": STORED,
    "pipeline.web": (*STORED, "pipeline.searching"),
    "pipeline": ("pipeline",),
    "jobs": ("pipeline", "model.demo"),
}
UNTELLING = {"common", "helper", "helpers", "misc", "tools", "util", "utils"}


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("malmm", *parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sources()}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> list[tuple[str, int, tuple[str, ...]]]:
    """What a file imports, at its top or within: module, level of a relative import, names."""
    found: list[tuple[str, int, tuple[str, ...]]] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level, tuple(alias.name for alias in node.names)))
    return found


def own_imports(path: Path) -> set[str]:
    """Our modules that a file imports."""
    found = set()
    for name, _, names in imports(path):
        if name.split(".")[0] == "malmm":
            inner = {f"{name}.{part}" for part in names} & MODULES.keys()
            found |= inner or {name}
    return found


def is_under(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def folder_of(module: str) -> str:
    """The row of the table that a module falls under."""
    return max((row for row in MAY_IMPORT if is_under(module, f"malmm.{row}")), key=len)


def may_import(module: str, other: str) -> bool:
    folder = folder_of(module)
    return is_under(other, *(f"malmm.{allowed}" for allowed in (folder, *MAY_IMPORT[folder])))


def test_there_is_something_to_look_at() -> None:
    assert {f"malmm.{folder}" for folder in FOLDERS} < MODULES.keys()
    assert {folder_of(module) for module in MODULES} == MAY_IMPORT.keys()


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path for path in sources() if path.stem in UNTELLING] == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_rules(module: str) -> None:
    for name, level, _ in imports(MODULES[module]):
        assert level == 0, "a relative import"
        assert name.split(".")[0] not in (*FOLDERS, "tests", "support"), f"{name} without malmm"
    wrong = {other for other in own_imports(MODULES[module]) if not may_import(module, other)}
    assert not wrong


def test_nothing_imports_in_a_circle() -> None:
    graph = {module: own_imports(path) & MODULES.keys() for module, path in MODULES.items()}
    while leaves := {module for module, others in graph.items() if not others}:
        graph = {module: others - leaves for module, others in graph.items() if module not in leaves}
    assert not graph


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_offers(module: str) -> None:
    tree = parsed(MODULES[module])
    assert ast.get_docstring(tree)
    names = exported(tree)
    if names is None:
        # A package may hold its docstring and nothing else.
        assert MODULES[module].name == "__init__.py"
        assert len(tree.body) == 1
        return
    assert len(set(names)) == len(names)
    loaded = importlib.import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_other_folders_import_only_what_is_offered(module: str) -> None:
    for name, _, names in imports(MODULES[module]):
        if name in MODULES and name.split(".")[:2] != module.split(".")[:2]:
            offered = exported(parsed(MODULES[name])) or []
            inner = {part for part in names if f"{name}.{part}" in MODULES}
            assert set(names) - set(offered) - inner == set(), f"from {name}"


@pytest.mark.parametrize(
    "module",
    [
        "malmm.pipeline.archive.reader",
        "malmm.pipeline.archive.writer",
        "malmm.pipeline.searching.searcher",
        "malmm.pipeline.archive.export",
        "malmm.pipeline.indexing.annotate",
        "malmm.jobs.cli",
    ],
)
def test_reading_an_archive_needs_neither_ray_nor_a_model(module: str) -> None:
    script = (
        f"import sys, {module}; print(sorted({{'ray', 'torch', 'transformers', 'av'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_packages_are_listed_and_lie_where_they_are_said_to() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages, places = settings["packages"], settings["package-dir"]
    assert sorted(packages) == sorted(places)
    for package in packages:
        assert places[package] == "/".join(package.split(".")[1:])
        assert (ROOT / places[package] / "__init__.py").is_file()
        assert (ROOT / places[package] / "py.typed").is_file()
    with_code = {str(path.parent.relative_to(ROOT)) for path in sources()}
    assert with_code == set(places.values())


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_file_and_folder_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    # Code spans that begin with a folder of the repository, and the pages that are linked to.
    paths = re.findall(r"`((?:pipeline|operators|model|jobs|tests|docs|benchmarks)/[\w./]*)`", text)
    links = [str(Path(page).parent / link) for link in re.findall(r"\]\(([\w./]+)\)", text)]
    assert paths
    assert [path for path in (*paths, *links) if not (ROOT / path).exists()] == []
