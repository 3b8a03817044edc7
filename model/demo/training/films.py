"""Training videos made of the pool's scenes, as visual tokens, and their memory in the banks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from malmm.model.demo.training.lessons import scene_of
from malmm.model.demo.training.pool import ABSENT, Pool
from malmm.model.demo.world import Scene
from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.positions import TimePositions
from malmm.model.memory.slots import Memory, merge_memories

__all__ = ["Film", "Reel", "online_memory", "plain_memories", "stored_memory"]


@dataclass(frozen=True)
class Film:
    """A video of T frames: visual tokens [T, N, C] without positions, its scenes, and their first frames."""

    tokens: Tensor
    scenes: list[Scene]
    begins: list[int]
    attributes: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


class Reel:
    """Deals films from a pool whose frames went through the vision encoder once."""

    def __init__(self, pool: Pool, tokens: Tensor, chance: random.Random) -> None:
        self.attributes = pool.attributes
        self.begins = pool.begins
        self.tokens = tokens
        self.chance = chance
        looks = pool.attributes[:, :, 0] * 100 + pool.attributes[:, :, 1]
        self._looks = [set(row.tolist()) for row in looks]
        self._none = ABSENT[0] * 100 + ABSENT[1]

    def film(self, scenes: int, longest: int) -> Film:
        """A film of ``scenes`` random scenes; fewer if they would have more than ``longest`` frames together.

        No object appears twice.
        """
        chosen: list[tuple[int, int]] = []
        seen: set[int] = set()
        total = 0
        while len(chosen) < scenes:
            number = self.chance.randrange(len(self.attributes))
            looks = self._looks[number] - {self._none}
            if looks & seen:
                continue
            length = int(self.begins[number + 1] - self.begins[number])
            # A video's last scene may be cut short.
            if total + length > longest:
                if chosen and longest - total < 3:
                    break
                length = max(1, longest - total)
            seen |= looks
            chosen.append((number, length))
            total += length
            if total >= longest:
                break
        begins = np.cumsum([0, *(length for _, length in chosen)]).tolist()
        parts = [self.tokens[self.begins[n] : self.begins[n] + length] for n, length in chosen]
        attributes = self.attributes[[n for n, _ in chosen]]
        made = [
            scene_of(attributes[place].tolist(), float(begins[place]), float(begins[place + 1]))
            for place in range(len(chosen))
        ]
        return Film(torch.cat(parts).float(), made, begins[:-1], torch.from_numpy(attributes))


@torch.no_grad()
def online_memory(films: Sequence[Tensor], length: int) -> list[Tensor]:
    """The visual bank's entries [S, N, C] at each film's last frame.

    ``films`` are tokens [T, N, C] of frames, with positions, ordered from the longest film to the shortest.
    """
    return [entries.tokens for entries in _shown(films, length).entries()]


@torch.no_grad()
def stored_memory(film: Film, positions: TimePositions, length: int, segments: int) -> Memory:
    """A film's memory as an archive would store it, cut into equal ``segments``, without positions."""
    memories = []
    for tokens in _segments(film, segments):
        placed = tokens + positions.of_frames(len(tokens))[:, None]
        memories.append(_rounded(positions.removed(_finished([placed], length)[0])))
    if len(memories) == 1:
        return memories[0]
    total, before, placed_parts = len(film), 0, []
    for memory in memories:
        placed_parts.append(positions.added(memory, before=before, total=total))
        before += memory.appended
    return positions.removed(merge_memories(placed_parts, length=length))


@torch.no_grad()
def plain_memories(films: Sequence[Film], length: int, segments: int = 1) -> list[Memory]:
    """``stored_memory`` of films for a family without positions, in lock step."""
    parts = [_segments(film, segments) for film in films]
    every = [tokens for part in parts for tokens in part]
    order = sorted(range(len(every)), key=lambda place: -len(every[place]))
    made: dict[int, Memory] = {}
    if every:
        finished = _finished([every[place] for place in order], length)
        made = {place: _rounded(memory) for place, memory in zip(order, finished, strict=True)}
    memories, begin = [], 0
    for part in parts:
        own = [made[place] for place in range(begin, begin + len(part))]
        memories.append(own[0] if len(own) == 1 else _rounded(merge_memories(own, length=length)))
        begin += len(part)
    return memories


def _segments(film: Film, count: int) -> list[Tensor]:
    edges = [len(film) * part // count for part in range(count + 1)]
    return [film.tokens[begin:end] for begin, end in itertools.pairwise(edges) if end > begin]


def _finished(films: Sequence[Tensor], length: int) -> list[Memory]:
    """The memories of a bank that was shown films [T, N, C], which are ordered from the longest to the shortest."""
    return [Memory.of(entries) for entries in _shown(films, length).finish()]


def _shown(films: Sequence[Tensor], length: int) -> Bank:
    """A bank that was shown films [T, N, C], which are ordered from the longest to the shortest."""
    bank = Bank(
        rows=len(films),
        length=length,
        steps=len(films[0]),
        positions=films[0].shape[1],
        channels=films[0].shape[2],
        policy=merge_policy("token"),
        device="cpu",
        dtype=torch.float32,
    )
    for step in range(len(films[0])):
        active = sum(len(film) > step for film in films)
        if active < bank.active:
            bank.retire(active)
        bank.append(torch.stack([film[step] for film in films[:active]]))
    return bank


def _rounded(memory: Memory) -> Memory:
    return Memory(memory.tokens.half().float(), memory.sizes, memory.first, memory.appended)
