"""A tiny Whisper checkpoint with random weights and a real tokenizer, in the published format, made offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn.functional import pad
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

__all__ = ["make_whisper", "said_by_transformers"]


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


def said_by_transformers(
    folder: Path, sound: np.ndarray, language: str = ""
) -> list[tuple[float, float, str]]:
    """What transformers' own ``generate`` hears in float32 [N] samples: begin, end, and text.

    Times beyond the end are the end, and what has neither words nor length is left out.
    """
    processor = WhisperProcessor.from_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    features = processor(
        sound, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    missing = max(0, 3000 - features.input_features.shape[-1])
    with torch.inference_mode():
        out = model.generate(
            pad(features.input_features, (0, missing)),
            attention_mask=pad(features.attention_mask, (0, missing)),
            return_timestamps=True, return_segments=True, language=language or None, task="transcribe",
            max_new_tokens=24,
        )  # fmt: skip
    length_s = len(sound) / 16_000
    found = []
    for each in out["segments"][0]:
        words = " ".join(processor.tokenizer.decode(each["tokens"], skip_special_tokens=True).split())
        begin, end = float(each["start"]), min(float(each["end"]), length_s)
        if words and begin < end:
            found.append((begin, end, words))
    return found
