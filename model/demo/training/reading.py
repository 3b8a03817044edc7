"""Plain family, stage 2: train the language model to answer from the slots of a memory bank.

Every example goes through the shipped bank, is rounded as an archive rounds it, and is written into a prompt by the
family's own code. A share of the films is shown as frames picked at equal distances, so that the model can be scored
on those as fairly as on memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from malmm.model.demo.questions import Question
from malmm.model.demo.training.films import Film, Reel, plain_memories
from malmm.model.demo.training.lessons import Tokens, ask
from malmm.model.demo.training.optimising import Optimiser
from malmm.model.demo.training.progress import Progress
from malmm.model.demo.training.speaking import answer_loss
from malmm.model.families.family import Slots
from malmm.model.families.smolvlm import WORDING
from malmm.model.memory.slots import Memory

__all__ = ["PARTS", "Chat", "Part", "evenly", "shown_as", "slots_of", "train_reading"]

_BANK_LENGTHS = (5, 8, 10, 10, 14, 20)
_MOST_FRAMES = 110
_MOST_SCENES = 9
_GOOD = 0.7
# A segment need not begin where its video does.
_IN_ITS_MIDST, _LATEST_S = 0.1, 1200
_EVENLY, _MERGED = 0.2, 0.1


@dataclass(frozen=True)
class Part:
    """A part of the stage: films of up to ``scenes`` scenes at first, and one more whenever most answers are right.

    ``films`` are those of a step. Small steps at first: what the connector writes is what the language model knew.
    """

    steps: int
    rate: float
    scenes: int
    films: int


PARTS = (
    Part(60, 2e-3, 2, 6),
    Part(60, 2e-3, 4, 6),
    Part(100, 1.5e-3, 6, 8),
    Part(300, 1.5e-3, 9, 12),
    Part(1200, 1.5e-3, 9, 24),
)


class Chat:
    """The ids of films and questions, as the shipped code writes them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens = Tokens(tokenizer, tokenizer)
        asked = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": ""}]}]
        text = tokenizer.apply_chat_template(
            asked, chat_template=WORDING.template, tokenize=False, add_generation_prompt=True
        )
        self.before, self.after = str(text).split(WORDING.placeholder)
        self.visual = int(tokenizer.convert_tokens_to_ids(WORDING.token))

    def film_ids(self, slots: Slots) -> list[int]:
        """Ids of the text up to the question, with a placeholder for each visual token."""
        return list(self.tokenizer(self.before + WORDING.seen(slots))["input_ids"])

    def question(self, question: Question) -> Question:
        """The question with the text of the template that follows it."""
        return replace(question, prompt=question.prompt + self.after)

    def prefix(self, model: LlamaForCausalLM, films: Sequence[Slots]) -> tuple[Tensor, Tensor]:
        """Embeddings [V, P, D] of films, padded at the end, and which of them are there [V, P]."""
        rows = [torch.tensor(self.film_ids(slots)) for slots in films]
        ids = pad_sequence(rows, batch_first=True, padding_value=-1)
        embeds = model.get_input_embeddings()(ids.clamp(min=0))
        embeds = embeds.masked_scatter(
            (ids == self.visual)[..., None], torch.cat([slots.tokens.flatten(0, 1) for slots in films])
        )
        return embeds, ids >= 0


def evenly(frames: int, count: int) -> list[int]:
    """The middle frames of ``count`` equal parts of a video, all frames if there are no more."""
    count = min(count, frames)
    return [int((place + 0.5) * frames / count) for place in range(count)]


def slots_of(memory: Memory, start_s: int) -> Slots:
    """A memory of one frame a second from ``start_s`` on, as the language model is given it."""
    end_s = float(start_s + memory.appended)
    times = [float(start_s + place) for place in range(memory.appended)]
    spans = memory.spans(times, float(start_s), end_s)
    return Slots(memory.tokens, tuple(span.timestamp_s for span in spans), end_s)


def shown_as(
    films: Sequence[Film], length: int, starts_s: Sequence[int], chance: random.Random
) -> list[Slots]:
    """Films as slots: most often memory of one segment, also of up to three, or frames at equal distances."""
    found: dict[int, Slots] = {}
    whole = []
    for place, (film, start_s) in enumerate(zip(films, starts_s, strict=True)):
        way = chance.random()
        if way < _EVENLY:
            picked = evenly(len(film), length)
            times = tuple(float(start_s + frame) for frame in picked)
            found[place] = Slots(film.tokens[picked].half().float(), times, float(start_s + len(film)))
        elif way < _EVENLY + _MERGED:
            found[place] = slots_of(plain_memories([film], length, chance.choice((2, 3)))[0], start_s)
        else:
            whole.append(place)
    memories = plain_memories([films[place] for place in whole], length)
    found |= {p: slots_of(memory, starts_s[p]) for p, memory in zip(whole, memories, strict=True)}
    return [found[place] for place in range(len(films))]


def train_reading(
    model: LlamaForCausalLM,
    chat: Chat,
    reel: Reel,
    part: Part,
    *,
    steps: int,
    each: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train the language model in place, ``each`` questions to each film of a step."""
    chance = random.Random(seed)  # noqa: S311 - training, not secrets
    optimiser = Optimiser([model], rate=part.rate, steps=steps, warm=max(1, min(30, steps // 6)))
    progress = Progress("reading", steps, say)
    scenes = part.scenes
    model.train()
    for step in range(steps):
        length = chance.choice(_BANK_LENGTHS)
        made = [reel.film(chance.randint(1, scenes), _MOST_FRAMES) for _ in range(part.films)]
        starts_s = [chance.randint(0, _LATEST_S) if chance.random() < _IN_ITS_MIDST else 0 for _ in made]
        shown = shown_as(made, length, starts_s, chance)
        asked = [[chat.question(question) for question in ask(film.scenes, each, chance)] for film in made]
        prefix, present = chat.prefix(model, shown)
        loss, right = answer_loss(model, prefix, present, chat.tokens.answers(asked))
        optimiser.step(loss)
        progress.add(asked, right, loss=loss.item())
        if progress.said(step, f"up to {scenes} scenes") and progress.least > _GOOD:
            scenes = min(_MOST_SCENES, scenes + 1)
    model.eval()
