"""The Q-Former with both memory banks, against a plain implementation and against no memory at all.

    python benchmarks/qformer.py [--bank-length 10 20 40] [--frames 100] [--rounds 3] [--at-once 16]
        [--prompts 1 4 16] [--segments 1 4 8]

The default is the paper's size: 12 layers of 768, 257 visual tokens of 1408 a frame, 32 queries, 12 prompt tokens,
float32, random weights, one segment. ``plain`` does what the paper describes: it concatenates the banks, projects all
of them to keys and values at every frame, and computes every similarity again. ``floor`` is the same Q-Former on the
same frames, one by one, without memory: the least that a method with one frame at a time costs. Ours runs one by one
too, and as in the encoder, ``--at-once`` frames a step; so does a second floor, with batches of the same size. All take
turns in one process. Prints medians, and the largest difference between ours and plain. In float32 they may merge
different entries where two similarities are nearly equal, so the difference is measured in float64 too.

Then, at M = 20 and on 32 frames: several prompts on the same frames, which share the visual bank, and several segments
in lock step, each compared with one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from malmm.model.families.instructblip.encoder import ROWS_AT_ONCE
from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer, OnlineState


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank-length", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=ROWS_AT_ONCE, help="frames a step (%(default)s)")
    parser.add_argument("--prompts", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--segments", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = InstructBlipQFormerConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    qformer = InstructBlipQFormerModel(config).eval()
    online = OnlineQFormer(qformer, nn.Parameter(torch.randn(1, 32, config.hidden_size)))
    # Neighbouring frames resemble each other, as in a video.
    frames = (
        torch.randn(options.frames, 257, 1408).cumsum(0)
        / torch.arange(1, options.frames + 1)[:, None, None] ** 0.5
    )
    ids = torch.randint(5, 1000, (1, 12))
    ways: dict[str, Callable[[Tensor, int], Tensor]] = {
        "plain": lambda frames, length: _plain(online, frames, ids, length),
        "one by one": lambda frames, length: _ours(online, frames, ids, length, 1),
        "ours": lambda frames, length: _ours(online, frames, ids, length, options.at_once),
        "floor": lambda frames, length: _floor(online, frames, ids, 1),
        "floor at once": lambda frames, length: _floor(online, frames, ids, options.at_once),
    }
    print(
        f"{options.frames} frames, {options.at_once} at once, {options.threads} threads, medians of "
        f"{options.rounds} rounds, in s"
    )
    print("".join(f"{name:>14}" for name in ("M", *ways, "plain/ours", "ours/floor", "difference")))
    with torch.inference_mode():
        for length in options.bank_length:
            took: dict[str, list[float]] = {name: [] for name in ways}
            outputs: dict[str, Tensor] = {}
            for _ in range(options.rounds):
                for name, run in ways.items():
                    began = time.perf_counter()
                    outputs[name] = run(frames, length)
                    took[name].append(time.perf_counter() - began)
            medians = {name: statistics.median(of_way) for name, of_way in took.items()}
            difference = (outputs["plain"] - outputs["ours"]).abs().max().item()
            print(
                f"{length:>14}{''.join(f'{median:>14.2f}' for median in medians.values())}"
                f"{medians['plain'] / medians['ours']:>14.2f}{medians['ours'] / medians['floor']:>14.2f}"
                f"{difference:>14.1e}",
                flush=True,
            )
        _several("prompts", online, frames[:32], ids, options.prompts, options.rounds)
        _several("segments", online, frames[:32], ids, options.segments, options.rounds)
        online.double()
        exact = [ways[name](frames[:30].double(), 10) for name in ("plain", "ours")]
        print(f"\nin float64, 30 frames, M = 10: difference {(exact[0] - exact[1]).abs().max().item():.1e}")


def _several(
    what: str, online: OnlineQFormer, frames: Tensor, ids: Tensor, counts: list[int], rounds: int
) -> None:
    """A row for each number of prompts or of segments, all in turns."""
    took: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            shape = (1, count) if what == "prompts" else (count, 1)
            state = online.start(
                ids.expand(*shape, -1),
                None,
                steps=len(frames),
                tokens_per_frame=frames.shape[1],
                settings=MemorySettings(length=20),
            )
            began = time.perf_counter()
            _step(online, state, frames, ROWS_AT_ONCE // (shape[0] * shape[1]))
            took[count].append(time.perf_counter() - began)
    if counts:
        print(f"\n{what:>10}{'s a frame':>12}{'more of one':>14}{'of one, each':>14}")
    for count in counts:
        one, many = (statistics.median(took[number]) / len(frames) for number in (counts[0], count))
        more = (many - one) / (count - counts[0]) / one if count > counts[0] else 0.0
        print(f"{count:>10}{many:>12.3f}{more:>14.2f}{many / count / one * counts[0]:>14.2f}", flush=True)


def _ours(online: OnlineQFormer, frames: Tensor, ids: Tensor, length: int, at_once: int) -> Tensor:
    """Output after the last frame [Q, D]."""
    state = online.start(
        ids[:, None],
        None,
        steps=len(frames),
        tokens_per_frame=frames.shape[1],
        settings=MemorySettings(length=length),
    )
    return _step(online, state, frames, at_once)[0, :32]


def _step(online: OnlineQFormer, state: OnlineState, frames: Tensor, at_once: int) -> Tensor:
    """Process all frames, ``at_once`` a step, and return the output after the last one.

    All segments see the same frames here; different frames would cost the same.
    """
    output, taken = None, 0
    for part in frames.split(max(1, at_once)):
        taken += len(part)
        frames_STNC = part.expand(state.active, -1, -1, -1).contiguous()
        output = online.step(state, frames_STNC, want_output=taken == len(frames))
    if output is None:
        raise RuntimeError("no output: there were no frames")
    return output


def _floor(online: OnlineQFormer, frames: Tensor, ids: Tensor, at_once: int) -> Tensor:
    """The Q-Former on frames by themselves, ``at_once`` a call."""
    mask = torch.ones(1, 32 + ids.shape[1], dtype=torch.long)
    for part in frames.split(at_once):
        output = online.qformer(
            input_ids=ids.expand(len(part), -1),
            attention_mask=mask.expand(len(part), -1),
            query_embeds=online.query_tokens.expand(len(part), -1, -1),
            encoder_hidden_states=part,
        ).last_hidden_state
    return output[-1, :32]


def _compress(bank_TNC: Tensor, size_TN: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the most similar neighbours of every position; all similarities are recomputed."""
    pair_1N = F.cosine_similarity(bank_TNC[:-1], bank_TNC[1:], dim=-1).argmax(0, keepdim=True)
    place_T1 = torch.arange(len(bank_TNC) - 1)[:, None]
    source_TN = place_T1 + (place_T1 > pair_1N)
    channels = bank_TNC.shape[-1]
    weighted = bank_TNC * size_TN[..., None]
    kept = weighted.gather(0, source_TN[..., None].expand(-1, -1, channels))
    sizes = size_TN.gather(0, source_TN)
    gone = weighted.gather(0, (pair_1N + 1)[..., None].expand(-1, -1, channels))
    kept.scatter_add_(0, pair_1N[..., None].expand(-1, -1, channels), gone)
    sizes.scatter_add_(0, pair_1N, size_TN.gather(0, pair_1N + 1))
    return kept / sizes[..., None], sizes


