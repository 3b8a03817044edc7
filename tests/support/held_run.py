"""``malmm`` with a gate in its work, so that a test holds a run while it looks, kills and interrupts.

This file is also the program that runs the command. A number in a file decides what goes through the gate, and every
process of the run reads it: segments whose place in their video is below it go on, others wait. The gate is before the
decoders and, in runs without Ray, before replay. A decoder that waits takes no other segment, so that as many as there
are decoders hold the whole run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Gate"]

_PAUSE_S = 0.05
_WITHOUT_RAY = "--without-ray"


class Gate:
    """Lets no segment through until told."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gate"
        self.allow(0)

    def allow(self, segments: int) -> None:
        """Let so many segments of each video through, counted from its beginning."""
        new = self._file.with_suffix(".new")
        new.write_text(str(segments))
        new.rename(self._file)

    def is_reached(self) -> bool:
        """Whether a segment has waited at the gate, in any process of any run."""
        return _reached(self._file).exists()

    def open(self) -> None:
        """Let all through."""
        self.allow(sys.maxsize)

    def command(self, *options: str | Path, ray: bool = True) -> list[str]:
        """``malmm`` with these options behind the gate; without Ray, all stages run in one process."""
        how = [] if ray else [_WITHOUT_RAY]
        return [sys.executable, __file__, str(self._file), *how, *map(str, options)]


def _reached(gate: Path) -> Path:
    return gate.with_suffix(".reached")


def _hold_decoders(gate: str) -> None:
    """Put the gate before the decoders, here and on workers."""
    from malmm.operators.decode import decode_segments as decode
    from malmm.pipeline.indexing import graph
    from malmm.pipeline.schema.rows import carried
    from support import inline_stages

    # Ray sends what is defined in the program that runs by value: workers need not find this file.
    def decode_segments(rows: Any, **options: Any) -> Iterator[Any]:
        for row in carried(rows):
            while row.segment is not None and row.segment.index >= int(Path(gate).read_text()):
                _reached(Path(gate)).touch()
                time.sleep(_PAUSE_S)
        yield from decode(rows, **options)

    for module in (graph, inline_stages):
        assert module.decode_segments is decode
        setattr(module, decode.__name__, decode_segments)


def _without_ray(gate: str, patch: Any) -> None:
    """Run all stages here, commit each segment at once, and let stored memory through the gate a segment at a time."""
    from malmm.pipeline.indexing import replay_commits, segment_commits
    from malmm.pipeline.schema.rows import carried
    from support.inline_stages import InlineStages

    class HeldStages(InlineStages):
        def replaying(self, work: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
            for block in work:
                for place, row in enumerate(carried(block)):
                    while row.segment is not None and row.segment.index >= int(Path(gate).read_text()):
                        time.sleep(_PAUSE_S)
                    yield from super().replaying([block.slice(place, 1)], *arguments, **options)

    HeldStages().install(patch)
    for module in (replay_commits, segment_commits):
        patch.setattr(module, "COMMIT_EVERY_S", 0.0)


def _hold_scheduled(gate: Sequence[str], patch: Any) -> None:
    """Have the runs that a schedule begins go through the gate as well."""
    from malmm.jobs.schedules import service

    patch.setattr(service, "_PROGRAM", (sys.executable, __file__, *gate))


def _main(gate: str, *options: str) -> int:
    # The folder that holds `support`, in the place of this file's own.
    sys.path[0] = str(Path(__file__).parents[1])
    import pytest

    from malmm.jobs.cli import main

    with pytest.MonkeyPatch.context() as patch:
        how, options = (options[:1], options[1:]) if options[0] == _WITHOUT_RAY else ((), options)
        if options[0] == "schedule":
            # Has no work of its own, and need not load what works.
            _hold_scheduled((gate, *how), patch)
        else:
            _hold_decoders(gate)
            if how:
                _without_ray(gate, patch)
            else:
                from support.lean_ray import lean

                with lean():
                    return main(options)
        return main(options)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
