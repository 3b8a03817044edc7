"""The demo checkpoint of a plain family, in SmolVLM2's format: its configuration and tokenizer, its start from the
InstructBLIP demo checkpoint, and writing it in Hugging Face's format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from malmm.model.checkpoints.checkpoint import quiet_transformers
from malmm.model.demo.checkpoint import GRID, IMAGE_MEAN, IMAGE_STD, LANGUAGE, VISION, sentences
from malmm.model.demo.questions import NUMBERS, STILL, THIRDS
from malmm.model.demo.world import COLOURS, MOTIONS, SHAPES
from malmm.model.families.family import Slots
from malmm.model.families.smolvlm import WORDING

__all__ = [
    "SCALE",
    "plain_config",
    "plain_tokenizer",
    "save_plain",
    "start_of_language",
    "start_of_vision",
]

SCALE = GRID
"""Patches on a side of what one visual token covers: all, so a frame is one token."""
_VOCABULARY = 1024
_END, _PADDING = "<end_of_utterance>", "<|endoftext|>"
_SPECIAL = ("<|im_start|>", _END, "<fake_token_around_image>", "<image>", "<global-img>", _PADDING)
# What stands around slots is split at fixed places, so that it becomes few tokens.
_PIECES = (
    r" ?You are provided the following series of| frames from a \d:\d\d:|\d\d \[H:MM:SS\] video\.\n|\nFrame from |\d\d:"
    r"| ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]+|\s+"
)


def _texts() -> Iterable[str]:
    yield from sentences()
    for seconds in range(120):
        slots = Slots(torch.zeros(1, 1, 1), (float(seconds),), float(seconds))
        yield re.sub(r"<[^>]*>", "", f"User: {WORDING.seen(slots)}\nAssistant:") * 20
    # Answers begin without a space, numbers stand between words.
    for word in (*COLOURS, *SHAPES, *MOTIONS, *NUMBERS, *THIRDS, STILL, "yes", "no"):
        yield f"{word}\n" * 20
    yield from (f" {number}" for number in NUMBERS * 20)


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: byte-level, with SmolVLM2's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        eos_token=_END,
        pad_token=_PADDING,
        additional_special_tokens=[token for token in _SPECIAL if token not in (_END, _PADDING)],
    )


def plain_config(tokenizer: PreTrainedTokenizerBase) -> SmolVLMConfig:
    """The configuration: vision encoder and language model have the sizes of the InstructBLIP demo checkpoint's."""
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>"),
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = VISION | {"hidden_act": "gelu", "model_type": "smolvlm_vision"}
    return SmolVLMConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=len(tokenizer), **ids, **LANGUAGE).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def start_of_vision(seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for SmolVLM2's vision encoder from those of InstructBLIP's.

    It has no class token. The patch in the upper left corner, which shows background, takes its place: what was the
    class token's is that patch's position.
    """
    start: dict[str, Tensor] = {}
    for name, tensor in seen.items():
        if name == "embeddings.class_embedding":
            continue
        if name == "embeddings.position_embedding":
            rows = tensor[0, 1:].clone()
            rows[0] = tensor[0, 0] + seen["embeddings.class_embedding"][0, 0]
            start["embeddings.position_embedding.weight"] = rows
        elif ".self_attn.qkv." in name:
            for place, part in enumerate(tensor.chunk(3)):
                start[name.replace("qkv", "qkv"[place] + "_proj")] = part.clone()
        else:
            start[name.replace(".self_attn.projection.", ".self_attn.out_proj.")] = tensor.clone()
    return start


def start_of_language(
    language: LlamaForCausalLM, known: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase
) -> LlamaForCausalLM:
    """A language model for another tokenizer, with the weights of ``language``. Known tokens keep their rows."""
    config = LlamaConfig(**(language.config.to_dict() | {"vocab_size": len(tokenizer)}))
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    config.bos_token_id = tokenizer.convert_tokens_to_ids("<|im_start|>")
    model = LlamaForCausalLM(config)
    before = known.get_vocab()
    state = language.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        old = state[name]
        rows = old.std() * torch.randn(len(tokenizer), old.shape[1])
        for token, row in tokenizer.get_vocab().items():
            # The first of a text has a space before it there, and none here.
            same = "</s>" if token == _END else token if token in before else f"Ġ{token}"
            if same in before:
                rows[row] = old[before[same]]
        state[name] = rows
    model.load_state_dict(state)
    return model


def save_plain(directory: Path, model: SmolVLMForConditionalGeneration) -> None:
    """Write the checkpoint in half precision."""
    with quiet_transformers():
        model.half().save_pretrained(directory)
        plain_tokenizer().save_pretrained(directory)
    side = VISION["image_size"]
    settings = {
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "size": {"height": side, "width": side},
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(WORDING.template)
    # safetensors leaves its files to their owner alone, which a package cannot.
    (directory / "model.safetensors").chmod(0o644)
