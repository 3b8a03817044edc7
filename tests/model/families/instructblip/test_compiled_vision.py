from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models import random_frames

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.instructblip.compiled_vision import (
    BATCHES,
    CompiledVision,
    batch_sizes,
    try_compiler,
)
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.qformer import MemorySettings

needs_compiler = pytest.mark.needs("compiler")


@pytest.fixture(scope="module")
def encoder(opened: Callable[..., Checkpoint]) -> Encoder:
    return Encoder.load(opened(), compile_vision=True)


@pytest.fixture
def compiled(encoder: Encoder) -> Iterator[CompiledVision]:
    """Whatever is asked of it, nothing may be compiled again."""
    assert encoder.compiled is not None
    with torch.compiler.set_stance("fail_on_recompile"):
        yield encoder.compiled


@given(st.integers(0, 500))
def test_batches_hold_all_frames_and_are_padded_little(count: int) -> None:
    sizes = list(batch_sizes(count))
    assert set(sizes) <= set(BATCHES)
    assert 0 <= sum(sizes) - count < min(BATCHES)
    assert all(sum(sizes[:end]) < count for end in range(len(sizes)))


def test_few_batches_rather_than_many() -> None:
    assert list(batch_sizes(30)) == [32]
    assert list(batch_sizes(43)) == [32, 8, 8]
    assert list(batch_sizes(5, (6, 3, 2))) == [6]


@needs_compiler
@pytest.mark.parametrize("count", [1, 8, 11, 32, 45, 3])
@pytest.mark.parametrize("inference", [True, False])
def test_tokens_are_those_of_the_encoder_itself(
    encoder: Encoder, compiled: CompiledVision, count: int, inference: bool
) -> None:
    assert encoder.vision is not None
    with torch.inference_mode(inference):
        frames = torch.from_numpy(random_frames(count, count))
        torch.testing.assert_close(compiled(frames), encoder.vision(frames), rtol=1e-4, atol=1e-5)


@needs_compiler
def test_what_was_given_stays_when_more_is_asked(compiled: CompiledVision) -> None:
    first = compiled(torch.from_numpy(random_frames(1, 8)))
    kept = first.clone()
    compiled(torch.from_numpy(random_frames(2, 8)))
    assert torch.equal(first, kept)


@needs_compiler
def test_frames_of_another_size_are_refused(compiled: CompiledVision) -> None:
    with pytest.raises(ValueError, match=r"not \[B, 56, 56, 3\]"):
        compiled(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))


@needs_compiler
@pytest.mark.usefixtures("compiled")
def test_segments_of_any_length_come_out_as_without(
    encoder: Encoder, opened: Callable[..., Checkpoint]
) -> None:
    segments = [random_frames(seed, length) for seed, length in enumerate((19, 7, 12))]
    prompts, settings = [["what is it?"]] * 3, MemorySettings(length=4)
    plain = Encoder.load(opened())
    for ours, theirs in zip(
        encoder.encode(segments, prompts, settings),
        plain.encode(segments, prompts, settings),
        strict=True,
    ):
        assert torch.equal(ours.memory.sizes, theirs.memory.sizes)
        torch.testing.assert_close(ours.memory.tokens, theirs.memory.tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.query_output, theirs.query_output, rtol=1e-3, atol=1e-4)
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    assert plain.compiled is None


@needs_compiler
def test_a_compiler_that_works_is_no_problem() -> None:
    assert try_compiler(torch.device("cpu")) is None


# A compiler that says what it is and compiles nothing.
BROKEN = """#!/bin/sh
[ "$1" = --version ] && echo "g++ 13.0.0" && exit 0
echo 'a.cpp:2: fatal error: no Python.h' >&2
exit 1
"""
TRIED = """
import os, sys, torch
from pathlib import Path
from malmm.model.families.instructblip.compiled_vision import *
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.checkpoints.checkpoint import Checkpoint
checkpoint = Checkpoint.open(sys.argv[1], model_types=('instructblip',))
for content in (None, sys.argv[2]):
    if content is not None:
        path = Path(os.environ["CXX"])
        path.write_text(content)
        path.chmod(0o755)
    print(try_compiler(torch.device('cpu')))
    try: Encoder.load(checkpoint, compile_vision=True)
    except CompileError as error: print(error)
"""


def test_a_compiler_that_is_missing_or_broken_is_one_sentence_with_the_way_out(
    tmp_path: Path, opened: Callable[..., Checkpoint]
) -> None:
    """In a process that has found no compiler before: which one there is, torch remembers."""
    own = {"CXX": str(tmp_path / "g++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", TRIED, str(opened().directory), BROKEN],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | own,
    )
    missing, broken = "--compile needs a C++ compiler, and ", "a.cpp:2: fatal error: no Python.h; "
    for said, line in zip((missing, missing, broken, broken), done.stdout.splitlines(), strict=True):
        assert said in line
        assert line.endswith("or run without --compile")
