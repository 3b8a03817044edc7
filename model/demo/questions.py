"""Questions about a drawn video, each with its one right answer.

A question is asked only if it has one answer: "what colour is the circle" needs all circles of the video to have one
colour. Answers are compared as strings.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from malmm.model.demo.world import COLOURS, SHAPES, Object, Scene

__all__ = [
    "DESCRIBE",
    "KINDS",
    "NUMBERS",
    "PROMPTS",
    "STILL",
    "THIRDS",
    "Question",
    "describe_object",
    "description",
    "questions",
    "sampled",
]

DESCRIBE = "describe"
# A scene is called early, central or late when at least this share of it lies in one third of the video.
_WITHIN_A_THIRD = 0.75
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
THIRDS = ("at the beginning", "in the middle", "near the end")
STILL = "it does not move"


@dataclass(frozen=True)
class Question:
    """A ``prompt`` and its ``answer``; ``kind`` is one of ``KINDS``, ``scene`` the scene that it is about, or None."""

    kind: str
    prompt: str
    answer: str
    scene: int | None = None


PROMPTS: dict[str, tuple[str, ...]] = {
    DESCRIBE: (
        "Write a short description of the video.",
        "Describe the video.",
        "What happens in the video?",
    ),
    "colour": ("What colour is the {x}?", "Which colour is the {x}?", "What color is the {x}?"),
    "shape": ("What shape is the {x} object?", "Which shape is the {x} object?"),
    "first": ("What appears first?", "What is seen first?"),
    "last": ("What appears last?", "What is seen last?"),
    "before": ("What appears before the {x}?", "What is seen before the {x}?"),
    "after": ("What appears after the {x}?", "What is seen after the {x}?"),
    "exists": ("Does a {x} appear?", "Is there a {x}?"),
    "count": ("How many objects appear?", "How many objects are there?"),
    "motion": ("Which way does the {x} move?", "Where does the {x} go?"),
    "when": ("When does the {x} appear?", "When is the {x} seen?"),
}
"""How each kind is put; the first wording is the one that is scored."""

KINDS = tuple(PROMPTS)


def describe_object(thing: Object, *, motion: bool = True) -> str:
    """A description of an object, such as ``a red circle moving left``."""
    return f"a {thing.name}" + (f" moving {thing.motion}" if motion and thing.motion != "still" else "")


def _objects(scene: Scene, *, motion: bool = False) -> str:
    return " and ".join(describe_object(thing, motion=motion) for thing in scene.objects)


def description(scenes: Sequence[Scene]) -> str:
    """The whole video in one sentence, scene by scene, objects from left to right."""
    return ", then ".join(_objects(scene, motion=True) for scene in scenes)


def questions(scenes: Sequence[Scene], wording: random.Random | None = None) -> list[Question]:
    """All questions with one right answer, in the first wording of their kind, or in a random one."""
    asked: list[Question] = []

    def ask(kind: str, answer: str, x: str = "", scene: int | None = None) -> None:
        prompt = PROMPTS[kind][0] if wording is None else wording.choice(PROMPTS[kind])
        asked.append(Question(kind, prompt.format(x=x), answer, scene))

    ask(DESCRIBE, description(scenes))

    seen = [(place, thing) for place, scene in enumerate(scenes) for thing in scene.objects]
    for shape in SHAPES:
        alike = [(place, thing.colour) for place, thing in seen if thing.shape == shape]
        if len({colour for _, colour in alike}) == 1:
            ask("colour", alike[0][1], shape, alike[0][0])
    for colour in COLOURS:
        alike = [(place, thing.shape) for place, thing in seen if thing.colour == colour]
        if len({shape for _, shape in alike}) == 1:
            ask("shape", alike[0][1], colour, alike[0][0])
    ask("first", _objects(scenes[0]), scene=0)
    ask("last", _objects(scenes[-1]), scene=len(scenes) - 1)
    distinct = {thing.name for _, thing in seen}
    if len(distinct) <= len(NUMBERS):
        ask("count", NUMBERS[len(distinct) - 1])
    for name in sorted(distinct):
        places = [place for place, thing in seen if thing.name == name]
        if len(places) > 1:
            continue
        place = places[0]
        thing = next(thing for thing in scenes[place].objects if thing.name == name)
        if place > 0:
            ask("before", _objects(scenes[place - 1]), name, place)
        if place + 1 < len(scenes):
            ask("after", _objects(scenes[place + 1]), name, place)
        ask("motion", STILL if thing.motion == "still" else thing.motion, name, place)
        third = _third(scenes, place)
        if third is not None:
            ask("when", THIRDS[third], name, place)
    absent = _nearly_present(distinct, salt=asked[0].answer)
    # As many that are there as that are not.
    count = min(len(absent), len(distinct))
    for name in sorted(distinct)[:count]:
        ask("exists", "yes", name, next(place for place, thing in seen if thing.name == name))
    for name in absent[:count]:
        ask("exists", "no", name)
    return asked


def sampled(asked: Sequence[Question], count: int) -> list[Question]:
    """At most ``count`` of these questions, without the description, the same in every run."""
    others = [question for question in asked if question.kind != DESCRIBE]
    chance = random.Random(str([question.answer for question in others]))  # noqa: S311
    return chance.sample(others, min(count, len(others)))


def _third(scenes: Sequence[Scene], place: int) -> int | None:
    start, end = scenes[0].start_s, scenes[-1].end_s
    third = (end - start) / 3
    scene = scenes[place]
    for index in range(3):
        low = start + index * third
        inside = min(scene.end_s, low + third) - max(scene.start_s, low)
        if inside >= _WITHIN_A_THIRD * (scene.end_s - scene.start_s):
            return index
    return None


def _nearly_present(distinct: set[str], salt: str) -> list[str]:
    """Objects that do not appear; first the hardest to deny, whose colour and shape both appear."""

    def order(name: str) -> tuple[int, int]:
        colour, shape = name.split()
        return -(colour in colours) - (shape in shapes), zlib.crc32((salt + name).encode())

    colours = {name.split()[0] for name in distinct}
    shapes = {name.split()[1] for name in distinct}
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in distinct]
    return sorted(absent, key=order)
