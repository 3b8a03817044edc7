"""Measure what may stand for a slot whose retrieval model sees frames, and relevance by an archive's own slots.

The demo model's BLIP-2 tower stands in for a dual encoder: a frame's vector is the mean of its query vectors. Videos
are drawn in memory, of seeds that training never saw, and remembered by the demo model (M = 20, segments of 100 s). A
search is right when its first slot lies in a scene that the phrase fits, for at least half of the slot or of the scene.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from malmm.model.checkpoints.resolve import open_models
from malmm.model.demo.drawing import draw_scene
from malmm.model.demo.questions import describe_object
from malmm.model.demo.world import COLOURS, SHAPES, Scene, plan_scenes
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.memory.settings import MemorySettings
from malmm.model.memory.slots import Memory
from malmm.model.towers.blip2 import RetrievalModel
from malmm.model.towers.blip2_text import TextTower
from malmm.pipeline.searching.relevance import Background, own_background

VIDEO_S, SEGMENT_S = 300, 100
UNHEARD_OF = [f"{c} {s}" for c in ("orange", "pink", "black") for s in ("hexagon", "car", "dog", "arrow")]
Span = tuple[int, float, float]
Encode = Callable[[list[str]], np.ndarray]


@dataclass
class Drawn:
    """Scenes of each video, spans of all slots and of segments, and vectors [S, Q, V] of each segment by their kind."""

    truth: list[list[Scene]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    segments: list[Span] = field(default_factory=list)
    vectors: dict[str, list[np.ndarray]] = field(default_factory=dict)


def main() -> None:
    """Draw, remember, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=4, help="of five minutes each (%(default)s)")
    drawn, encode = remembered(parser.parse_args().videos)
    print(
        "| a slot's vector | phrases | asked | recall@1 | recall@5 | recall@10 |\n|---|---|---|---|---|---|"
    )
    for name in drawn.vectors:
        for kind in ("colour and shape", "with motion", "colour and shape, in one video"):
            ranked(drawn, encode, name, kind)
    heads = (
        "a slot's vector",
        "searched",
        "slots",
        "there",
        "found",
        "not there",
        "said so",
        "unheard of",
        "said so",
    )
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in ("mean of its span's frames", "BLIP-2, several"):
        relevance(drawn, encode, name)


def remembered(videos: int) -> tuple[Drawn, Encode]:
    """The videos' slots, and the text side."""
    models = open_models("demo")
    assert models.retrieval is not None
    encoder = Encoder.load(models.instructblip)
    assert encoder.vision is not None
    tower = RetrievalModel.load(models.retrieval, instructblip=models.instructblip, check_vision=False)
    noise, drawn, side = np.random.default_rng(1), Drawn(), encoder.vision.image_size
    for video in range(videos):
        scenes = plan_scenes(VIDEO_S, (77, video))
        drawn.truth.append(scenes)
        for start in range(0, VIDEO_S, SEGMENT_S):
            times = [start + 0.5 + second for second in range(SEGMENT_S)]
            pictures = [Image.fromarray(draw_scene(scene_at(scenes, at_s), at_s, noise)) for at_s in times]
            frames = np.stack(
                [np.asarray(p.resize((side, side), Image.Resampling.BICUBIC)) for p in pictures]
            )
            [done] = encoder.encode([frames], [["Describe the video."]], MemorySettings(20))
            with torch.inference_mode():
                seen = torch.cat(
                    [tower.slot_vectors(encoder.vision(part)) for part in torch.from_numpy(frames).split(25)]
                )
            kinds = stand_ins(done.memory, F.normalize(seen.mean(1), dim=-1))
            kinds["BLIP-2, several"] = tower.slot_vectors(done.memory.tokens)
            for name, vectors in kinds.items():
                drawn.vectors.setdefault(name, []).append(vectors.numpy())
            spans = done.memory.spans(times, start, start + SEGMENT_S)
            drawn.spans += [(video, span.start_s, span.end_s) for span in spans]
            drawn.segments.append((video, start, start + SEGMENT_S))
    return drawn, TextTower.load(models.retrieval).vectors


def scene_at(scenes: list[Scene], at_s: float) -> Scene:
    """The scene at a time."""
    return next(scene for scene in scenes if scene.start_s <= at_s < scene.end_s)


