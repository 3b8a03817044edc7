from __future__ import annotations

import os
import string
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmm.model.checkpoints import debug
from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.resolve import debug_checkpoint

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "


def files(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_the_same_seed_gives_the_same_bytes(checkpoint_directory, tmp_path, kind):
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    debug.save_debug_checkpoint(tmp_path / "again", kind=kind)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert files(tmp_path / "again") == files(checkpoint_directory(kind))
    debug.save_debug_checkpoint(tmp_path / "other", kind=kind, seed=1)
    changed = {
        name
        for name, content in files(tmp_path / "other").items()
        if content != files(tmp_path / "again")[name]
    }
    assert changed == {"model.safetensors", os.path.join("retrieval", "model.safetensors")}  # noqa: PTH118


@pytest.mark.parametrize("subfolder", ["", "qformer_tokenizer", "retrieval"])
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(PRINTABLE, max_size=40))
def test_tokenizers_spell_any_printable_ascii(opened, kind, subfolder, text):
    tokenizer = TOKENIZERS.setdefault((kind, subfolder), None) or opened(kind).tokenizer(subfolder)
    TOKENIZERS[kind, subfolder] = tokenizer
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    if "<" not in text and "[" not in text:  # special tokens may be spelt out
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(text)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


TOKENIZERS: dict = {}


def test_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no debug language model of kind 'rnn': decoder or encoder-decoder"):
        debug.save_debug_checkpoint(tmp_path, kind="rnn")


def test_the_cached_checkpoint_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = debug_checkpoint()
    assert first.is_relative_to(tmp_path)
    Checkpoint.open(str(first), model_types=("instructblip",)).check_prefixes(
        ("vision_model.", "query_tokens", "qformer.", "language_projection.", "language_model.")
    )
    monkeypatch.setattr(debug, "save_debug_checkpoint", None)
    assert debug_checkpoint() == first
    assert [path.name for path in (tmp_path / "malmm").iterdir()] == [first.name]


def test_a_failed_making_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(directory, *, kind):
        (directory / "config.json").write_text("{")
        raise OSError("no space left on device")

    monkeypatch.setattr(debug, "save_debug_checkpoint", fail)
    with pytest.raises(OSError, match="no space left"):
        debug_checkpoint()
    assert list((tmp_path / "malmm").iterdir()) == []


RACE = """
import os, sys, torch
torch.set_num_threads(1)
from malmm.model.checkpoints.resolve import debug_checkpoint
go, ready = os.pipe(), os.pipe()
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        os.close(go[1])
        os.write(ready[1], b"r")
        os.read(go[0], 1)  # ends when the parent closes its side
        status = 1
        try:
            print(debug_checkpoint(), flush=True)
            status = 0
        finally:
            os._exit(status)
    children.append(child)
for _ in children:
    os.read(ready[0], 1)
os.close(go[1])
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_several_processes_may_make_it_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RACE],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "malmm").iterdir()
    assert done.stdout.split() == [str(made)] * 2
    assert (made / "retrieval" / "config.json").is_file()
