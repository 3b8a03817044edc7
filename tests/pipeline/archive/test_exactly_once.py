"""Whatever happens on the way, a rerun ends with the rows of one clean run: none lost, none twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.archive_rows import PLANNED, RECIPE, VECTOR_SIZE, annotation_table, rows, run, segment

from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError

# Of a whole run, as a power of ten.
MOST_CALLS = 3.5
STEPS = ("memories", "annotations", "segments")


class FailingWriter(TableWriter):
    """Raises at one step of a commit, before or after the step itself."""

    fail_at: str | None = None
    fail_after = False
    uri = ""

    def append_fragments(self, name, fragments):
        self._perform(name, super().append_fragments, fragments)

    def append(self, name, rows):
        self._perform(name, super().append, rows)

    def _perform(self, name, step, what):
        failing = name == self.fail_at
        if not failing or self.fail_after:
            step(name, what)
        if failing:
            self.fail_at = None
            raise ArchiveError("the store went away", uri=self.uri)


def contents(archive):
    """Every row of the three tables in an order of its own, tokens included."""
    ids = sorted(archive.completed_segments())
    return {
        "segments": archive.tables.rows("segments").sort_by("segment_id").to_pylist(),
        "annotations": archive.tables.rows("annotations").sort_by("annotation_id").to_pylist(),
        "memories": archive.tables.rows("memories", columns=[*archive.schema("memories").names[:9], "sizes"])
        .sort_by("memory_id")
        .to_pylist(),
        "tokens": [(key, values.tobytes()) for key, values, _ in archive.memory_tokens(ids)],
    }


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    archive = Archive.create_or_open(str(tmp_path_factory.mktemp("clean")), RECIPE, VECTOR_SIZE)
    run(archive)
    return contents(archive)


class Runs(RuleBasedStateMachine):
    """One archive under runs that write, commit, fail and die; every run begins with a sweep.

    Runs hold the archive or do not: what a writer keeps in memory it keeps while it holds.
    """

    @initialize(held=st.booleans())
    def create(self, held):
        self.folder = tempfile.mkdtemp()
        self.held = held
        self.holding = ExitStack()
        Archive.create_or_open(self.folder, RECIPE, VECTOR_SIZE)
        self.begin()
        self.receipts = []
        self.done = set()

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        self.die()
        run(self.archive)
        self.holding.close()
        once = Archive.create_or_open(f"{self.folder}/clean", RECIPE, VECTOR_SIZE)
        run(once)
        assert contents(self.archive) == contents(once)
        shutil.rmtree(self.folder)

    def die(self):
        """The process ends: what it held is gone, and the next run starts with a sweep."""
        self.receipts = []
        self.begin()
        self.archive.sweep()

    def begin(self):
        self.holding.close()
        self.archive = Archive.open(self.folder)
        self.archive.changes.__class__ = FailingWriter
        if self.held:
            self.holding.enter_context(self.archive.held())

    def write(self, numbers):
        if numbers:
            self.receipts += write_rows(self.archive.uri, rows(*sorted(numbers)))

    @rule(numbers=st.sets(st.sampled_from(PLANNED), max_size=3), data=st.data())
    def write_and_commit_some(self, numbers, data):
        self.write(numbers)
        chosen = data.draw(st.lists(st.sampled_from(self.receipts), max_size=4)) if self.receipts else []
        ids = {receipt.segment_id for receipt in chosen}
        committed = self.archive.commit(chosen)
        assert set(committed.segment_ids) == ids - self.done
        assert len(committed.dropped) == len(chosen) - len(committed.segment_ids)
        self.done |= ids

    @rule(
        numbers=st.sets(st.sampled_from(PLANNED), min_size=1, max_size=2),
        step=st.sampled_from(STEPS),
        after=st.booleans(),
        retry=st.booleans(),
    )
    def commit_that_fails(self, numbers, step, after, retry):
        self.write(numbers)
        ids = {receipt.segment_id for receipt in self.receipts}
        if not ids - self.done:
            return
        self.archive.changes.fail_at, self.archive.changes.fail_after = step, after
        with pytest.raises(ArchiveError, match="went away"):
            self.archive.commit(self.receipts)
        if retry:
            self.archive.commit(self.receipts)
        else:
            self.die()
        if retry or (step == "segments" and after):
            self.done |= ids

    @rule()
    def crash(self):
        self.die()

    @rule()
    def sweep(self):
        assert self.archive.sweep() == {"memories": 0, "annotations": 0}
        if self.held:
            # It deletes what they stand for, nobody else being there to commit them.
            self.receipts = []

    @rule()
    def compact(self):
        self.archive.compact()

    @rule(number=st.sampled_from(PLANNED))
    def annotate_again(self, number):
        row = rows(number)["annotations"].to_pylist()
        if segment(number) in self.done:
            assert self.archive.add_annotations(annotation_table(*row)) == 0

    @invariant()
    def segments_are_whole(self):
        if not hasattr(self, "archive"):
            return
        assert self.archive.completed_segments() == self.done
        assert self.archive.count("segments") == len(self.done)
        assert self.archive.count("memories") == 3 * len(self.done)
        assert self.archive.count("annotations") == len(self.done)


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

SCRIPT = """
import sys
from malmm.pipeline.archive.writer import Archive
from support.archive_rows import RECIPE, VECTOR_SIZE, run
from support.dying_run import die_after
die_after(int(sys.argv[2]))
run(Archive.create_or_open(sys.argv[1], RECIPE, VECTOR_SIZE))
"""


def test_killed_at_random_and_run_again(tmp_path, clean):
    chance = random.Random(5)
    place = str(tmp_path / "archive")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    codes = []
    for _ in range(4):
        calls = str(round(10 ** chance.uniform(2, MOST_CALLS)))
        command = [sys.executable, "-c", SCRIPT, place, calls]
        codes.append(subprocess.run(command, env=environment, check=False).returncode)
    assert -signal.SIGKILL in codes
    assert set(codes) <= {-signal.SIGKILL, 0}
    archive = Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
    run(archive)
    assert contents(archive) == clean
