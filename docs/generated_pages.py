"""Pages of the site that are made when it is built: from the program itself, and from files beside ``docs/``.

MkDocs calls the functions that begin with ``on_`` (``hooks:`` in mkdocs.yml).
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from malmm.jobs.cli import help_texts
from malmm.jobs.files.job import json_schema

__all__ = ["generated", "notebook", "on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[1]
#: Files beside ``docs/`` that are pages of the site, and under which names.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "THIRD_PARTY.md": "third-party.md",
    "examples/memory.ipynb": "notebook.md",
}
#: The packages and modules of the Python reference, by page.
MODULES = {
    "pipeline": ["malmm.pipeline"],
    "operators": [f"malmm.operators.{file.stem}" for file in sorted((ROOT / "operators").glob("[!_]*.py"))],
    "model": [
        *(f"malmm.model.memory.{file.stem}" for file in sorted((ROOT / "model" / "memory").glob("[!_]*.py"))),
        "malmm.model.families.family",
        "malmm.model.towers.tower",
    ],
}
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
_IMAGE = re.compile(r'(?<=(?:src|set)=")(?!https?:)([^"#]+)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files of the repository that pages link to."""
    for name, text in generated().items():
        files.append(File.generated(config, name, content=text))
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source.endswith(".ipynb"):
            text, pictures = notebook(json.loads(text))
            for picture, content in pictures.items():
                files.append(File.generated(config, picture, content=content))
        files.append(File.generated(config, name, content=text))
    linked = {path for file in list(files) if file.is_documentation_page() for path in _linked(file)}
    for path in sorted(linked):
        files.append(File.generated(config, _copied(path), content=(ROOT / path).read_bytes()))
    listed = set(_paths(config.nav))
    left = [file.src_uri for file in files if file.is_documentation_page() and file.src_uri not in listed]
    if left and config.nav is not None:
        config.nav.append({"Also": sorted(left)})
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the repository to where the site has them."""
    here = _source(page.file)

    def there(link: re.Match[str]) -> str:
        target = os.path.normpath(here.parent / link[1])
        if target in PAGES:
            wanted = PAGES[target]
        elif target.startswith(f"docs{os.sep}"):
            wanted = target.removeprefix(f"docs{os.sep}")
        elif (ROOT / target).is_file():
            wanted = _copied(target)
        else:
            # MkDocs reports it.
            return link[1]
        return os.path.relpath(wanted, PurePosixPath(page.file.src_uri).parent)

    return _IMAGE.sub(there, _LINK.sub(there, markdown))


def generated() -> dict[str, str]:
    """Return the text of each page of the reference by its name."""
    return {
        "reference/command-line.md": "\n".join(_command_line()),
        "reference/job-file.md": "\n".join(_job_file()),
        **{f"reference/{name}.md": "\n".join(_python(name, modules)) for name, modules in MODULES.items()},
    }


def notebook(content: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as a page, with what its cells printed and showed; and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in content["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            else:
                name = f"figures/notebook-{len(pictures)}.jpg"
                pictures[name] = base64.b64decode(output["data"]["image/jpeg"])
                parts.append(f"![What the cell shows]({name})")
    return "\n\n".join(parts) + "\n", pictures


def _command_line() -> Iterator[str]:
    yield "# Command line\n\nWhat each command's `--help` says.\n"
    with mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1"):
        for command, text in help_texts().items():
            yield f"## {command}\n\n```text\n{text}```\n"


def _job_file() -> Iterator[str]:
    schema = json_schema()
    yield "# Job files\n\nEvery key of a job file. `malmm init --schema` prints the same as JSON Schema.\n"
    for name, part in {"Job": schema, **schema["$defs"]}.items():
        yield f"## {name}\n\n{part.get('description', '')}\n"
        yield "| key | type | default | |\n|---|---|---|---|"
        for key, field in part["properties"].items():
            default = f"`{field['default']!r}`" if field.get("default") is not None else ""
            required = "required" if key in part.get("required", ()) else default
            yield f"| `{key}` | {_cell(_type(field))} | {_cell(required)} | {_cell(field.get('description', ''))} |"
        yield ""


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(kind for kind in map(_type, field["anyOf"]) if kind != "null")
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"map to {_type(field['additionalProperties'])}"
    return str(field.get("type", "any"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _python(package: str, modules: list[str]) -> Iterator[str]:
    yield f"# malmm.{package}\n"
    for module in modules:
        root = "" if len(modules) > 1 else "\n    options:\n      show_root_heading: false"
        yield f"::: {module}{root}\n"


def _paths(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for part in nav.values():
            yield from _paths(part)
    elif isinstance(nav, list):
        for part in nav:
            yield from _paths(part)


def _source(file: File) -> Path:
    """Where a page's text lies, from the repository's root: links in it are relative to that."""
    for source, name in PAGES.items():
        if file.src_uri == name:
            return Path(source)
    return Path("docs") / file.src_uri


def _linked(file: File) -> Iterator[str]:
    for link in _LINK.findall(file.content_string):
        target = os.path.normpath(_source(file).parent / link)
        if target not in PAGES and not target.startswith("docs" + os.sep) and (ROOT / target).is_file():
            yield target


def _copied(path: str) -> str:
    # Not as a page: it is shown as it is.
    return f"repository/{path}" + (".txt" if path.endswith(".md") or "." not in path else "")
