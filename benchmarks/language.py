"""The language model: segments and prompts batched, against a `generate` for each.

    python benchmarks/language.py [--segments 16] [--prompts 2] [--batches 8 32] [--rounds 3]

The baseline is what comes first to mind: transformers' own `generate`, once a segment and prompt. The demo model's
answers end by themselves; a model of random weights (8 layers of 512, LLaMA's architecture) is made to write 32 tokens,
since it ends nowhere. The last column says how many texts are not those of the baseline. Tokens a second count those of
the texts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from malmm.model.language import LanguageModel
from malmm.model.resolve import NO_RETRIEVAL, open_models

QUESTIONS = ("Describe the video.", "Which shape appears first in the video?", "How many objects appear?")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--prompts", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="texts at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    demo = LanguageModel.load(open_models("demo", NO_RETRIEVAL).instructblip)
    prompts = [QUESTIONS[place % len(QUESTIONS)] for place in range(options.prompts)] * options.segments
    print(
        f"{len(prompts)} texts, {torch.get_num_threads()} threads, medians of {options.rounds} rounds\n\n"
        "| model | texts at once | tokens/s | of a call a text | texts that differ |\n|---|---|---|---|---|",
        flush=True,
    )
    measure("demo", demo, prompts, options, tokens=40)
    measure("8 x 512", random_model(demo), prompts, options, tokens=32)


def random_model(like: LanguageModel) -> LanguageModel:
    """A model of random weights with the tokenizer of another."""
    # One that is sure of each next token: else rounding would choose among equals, and texts would differ.
    config = LlamaConfig(
        vocab_size=len(like.tokenizer),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        eos_token_id=None,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    return LanguageModel(nn.Linear(like.projection.in_features, 512), model, like.tokenizer).eval()


@torch.inference_mode()
def measure(
    name: str, language: LanguageModel, prompts: Sequence[str], options: argparse.Namespace, *, tokens: int
) -> None:
    """A row for a text at once, and for each size of batch."""
    queries = torch.randn(len(prompts), 16, language.projection.in_features)
    sizes = [1, *options.batches]
    took: dict[int, list[float]] = {size: [] for size in sizes}
    texts: dict[int, list[str]] = {}
    for _ in range(options.rounds):
        for size in sizes:
            began = time.perf_counter()
            if size == 1:
                texts[1] = [plain(language, *pair, tokens) for pair in zip(queries, prompts, strict=True)]
            else:
                parts = range(0, len(prompts), size)
                texts[size] = [
                    text
                    for at in parts
                    for text in language.generate(
                        queries[at : at + size], prompts[at : at + size], max_new_tokens=tokens
                    )
                ]
            took[size].append(time.perf_counter() - began)
    count = sum(len(language.tokenizer(text)["input_ids"]) for text in texts[1])
    base = statistics.median(took[1])
    for size in sizes:
        s = statistics.median(took[size])
        differ = sum(a != b for a, b in zip(texts[size], texts[1], strict=True))
        print(f"| {name} | {size} | {count / s:.0f} | {base / s:.2f} | {differ} |", flush=True)


def plain(language: LanguageModel, query_QD: Tensor, prompt: str, tokens: int) -> str:
    """As InstructBLIP's own forward does it for one text."""
    ids = torch.tensor(language.tokenizer(prompt)["input_ids"])
    embedded = language.model.get_input_embeddings()(ids)
    inputs = torch.cat([language.projection(query_QD), embedded])[None]
    found = language.model.generate(
        inputs_embeds=inputs,
        attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=language.tokenizer.pad_token_id,
    )
    return language.tokenizer.decode(found[0], skip_special_tokens=True).strip()


if __name__ == "__main__":
    main()
