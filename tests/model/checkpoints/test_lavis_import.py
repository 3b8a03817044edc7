from __future__ import annotations

import argparse
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.lavis_files import TRAINED, lavis_model, save_lavis
from support.models import edit_json, edit_weights, give_positions, random_frames, random_table, shard

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.lavis_import import import_lavis
from malmm.model.decoding import Decoding
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.memory.positions import FramePositions
from malmm.model.memory.settings import MemorySettings

KINDS = ("decoder", "encoder-decoder")
PROJECTIONS = {"decoder": "llm_proj", "encoder-decoder": "t5_proj"}
ROWS, CHANNELS = 120, 48


def opened(directory):
    return Checkpoint.open(str(directory), model_types=("instructblip",))


def trained(directory, seed=1):
    """The trained tensors of a model that began from a checkpoint, and its positions, all other than the base's."""
    generator = torch.Generator().manual_seed(seed)
    base = load_file(directory / "model.safetensors")
    tensors = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in base.items()
        if key.startswith(TRAINED)
    }
    return tensors | {"frame_positions.weight": random_table(seed, ROWS, CHANNELS).float()}


@pytest.fixture
def lavis(checkpoint_directory, tmp_path):
    """A file of the authors' for a kind of language model, and what is in it."""

    def make(kind="decoder", **sections):
        tensors = trained(checkpoint_directory(kind))
        file = save_lavis(tmp_path / "best.pth", lavis_model(tensors, PROJECTIONS[kind]), **sections)
        return file, tensors

    return make


def answers(directory):
    """What a checkpoint says of frames, and the memory that it keeps of them."""
    checkpoint = opened(directory)
    encoder, language = Encoder.load(checkpoint), LanguageModel.load(checkpoint)
    prompts = ["What happens?", "a"]
    (encoded,) = encoder.encode([random_frames(2, 7)], [prompts], MemorySettings(length=3))
    decoding = Decoding.of_lengths(9, returned=5)
    return encoded, language.candidates(encoded.query_output, prompts, decoding)


@pytest.mark.parametrize("kind", KINDS)
def test_the_imported_model_answers_as_the_authors_tensors_say(checkpoint_directory, lavis, tmp_path, kind):
    base = checkpoint_directory(kind)
    file, tensors = lavis(kind)
    done = import_lavis(file, opened(base), tmp_path / "imported")
    assert (done.replaced, done.position_rows, done.epoch) == (len(tensors) - 1, ROWS, 7)
    # The same model, put together by hand.
    expected = Path(shutil.copytree(base, tmp_path / "expected"))
    edit_weights(expected, lambda held: held.update(tensors))
    edit_json(expected / "config.json", lambda c: c["vision_config"].update(post_layernorm_eps=1e-5))
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "imported", expected))
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    (encoded, texts), (expected_encoded, expected_texts) = answers(tmp_path / "imported"), answers(expected)
    assert torch.equal(encoded.query_output, expected_encoded.query_output)
    assert torch.equal(encoded.memory.tokens, expected_encoded.memory.tokens)
    assert texts == expected_texts
    assert texts != answers(base)[1]


def test_positions_are_over_frame_numbers_and_the_last_norm_has_the_authors_epsilon(
    checkpoint_directory, lavis, tmp_path
):
    file, tensors = lavis()
    import_lavis(file, opened(checkpoint_directory()), tmp_path / "imported")
    encoder = Encoder.load(opened(tmp_path / "imported"))
    assert isinstance(encoder.positions, FramePositions)
    assert torch.equal(encoder.positions.of_frames(ROWS), tensors["frame_positions.weight"])
    assert encoder.vision.model.post_layernorm.eps == 1e-5
    assert encoder.vision.model.encoder.layers[0].layer_norm1.eps == 1e-6


