"""The whole way of an import with tensors whose answers by the authors' own code are recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.lavis_files import lavis_model, save_lavis
from support.models import edit_weights
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, LlamaConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from malmm.model.checkpoints.checkpoint import Checkpoint, quiet_transformers
from malmm.model.checkpoints.lavis_import import import_lavis
from malmm.model.conformance.whole_model import numbered_tokenizer
from malmm.model.decoding import Decoding
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.memory.settings import MemorySettings

RECORDED = Path(__file__).parents[2] / "data"
NAMES = {"image_pe.": "frame_positions.", "ln_vision.": "vision_model.post_layernorm."}


def read(name):
    with safe_open(str(RECORDED / name), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def trained_tensors(tensors):
    """The recorded model's trained tensors under Hugging Face's names."""
    found = {}
    for key, value in tensors.items():
        name = key.removeprefix("weights.")
        if name == key or name.startswith("language_model."):
            continue
        for theirs, ours in NAMES.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        found[name] = value
    return found


def write_base(directory, tensors, metadata):
    """An InstructBLIP checkpoint with the recorded language model, and all else random."""
    sizes = {key: int(value) for key, value in metadata.items() if value.isdigit()}
    config = InstructBlipConfig(
        vision_config={
            "hidden_size": sizes["enc"],
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        qformer_config={
            "vocab_size": sizes["vocab"],
            "hidden_size": sizes["hidden"],
            "num_hidden_layers": sizes["layers"],
            "num_attention_heads": sizes["heads"],
            "intermediate_size": sizes["inter"],
            "encoder_hidden_size": sizes["enc"],
            "cross_attention_frequency": sizes["cross_attention_frequency"],
            "layer_norm_eps": float(metadata["layer_norm_eps"]),
            "max_position_embeddings": len(tensors["weights.qformer.embeddings.position_embeddings.weight"]),
        },
        text_config=LlamaConfig(
            vocab_size=sizes["llm_vocab"],
            hidden_size=sizes["llm_hidden"],
            intermediate_size=len(tensors["weights.language_model.model.layers.0.mlp.up_proj.weight"]),
            num_hidden_layers=sizes["llm_layers"],
            num_attention_heads=sizes["llm_heads"],
            tie_word_embeddings=False,
        ).to_dict(),
        num_query_tokens=sizes["nq"],
    )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        InstructBlipForConditionalGeneration(config).save_pretrained(directory)
    numbered_tokenizer(sizes["llm_vocab"]).save_pretrained(directory)
    numbered_tokenizer(sizes["vocab"]).save_pretrained(directory / "qformer_tokenizer")
    BlipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(directory)
    language = {k.removeprefix("weights."): v for k, v in tensors.items() if "language_model." in k}
    edit_weights(directory, lambda held: held.update(language))


@pytest.mark.parametrize("name", ["train_both_banks", "train_short"])
def test_the_imported_model_generates_what_the_authors_code_did(tmp_path, name):
    tensors, metadata = read(f"{name}.safetensors")
    write_base(tmp_path / "base", tensors, metadata)
    trained = trained_tensors(tensors)
    file = save_lavis(tmp_path / "checkpoint_best.pth", lavis_model(trained))
    base = Checkpoint.open(str(tmp_path / "base"), model_types=("instructblip",))
    import_lavis(file, base, tmp_path / "imported")
    held = load_file(tmp_path / "imported" / "model.safetensors")
    assert [key for key, value in trained.items() if not torch.equal(held[key], value)] == []

    checkpoint = Checkpoint.open(str(tmp_path / "imported"), model_types=("instructblip",))
    encoder, language = Encoder.load(checkpoint).double(), LanguageModel.load(checkpoint).double()
    raw = tensors["raw_tokens"]
    ids, mask = tensors["generate_llm_input_ids"], tensors["generate_llm_attention_mask"]
    with torch.inference_mode():
        frames = encoder.vision.model.post_layernorm(raw)
        frames = frames + encoder.positions.of_frames(raw.shape[1])[:, None]
        qformer = encoder.qformer
        state = qformer.start(
            tensors["qformer_input_ids"][:, None],
            tensors["qformer_attention_mask"][:, None],
            steps=raw.shape[1],
            tokens_per_frame=raw.shape[2],
            settings=MemorySettings(length=int(metadata["M"])),
        )
        output = qformer.step(state, frames)[:, : qformer.query_tokens.shape[1]]
    prompts = [row[present.bool()].tolist() for row, present in zip(ids, mask, strict=True)]
    for manner, length, length_penalty, returned in (
        ("caption", 8, 1.0, 1),
        ("classes", 5, 1.0, 5),
        ("answer", 10, 0.0, 5),
    ):
        decoding = Decoding.of_lengths(length, length_penalty=length_penalty, returned=returned)
        made = language.generate_ids(output, prompts, decoding)
        assert made.tolist() == tensors[f"generated.{manner}"].tolist()
