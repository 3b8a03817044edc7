"""The command: files to cases, cases to lines, errors to an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from malmm.model.conformance.banks import check_compression, check_online
from malmm.model.conformance.cases import TOLERANCE, CaseError
from malmm.model.conformance.whole_model import check_whole_model

__all__ = ["check_directory", "check_file", "check_paths", "main"]


def check_file(path: Path) -> list[CaseError]:
    """The errors of every case in one file. Raises ValueError for a file in another format."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        if "raw_tokens" in tensors:
            return list(check_whole_model(path.stem, tensors, metadata))
        with torch.inference_mode():
            if "frames" in tensors:
                return list(check_online(path.stem, tensors, metadata))
            if any(key.endswith(".out_bank") for key in tensors):
                return list(check_compression(path.stem, tensors))
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}, which the format asks for") from error
    except Exception as error:  # a size that is not a number, an unknown word, weights of another shape, ...
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit the sizes it states: {reason}") from error
    raise ValueError(f"{path} holds neither a compression nor an online pass nor a whole model")


def check_directory(directory: Path) -> list[CaseError]:
    """The errors of every file in ``directory``. Raises ValueError if there is nothing to check."""
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{directory} holds no .safetensors file")
    return [error for file in files for error in check_file(file)]


def check_paths(paths: Sequence[Path]) -> list[CaseError]:
    """The errors of files, and of all files of directories. Raises ValueError as for one of them."""
    return [
        error for path in paths for error in (check_file(path) if path.is_file() else check_directory(path))
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit code 0 if every error is within tolerance, 1 if one is not, 2 if a PATH cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m malmm.model.conformance",
        description="Replay recorded outputs of the authors' MA-LMM implementation through this one.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a .safetensors file, or a directory of them",
    )
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest absolute error (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        errors = check_paths(arguments.paths)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    width = max(len(error.case) for error in errors)
    for case in errors:
        verdict = "TOO LARGE" if case.exceeds(arguments.tolerance) else "ok"
        print(f"{case.case:<{width}}  {case.compared:<16}  {case.error:.3e}  {verdict}")
    worst = max(errors, key=lambda error: error.error)
    failed = sum(error.exceeds(arguments.tolerance) for error in errors)
    print(
        f"largest error {worst.error:.3e} ({worst.case}, {worst.compared}); {failed} of {len(errors)} too large"
    )
    return 1 if failed else 0
