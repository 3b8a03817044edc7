"""Published sizes with random weights: checkpoints that exist only in memory, loaded by the families' own code."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import InstructBlipConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from malmm.model.checkpoints.checkpoint import Checkpoint, quiet_transformers
from malmm.model.published.catalogue import PublishedModel

__all__ = ["RandomCheckpoint", "tiny"]

_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_QWEN_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 4,
    "num_position_embeddings": 36,
    "out_hidden_size": 48,
}
_ROPE = {"rope_type": "default", "rope_theta": 5e5, "mrope_interleaved": True}
# What makes a configuration of each type tiny. Vocabularies stay as published.
_TINY: dict[str, dict[str, Any]] = {
    "instructblip": {
        "vision_config": _VISION | {"image_size": 56, "patch_size": 14},
        "qformer_config": {
            "hidden_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "encoder_hidden_size": 32,
        },
        "text_config": _TEXT | {"d_model": 48, "d_ff": 64, "d_kv": 12, "num_heads": 4, "num_layers": 2},
    },
    "smolvlm": {
        "vision_config": _VISION | {"image_size": 32, "patch_size": 4},
        "text_config": _TEXT | {"head_dim": 12},
    },
    "llava_onevision": {
        "vision_config": _VISION | {"image_size": 42, "patch_size": 14},
        "text_config": _TEXT,
    },
    "qwen3_vl": {
        "vision_config": _QWEN_VISION | {"deepstack_visual_indexes": [0, 1]},
        "text_config": _TEXT
        | {"num_hidden_layers": 3, "head_dim": 16, "rope_parameters": _ROPE | {"mrope_section": [4, 2, 2]}},
    },
    "qwen3_5": {
        "vision_config": _QWEN_VISION,
        "text_config": _TEXT
        | {
            "num_hidden_layers": 4,
            "head_dim": 32,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "rope_parameters": _ROPE | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25},
        },
    },
}
_QWEN_SPECIAL = {
    "<|image_pad|>": "image_token_id",
    "<|video_pad|>": "video_token_id",
    "<|vision_start|>": "vision_start_token_id",
    "<|vision_end|>": "vision_end_token_id",
    "<|im_start|>": "",
    "<|im_end|>": "",
    "<|endoftext|>": "",
}
# Tokens that prompts are written with, and the configuration's key for the id of those that it names.
_SPECIAL: dict[str, dict[str, str]] = {
    "instructblip": {"<s>": "", "</s>": "", "<pad>": ""},
    "smolvlm": {
        "<image>": "image_token_id",
        "<|im_start|>": "",
        "<end_of_utterance>": "",
        "<fake_token_around_image>": "",
        "<global-img>": "",
        "<|endoftext|>": "",
    },
    "llava_onevision": {
        "<image>": "image_token_index",
        "<video>": "video_token_index",
        "<|im_start|>": "",
        "<|im_end|>": "",
        "<|endoftext|>": "",
    },
    "qwen3_vl": _QWEN_SPECIAL,
    "qwen3_5": _QWEN_SPECIAL,
}
_TEMPLATE = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'video' %}}{video}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
_FIRST_FREE = 300


@dataclass(frozen=True)
class RandomCheckpoint(Checkpoint):
    """A checkpoint whose parts are drawn from ``seed`` on ``device`` when they are loaded, and read from no file.

    The tokenizer spells bytes; its special tokens have the ids that the configuration names.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0

    @classmethod
    def of(cls, model: PublishedModel, device: torch.device, *, seed: int = 0) -> RandomCheckpoint:
        """A published model's size."""
        return cls(model.name, Path(), model.config, device, seed)

    @property
    def files(self) -> dict[str, Path]:
        """None."""
        return {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """None: optional tensors are absent."""
        return {}

    def check_prefixes(self, *_: Any, **__: Any) -> None:
        """Nothing to check."""

    def fill(self, module: nn.Module, prefix: str) -> None:
        """The module keeps the weights that it was made with."""

    def tensor(self, key: str) -> Tensor:
        """The Q-Former's query tokens."""
        config = self.parsed(InstructBlipConfig)
        shape = (1, config.num_query_tokens, config.qformer_config.hidden_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed)) * 0.02

    def load(
        self, kind: type[PreTrainedModel], config: Any, dtype: torch.dtype, **_: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """A model drawn by transformers' own initialisation."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.device(self.device), quiet_transformers():
            torch.manual_seed(self.seed)
            model = kind._from_config(copy.deepcopy(config), dtype=dtype)
            model.tie_weights()
            if not getattr(config, "scale_decoder_outputs", True):
                # T5 1.1 has an output layer of its own, although transformers ties it by its configuration.
                head: Any = model.get_output_embeddings()
                head.weight = nn.Parameter(head.weight.detach().clone())
        return model.eval(), {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}

    def pretrained(
        self, kind: type[PreTrainedModel], config: Any, prefix: str, dtype: torch.dtype
    ) -> PreTrainedModel:
        """As ``load``."""
        return self.load(kind, config, dtype)[0]

    def tokenizer(self, subfolder: str = "") -> PreTrainedTokenizerBase:
        """One that spells bytes."""
        kind = str(self.config["model_type"])
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: place for place, letter in enumerate(letters)}
        for place, (token, key) in enumerate(_SPECIAL[kind].items()):
            vocabulary[token] = int(self.config[key]) if key else _FIRST_FREE + place
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(list(_SPECIAL[kind]))
        ends = ("<end_of_utterance>", "<|im_end|>", "</s>")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=made,
            padding_side="left",
            eos_token=next(token for token in ends if token in vocabulary),
            pad_token="<pad>" if kind == "instructblip" else "<|endoftext|>",
        )
        video = "<|vision_start|><|video_pad|><|vision_end|>" if kind.startswith("qwen") else "<video>"
        tokenizer.chat_template = _TEMPLATE.format(video=video)
        return tokenizer


def tiny(checkpoint: RandomCheckpoint) -> RandomCheckpoint:
    """The same kind of model, of a size that a CPU runs in a moment."""
    config = _merged(checkpoint.config, _TINY[str(checkpoint.config["model_type"])])
    return RandomCheckpoint(f"tiny {checkpoint.name}", Path(), config, checkpoint.device, checkpoint.seed)


def _merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **config,
        **{
            key: _merged(config.get(key, {}), value)
            if isinstance(value, dict) and key != "rope_parameters"
            else value
            for key, value in changes.items()
        },
    }
