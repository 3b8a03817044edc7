"""Measure searches for words minus words: how often the best slots show the one and not the other.

The videos and slots are those of ``slot_vectors``. A query is a shape without one of its colours, or a thing without
another that is seen beside it. Of the five best slots, or of as many as fit if those are fewer, some are right: they
lie in a scene with what was asked for and without the other; and some are unwanted: they lie in a scene with the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from slot_vectors import Drawn, remembered, shares

from malmm.model.demo.world import COLOURS, SHAPES, Scene
from malmm.pipeline.searching.combined import Combination, Part

Look = tuple[str, str]
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
KINDS = ("BLIP-2, several", "mean of its span's frames")


@dataclass(frozen=True)
class Query:
    """Words and unwanted words, and the numbers of the scenes that are right and that show the unwanted."""

    words: str
    unwanted_words: str
    right: set[int]
    unwanted: set[int]


def main() -> None:
    """Draw, remember, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=4, help="of five minutes each (%(default)s)")
    drawn, encode = remembered(parser.parse_args().videos)
    scenes = [(video, scene) for video, own in enumerate(drawn.truth) for scene in own]
    groups = {"a shape, not of a colour": of_shapes(scenes), "a thing, not one beside it": of_pairs(scenes)}
    texts = sorted(
        {
            text
            for queries in groups.values()
            for each in queries
            for text in (each.words, each.unwanted_words)
        }
    )
    vectors = dict(zip(texts, encode(texts), strict=True))
    print("| a slot's vectors | asked | way | first right | right | unwanted |\n|---|---|---|---|---|---|")
    for kind in KINDS:
        slots = np.concatenate(drawn.vectors[kind]).astype(np.float32)
        for group, queries in groups.items():
            for way, score in ways(slots).items():
                cells = measured(drawn, scenes, queries, vectors, score)
                print(f"| {kind} | {group} ({len(queries)}) | {way} | {cells}", flush=True)


def looks(scene: Scene) -> set[Look]:
    """Colour and shape of what a scene shows."""
    return {(thing.colour, thing.shape) for thing in scene.objects}


def of_shapes(scenes: list[tuple[int, Scene]]) -> list[Query]:
    """Each shape without each of its colours."""
    queries = []
    for shape in SHAPES:
        for colour in COLOURS:
            unwanted = {at for at, (_, scene) in enumerate(scenes) if (colour, shape) in looks(scene)}
            right = {
                at for at, (_, scene) in enumerate(scenes) if shape in {s for _, s in looks(scene)}
            } - unwanted
            if right and unwanted:
                queries.append(Query(f"a {shape}", f"a {colour} {shape}", right, unwanted))
    return queries


def of_pairs(scenes: list[tuple[int, Scene]]) -> list[Query]:
    """Each thing without each other that is beside it in some scenes and not in others."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    queries = []
    for one in things:
        there = {at for at, (_, scene) in enumerate(scenes) if one in looks(scene)}
        for other in things:
            both = {at for at in there if other != one and other in looks(scenes[at][1])}
            if both and there - both:
                queries.append(Query(f"a {' '.join(one)}", f"a {' '.join(other)}", there - both, both))
    return queries


def ways(slots: np.ndarray) -> dict[str, Score]:
    """Ways to score slots [S, Q, V] by the vectors of words and of unwanted words."""
    sample = slots[np.random.default_rng(0).permutation(len(slots))[:256]]

    def cosines(vector: np.ndarray) -> np.ndarray:
        return (slots @ vector).max(axis=1)

    def by_vector(words: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
        return cosines(words - 0.5 * unwanted)

    def by_cosine(words: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
        return cosines(words) - cosines(unwanted)

    def combined(words: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
        parts = (Part("words", words), Part("unwanted", unwanted, is_wanted=False))
        return Combination(parts, sample).scores(np.stack([cosines(words), cosines(unwanted)]))

    return {
        "without the negative": lambda words, unwanted: cosines(words),
        "vector minus half of the other": by_vector,
        "cosine minus the other's": by_cosine,
        "as malmm search does": combined,
    }


def measured(
    drawn: Drawn,
    scenes: list[tuple[int, Scene]],
    queries: list[Query],
    vectors: dict[str, np.ndarray],
    score: Score,
) -> str:
    """The three shares, as cells of a table."""
    at = [
        {
            place
            for place, (video, scene) in enumerate(scenes)
            if shares(span, (video, scene.start_s, scene.end_s))
        }
        for span in drawn.spans
    ]
    cells = []
    for query in queries:
        fits = np.array([bool(there & query.right) and not there & query.unwanted for there in at])
        wrong = np.array([bool(there & query.unwanted) for there in at])
        order = np.argsort(-score(vectors[query.words], vectors[query.unwanted_words]))
        best = order[: max(1, min(5, int(fits.sum())))]
        cells.append((fits[best[0]], fits[best].mean(), wrong[best].mean()))
    return " | ".join(f"{share:.0%}" for share in np.mean(cells, axis=0)) + " |"


if __name__ == "__main__":
    main()
