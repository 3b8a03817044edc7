"""The folder of a training run: what its finished stages made, so that a stopped run goes on."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from malmm.model.demo.training.pool import Pool, make_pool

__all__ = ["Work", "folder_and_effort", "say", "say_written"]

_FEWEST_SCENES = 64


class Work:
    """Stages' results in ``folder``. ``effort`` scales the lengths of stages."""

    def __init__(self, folder: Path, effort: float) -> None:
        self.folder, self.effort = folder, effort
        folder.mkdir(parents=True, exist_ok=True)

    def count(self, steps: int) -> int:
        """The number of steps at this effort, at least two."""
        return max(2, round(steps * self.effort))

    def file(self, name: str) -> Path:
        """The file of a stage's result."""
        return self.folder / f"{name}.safetensors"

    def done(self, name: str, module: nn.Module) -> bool:
        """Load a stage's result into ``module``; false if the stage is not finished."""
        if not self.file(name).exists():
            return False
        module.load_state_dict(load_file(self.file(name)))
        return True

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Save a stage's result."""
        unfinished = self.file(name).with_suffix(".part")
        save_file({key: value.contiguous() for key, value in tensors.items()}, unfinished)
        unfinished.rename(self.file(name))

    def pool(self, scenes: int, *, side: int, grid: int, seed: int) -> Pool:
        """The pool of drawn scenes, drawn once."""
        path = self.file("pool")
        if not path.exists():
            pool = make_pool(max(_FEWEST_SCENES, self.count(scenes)), side=side, grid=grid, seed=seed)
            pool.save(path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            say(f"drew {len(pool.frames)} pictures of {len(pool.attributes)} scenes")
        return Pool.load(path)


def say(text: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def say_written(directory: Path) -> None:
    """Print the size of a finished checkpoint."""
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    say(f"wrote {directory}, {size / 1e6:.1f} MB")


def folder_and_effort(program: str, description: str | None) -> tuple[Path, float]:
    """Read the command line of a training program: the folder of its work, and what scales its stages."""
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the work and the checkpoint go")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="scale every stage's length; 0.01 to try it (%(default)g)"
    )
    options = parser.parse_args()
    if not 0 < options.effort <= 10:
        parser.error(f"--effort {options.effort:g}: above 0 and at most 10")
    return options.directory, options.effort
