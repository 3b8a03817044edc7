"""A debug-size checkpoint: random weights from a fixed seed, in the format of a published one.

The whole system runs on it in a second; its texts mean nothing. Its tokenizers encode any printable ASCII, letter by
letter.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from malmm.model.checkpoints.checkpoint import quiet_transformers

__all__ = ["save_debug_checkpoint"]

_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "
_IMAGE_SIZE = 56
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": _IMAGE_SIZE,
    "patch_size": 14,
    "initializer_range": 0.1,
}
_QFORMER = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "encoder_hidden_size": 48,
    "initializer_range": 0.1,
}
_QUERIES = 8


def _letter_tokenizer(specials: list[str], template: str, roles: dict[str, str]) -> PreTrainedTokenizerFast:
    vocabulary = {token: place for place, token in enumerate([*specials, *_CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=roles["unk_token"]))
    tokenizer.normalizer = normalizers.NFKD()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    named = [(token, vocabulary[token]) for token in specials if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    others = [token for token in specials if token not in roles.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="right", additional_special_tokens=others, **roles
    )


def _bert_like() -> PreTrainedTokenizerFast:
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _letter_tokenizer(list(roles.values()), "[CLS] $A [SEP]", roles)


def _llama_like() -> PreTrainedTokenizerFast:
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _letter_tokenizer([*roles.values(), "<image>"], "<s> $A", roles)


def _t5_like() -> PreTrainedTokenizerFast:
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _letter_tokenizer([*roles.values(), "<image>"], "$A </s>", roles)


def _text_config(kind: str, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    rows = len(tokenizer)
    if kind == "decoder":
        return LlamaConfig(
            vocab_size=rows,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=2048,
            initializer_range=0.2,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    if kind == "encoder-decoder":
        return T5Config(
            vocab_size=rows,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            initializer_factor=1.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    raise ValueError(f"no debug language model of kind {kind!r}: decoder or encoder-decoder")


def save_debug_checkpoint(directory: Path, *, kind: str = "decoder", seed: int = 0) -> None:
    """Write an InstructBLIP checkpoint of ``kind`` and, in ``retrieval/``, a BLIP-2 companion.

    ``kind`` is ``decoder`` (Llama) or ``encoder-decoder`` (T5).
    """
    bert, text = _bert_like(), _llama_like() if kind == "decoder" else _t5_like()
    image_processor = BlipImageProcessorPil(size={"height": _IMAGE_SIZE, "width": _IMAGE_SIZE})
    vocabulary = {"vocab_size": len(bert), "pad_token_id": bert.pad_token_id}
    config = InstructBlipConfig(
        vision_config=_VISION,
        qformer_config=_QFORMER | vocabulary,
        text_config=_text_config(kind, text).to_dict(),
        num_query_tokens=_QUERIES,
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    retrieval_config = Blip2Config(
        vision_config=_VISION,
        qformer_config=_QFORMER | vocabulary | {"use_qformer_text_input": True},
        num_query_tokens=_QUERIES,
        image_text_hidden_size=32,
    )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        model = InstructBlipForConditionalGeneration(config).eval()
        retrieval = Blip2ForImageTextRetrieval(retrieval_config).eval()
        with torch.no_grad():
            # transformers initialises query tokens with zeros and layer norms with ones; trained models have neither.
            for part in (model, retrieval):
                part.query_tokens.normal_()
                norm = part.vision_model.post_layernorm
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.1)
            shared = retrieval.vision_model.state_dict() | {
                key: value
                for key, value in model.vision_model.state_dict().items()
                if not key.startswith("post_layernorm.")
            }
            retrieval.vision_model.load_state_dict(shared)
        model.save_pretrained(directory)
        text.save_pretrained(directory)
        bert.save_pretrained(directory / "qformer_tokenizer")
        image_processor.save_pretrained(directory)
        retrieval.save_pretrained(directory / "retrieval")
        bert.save_pretrained(directory / "retrieval")
        image_processor.save_pretrained(directory / "retrieval")
