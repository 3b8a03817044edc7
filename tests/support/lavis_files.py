"""Files as the authors' training code (LAVIS) writes them, made from tensors under Hugging Face's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TRAINED = ("qformer.", "query_tokens", "language_projection.", "vision_model.post_layernorm.")


def authors_name(name: str, projection: str = "llm_proj") -> str:
    """What LAVIS calls a trained tensor of Hugging Face's InstructBLIP."""
    if name == "frame_positions.weight":
        return "image_pe.weight"
    if name.startswith("vision_model.post_layernorm."):
        return "ln_vision." + name.rpartition(".")[2]
    if name.startswith("language_projection."):
        return f"{projection}." + name.rpartition(".")[2]
    if not name.startswith("qformer."):
        return name
    name = name.removeprefix("qformer.").replace("embeddings.layernorm", "embeddings.LayerNorm")
    for part in ("attention", "crossattention"):
        name = name.replace(f".{part}.attention.", f".{part}.self.")
    return "Qformer.bert." + name


def lavis_model(tensors: Mapping[str, Tensor], projection: str = "llm_proj") -> dict[str, Tensor]:
    """The section ``model``: trained tensors, and the buffers that LAVIS saves with them."""
    model = {authors_name(name, projection): value for name, value in tensors.items()}
    model["Qformer.bert.embeddings.position_ids"] = torch.arange(512)[None]
    language = projection.replace("_proj", "_model")
    model[f"{language}.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(4)
    return model


def save_lavis(path: Path, model: Mapping[str, Any], /, *, legacy: bool = False, **sections: Any) -> Path:
    """Write a checkpoint with the sections that LAVIS writes; ``legacy`` in torch's format before 1.6."""
    whole = {
        "model": dict(model),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.rand(8)}}, "param_groups": [{"lr": 1e-4}]},
        "config": {"run": {"task": "video_text_pretrain", "lr_sched": "linear_warmup_cosine_lr"}},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "epoch": 7,
    }
    torch.save(whole | sections, path, _use_new_zipfile_serialization=not legacy)
    return path
