"""A few seconds of the fuzz target for containers; `python tests/fuzz/containers.py` runs for as long as wanted."""

from __future__ import annotations

from pathlib import Path

from fuzz.containers import Fuzzer, seeds

from malmm.operators.media.sandbox.client import Sandbox

FILES = 80


def test_every_outcome_is_frames_or_a_documented_failure(tmp_path: Path) -> None:
    kept, made = tmp_path / "kept", tmp_path / "made"
    kept.mkdir()
    made.mkdir()
    with Sandbox() as sandbox:
        fuzzer = Fuzzer(seeds(made), kept, sandbox)
        for seed in range(FILES):
            fuzzer.once(seed)
    assert [finding for finding in fuzzer.findings if finding.is_fault] == []
    assert fuzzer.outcomes.total() == FILES
    assert fuzzer.outcomes["frames"] > FILES / 4
    assert len(fuzzer.outcomes) > 2
