"""A tiny Whisper checkpoint with random weights and a real tokenizer, in the published format, made offline."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

__all__ = ["make_whisper"]


def make_whisper(folder: Path, *, seed: int = 0) -> Path:
    """Write the checkpoint to a folder: two layers of 32 channels, 100 languages, 32 tokens a window."""
    torch.manual_seed(seed)
    letters = {letter: place for place, letter in enumerate(sorted(ByteLevel.alphabet()))}
    letters["<|endoftext|>"] = len(letters)
    languages = [f"<|{code}|>" for code in LANGUAGES]
    special = [
        "<|startoftranscript|>",
        *languages,
        *(
            f"<|{name}|>"
            for name in ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
        ),
    ]
    # In the constructor: decoding takes the last special token for the one before the time stamps.
    tokenizer = WhisperTokenizer(vocab=letters, merges=[], additional_special_tokens=special)
    tokenizer.add_tokens(
        [AddedToken(f"<|{0.02 * n:.2f}|>", special=False, normalized=False) for n in range(1501)]
    )
    ids = tokenizer.convert_tokens_to_ids
    end = ids("<|endoftext|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=ids("<|startoftranscript|>"), suppress_tokens=None, begin_suppress_tokens=None,
        init_std=0.3, max_target_positions=32,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    # Attributes of a configuration that came from the model's are lost in `generate`.
    model.generation_config = GenerationConfig(
        pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=ids("<|startoftranscript|>"),
        lang_to_id={token: ids(token) for token in languages},
        task_to_id={task: ids(f"<|{task}|>") for task in ("transcribe", "translate")},
        is_multilingual=True, no_timestamps_token_id=ids("<|notimestamps|>"),
        prev_sot_token_id=ids("<|startofprev|>"), max_initial_timestamp_index=50, return_timestamps=False,
        suppress_tokens=[], begin_suppress_tokens=[end], alignment_heads=[[1, 0], [1, 1]],
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder
