"""Notebooks run as Jupyter runs them, in this process: cell after cell, with what each prints and shows.

    python -m support.notebooks FILE...    # from tests/: run each, and write its outputs into it

A cell's last expression is shown if it is a picture. Nothing of Jupyter is needed.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["code_cells", "printed", "run", "shown"]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that hold code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any]) -> None:
    """Run all cells in one namespace, and replace their outputs. An exception of a cell ends it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells(notebook):
        cell["outputs"] = list(_outputs("".join(cell["source"]), names))


def printed(cell: dict[str, Any]) -> str:
    """What a cell printed."""
    return "".join("".join(each["text"]) for each in cell["outputs"] if each["output_type"] == "stream")


def shown(cell: dict[str, Any]) -> list[Image.Image]:
    """The pictures that a cell showed."""
    return [
        Image.open(io.BytesIO(base64.b64decode(each["data"]["image/jpeg"])))
        for each in cell["outputs"]
        if each["output_type"] != "stream"
    ]


def _outputs(source: str, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    said, value = io.StringIO(), None
    with contextlib.redirect_stdout(said):
        exec(compile(tree, "<cell>", "exec"), names)  # noqa: S102 - our own notebook
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)  # noqa: S307
    if said.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": said.getvalue().splitlines(keepends=True)}
    if isinstance(value, Image.Image):
        picture = io.BytesIO()
        value.save(picture, "JPEG", quality=85)
        data = {"image/jpeg": base64.b64encode(picture.getvalue()).decode(), "text/plain": ["a picture"]}
        yield {"data": data, "metadata": {}, "output_type": "display_data"}


def _main() -> None:
    for name in sys.argv[1:]:
        notebook = json.loads(Path(name).read_text(encoding="utf-8"))
        run(notebook)
        Path(name).write_text(
            json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    _main()
