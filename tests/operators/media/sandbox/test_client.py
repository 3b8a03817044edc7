"""A file that crashes, hangs or bloats the process that reads it fails alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.media import VideoSpec, make_video, run_ffmpeg
from support.waiting import until

from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.media.sandbox.client import Sandbox, process_sandbox
from malmm.operators.media.scenes import scene_changes
from malmm.pipeline.schema.errors import MediaError

# The process apart, in which files of some names do what a decoder's fault would do.
_TROUBLE = """
import ctypes, os, pathlib, signal
from malmm.operators.media.sandbox import worker as child
real = child.probe
def probe(uri, cache):
    if "killer" in uri:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "once" in uri and not pathlib.Path(uri + ".tried").exists():
        pathlib.Path(uri + ".tried").touch()
        os._exit(7)
    if "hanger" in uri:
        ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock held
    if "printer" in uri:
        os.write(1, b"noise")
        print("more noise")
    if "odd" in uri:
        raise KeyError("odd")
    return real(uri, cache)
child.probe = probe
child.serve()
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("videos"), VideoSpec(duration_s=6.0))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def trouble() -> Iterator[Sandbox]:
    with Sandbox(_TROUBLE) as opened:
        yield opened


def named(video: Path, folder: Path, name: str) -> str:
    path = folder / f"{name}.mp4"
    path.symlink_to(video)
    return str(path)


def test_the_answer_is_that_of_this_process(video: Path, sandbox: Sandbox) -> None:
    assert sandbox.probe(str(video)) == probe(str(video))
    request = SpanRequest(str(video), 1.0, 4.0, 2.0, 48)
    there, here = sandbox.decode(request), decode_span(request)
    np.testing.assert_array_equal(there.frames, here.frames)
    np.testing.assert_array_equal(there.timestamps_s, here.timestamps_s)
    assert (there.problem, there.end_s) == (here.problem, here.end_s)
    assert sandbox.scene_changes(str(video)) == scene_changes(str(video))


def test_errors_are_those_of_this_process(tmp_path: Path, sandbox: Sandbox) -> None:
    with pytest.raises(MediaError, match="no such file") as caught:
        sandbox.probe(str(tmp_path / "none.mp4"))
    assert (caught.value.kind, caught.value.uri) == ("missing", str(tmp_path / "none.mp4"))


def test_one_process_answers_many_requests(video: Path, sandbox: Sandbox) -> None:
    sandbox.probe(str(video))
    child = sandbox.child_pid
    assert child is not None
    for _ in range(5):
        sandbox.probe(str(video))
    assert sandbox.child_pid == child


def test_closing_ends_the_process_and_a_later_call_starts_another(video: Path) -> None:
    with Sandbox() as opened:
        assert opened.child_pid is None
        opened.probe(str(video))
        first = opened.child_pid
        assert first is not None
    assert opened.child_pid is None
    assert not Path(f"/proc/{first}").exists()
    assert opened.probe(str(video)) == probe(str(video))
    assert opened.child_pid not in (None, first)
    opened.close()


def test_operators_of_one_process_share_a_sandbox() -> None:
    assert process_sandbox() is process_sandbox()


def test_a_file_that_kills_its_process_is_set_aside_and_others_go_on(
    video: Path, tmp_path: Path, trouble: Sandbox
) -> None:
    with pytest.raises(
        MediaError, match=r"killed the process that read it, 2 times \(signal SIGSEGV\)"
    ) as caught:
        trouble.probe(named(video, tmp_path, "killer"))
    assert caught.value.kind == "crashed"
    assert trouble.probe(str(video)) == probe(str(video))


def test_a_process_that_dies_once_costs_an_attempt(video: Path, tmp_path: Path, trouble: Sandbox) -> None:
    assert trouble.probe(named(video, tmp_path, "once")) == probe(str(video))


def test_a_process_that_was_killed_meanwhile_is_not_held_against_the_next_file(
    video: Path, trouble: Sandbox
) -> None:
    trouble.probe(str(video))
    assert trouble.child_pid is not None
    os.kill(trouble.child_pid, signal.SIGKILL)
    assert trouble.probe(str(video)) == probe(str(video))


def test_a_file_that_hangs_is_given_up_in_time(video: Path, tmp_path: Path, trouble: Sandbox) -> None:
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"gave up reading it after 1 s.*--decode-limit-s") as caught:
        trouble.probe(named(video, tmp_path, "hanger"), limit_s=1.0)
    assert caught.value.kind == "timed_out"
    # It would have hung for a thousand.
    assert time.monotonic() - began < 900
    assert trouble.probe(str(video)) == probe(str(video))


def test_what_is_printed_is_no_answer(video: Path, tmp_path: Path, trouble: Sandbox) -> None:
    assert trouble.probe(named(video, tmp_path, "printer")) == probe(str(video))


def test_an_error_of_ours_is_one_of_this_file_alone(video: Path, tmp_path: Path, trouble: Sandbox) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'odd'"):
        trouble.probe(named(video, tmp_path, "odd"))
    assert trouble.probe(str(video)) == probe(str(video))


def test_a_picture_too_large_for_memory_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "huge.mp4"
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=size=8192x8192:rate=1", "-frames:v", "1"),
        *("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-threads", "1", path),
    )
    little = (
        "from malmm.operators.media.sandbox import worker; worker.MEMORY_BYTES = 150 << 20; worker.serve()"
    )
    with Sandbox(little) as opened, pytest.raises(MediaError, match="needs more than 0 GiB") as caught:
        opened.decode(SpanRequest(str(path), 0.0, 3.0, 1.0, 32))
    assert caught.value.kind == "too_large"


def test_the_process_ends_with_its_caller(video: Path) -> None:
    code = (
        "from malmm.operators.media.sandbox.client import process_sandbox\n"
        "sandbox = process_sandbox()\n"
        f"sandbox.probe({str(video)!r})\n"
        "print(sandbox.child_pid, flush=True)\n"
        "import os; os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    until(lambda: not Path(f"/proc/{child}").exists())


def test_callers_in_several_threads_take_turns(video: Path, sandbox: Sandbox) -> None:
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(sandbox.probe(str(video)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [probe(str(video))] * 4