def stand_ins(memory: Memory, seen_TV: Tensor) -> dict[str, Tensor]:
    """What may stand for a slot: unit vectors [S, 1, V]."""
    spans = memory.spans(list(range(memory.appended)), 0, memory.appended)
    runs = [seen_TV[span.first : span.first + span.frame_count] for span in spans]
    shares_ST = by_tokens(memory)
    nearest = [int((run @ run.T).sum(1).argmax()) for run in runs]
    return {
        "mean of its span's frames": F.normalize(memory.frame_weights().float() @ seen_TV, dim=-1)[:, None],
        "mean by share of tokens": F.normalize(shares_ST @ seen_TV, dim=-1)[:, None],
        "medoid of its span's frames": torch.stack([run[at] for run, at in zip(runs, nearest, strict=True)])[
            :, None
        ],
        "its middle frame": seen_TV[[span.middle for span in spans]][:, None],
    }


def by_tokens(memory: Memory) -> Tensor:
    """Each frame's share [S, T] of a slot's tokens: a position is the mean of its own run of frames."""
    first, counts = memory.first, memory.sizes.long()
    shares = torch.zeros(len(memory), memory.appended)
    for slot in range(len(memory)):
        for begin, count in zip(first[slot].tolist(), counts[slot].tolist(), strict=True):
            shares[slot, begin : begin + count] += 1 / (count * first.shape[1])
    return shares


def ranked(drawn: Drawn, encode: Encode, name: str, kind: str) -> None:
    """Print how often a scene that fits is among the first slots."""
    wanted: dict[tuple[int, str], list[Span]] = {}
    for video, scenes in enumerate(drawn.truth):
        for scene in scenes:
            for thing in scene.objects:
                if kind != "with motion" or thing.motion != "still":
                    text = describe_object(thing, motion=kind == "with motion")
                    key = (video if kind.endswith("one video") else -1, text)
                    wanted.setdefault(key, []).append((video, scene.start_s, scene.end_s))
    slots = np.concatenate(drawn.vectors[name])
    videos = np.array([video for video, _, _ in drawn.spans])
    ranks = []
    for (video, text), fitting in wanted.items():
        similar = (slots @ encode([text])[0]).max(1)
        best = np.argsort(-np.where((video < 0) | (videos == video), similar, -2))[:10]
        right = [any(shares(drawn.spans[at], scene) for scene in fitting) for at in best]
        ranks.append(right.index(True) if True in right else 99)
    cells = [percent(statistics.mean(rank < k for rank in ranks)) for k in (1, 5, 10)]
    print(f"| {name} | {kind} | {len(ranks)} | {' | '.join(cells)} |", flush=True)


def shares(span: Span, scene: Span) -> bool:
    """Whether half of the span, or of the scene, is shared."""
    shared = min(span[2], scene[2]) - max(span[1], scene[1])
    return span[0] == scene[0] and shared >= min(span[2] - span[1], scene[2] - scene[1]) / 2


def relevance(drawn: Drawn, encode: Encode, name: str) -> None:
    """Print how often what is there is found, and what is not there is said not to be, by the archive's own slots."""
    parts = drawn.vectors[name]
    slots = np.concatenate(parts)
    background = own_background(slots[np.random.default_rng(0).permutation(len(slots))[:256]])
    looks = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    seen_s = np.zeros((len(parts), len(looks)))
    for row, (video, begin, end) in enumerate(drawn.segments):
        for scene in drawn.truth[video]:
            for thing in scene.objects:
                seen_s[row, looks.index(thing.name)] += max(
                    0.0, min(end, scene.end_s) - max(begin, scene.start_s)
                )
    # What is seen for a moment only, at a segment's edge, is neither there nor not.
    there, gone = seen_s >= 3, seen_s == 0
    for scope, count in (("a segment", len(parts[0])), ("the archive", len(slots))):
        known, odd = (above(encode, background, parts, things, count) for things in (looks, UNHEARD_OF))
        if scope == "a segment":
            found, missed, unheard = known[there] >= 0, known[gone] < 0, odd.ravel() < 0
        else:
            found = known.max(0)[there.any(0)] >= 0
            missed = np.where(gone, known, -np.inf).max(0) < 0
            unheard = odd.max(0) < 0
        cells = [f"{len(each)} | {percent(each.mean())}" for each in (found, missed, unheard)]
        print(f"| {name} | {scope} | {count} | {' | '.join(cells)} |", flush=True)


def above(
    encode: Encode, background: Background, parts: list[np.ndarray], things: list[str], count: int
) -> np.ndarray:
    """By how much each segment's best slot is above what it has to reach among so many, for each thing."""
    words = encode([f"a {thing}" for thing in things])
    best = np.stack([np.einsum("bv,sqv->bsq", words, part).max(axis=(1, 2)) for part in parts])
    return best - np.array([background.cosine(word, count) for word in words])


def percent(share: float) -> str:
    """Such as 95.6 %."""
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
