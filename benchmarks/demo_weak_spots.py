"""Where the demo model is weak: counting, its matching head, and the query bank without the visual one.

    python benchmarks/demo_weak_spots.py WORK_DIR [--model DIR] [--spots counting marks ...] [--videos 50]

On the videos of ``demo_model.py``'s tables 2, 3 and 7, in the same WORK_DIR. Prints tables in Markdown.
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from demo_bench import Bench, Clip, chosen
from demo_model import percent, table
from torch import Tensor

from malmm.model.demo.questions import DESCRIBE, NUMBERS, describe_object
from malmm.model.demo.training.lessons import window_weights
from malmm.model.demo.training.matching import is_true
from malmm.model.demo.world import COLOURS, MOTIONS, SHAPES, Object, Scene
from malmm.model.families.instructblip.qformer import MemorySettings

_LENGTHS = (10, 20)
_COLOURS = list(COLOURS)


def listed(text: str) -> int:
    """How many objects a description lists."""
    return len(text.replace(", then ", " and ").split(" and "))


def counting(clips: Sequence[Clip], bench: Bench) -> None:
    """By number of objects: is the count right, how far off, and does the description list as many."""
    for length in _LENGTHS:
        rows: defaultdict[int, list[tuple[int, int, bool]]] = defaultdict(list)
        for clip in clips:
            asked = [question for question in clip.questions if question.kind in ("count", DESCRIBE)]
            if len(asked) < 2:
                continue
            texts = bench.online(clip, asked, MemorySettings(length))[0]
            said = {q.kind: (q.answer, text) for q, text in zip(asked, texts, strict=True)}
            truth, count = said["count"]
            whole, told = said[DESCRIBE]
            number = NUMBERS.index(count) + 1 if count in NUMBERS else 0
            rows[NUMBERS.index(truth) + 1].append((number, listed(told), told == whole))
        every = [(truth, *row) for truth, of_number in rows.items() for row in of_number]
        cells = [_counted(f"{truth}", [(truth, *row) for row in rows[truth]]) for truth in sorted(rows)]
        table(
            f"Counting, M = {length}",
            [
                "objects",
                "videos",
                "count right",
                "mean error",
                "description lists as many",
                "description right",
            ],
            [*cells, _counted("all", every)],
        )


def _counted(name: str, rows: Sequence[tuple[int, int, int, bool]]) -> list[str]:
    return [
        name,
        f"{len(rows)}",
        percent(statistics.mean(count == truth for truth, count, _, _ in rows)),
        f"{statistics.mean(count - truth for truth, count, _, _ in rows):+.2f}",
        percent(statistics.mean(told == truth for truth, _, told, _ in rows)),
        percent(statistics.mean(whole for _, _, _, whole in rows)),
    ]


def marks(clips: Sequence[Clip], bench: Bench) -> None:
    """Whether a linear probe of a window and its neighbours tells what the language model may count by."""
    found_VWD = F.pad(written(clips, bench, MemorySettings(10)), (0, 0, 1, 1))
    near_VWX = torch.cat([found_VWD[:, :-2], found_VWD[:, 1:-1], found_VWD[:, 2:]], dim=-1)
    scene_VW = scenes_of_windows(clips, near_VWX.shape[1])
    begins_VW = F.pad(scene_VW[:, 1:] != scene_VW[:, :-1], (1, 0), value=True)
    pairs_VW = of_scenes(clips, scene_VW, lambda scene: len(scene.objects) - 1).bool()
    rows = []
    for name, truth_VW in (("two objects are seen", pairs_VW), ("a scene begins", begins_VW)):
        # The first window always begins a scene, which needs no mark.
        true_VW = truth_VW[:, 1:]
        told_VW = probed(near_VWX[:, 1:], true_VW.long(), 2).bool()
        share = true_VW.float().mean().item()
        rows.append(
            [
                name,
                percent((told_VW == true_VW).float().mean().item()),
                percent(max(share, 1 - share)),
                percent(told_VW[true_VW].float().mean().item()),
            ]
        )
    table(
        f"What a linear probe reads from windows of {len(clips)} videos, M = 10",
        ["", "windows told rightly", "always the commoner", "found where it is so"],
        rows,
    )


def written(clips: Sequence[Clip], bench: Bench, settings: MemorySettings) -> Tensor:
    """Query outputs [V, W, D], one for each window of relative time."""
    outputs = []
    for clip in clips:
        encoded = bench.encoder.encode([clip.frames], [["Describe the video."]], settings)[0]
        assert encoded.query_output is not None
        outputs.append(encoded.query_output[0])
    return torch.stack(outputs)


def scenes_of_windows(clips: Sequence[Clip], windows: int) -> Tensor:
    """Which scene fills most of each window [V, W]."""
    rows = []
    for clip in clips:
        starts = [round(scene.start_s) for scene in clip.scenes]
        rows.append(window_weights(starts, round(clip.seconds), windows).argmax(1))
    return torch.stack(rows)


def of_scenes(clips: Sequence[Clip], scene_VW: Tensor, value: Callable[[Scene], int]) -> Tensor:
    """What each window's scene has [V, W]."""
    values = [torch.tensor([value(scene) for scene in clip.scenes]) for clip in clips]
    return torch.stack([of_clip[row] for of_clip, row in zip(values, scene_VW, strict=True)])


