"""The language model: segments and prompts batched, against a `generate` for each; prompts shared by beams and labels.

    python benchmarks/language.py [--segments 16] [--prompts 2] [--batches 8 32] [--beams 5] [--rounds 3]

The baseline is the obvious way: transformers' `generate`, once for each segment and prompt. The demo model's answers
end by themselves; a model with random weights (8 layers of 512, LLaMA's architecture) has to write 32 tokens, since it
never ends a text. The last column is the number of texts that differ from the baseline. Tokens a second count the
texts' tokens.

The second table shows what sharing a prompt's prefill saves. For beams the baseline is transformers' `generate` of the
same texts in one batch, in which each beam computes the prompt; for a classification, a forward pass for each label.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.families.instructblip.language import LanguageModel

QUERIES = 32
LABELS = ("circle", "square", "triangle", "star", "cross", "a red circle", "a blue square", "nothing at all")
QUESTIONS = ("Describe the video.", "Which shape appears first in the video?", "How many objects appear?")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--prompts", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="texts at once (%(default)s)")
    parser.add_argument("--beams", type=int, default=5, help="(%(default)s)")
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
    random = random_model(demo)
    measure("demo", demo, prompts, options, tokens=40)
    measure("8 x 512", random, prompts, options, tokens=32)
    print(
        f"\n{QUERIES} queries, {options.beams} beams, {len(LABELS)} labels\n\n"
        "| model | texts at once | what | plain s | shared s | ratio | that differ |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for size in (1, min(options.batches)):
        measure_sharing("demo", demo, prompts[:size], options, tokens=40)
        measure_sharing("8 x 512", random, prompts[:size], options, tokens=32)


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
                texts[1] = [
                    text
                    for query, prompt in zip(queries, prompts, strict=True)
                    for text in plain(language, query[None], [prompt], tokens)
                ]
            else:
                parts = range(0, len(prompts), size)
                texts[size] = [
                    text
                    for at in parts
                    for text in language.generate(
                        queries[at : at + size], prompts[at : at + size], Decoding(tokens)
                    )
                ]
            took[size].append(time.perf_counter() - began)
    count = sum(len(language.tokenizer(text)["input_ids"]) for text in texts[1])
    base = statistics.median(took[1])
    for size in sizes:
        s = statistics.median(took[size])
        differ = sum(a != b for a, b in zip(texts[size], texts[1], strict=True))
        print(f"| {name} | {size} | {count / s:.0f} | {base / s:.2f} | {differ} |", flush=True)


@torch.inference_mode()
def measure_sharing(
    name: str, language: LanguageModel, prompts: Sequence[str], options: argparse.Namespace, *, tokens: int
) -> None:
    """A row for beams and one for a classification, of these prompts at once."""
    queries = torch.randn(len(prompts), QUERIES, language.projection.in_features)
    ways: dict[str, tuple[Callable[[], list[str]], Callable[[], list[str]]]] = {
        "beams": (
            lambda: plain(language, queries, prompts, tokens, options.beams),
            lambda: language.generate(queries, prompts, Decoding(tokens, options.beams)),
        ),
        "labels": (
            lambda: [plain_best(language, *pair) for pair in zip(queries, prompts, strict=True)],
            lambda: [scores.best[0] for scores in language.classify(queries, prompts, LABELS)],
        ),
    }
    for what, pair in ways.items():
        took: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            found = []
            for way, times in zip(pair, took, strict=True):
                began = time.perf_counter()
                found.append(way())
                times.append(time.perf_counter() - began)
        differ = sum(a != b for a, b in zip(*found, strict=True))
        base, shared = map(statistics.median, took)
        print(
            f"| {name} | {len(prompts)} | {what} | {base:.3f} | {shared:.3f} | {base / shared:.2f} | {differ} |",
            flush=True,
        )


def inputs(language: LanguageModel, queries_BQD: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """As InstructBLIP's own forward makes them: queries before the prompt, and a mask over padding on the left."""
    embed = language.model.get_input_embeddings()
    ids = [torch.tensor(language.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    rows = [
        torch.cat([row, embed(of)]) for row, of in zip(language.projection(queries_BQD), ids, strict=True)
    ]
    masks = [torch.ones(len(row), dtype=torch.long) for row in rows]
    return (
        pad_sequence(rows, batch_first=True, padding_side="left"),
        pad_sequence(masks, batch_first=True, padding_side="left"),
    )


def plain(
    language: LanguageModel, queries_BQD: Tensor, prompts: Sequence[str], tokens: int, beams: int = 1
) -> list[str]:
    """Texts by transformers' `generate`."""
    embeds, mask = inputs(language, queries_BQD, prompts)
    found = language.model.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        generation_config=Decoding(tokens, beams).generation_config(language.text_tokens),
    )
    return [text.strip() for text in language.tokenizer.batch_decode(found, skip_special_tokens=True)]


def plain_best(language: LanguageModel, query_QD: Tensor, prompt: str) -> str:
    """The likeliest label; each is scored by a separate forward pass."""
    tokenizer, scores = language.tokenizer, []
    for label in LABELS:
        ids = torch.tensor([*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
        embeds, _ = inputs(language, query_QD[None], [prompt])
        whole = torch.cat([embeds, language.model.get_input_embeddings()(ids[None])], dim=1)
        logits = language.model(inputs_embeds=whole).logits[0, -len(ids) - 1 : -1]
        scores.append(float(logits.log_softmax(-1).gather(1, ids[:, None]).sum()))
    return LABELS[scores.index(max(scores))]


if __name__ == "__main__":
    main()
