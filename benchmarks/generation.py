"""Texts of mixed lengths at SmolLM2-135M's size: batches by size, against a call a text and continuous batching.

    python benchmarks/generation.py [--texts 32] [--tokens 48] [--prompt 16 256] [--rounds 3] [--threads 2]

Weights are random, in float32. Prompts have random lengths, and a text ends with one of many random tokens, so that
most end early and some run to the limit. Prompts are ids, since transformers' continuous batching takes no embeddings.
The ways: transformers' `generate` once a text; `generate` of all texts at once, padded; `generate_batch`, which is
transformers' continuous batching; and the engine that indexing uses. The last column is the number of texts that differ
from those of the first way. Tokens a second count the texts' tokens. Ratios are of the process's CPU seconds, which
other work on the machine changes less than it does seconds; with one thread, none of them are spent waiting.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from malmm.model.batch_limit import Mishap
from malmm.model.decoding import Decoding, TextTokens
from malmm.model.families.family import Asked
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.generation.engine import Request
from malmm.model.generation.transformers_engine import TransformersEngine

#: Published shapes, with a head of its own: with random weights, a shared table repeats the last token.
SIZES: dict[str, dict[str, int]] = {
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "tiny": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}
END, PADDING, FIRST = 1, 2, 3
#: One of so many tokens ends a text.
ENDS_ONE_OF = 24
_PAGE_TOKENS = 32


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=48, help="the longest text (%(default)s)")
    parser.add_argument(
        "--prompt", type=int, nargs=2, default=[16, 256], help="shortest and longest, in ids (16 256)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--size", choices=sorted(SIZES), default="135m", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    language = random_model(options.size)
    generator = torch.Generator().manual_seed(1)
    vocabulary = SIZES[options.size]["vocab_size"]
    shortest, longest = options.prompt
    lengths = torch.randint(shortest, longest + 1, (options.texts,), generator=generator).tolist()
    prompts = [torch.randint(FIRST, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    measure(language, prompts, options)


def random_model(size: str) -> LanguageModel:
    """A model of random weights whose tokenizer has a word for each id."""
    torch.manual_seed(0)
    shape = SIZES[size]
    words = {f"t{number}": number for number in range(FIRST, shape["vocab_size"])}
    specials = {"<unknown>": 0, "<end>": END, "<padding>": PADDING}
    made = Tokenizer(WordLevel(specials | words, unk_token=next(iter(specials))))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    tokenizer.add_special_tokens({"eos_token": "<end>", "pad_token": "<padding>"})
    # One that is sure of each next token: else rounding would choose among equals, and texts would differ.
    config = LlamaConfig(**shape, eos_token_id=None, initializer_range=0.1, max_position_embeddings=8192)
    model = LlamaForCausalLM(config)
    language = LanguageModel(nn.Linear(1, shape["hidden_size"]), model, tokenizer)
    drawn = torch.randperm(shape["vocab_size"] - FIRST)[: shape["vocab_size"] // ENDS_ONE_OF] + FIRST
    language.text_tokens = TextTokens((END, *drawn.tolist()), PADDING)
    return language.eval().requires_grad_(False)


def measure(language: LanguageModel, prompts: list[list[int]], options: argparse.Namespace) -> None:
    """Run the ways in turns, and print a row for each."""
    decoding = Decoding(options.tokens)
    config = decoding.generation_config(language.text_tokens)
    nothing = torch.zeros(0, 1)
    requests = [
        Request(Asked(" ".join(f"t{number}" for number in prompt), query_output=nothing), decoding)
        for prompt in prompts
    ]
    engine = TransformersEngine(language, torch.device("cpu"))

    def texts_of(ids: list[list[int]]) -> list[str]:
        found: list[str] = language.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in found]

    def ours() -> list[str]:
        return [each.message if isinstance(each, Mishap) else each[0] for each in engine.texts(requests)]

    ways: dict[str, Callable[[], list[str]]] = {
        "a call a text": lambda: texts_of([padded(language, [prompt], config)[0] for prompt in prompts]),
        "`generate`, all at once": lambda: texts_of(padded(language, prompts, config)),
        "continuous batching": lambda: texts_of(continuous(language, prompts, config)),
        "engine": ours,
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for number in range(options.rounds):
        for name, way in ways.items():
            began = time.perf_counter(), time.process_time()
            texts[name] = way()
            s, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
            took[name].append((s, cpu_s))
            print(f"round {number + 1}, {name}: {s:.1f} s, {cpu_s:.1f} CPU s", file=sys.stderr, flush=True)
    parameters = sum(parameter.numel() for parameter in language.model.parameters())
    lengths = sorted(len(text.split()) for text in texts["a call a text"])
    print(
        f"{parameters / 1e6:.0f} million parameters, {torch.get_num_threads()} threads, {len(prompts)} prompts of "
        f"{min(map(len, prompts))} to {max(map(len, prompts))} ids, texts of {lengths[0]} to {lengths[-1]} tokens, "
        f"{lengths[len(lengths) // 2]} in the middle; medians of {options.rounds} rounds\n"
    )
    print(
        "| way | s | CPU s | tokens a CPU s | of a call a text | texts that differ |\n|---|---|---|---|---|---|"
    )
    medians = {name: [statistics.median(column) for column in zip(*took[name], strict=True)] for name in ways}
    base = medians["a call a text"][1]
    for name, (s, cpu_s) in medians.items():
        differ = sum(a != b for a, b in zip(texts[name], texts["a call a text"], strict=True))
        print(
            f"| {name} | {s:.1f} | {cpu_s:.1f} | {sum(lengths) / cpu_s:.1f} | {base / cpu_s:.2f} | {differ} |",
            flush=True,
        )


def padded(language: LanguageModel, prompts: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """New ids by transformers' `generate`."""
    rows = [torch.tensor(prompt) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=PADDING, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    made: Any = language.model.generate(ids, attention_mask=mask, generation_config=config)
    return [row[ids.shape[1] :].tolist() for row in made]


def continuous(
    language: LanguageModel, prompts: list[list[int]], config: GenerationConfig
) -> list[list[int]]:
    """New ids by transformers' continuous batching, with room for all texts at once."""
    longest = max(map(len, prompts)) + int(config.max_new_tokens or 0)
    pages = len(prompts) * (longest // _PAGE_TOKENS + 1)
    settings = ContinuousBatchingConfig(
        page_size=_PAGE_TOKENS, num_blocks=pages, max_batch_tokens=max(512, longest)
    )
    model: Any = language.model
    made = model.generate_batch(prompts, generation_config=config, continuous_batching_config=settings)
    return [output.generated_tokens for output in made.values()]


if __name__ == "__main__":
    main()