def probed(seen_VWX: Tensor, truth_VW: Tensor, classes: int) -> Tensor:
    """What one linear probe for all windows says of each [V, W]. Half of the videos fit it, the others are asked,
    and the other way round.
    """
    told_VW = torch.empty_like(truth_VW)
    halves = torch.arange(len(truth_VW)) % 2 == 0
    for fit_V in (halves, ~halves):
        known_NX, target_NC = seen_VWX[fit_V].flatten(0, 1), F.one_hot(truth_VW[fit_V].flatten(), classes)
        mean_X, share_C = known_NX.mean(0), target_NC.float().mean(0)
        centred_NX = known_NX - mean_X
        gram_XX = centred_NX.T @ centred_NX + torch.eye(len(mean_X))
        weights_XC = torch.linalg.solve(gram_XX, centred_NX.T @ (target_NC - share_C))
        told_VW[~fit_V] = ((seen_VWX[~fit_V] - mean_X) @ weights_XC + share_C).argmax(-1)
    return told_VW


def others_of(thing: Object, chance: random.Random) -> Iterator[tuple[str, Object]]:
    """The object with one thing about it changed, and with all of them."""
    colour = chance.choice([value for value in COLOURS if value != thing.colour])
    shape = chance.choice([value for value in SHAPES if value != thing.shape])
    moving = [value for value in MOTIONS if value not in (thing.motion, "still")]
    motion = chance.choice(moving)
    yield "another colour", replace(thing, colour=colour)
    yield "another shape", replace(thing, shape=shape)
    if thing.motion != "still":
        yield "another direction", replace(thing, motion=motion)
    yield "all three others", replace(thing, colour=colour, shape=shape, motion=motion)


def matching(clips: Sequence[Clip], bench: Bench) -> None:
    """The matching head and the vectors on slots of one scene: phrases that fit against others made from them."""
    model = bench.retrieval
    assert model is not None, "the model has no retrieval companion"
    chance = random.Random(1)
    slots: list[Tensor] = []
    pairs: defaultdict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for clip in clips:
        memory = bench.segments(clip, 60, MemorySettings(20))[0]
        spans = memory.spans(clip.times_s, 0.0, clip.seconds)
        for slot, span in zip(memory.tokens, spans, strict=True):
            scene = _only_scene(clip.scenes, span.start_s, span.end_s)
            if scene is None:
                continue
            thing = chance.choice(scene.objects)
            for name, other in others_of(thing, chance):
                if not is_true((other.colour, other.shape, other.motion), scene):
                    pairs[name].append((len(slots), describe_object(thing), describe_object(other)))
            slots.append(slot)
    rows = []
    for name, some in pairs.items():
        tokens = torch.stack([slots[place] for place, _, _ in some])
        fits, others = [fit for _, fit, _ in some], [other for _, _, other in some]
        head = [torch.cat([model.match(t, x) for t, x in _parts(tokens, said)]) for said in (fits, others)]
        seen = torch.cat([model.slot_vectors(part) for part in tokens.split(256)])
        cosine = [
            torch.einsum("bqv,bv->bq", seen, model.text_vectors(said)).amax(1) for said in (fits, others)
        ]
        called = ((head[0] > 0.5).float().mean() + (head[1] <= 0.5).float().mean()).item() / 2
        above = [percent((a > b).float().mean().item()) for a, b in (head, cosine)]
        rows.append([name, f"{len(some)}", percent(called), *above])
    table(
        "The matching head, M = 20: a phrase that fits a slot against the same with",
        ["", "pairs", "called rightly", "head: fitting one higher", "cosine: fitting one higher"],
        rows,
    )


def _parts(tokens: Tensor, texts: Sequence[str]) -> Iterator[tuple[Tensor, Sequence[str]]]:
    for begin in range(0, len(texts), 256):
        yield tokens[begin : begin + 256], texts[begin : begin + 256]


def _only_scene(scenes: Sequence[Scene], start_s: float, end_s: float) -> Scene | None:
    """The scene within which a slot lies, if there is one."""
    return next((scene for scene in scenes if scene.start_s <= start_s and end_s <= scene.end_s), None)


def query_bank(clips: Sequence[Clip], bench: Bench) -> None:
    """What a linear probe says of the colour of the first object, in windows of the first, second and last scene.

    Chance is one in six.
    """
    rows = []
    for name, settings in {
        "no bank": MemorySettings(10, visual=False, query=False),
        "query bank only": MemorySettings(10, visual=False),
        "visual bank only": MemorySettings(10, query=False),
        "both banks": MemorySettings(10),
    }.items():
        seen_VWD = written(clips, bench, settings)
        scene_VW = scenes_of_windows(clips, seen_VWD.shape[1])
        colour_VW = of_scenes(clips, scene_VW, lambda scene: _COLOURS.index(scene.objects[0].colour))
        right_VW = (probed(seen_VWD, colour_VW, len(_COLOURS)) == colour_VW).float()
        last_V = torch.tensor([len(clip.scenes) - 1 for clip in clips])
        chosen = (scene_VW == 0, scene_VW == 1, scene_VW == last_V[:, None])
        rows.append([name, *(percent(right_VW[those].mean().item()) for those in chosen)])
    table(
        f"What a linear probe reads of colour from windows of {len(clips)} videos, M = 10",
        ["", "first scene", "second scene", "last scene"],
        rows,
    )


SPOTS = {"counting": counting, "marks": marks, "matching": matching, "query-bank": query_bank}


def main() -> None:
    """Measure and print the tables."""
    bench, spots = chosen(__doc__, "--spots", SPOTS)
    clips = bench.clips("several", 60, bench.videos, lambda scenes: 4 <= scenes <= 6)
    for spot in spots:
        SPOTS[spot](clips, bench)


if __name__ == "__main__":
    main()