def _plain(online: OnlineQFormer, frames: Tensor, ids: Tensor, length: int) -> Tensor:
    """Section 3 of the paper as it is written, over the same weights."""
    qformer, heads = online.qformer, online.heads
    layers = qformer.encoder.layer
    visual, visual_size = frames[:0], frames.new_zeros(0, frames.shape[1])
    query: list[Tensor] = []
    query_size: list[Tensor] = []

    def attend(inner: Any, hidden: Tensor, memory: Tensor) -> Tensor:
        split = [
            x.view(len(x), heads, -1).transpose(0, 1)
            for x in (inner.query(hidden), inner.key(memory), inner.value(memory))
        ]
        return F.scaled_dot_product_attention(*(x[None] for x in split))[0].transpose(0, 1).flatten(1)

    embedded = qformer.embeddings(input_ids=ids, query_embeds=online.query_tokens)[0]
    for frame in frames:
        visual = torch.cat([visual, frame[None]])
        visual_size = torch.cat([visual_size, frame.new_ones(1, frame.shape[0])])
        hidden = embedded
        for place, layer in enumerate(layers):
            if len(query) <= place:
                query.append(hidden[None])
                query_size.append(hidden.new_ones(1, len(hidden)))
            else:
                query[place] = torch.cat([query[place], hidden[None]])
                query_size[place] = torch.cat([query_size[place], hidden.new_ones(1, len(hidden))])
            context = attend(layer.attention.attention, hidden, query[place].flatten(0, 1))
            hidden = layer.attention.output(context, hidden)
            asking, text = hidden[:32], hidden[32:]
            if layer.has_cross_attention:
                context = attend(layer.crossattention.attention, asking, visual.flatten(0, 1))
                asking = layer.crossattention.output(context, asking)
            hidden = torch.cat([layer.feed_forward_chunk_query(asking), layer.feed_forward_chunk(text)])
            if len(query[place]) > length:
                query[place], query_size[place] = _compress(query[place], query_size[place])
        if len(visual) > length:
            visual, visual_size = _compress(visual, visual_size)
    return hidden[:32]


if __name__ == "__main__":
    main()
