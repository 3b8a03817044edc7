"""Stage 5: train the matching head, while vectors stay what they are.

The head shares all weights but its last layer with the vectors. Trained beside them from the start, as BLIP-2's is (Li
et al., 2023), it does not leave its plateau here: the queries take nothing from the words yet, so nothing tells the
words what to say. What gets it off: nothing else to learn, more steps, pairs that are easy to tell first, and two wrong
ones for each that fits. The vectors are held to those of a copy of the model.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from malmm.model.demo.training.films import Reel
from malmm.model.demo.training.matching import (
    About,
    match_logits,
    phrase_of,
    slots_of,
    truth,
    vectors_of_slots,
    vectors_of_words,
)
from malmm.model.demo.training.optimising import Optimiser
from malmm.model.memory.positions import TimePositions
from malmm.model.towers.blip2 import RetrievalModel

__all__ = ["train_matching_head", "wrong_slots"]

# What a squared distance of vectors counts against the loss of the head.
_HOLD = 20.0
_HELD_AT_ONCE = 64
# Making memories takes longer than learning from them, so films are kept and phrases are new.
_FILMS = 700
_GOOD, _HARDER, _TEMPERATURE = 0.85, 0.25, 0.1


def train_matching_head(
    model: RetrievalModel,
    reel: Reel,
    positions: TimePositions,
    *,
    steps: int,
    films: int,
    texts: int,
    rate: float,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train in place, ``texts`` phrases about ``films`` films a step."""
    chance = random.Random(seed)  # noqa: S311 - training, not secrets
    kept = [
        slots_of(reel.film(chance.randint(1, 8), 100), positions, chance.choice((5, 10, 20, 40)))
        for _ in range(min(_FILMS, steps * films))
    ]
    held = copy.deepcopy(model).requires_grad_(False)
    optimiser = Optimiser([model], rate=rate, steps=steps, warm=60)
    seen: list[tuple[float, ...]] = []
    hard, began = 0.0, time.monotonic()
    for step in range(steps):
        dealt = chance.sample(kept, films)
        slots = torch.cat([part for part, _ in dealt])
        about = [each for _, scenes in dealt for each in scenes]
        seen.append(_learned(model, held, optimiser, slots, about, chance, texts, hard))
        if step % 100 == 99:
            loss_, moved, right = np.mean(seen[-100:], axis=0)
            say(
                f"matching head step {step + 1}/{steps} loss {loss_:.3f} right {right:.3f} vectors moved {moved:.4f} "
                f"{(time.monotonic() - began) / (step + 1):.2f} s/step"
            )
            if right > _GOOD:
                hard = min(1.0, hard + _HARDER)


def wrong_slots(score: Tensor, true: Tensor, unsure: Tensor, hard: float) -> Tensor:
    """For each phrase a slot that it is not true of [B], any one if ``hard`` is 0, else rather one of a high ``score``.

    ``score`` [S, B] are cosines, ``true`` and ``unsure`` [S, B] as ``truth`` gives them.
    """
    odds = (score * (hard / _TEMPERATURE)).softmax(0).masked_fill(true | unsure, 0)
    # A phrase that is true of all slots gets any of those that are not unsure about it.
    odds = torch.where(odds.sum(0) > 0, odds, torch.ones_like(odds))
    return torch.multinomial(odds.T, 1)[:, 0]


def _learned(
    model: RetrievalModel,
    held: RetrievalModel,
    optimiser: Optimiser,
    slots: Tensor,
    about: list[About],
    chance: random.Random,
    texts: int,
    hard: float,
) -> tuple[float, float, float]:
    """Learn from a step: the head's loss, how far vectors have moved, and the share of pairs called rightly."""
    said = [phrase_of(chance.choice(scene.objects), chance) for scene, _ in chance.choices(about, k=texts)]
    batch = model.tokenizer([text for text, _ in said], padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    true, unsure = truth(said, about)
    with torch.no_grad():
        slots_SQV, words_BV = vectors_of_slots(held, slots), vectors_of_words(held, ids, mask)
    score_SB = torch.einsum("sqv,bv->sqb", slots_SQV, words_BV).amax(1)
    right = torch.multinomial((true.float() / true.sum(0)).T, 1)[:, 0]
    wrong = [wrong_slots(score_SB, true, unsure, each) for each in (0.0, hard)]
    match = match_logits(model, slots[torch.cat([right, *wrong])], ids.repeat(3, 1), mask.repeat(3, 1))
    answer = torch.arange(3 * texts).lt(texts).long()
    loss = F.cross_entropy(match, answer, weight=torch.tensor([0.5, 1.0]))
    some = torch.randperm(len(slots))[:_HELD_AT_ONCE]
    moved = (vectors_of_slots(model, slots[some]) - slots_SQV[some]).square().sum(-1).mean()
    moved = moved + (vectors_of_words(model, ids, mask) - words_BV).square().sum(-1).mean()
    optimiser.step(loss + _HOLD * moved)
    called = match.argmax(-1) == answer
    share = (called[:texts].float().mean() + called[texts:].float().mean()) / 2
    return loss.item(), moved.item(), share.item()
