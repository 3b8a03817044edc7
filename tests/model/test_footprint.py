from __future__ import annotations

import json

import pytest
import torch
from support.models import give_positions
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

from malmm.model.families.instructblip.meta import meta_parts
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.footprint import footprints, main
from malmm.model.published.catalogue import published


def instructblip(short):
    return published(short).checkpoint.parsed(InstructBlipConfig)


def named_shapes(prefix, part):
    if isinstance(part, torch.nn.Parameter):
        return {prefix: part.shape}
    return {f"{prefix}.{name}": value.shape for name, value in part.state_dict().items()}


@pytest.mark.parametrize("size", ["vicuna-7b", "flan-t5-xl"])
def test_parts_have_the_names_and_shapes_of_the_whole_published_model(size):
    config = instructblip(size)
    with torch.device("meta"):
        whole = InstructBlipForConditionalGeneration(config)
    ours = {}
    for prefix, part in meta_parts(config).items():
        ours |= named_shapes(prefix, part)
    assert ours == {name: value.shape for name, value in whole.state_dict().items()}
    rows = footprints(config, settings=MemorySettings(length=20))
    # The published FLAN-T5 weights hold an output layer of their own.
    own_output = 32128 * 2048 if size == "flan-t5-xl" else 0
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in whole.parameters()) + own_output


def test_bytes_follow_from_the_sizes():
    config = instructblip("vicuna-7b")
    rows = {
        row.part.split(",")[0]: row
        for row in footprints(config, settings=MemorySettings(length=20), prompts=3)
    }
    for part, width in (("vision encoder", 2), ("language model", 2), ("Q-Former", 4), ("projection", 4)):
        assert rows[part].size_bytes == rows[part].parameters * width
    # 21 entries of 257 tokens: the token, and a key and a value for each of six cross-attentions
    assert rows["visual bank"].size_bytes == 21 * 257 * (1408 + 6 * 2 * 768) * 4
    # for each prompt and each of eleven layers, 21 entries of 32 + 32 positions: state, key, value
    assert rows["query banks"].size_bytes == 3 * 11 * 21 * 64 * 3 * 768 * 4
    full = {row.part.split(",")[0]: row for row in footprints(config, half_bytes=4)}
    assert full["vision encoder"].size_bytes == 2 * rows["vision encoder"].size_bytes
    off = footprints(config, settings=MemorySettings(query=False))
    assert [row.size_bytes for row in off if row.part.startswith("query banks")] == [0]


def test_a_table_is_printed(checkpoint_directory, capsys):
    assert main([str(checkpoint_directory())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["worker", "part", "parameters", "MiB"]
    assert [line.split()[0] for line in lines[1 + 6 : 1 + 6 + 2]] == ["encode", "generate"]
    assert [line.split(":")[0] for line in lines[1 + 6 + 2 :]] == ["a slot", "a frame"]


def test_positions_are_counted_where_there_are_any(copied, capsys):
    directory = copied()
    give_positions(directory, torch.zeros(9, 48))
    assert main([str(directory), "--json"]) == 0
    (row,) = (row for row in json.loads(capsys.readouterr().out)["parts"] if row["part"] == "time positions")
    assert (row["stage"], row["parameters"], row["size_bytes"]) == ("encode", 9 * 48, 9 * 48 * 4)
    give_positions(directory, torch.zeros(9, 49))
    assert main([str(directory)]) == 2
    assert "time_positions.weight" in capsys.readouterr().err


def test_the_numbers_can_be_had_as_json(checkpoint_directory, capsys):
    assert (
        main([str(checkpoint_directory("encoder-decoder")), "--json", "--bytes", "4", "--prompts", "2"]) == 0
    )
    content = json.loads(capsys.readouterr().out)
    rows = content["parts"]
    assert {row["stage"] for row in rows} == {"encode", "generate"}
    assert all(row["size_bytes"] == 4 * row["parameters"] for row in rows if row["parameters"])


@pytest.mark.parametrize(
    "arguments", [["/nowhere/at/all"], ["vicuna-7b", "--bank-length", "0"], ["vicuna-7b", "--prompts", "0"]]
)
def test_what_cannot_be_measured_exits_with_2(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
