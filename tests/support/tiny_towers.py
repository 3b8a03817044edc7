"""Tiny checkpoints of dual encoders, in the published format, with random weights and real tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from torch import nn
from transformers import PreTrainedTokenizerBase

from malmm.model.checkpoints.checkpoint import quiet_transformers

#: SigLIP's own tokenizer, SigLIP 2's, and the others by their ``model_type``.
TOWERS = ("siglip", "siglip2", "clip", "metaclip_2", "chinese_clip")
WORDS = "a red circle, a blue square and a green triangle: moving to the left; nothing moves! it is 3 o'clock, 黒い猫"
VECTOR = 24
SIDE = 32
_LONGEST = 16
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": VECTOR,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": _LONGEST,
}
#: What a published checkpoint's file says of its processor; the older form where there is one.
PROCESSORS: dict[str, dict[str, Any]] = {
    "siglip": {"size": {"height": SIDE, "width": SIDE}, "resample": 3, "do_resize": True},
    "siglip2": {"size": {"height": SIDE, "width": SIDE}, "resample": 2, "do_resize": True},
    "clip": {"size": SIDE, "crop_size": SIDE, "do_center_crop": True, "do_resize": True, "resample": 3},
    "metaclip_2": {
        "size": {"shortest_edge": 40},
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_center_crop": True,
        "resample": 3,
    },
    "chinese_clip": {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False, "resample": 3},
}
_HALF = [0.5, 0.5, 0.5]
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def _bpe(specials: list[str], **kind: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    made = Tokenizer(BPE(unk_token=specials[0], **kind))
    if "end_of_word_suffix" in kind:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
        **_suffix(kind),
    )
    made.train_from_iterator([WORDS] * 3, trainer)
    model = json.loads(made.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _suffix(kind: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kind.items() if key == "end_of_word_suffix"}


def tokenizer(tower: str, directory: Path) -> PreTrainedTokenizerBase:
    """A tokenizer of the class that the tower's published checkpoints name."""
    if tower == "siglip":
        sample = directory / "sample.txt"
        sample.write_text("\n".join([WORDS, WORDS.upper()] * 3))
        sentencepiece.SentencePieceTrainer.train(
            input=str(sample),
            model_prefix=str(directory / "spiece"),
            vocab_size=100,
            hard_vocab_limit=False,
            minloglevel=2,
            pad_id=-1,
            bos_id=-1,
            unk_id=2,
            eos_id=1,
            user_defined_symbols=["<pad>"],
            add_dummy_prefix=False,
        )
        sample.unlink()
        (directory / "spiece.vocab").unlink()
        return transformers.SiglipTokenizer(
            str(directory / "spiece.model"), model_max_length=_LONGEST, model_input_names=["input_ids"]
        )
    if tower == "siglip2":
        vocabulary, merges = _bpe(["<pad>", "<eos>", "<bos>", "<unk>"])
        made = transformers.GemmaTokenizer(
            vocab=vocabulary,
            merges=merges,
            padding_side="right",
            model_max_length=_LONGEST,
            model_input_names=["input_ids"],
        )
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", 1)]
        )
        return made
    if tower == "clip":
        vocabulary, merges = _bpe(["<|startoftext|>", "<|endoftext|>"], end_of_word_suffix="</w>")
        return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=_LONGEST)
    if tower == "metaclip_2":
        letters = sorted({*WORDS, "▁"} - {" "})
        pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        pieces += [(letter, -5.0) for letter in letters] + [("▁red", -3.0), ("<mask>", 0.0)]
        return transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=_LONGEST)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(WORDS) - {" "}), "red", "circle"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    return transformers.BertTokenizer(
        vocab={piece: at for at, piece in enumerate(words)}, model_max_length=_LONGEST
    )


def _config(tower: str, tok: PreTrainedTokenizerBase) -> Any:
    text = _TEXT | {
        "vocab_size": len(tok),
        "pad_token_id": tok.pad_token_id,
        "eos_token_id": tok.eos_token_id,
    }
    if tower in ("siglip", "siglip2"):
        return transformers.SiglipConfig(
            text_config=text | {"projection_size": 32}, vision_config=dict(_VISION)
        )
    kind = {
        "clip": transformers.CLIPConfig,
        "metaclip_2": transformers.MetaClip2Config,
        "chinese_clip": transformers.ChineseCLIPConfig,
    }[tower]
    return kind(text_config=text, vision_config=dict(_VISION), projection_dim=VECTOR)


def save_tiny_tower(directory: Path, tower: str, *, seed: int = 0) -> None:
    """Write a checkpoint: weights, configuration, tokenizer, processor's settings."""
    directory.mkdir(parents=True, exist_ok=True)
    tok = tokenizer(tower, directory)
    names = {
        "clip": "CLIPModel",
        "metaclip_2": "MetaClip2Model",
        "chinese_clip": "ChineseCLIPModel",
    }
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        model = getattr(transformers, names.get(tower, "SiglipModel"))(_config(tower, tok)).eval()
        _shake(model, seed)
        model.save_pretrained(directory)
        tok.save_pretrained(directory)
    mean, std = (_HALF, _HALF) if tower.startswith("siglip") else _CLIP
    kind = "SiglipImageProcessor" if tower.startswith("siglip") else "CLIPImageProcessor"
    settings = PROCESSORS[tower] | {"image_mean": mean, "image_std": std, "image_processor_type": kind}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))


def _shake(model: nn.Module, seed: int) -> None:
    """Weights that make what comes out depend on all that goes in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(drawn * (0.5 if "embed" in name else 1.6 / parameter[0].numel() ** 0.5))
            elif not name.endswith(("logit_scale", "logit_bias")) and name.endswith("bias"):
                parameter.copy_(drawn * 0.1)
