"""Stage 4: train the retrieval companion (contrastive and matching losses) on memory slots and single frames.

Like BLIP-2's first stage (Li et al., 2023), with two changes for a small world in which most phrases match several
slots: all slots that a phrase matches are positives, and pairs with a slot that is only partly of a matching scene are
left out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from malmm.model.demo.questions import PROMPTS, describe_object
from malmm.model.demo.training.films import Film, Reel, stored_memory
from malmm.model.demo.training.optimising import Optimiser
from malmm.model.demo.world import Object, Scene
from malmm.model.memory.positions import TimePositions
from malmm.model.towers.blip2 import RetrievalModel

__all__ = [
    "About",
    "Phrase",
    "background",
    "match_logits",
    "phrase_of",
    "slots_of",
    "train_matching",
    "truth",
    "vectors_of_slots",
    "vectors_of_words",
]

# A phrase: what it says of colour, shape and motion, None where it says nothing.
Phrase = tuple[str | None, str | None, str | None]
# What a slot is about: the scene in its middle, and all scenes that any position of it covers.
About = tuple[Scene, list[Scene]]
_TEMPERATURE = 0.05
# People ask as well as they search.
_QUESTIONS = 0.3


def phrase_of(thing: Object, chance: random.Random) -> tuple[str, Phrase]:
    """Words for an object, more or less precise, or a question about it, and what they say of it."""
    if chance.random() < _QUESTIONS:
        return _question_of(thing, chance)
    form = chance.random()
    if form < 0.5 or (form < 0.7 and thing.motion == "still"):
        moving = thing.motion if thing.motion != "still" else None
        return describe_object(thing), (thing.colour, thing.shape, moving)
    if form < 0.7:
        return f"a {thing.shape} moving {thing.motion}", (None, thing.shape, thing.motion)
    if form < 0.9:
        article = chance.choice(("a ", "the ", ""))
        return article + thing.name, (thing.colour, thing.shape, None)
    if form < 0.95:
        return chance.choice((f"a {thing.shape}", thing.shape)), (None, thing.shape, None)
    return chance.choice((f"something {thing.colour}", thing.colour)), (thing.colour, None, None)


def _question_of(thing: Object, chance: random.Random) -> tuple[str, Phrase]:
    """A question is found where its object is seen."""
    kind = chance.choice(("colour", "shape", "before", "after", "exists", "motion", "when"))
    wording = chance.choice(PROMPTS[kind])
    if kind == "colour":
        return wording.format(x=thing.shape), (None, thing.shape, None)
    if kind == "shape":
        return wording.format(x=thing.colour), (thing.colour, None, None)
    return wording.format(x=thing.name), (thing.colour, thing.shape, None)


def is_true(phrase: Phrase, scene: Scene) -> bool:
    """Whether the phrase matches some object of the scene."""
    return any(
        all(
            said is None or said == value
            for said, value in zip(phrase, (o.colour, o.shape, o.motion), strict=True)
        )
        for o in scene.objects
    )


def slots_of(film: Film, positions: TimePositions, length: int) -> tuple[Tensor, list[About]]:
    """Slots [S, N, C] of a film's memory, and for each its scene and all that any position of it covers."""
    memory = stored_memory(film, positions, length, 1)
    scene_at = np.searchsorted(film.begins, np.arange(len(film)), side="right") - 1
    spans = memory.spans([float(t) for t in range(len(film))], 0.0, float(len(film)))
    about = []
    for slot, span in enumerate(spans):
        first = int(memory.first[slot].min())
        last = int((memory.first[slot] + memory.sizes[slot].long()).max()) - 1
        covered = [film.scenes[i] for i in range(scene_at[first], scene_at[last] + 1)]
        about.append((film.scenes[scene_at[span.middle]], covered))
    return memory.tokens, about


