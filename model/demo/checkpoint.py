"""The demo checkpoint: its configurations and tokenizers, and writing it in Hugging Face's format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    Blip2Config,
    InstructBlipConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from malmm.model.checkpoints.checkpoint import quiet_transformers
from malmm.model.demo.questions import KINDS, NUMBERS, PROMPTS, STILL, THIRDS
from malmm.model.demo.world import COLOURS, MOTIONS, SHAPES

__all__ = [
    "BACKGROUND_SLOTS",
    "GRID",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "LANGUAGE",
    "QUERIES",
    "VISION",
    "initial_time_positions",
    "instructblip_config",
    "language_tokenizer",
    "qformer_tokenizer",
    "retrieval_config",
    "save_instructblip",
    "save_retrieval",
    "sentences",
]

VISION = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 96,
    "patch_size": 12,
}
GRID = VISION["image_size"] // VISION["patch_size"]
QUERIES = 32
TIME_POSITIONS = 129
IMAGE_MEAN, IMAGE_STD = (0.35, 0.35, 0.35), (0.25, 0.25, 0.25)
_QFORMER = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": 256,
    "encoder_hidden_size": VISION["hidden_size"],
    "cross_attention_frequency": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LANGUAGE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
# Where as many of the objects that are in a segment lie below as of those that are not lie above: docs/retrieval.md.
RELEVANCE_THRESHOLD = 0.35
# By how many standard deviations the best of so many slots stands out from a background: as above.
CONTRASTS = ((60, 1.8), (900, 3.055), (2400, 3.18))
BACKGROUND_SLOTS = 128
_RETRIEVAL = _QFORMER | {"num_hidden_layers": 2, "use_qformer_text_input": True}
_VECTOR = 64
_VOCABULARY = 512


def sentences() -> Iterable[str]:
    """Words of the drawn world, for the tokenizers to take whole; other words are spelled byte by byte."""
    for kind in KINDS:
        for wording in PROMPTS[kind]:
            yield from (wording.format(x=f"{colour} {shape}") for colour in COLOURS for shape in SHAPES)
    for colour in COLOURS:
        for shape in SHAPES:
            for motion in MOTIONS:
                yield f"a {colour} {shape} moving {motion} and a {colour} {shape}, then a {colour} {shape}"
    # Often enough that each becomes one token.
    yield from [STILL, *THIRDS, *NUMBERS, "yes", "no"] * 20


def _byte_level(
    roles: dict[str, str], others: list[str], template: str, *, lower: bool
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=roles["unk_token"]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()] if lower else [normalizers.NFC()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[*roles.values(), *others],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    named = [(token, tokenizer.token_to_id(token)) for token in roles.values() if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="right", additional_special_tokens=others, **roles
    )


def qformer_tokenizer() -> PreTrainedTokenizerFast:
    """The Q-Formers' tokenizer: lower case, byte-level, with BERT's special tokens."""
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _byte_level(roles, [], "[CLS] $A [SEP]", lower=True)


def language_tokenizer() -> PreTrainedTokenizerFast:
    """The language model's tokenizer: byte-level, with Llama's special tokens."""
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _byte_level(roles, ["<image>"], "<s> $A", lower=False)


def instructblip_config() -> InstructBlipConfig:
    """The configuration of the InstructBLIP checkpoint."""
    bert, text = qformer_tokenizer(), language_tokenizer()
    language = LlamaConfig(
        vocab_size=len(text),
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        **LANGUAGE,
    )
    return InstructBlipConfig(
        vision_config=VISION,
        qformer_config=_QFORMER | {"vocab_size": len(bert), "pad_token_id": bert.pad_token_id},
        text_config=language.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )


def retrieval_config() -> Blip2Config:
    """The configuration of the retrieval companion."""
    bert = qformer_tokenizer()
    return Blip2Config(
        vision_config=VISION,
        qformer_config=_RETRIEVAL | {"vocab_size": len(bert), "pad_token_id": bert.pad_token_id},
        num_query_tokens=QUERIES // 2,
        image_text_hidden_size=_VECTOR,
    )


def save_instructblip(directory: Path, model: PreTrainedModel, time_positions: Tensor) -> None:
    """Write the InstructBLIP checkpoint with its temporal positions, in half precision."""
    with quiet_transformers():
        model.half().save_pretrained(directory)
        language_tokenizer().save_pretrained(directory)
        qformer_tokenizer().save_pretrained(directory / "qformer_tokenizer")
        _image_processor().save_pretrained(directory)
    weights = directory / "model.safetensors"
    tensors = load_file(weights) | {"time_positions.weight": time_positions.half().contiguous()}
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def save_retrieval(directory: Path, model: PreTrainedModel, background: Tensor) -> None:
    """Write the retrieval companion, in half precision, with its relevance threshold and background.

    ``background`` are unit vectors [B, Q, V] of slots that are in no archive.
    """
    model.config.relevance_threshold = RELEVANCE_THRESHOLD
    with quiet_transformers():
        model.half().save_pretrained(directory)
        qformer_tokenizer().save_pretrained(directory)
        _image_processor().save_pretrained(directory)
    save_file(
        {"vectors": background.half().contiguous()},
        directory / "background.safetensors",
        metadata={"format": "pt", "contrasts": json.dumps(CONTRASTS)},
    )
    # safetensors leaves its files to their owner alone, which a package cannot.
    for name in ("model.safetensors", "background.safetensors"):
        (directory / name).chmod(0o644)


def _image_processor() -> BlipImageProcessorPil:
    side = VISION["image_size"]
    return BlipImageProcessorPil(
        size={"height": side, "width": side}, image_mean=list(IMAGE_MEAN), image_std=list(IMAGE_STD)
    )


def initial_time_positions(channels: int) -> Tensor:
    """Sines and cosines of relative time [P, C], from a quarter of a period up to sixteen.

    Half as large as visual tokens, so that the content of frames decides which are merged.
    """
    time = torch.linspace(0, 1, TIME_POSITIONS)[:, None]
    periods = torch.logspace(-2, 4, channels // 2, base=2)[None]
    angles = 2 * torch.pi * time * periods
    return 0.5 * torch.cat([angles.sin(), angles.cos()], dim=1)
