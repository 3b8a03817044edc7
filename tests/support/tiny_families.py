"""Tiny checkpoints of plain model families, in the published format, with random weights.

The tokenizer spells bytes. Weights are scaled so that what a model writes depends on what it sees.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from malmm.model.checkpoints.checkpoint import quiet_transformers

FAMILIES = ("smolvlm", "llava_onevision", "qwen3_vl", "qwen3_5")

_CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>", "<video>"]
_SMOL = [
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<|endoftext|>",
]
_QWEN = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|endoftext|>",
]
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n{% for c in m['content'] %}{% if c['type']=='video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{c['text']}}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Side in pixels of the frames of each.
SIDES = {"smolvlm": 32, "llava_onevision": 42, "qwen3_vl": 64, "qwen3_5": 64}
#: What their processors normalise by: LLaVA's own published figures, and others that a default would miss.
MEANS = {
    "smolvlm": ([0.5] * 3, [0.5] * 3),
    "llava_onevision": ([0.48, 0.45, 0.4], [0.26, 0.27, 0.28]),
    "qwen3_vl": ([0.5] * 3, [0.5] * 3),
    "qwen3_5": ([0.5] * 3, [0.5] * 3),
}
PATCH = 4
_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The family's special tokens over single bytes."""
    specials = {"smolvlm": _SMOL, "llava_onevision": _CHATML}.get(family, _QWEN)
    made = Tokenizer(
        models.BPE(
            vocab={letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))},
            merges=[],
        )
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(specials)
    end = "<end_of_utterance>" if family == "smolvlm" else "<|im_end|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        padding_side="left",
        eos_token=end,
        pad_token="<|endoftext|>",  # noqa: S106 - no password
    )


def _config(family: str, tok: PreTrainedTokenizerFast, tied: bool) -> Any:
    ids = tok.convert_tokens_to_ids
    # The configuration lies about tokens, as published ones do.
    text = _TEXT | {"vocab_size": len(tok), "tie_word_embeddings": tied, "eos_token_id": 5, "bos_token_id": 0}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "smolvlm":
        return transformers.SmolVLMConfig(
            vision_config=vision | {"image_size": 32, "patch_size": PATCH, "model_type": "smolvlm_vision"},
            text_config=transformers.LlamaConfig(**text, pad_token_id=tok.pad_token_id).to_dict(),
            image_token_id=ids("<image>"),
            scale_factor=4,
            pad_token_id=tok.pad_token_id,
            tie_word_embeddings=tied,
        )
    if family == "llava_onevision":
        return transformers.LlavaOnevisionConfig(
            vision_config=transformers.SiglipVisionConfig(
                **vision, image_size=42, patch_size=14, vision_use_head=False
            ).to_dict(),
            text_config=transformers.Qwen2Config(**text).to_dict(),
            image_token_index=ids("<image>"),
            video_token_index=ids("<video>"),
            image_grid_pinpoints=[[42, 42]],
            tie_word_embeddings=tied,
        )
    seen = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 48,
        "num_position_embeddings": 36,
    }
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 5e5, "mrope_interleaved": True}
    tokens = {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": tied,
    }
    if family == "qwen3_vl":
        rope["mrope_section"] = [4, 2, 2]
        return transformers.Qwen3VLConfig(
            vision_config=seen | {"deepstack_visual_indexes": [0, 1]},
            text_config=text | {"head_dim": 16, "rope_parameters": rope, "num_hidden_layers": 3},
            **tokens,
        )
    rope |= {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}
    linear = {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    return transformers.Qwen3_5Config(
        vision_config=seen,
        text_config=text | linear | {"head_dim": 32, "rope_parameters": rope, "num_hidden_layers": 4},
        **tokens,
    )


def _shake(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(drawn * (1.0 if "embed" in name else 1.6 / parameter[0].numel() ** 0.5))
            elif "newline" in name:
                parameter.copy_(drawn)


def model_class(family: str) -> Any:
    """The family's class in transformers."""
    names = {
        "smolvlm": "SmolVLMForConditionalGeneration",
        "llava_onevision": "LlavaOnevisionForConditionalGeneration",
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
        "qwen3_5": "Qwen3_5ForConditionalGeneration",
    }
    return getattr(transformers, names[family])


def save_tiny(directory: Path, family: str, *, seed: int = 0, tied: bool = False) -> None:
    """Write a checkpoint: weights, configuration, tokenizer, chat template, processor's settings."""
    tok = tokenizer(family)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        model = model_class(family)(_config(family, tok, tied)).eval()
        _shake(model, seed)
        if tied:
            model.tie_weights()
        else:
            # It writes letters, so that its texts can be read and searched.
            letters = tok.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz"))
            head = model.get_output_embeddings().weight
            others = torch.ones(len(head), dtype=torch.bool)
            others[letters] = False
            with torch.no_grad():
                head[others] *= 0.2
        model.save_pretrained(directory)
        tok.save_pretrained(directory)
    mean, std = MEANS[family]
    settings = {
        "image_mean": mean,
        "image_std": std,
        "size": {"height": SIDES[family], "width": SIDES[family]},
    }
    name = "video_preprocessor_config.json" if family.startswith("qwen") else "preprocessor_config.json"
    (directory / name).write_text(json.dumps(settings))
    if family == "llava_onevision":
        (directory / "chat_template.json").write_text(json.dumps({"chat_template": LLAVA_TEMPLATE}))
    elif family != "smolvlm":
        (directory / "chat_template.jinja").write_text(QWEN_TEMPLATE)


def tiny_frames(family: str, count: int, seed: int = 0) -> np.ndarray:
    """uint8 [T, side, side, 3]: scenes of several frames each, with noise."""
    generator = np.random.default_rng(seed)
    side = SIDES[family]
    scenes = generator.integers(0, 256, (max(2, count // 3), side, side, 3))
    frames = np.stack([scenes[at * len(scenes) // count] for at in range(count)])
    return (frames + generator.integers(-20, 21, frames.shape)).clip(0, 255).astype(np.uint8)