@torch.inference_mode()
def background(model: RetrievalModel, reel: Reel, positions: TimePositions, *, count: int) -> Tensor:
    """Unit vectors [count, Q, V] of so many slots, four of a film."""
    found: list[Tensor] = []
    while len(found) * 4 < count:
        tokens, _ = slots_of(reel.film(8, 100), positions, 20)
        if len(tokens) >= 4:
            found.append(model.slot_vectors(tokens[:: len(tokens) // 4][:4]))
    return torch.cat(found)[:count]


def train_matching(
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
    """Train in place."""
    chance = random.Random(seed)  # noqa: S311 - training, not secrets
    optimiser = Optimiser([model], rate=rate, steps=steps, warm=100)
    seen, began = [], time.monotonic()
    for step in range(steps):
        tokens, about = [], []
        for _ in range(films):
            film = reel.film(chance.randint(1, 8), 100)
            part, scenes = slots_of(film, positions, chance.choice((5, 10, 20, 40)))
            tokens.append(part)
            about += scenes
        slots = torch.cat(tokens)
        said = [
            phrase_of(chance.choice(scene.objects), chance) for scene, _ in chance.choices(about, k=texts)
        ]
        true, unsure = truth(said, about)
        loss, first, matched = _losses(model, slots, [text for text, _ in said], true, unsure)
        optimiser.step(loss)
        seen.append((loss.item(), first, matched))
        if step % 100 == 99:
            loss_, first_, matched_ = np.mean(seen[-100:], axis=0)
            say(
                f"matching step {step + 1}/{steps} loss {loss_:.3f} recall@1 {first_:.3f} matched {matched_:.3f} "
                f"{(time.monotonic() - began) / (step + 1):.2f} s/step"
            )


def truth(said: Sequence[tuple[str, Phrase]], about: Sequence[About]) -> tuple[Tensor, Tensor]:
    """Whether each phrase is true of each slot's scene [S, B], and whether it is true only of another scene that the
    slot covers.
    """
    true = torch.tensor([[is_true(phrase, scene) for _, phrase in said] for scene, _ in about])
    touched = torch.tensor(
        [[any(is_true(phrase, other) for other in covered) for _, phrase in said] for _, covered in about]
    )
    return true, touched & ~true


def vectors_of_slots(model: RetrievalModel, slots: Tensor) -> Tensor:
    """Unit vectors [S, Q, V] of slots [S, N, C], with gradients."""
    queries = model.query_tokens.expand(len(slots), -1, -1)
    seen = model.qformer(query_embeds=queries, encoder_hidden_states=slots).last_hidden_state
    return F.normalize(model.vision_projection(seen), dim=-1)


def vectors_of_words(model: RetrievalModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors [B, V] of texts, with gradients."""
    read = model.qformer(
        query_embeds=model.embeddings(input_ids=ids), query_length=0, attention_mask=mask
    ).last_hidden_state
    return F.normalize(model.text_projection(read[:, 0]), dim=-1)


def match_logits(model: RetrievalModel, slots: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The matching head's logits [B, 2] of pairs of a slot and a text, with gradients."""
    queries = model.query_tokens.expand(len(slots), -1, -1)
    count = queries.shape[1]
    both = model.qformer(
        query_embeds=model.embeddings(input_ids=ids, query_embeds=queries),
        query_length=count,
        attention_mask=torch.cat([mask.new_ones(len(slots), count), mask], dim=1),
        encoder_hidden_states=slots,
    ).last_hidden_state[:, :count]
    return model.itm_head(both).mean(1)


def _losses(
    model: RetrievalModel, slots: Tensor, texts: list[str], true: Tensor, unsure: Tensor
) -> tuple[Tensor, float, float]:
    batch = model.tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    vectors_SQV, words_BV = vectors_of_slots(model, slots), vectors_of_words(model, ids, mask)
    score_SB = torch.einsum("sqv,bv->sqb", vectors_SQV, words_BV).amax(1)
    logits_SB = (score_SB / _TEMPERATURE).masked_fill(unsure, -torch.inf)
    hit_SB = logits_SB.masked_fill(~true, -torch.inf)
    by_text = (logits_SB.logsumexp(0) - hit_SB.logsumexp(0)).mean()
    told = true.any(1)
    by_slot = (logits_SB[told].logsumexp(1) - hit_SB[told].logsumexp(1)).mean()
    with torch.no_grad():
        first = true.gather(0, logits_SB.argmax(0)[None]).float().mean().item()
        wrong_SB = (logits_SB / 2).masked_fill(true, -torch.inf).softmax(0)
        right_SB = true.float() / true.sum(0)
        chosen = torch.cat([torch.multinomial(right_SB.T, 1)[:, 0], torch.multinomial(wrong_SB.T, 1)[:, 0]])
    answer = torch.cat([torch.ones(len(texts)), torch.zeros(len(texts))]).long()
    match = match_logits(model, slots[chosen], ids.repeat(2, 1), mask.repeat(2, 1))
    loss = by_text + by_slot + F.cross_entropy(match, answer)
    return loss, first, (match.argmax(-1) == answer).float().mean().item()
