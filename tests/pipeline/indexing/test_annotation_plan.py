"""A dry run of new prompts says what a run reads, writes and takes: by the archive's own runs, else by arithmetic."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from support.drawn_archive import Drawn
from support.inline_stages import InlineStages
from support.processes import run_here

from malmm.model.published.catalogue import published
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.indexing.annotation_plan import gpu_s_a_text, time_of_texts

PEOPLE, PLACE = "Who is there?", "Where is it?"


def ran(*kinds: str, texts: float, generator_s: float, gpus: float) -> RunRecord:
    """A run as it is recorded: sums of its steps' numbers."""
    counts = {"texts": texts, "generator_s": generator_s, "gpus": gpus}
    return RunRecord("annotate", kinds or ("annotate",), counts=counts)


ON_GPUS = [
    ran(texts=1000, generator_s=40, gpus=4),
    ran("index", "annotate", texts=3000, generator_s=120, gpus=2),
]
ON_CPUS = [ran(texts=100, generator_s=50, gpus=0)]
# What says nothing: runs without a text or of an earlier release, with two steps, or with an export's texts.
SILENT = [
    ran(texts=0, generator_s=20, gpus=4),
    RunRecord("annotate", ("annotate",), counts={"texts": 500}),
    ran("annotate", "annotate", texts=10, generator_s=8e6, gpus=8),
    ran("annotate", "export", texts=10, generator_s=8e6, gpus=8),
    ran("index", texts=10, generator_s=8e6, gpus=8),
]


@pytest.mark.parametrize("workers", [1, 8])
def test_gpu_hours_are_those_of_earlier_runs_whatever_the_number_of_gpus(workers: int) -> None:
    found = time_of_texts(8000, 99.0, workers=workers, on_gpus=True, runs=[*ON_GPUS, *ON_CPUS, *SILENT])
    # 160 seconds of a GPU for 4,000 texts.
    assert found.gpu_hours == pytest.approx(320 / 3600)
    assert found.hours == pytest.approx(320 / 3600 / workers)
    assert found.basis == "what 2 earlier runs of this archive took"


def test_workers_without_a_gpu_have_a_pace_of_their_own() -> None:
    found = time_of_texts(1000, 99.0, workers=2, on_gpus=False, runs=[*ON_GPUS, *ON_CPUS, *SILENT])
    assert (found.hours, found.gpu_hours) == (pytest.approx(500 / 2 / 3600), None)
    assert found.basis == "what 1 earlier run of this archive took"


def test_without_a_run_it_is_a_guess_for_gpus_and_nothing_for_cpus() -> None:
    found = time_of_texts(3600, 0.5, workers=4, on_gpus=True, runs=[*ON_CPUS, *SILENT])
    assert (found.gpu_hours, found.hours) == (pytest.approx(0.5), pytest.approx(0.125))
    assert "on A100s for texts of full length, a guess, as no earlier run" in found.basis
    nothing = time_of_texts(3600, 0.5, workers=4, on_gpus=False, runs=[*ON_GPUS, *SILENT])
    assert (nothing.hours, nothing.gpu_hours) == (None, None)
    assert nothing.basis.startswith("no earlier run")


def test_a_caption_of_forty_tokens_costs_what_the_page_on_costs_says() -> None:
    known = published("vicuna-7b")
    assert known is not None
    alone = gpu_s_a_text(known.checkpoint, bank_length=20, max_new_tokens=40, together=1)
    # docs/cost.md: 14 GB of weights a token, 0.3 s on an A100 for a batch of any size.
    assert alone == pytest.approx(0.28, rel=0.1)
    together = gpu_s_a_text(known.checkpoint, bank_length=20, max_new_tokens=40, together=4)
    assert alone / 4 < together < alone / 3
    # A Q-Former hands on as many tokens, whatever the bank holds; other families hand on all slots.
    assert gpu_s_a_text(known.checkpoint, bank_length=80, max_new_tokens=40, together=4) == together
    slots = published("qwen3-vl-8b")
    assert slots is not None
    few, many = (
        gpu_s_a_text(slots.checkpoint, bank_length=length, max_new_tokens=1, together=64)
        for length in (10, 40)
    )
    assert 3 < many / few < 4


@pytest.fixture
def place(drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An archive that may be written to, whose runs need no cluster."""
    InlineStages().install(monkeypatch)
    copied = tmp_path / "archive"
    shutil.copytree(drawn.place, copied)
    return str(copied)


def test_it_says_what_is_read_and_written_and_the_next_one_goes_by_the_run_before(
    place: str, tmp_path: Path
) -> None:
    archive = ArchiveReader.open(place)
    segments = archive.completed_segments()
    tokens = sum(tokens.size for _, tokens, _ in archive.memory_tokens(segments))
    job = tmp_path / "job.yaml"

    def said(*options: str, prompt: str = PEOPLE) -> dict[str, Any]:
        step = {"annotate": {"prompts": {prompt.split()[0].lower(): prompt}}}
        job.write_text(json.dumps({"archive": place, "steps": [step]}))
        done = run_here("run", job, "--json", "--quiet", *options)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)["steps"][0]
        return found

    plan = said("--dry-run")["plan"]
    # Each segment is read for itself and for its video.
    assert plan["bytes_read"] == 2 * 2 * tokens
    assert (plan["hours"], plan["gpu_hours"]) == (None, None)
    run = said()
    assert run["plan"] is None
    assert run["generator_s"] > 0
    rows = archive.annotations()
    written = rows.filter(pc.equal(rows["prompt"], PEOPLE)).nbytes
    assert plan["bytes_written"] == pytest.approx(written, rel=0.5)
    # The same on the command line.
    prompt = ("--prompt", f"where={PLACE}", "--quiet")
    done = run_here("annotate", "--archive", place, *prompt, "--dry-run", "--json")
    later = json.loads(done.stdout)
    assert later["plan"]["basis"] == "what 1 earlier run of this archive took"
    hours = later["missing"] * run["generator_s"] / run["texts"] / 3600
    assert later["plan"]["hours"] == pytest.approx(hours)
    assert said("--dry-run", prompt=PLACE)["plan"] == later["plan"]
    lines = run_here("annotate", "--archive", place, *prompt, "--dry-run").stdout.splitlines()
    assert lines[0] == "Nothing was changed. A run would do this:"
    assert [line.split()[0] for line in lines[1:6]] == ["Archive", "Texts", "Reads", "Storage", "Time"]
    assert lines[5].endswith("by what 1 earlier run of this archive took")
