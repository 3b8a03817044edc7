"""Rows of made-up videos, drawn by a seed, to be put into one archive or divided among several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.location import table_uri
from malmm.pipeline.archive.text_grams import with_grams
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import Recipe
from support.archive_rows import RECIPE, VECTOR_SIZE, annotation, rows, video, video_table

__all__ = ["WORDS", "Library", "divided", "unit"]

_WORDS = (
    "red blue green car cars dog dogs running ran star stars bridge river rivers person walking élève école "
    "Katze schwarze 猫 黑色的猫 고양이 자동차 moving left right up the a is near"
)
WORDS = tuple(_WORDS.split(" "))


@dataclass(frozen=True)
class Library:
    """Videos of ``segments`` segments of ``slots`` slots each, with random vectors and texts of random words."""

    seed: int = 0
    videos: int = 12
    segments: int = 3
    slots: int = 5
    recipe: Recipe = RECIPE

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """All rows: ``videos``, ``segments``, ``memories`` and ``annotations``."""
        chance = np.random.default_rng(self.seed)
        numbers = range(self.segments)
        made = [rows(*numbers, of_video=number, slots=self.slots) for number in range(self.videos)]
        found = {name: pa.concat_tables([each[name] for each in made]) for name in made[0]}
        texts = found["annotations"].to_pylist()
        for number in range(self.videos):
            # A text of the whole video.
            texts.append(annotation(None, of_video=number, subject=video(number)))
        for text in texts:
            text["text"] = " ".join(chance.choice(WORDS, chance.integers(2, 15)))
        found["annotations"] = pa.Table.from_pylist(texts, schema=found["annotations"].schema)
        memories = found["memories"]
        vectors = unit(chance.standard_normal((memories.num_rows, 3, VECTOR_SIZE))).astype(np.float16)
        kind = memories.schema.field("vectors").type
        place = memories.schema.get_field_index("vectors")
        found["memories"] = memories.set_column(
            place, memories.schema.field(place), pa.array(vectors.tolist(), kind)
        )
        found["videos"] = video_table(*range(self.videos))
        return found

    def put(self, place: str, numbers: Iterable[int]) -> str:
        """Make an archive of some of the videos, by their numbers. Returns its address."""
        archive = Archive.create_or_open(place, self.recipe, VECTOR_SIZE)
        ids = pa.array([video(number) for number in numbers], pa.string())
        for name, table in self.tables.items():
            schema = archive.schema(name)
            here = table.filter(pa.compute.is_in(table["video_id"], value_set=ids))
            if name == "annotations":
                here = with_grams(here, schema)
            lance.write_dataset(
                here.select(schema.names).cast(schema), table_uri(archive.uri, name), mode="append"
            )
        archive.update_indexes(at_once=True)
        return place

    def queries(self, count: int) -> list[tuple[str, np.ndarray]]:
        """Words, and a unit vector [V], of each query."""
        chance = np.random.default_rng(self.seed + 1)
        vectors = unit(chance.standard_normal((count, VECTOR_SIZE))).astype(np.float32)
        return [(" ".join(chance.choice(WORDS, chance.integers(1, 5))), vector) for vector in vectors]

    def with_recipe(self, **changes: Any) -> Library:
        """The same rows by another recipe."""
        return replace(self, recipe=replace(self.recipe, **changes))


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors, of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def divided(videos: int, archives: int, seed: int) -> list[Sequence[int]]:
    """Numbers of videos by chance in so many groups, some of which may be empty."""
    homes = np.random.default_rng(seed).integers(archives, size=videos)
    return [np.flatnonzero(homes == archive).tolist() for archive in range(archives)]