def test_what_the_authors_freeze_is_the_bases_to_the_byte(checkpoint_directory, lavis, tmp_path):
    base = Path(shutil.copytree(checkpoint_directory(), tmp_path / "base"))
    give_positions(base, torch.zeros(4, CHANNELS))
    whole = load_file(base / "model.safetensors")
    mixed = ["query_tokens", "qformer.", "language_projection.", "vision_model.", "time_positions."]
    shard(base, {"a.safetensors": mixed, "b.safetensors": ["language_model."]})
    file, tensors = lavis()
    import_lavis(file, opened(base), tmp_path / "imported")
    imported = tmp_path / "imported"
    assert (imported / "b.safetensors").read_bytes() == (base / "b.safetensors").read_bytes()
    index = json.loads((imported / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["frame_positions.weight"] == "a.safetensors"
    del whole["time_positions.weight"]
    held = load_file(imported / "a.safetensors") | load_file(imported / "b.safetensors")
    assert index["weight_map"].keys() == held.keys() == (whole | tensors).keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in held.values())
    assert [key for key, value in (whole | tensors).items() if not torch.equal(held[key], value)] == []
    copied = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
    assert copied | {"README.md"} == {
        str(path.relative_to(imported)) for path in imported.rglob("*") if path.is_file()
    }
    assert "best.pth" in (imported / "README.md").read_text()


def test_the_format_of_older_releases_of_torch_is_read(checkpoint_directory, lavis, tmp_path):
    for legacy in (False, True):
        file, _ = lavis(legacy=legacy)
        import_lavis(file, opened(checkpoint_directory()), tmp_path / str(legacy))
    assert load_file(tmp_path / "True" / "model.safetensors").keys() == (
        load_file(tmp_path / "False" / "model.safetensors").keys()
    )


class Malice:
    """An object whose pickle runs a command when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def refused(file, base, output):
    """The message with which an import is refused; it leaves nothing behind."""
    with pytest.raises(CheckpointError) as error:
        import_lavis(file, base, output)
    message = str(error.value)
    assert "\n" not in message
    assert str(file) in message or str(output) in message
    assert not output.exists()
    assert list(output.parent.glob(f".{output.name}*")) == []
    return message


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("section", ["model", "optimizer", "config", "epoch"])
def test_a_pickle_that_would_execute_is_refused(checkpoint_directory, lavis, tmp_path, section, legacy):
    marker = tmp_path / "executed"
    file, tensors = lavis()
    malice = Malice(marker)
    value = lavis_model(tensors) | {"query_tokens": malice} if section == "model" else malice
    save_lavis(file, lavis_model(tensors), legacy=legacy, **{section: value})
    message = refused(file, opened(checkpoint_directory()), tmp_path / "imported")
    assert not marker.exists()
    assert "was not read" in message
    assert legacy or "system" in message
    # It is no fake: read without care, the file does run the command.
    torch.load(file, weights_only=False)
    assert marker.exists()


def test_objects_that_a_file_asks_for_are_named(checkpoint_directory, lavis, tmp_path):
    file, _ = lavis(config=argparse.Namespace(lr=1))
    message = refused(file, opened(checkpoint_directory()), tmp_path / "imported")
    assert "argparse.Namespace" in message


def tensor_named(name, *shape):
    return lambda model: model.update({name: torch.zeros(shape)})


def of_dtype(name, dtype):
    return lambda model: model.update({name: model[name].to(dtype)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            tensor_named("Qformer.bert.pooler.dense.weight", 2),
            "unexpected tensors qformer.pooler.dense.weight",
        ),
        (tensor_named("memory_bank.weight", 2), "no place for: memory_bank.weight"),
        (tensor_named("visual_encoder.blocks.0.norm1.weight", 2), "freezes"),
        (tensor_named("llm_model.lm_head.weight", 2), "freezes"),
        (lambda model: model.pop("query_tokens"), "lacks the tensors query_tokens"),
        (lambda model: model.pop("ln_vision.bias"), "lacks the tensors vision_model.post_layernorm.bias"),
        (tensor_named("query_tokens", 1, 8, 47), "query_tokens is [1, 8, 47], not [1, 8, 48]"),
        (tensor_named("image_pe.weight", 120, 47), "image_pe.weight is [120, 47], not [frames, 48]"),
        (tensor_named("image_pe.weight", 48), "image_pe.weight is [48], not [frames, 48]"),
        (tensor_named("t5_proj.weight", 2), "not one projection"),
        (of_dtype("query_tokens", torch.int64), "no floating numbers: query_tokens"),
        (lambda model: model.update(query_tokens=[1.0, 2.0]), "no plain tensors of numbers: query_tokens"),
        (lambda model: model.update(query_tokens=model["query_tokens"].to_sparse()), "no plain tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_named(checkpoint_directory, lavis, tmp_path, change, said):
    file, tensors = lavis()
    model = lavis_model(tensors)
    change(model)
    save_lavis(file, model)
    assert said in refused(file, opened(checkpoint_directory()), tmp_path / "imported")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"", "cannot be read"),
        (b"not a checkpoint at all", "was not read"),
        (b"PK\x03\x04 broken", "cannot be read"),
    ],
)
def test_files_that_are_not_checkpoints(checkpoint_directory, tmp_path, content, said):
    file = tmp_path / "best.pth"
    if content is not None:
        file.write_bytes(content)
    assert said in refused(file, opened(checkpoint_directory()), tmp_path / "imported")


def test_an_archive_of_checkpoints_and_a_folder_say_the_way_out(checkpoint_directory, lavis, tmp_path):
    base = opened(checkpoint_directory())
    file, _ = lavis()
    packed = tmp_path / "saved_model.tar"
    for mode in ("w", "w:gz"):
        with tarfile.open(packed, mode) as archive:
            archive.add(file, "lvu/checkpoint_best.pth")
        assert "is a tar archive: unpack it" in refused(packed, base, tmp_path / "imported")
    assert "is a folder: give the file in it" in refused(file.parent, base, tmp_path / "imported")


def test_a_file_cut_short_and_one_of_something_else(checkpoint_directory, lavis, tmp_path):
    base = opened(checkpoint_directory())
    file, _ = lavis()
    file.write_bytes(file.read_bytes()[:-5000])
    refused(file, base, tmp_path / "imported")
    for whole in ({"state_dict": {}}, [1, 2], {"model": torch.zeros(2)}):
        torch.save(whole, file)
        assert "holds no 'model'" in refused(file, base, tmp_path / "imported")


def test_a_base_of_another_kind_is_refused(checkpoint_directory, lavis, tmp_path):
    file, _ = lavis("decoder")
    message = refused(file, opened(checkpoint_directory("encoder-decoder")), tmp_path / "imported")
    assert "decoder-only" in message
    assert "T5" in message


def test_an_output_that_is_there_stays_as_it_is(checkpoint_directory, lavis, tmp_path):
    file, _ = lavis()
    base = checkpoint_directory()
    output = tmp_path / "imported"
    output.mkdir()
    (output / "mine").write_text("precious")
    with pytest.raises(CheckpointError, match="is there already"):
        import_lavis(file, opened(base), output)
    assert [path.name for path in output.iterdir()] == ["mine"]
    with pytest.raises(CheckpointError, match="lies in the base's own directory"):
        import_lavis(file, opened(base), base / "inner")
    (tmp_path / "a file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        import_lavis(file, opened(base), tmp_path / "a file" / "imported")


def test_types_of_numbers_stay_as_the_file_has_them(checkpoint_directory, lavis, tmp_path):
    file, tensors = lavis()
    model = lavis_model({key: value.double() for key, value in tensors.items()})
    model["query_tokens"] = tensors["query_tokens"].half()
    save_lavis(file, model)
    import_lavis(file, opened(checkpoint_directory()), tmp_path / "imported")
    with safe_open(str(tmp_path / "imported" / "model.safetensors"), framework="pt") as held:
        assert held.get_slice("query_tokens").get_dtype() == "F16"
        assert held.get_slice("frame_positions.weight").get_dtype() == "F64"
        assert held.get_slice("language_model.lm_head.weight").get_dtype() == "F32"


def test_a_checkpoint_without_positions_keeps_those_of_the_base(checkpoint_directory, lavis, tmp_path):
    base = Path(shutil.copytree(checkpoint_directory(), tmp_path / "base"))
    give_positions(base, torch.ones(4, CHANNELS))
    file, tensors = lavis()
    del tensors["frame_positions.weight"]
    save_lavis(file, lavis_model(tensors))
    done = import_lavis(file, opened(base), tmp_path / "imported")
    assert done.position_rows is None
    assert "time_positions.weight" in load_file(tmp_path / "imported" / "model.safetensors")
