"""Stage 3: train the Q-Former to write the time line from memory, and the language model to read it.

Every example goes through the shipped banks. Their entries are detached, as in the authors' code; the last step is
computed again with gradients (``last_step``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from malmm.model.demo.questions import Question
from malmm.model.demo.training.films import Reel, online_memory, stored_memory
from malmm.model.demo.training.lessons import Tokens, ask, window_weights
from malmm.model.demo.training.optimising import Optimiser
from malmm.model.demo.training.progress import Progress
from malmm.model.demo.training.speaking import Speaker, TimeLine
from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer
from malmm.model.memory.positions import TimePositions
from malmm.model.training.banked_pass import remembered, together
from malmm.model.training.last_step import last_step

__all__ = ["PARTS", "Case", "Lesson", "Part", "Teacher", "train_watching"]

_BANK_LENGTHS = (5, 8, 10, 10, 14, 20)
_MOST_FRAMES = 110
_QUESTIONS = 8
_MOST_SCENES = 9
_GOOD, _WINDOW = 0.15, 25


@dataclass(frozen=True)
class Case:
    """A way of using memory, how often it is practised, and with how many videos at once.

    ``visual`` is the online pass with the visual bank alone, ``query`` with the query banks alone, ``both`` with
    both; ``stored`` and ``replay`` read what an archive keeps, of one segment or of up to three that were merged,
    without and with query banks.
    """

    name: str
    share: float
    videos: int


@dataclass(frozen=True)
class Part:
    """A part of the stage. Videos have up to ``scenes`` scenes, and one more, up to nine, whenever the time line's
    mean squared error over 25 steps is below ``_GOOD``: thrown at long ones at once, it learns little.

    Lessons with query banks cost much more to make than to learn from, so those are taken ``practice`` times.
    With no ``spoken`` answers the Q-Former learns the time line alone, which is several times cheaper.
    """

    cases: tuple[Case, ...]
    steps: int
    rate: float
    scenes: int
    practice: int = 1
    spoken: bool = True


_ONLINE = (
    Case("both", 0.5, 16),
    Case("replay", 0.15, 16),
    Case("visual", 0.15, 24),
    Case("stored", 0.1, 16),
    Case("query", 0.1, 16),
)
_VISUAL = (Case("visual", 0.8, 24), Case("stored", 0.2, 16))
PARTS = (
    # From single scenes to nine of them, with the visual bank alone: most videos for the time.
    Part(_VISUAL, 1200, 2e-3, 1, spoken=False),
    Part(_ONLINE, 1600, 1e-3, 9, practice=3),
)


@dataclass(frozen=True)
class Lesson:
    """A batch, ready for the last step: what the banks hold, the prompts, the answers and the time line."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    visual: Tensor
    visual_present: Tensor
    past: list[Tensor] | None
    past_present: Tensor | None
    asked: list[list[Question]]
    weights: list[Tensor]
    attributes: list[Tensor]


class Teacher:
    """Makes lessons (batches) from the reel."""

    def __init__(
        self,
        reel: Reel,
        qformer: OnlineQFormer,
        positions: TimePositions,
        tokens: Tokens,
        chance: random.Random,
    ) -> None:
        self.reel, self.qformer, self.positions = reel, qformer, positions
        self.tokens, self.chance = tokens, chance
        self.windows = qformer.query_tokens.shape[1]

    def lesson(self, case: Case, hardest: int) -> Lesson:
        """A batch of ``case`` with films of up to ``hardest`` scenes.

        The Q-Former gets one of a film's questions as its prompt; the language model is asked all of them.
        """
        films = [self.reel.film(self.chance.randint(1, hardest), _MOST_FRAMES) for _ in range(case.videos)]
        length = self.chance.choice(_BANK_LENGTHS)
        sizes, past, past_present = None, None, None
        if case.name in ("stored", "replay"):
            memories = [
                stored_memory(film, self.positions, length, self.chance.choice((1, 1, 2, 3)))
                for film in films
            ]
            order = sorted(range(len(films)), key=lambda place: -len(memories[place]))
            films = [films[place] for place in order]
            entries = [self.positions.added(memories[place]).tokens for place in order]
            sizes = [memories[place].sizes for place in order]
        else:
            films.sort(key=len, reverse=True)
            entries = [film.tokens + self.positions.of_frames(len(film))[:, None] for film in films]
        asked = [ask(film.scenes, _QUESTIONS, self.chance) for film in films]
        prompt_ids, prompt_mask = self.tokens.prompt_ids([of_film[0].prompt for of_film in asked])
        if case.name in ("visual", "stored"):
            visual = entries if case.name == "stored" else online_memory(entries, length)
            visual_tensor, visual_present = together(visual)
        else:
            settings = MemorySettings(length, visual=case.name != "query")
            held = remembered(self.qformer, entries, prompt_ids, prompt_mask, settings, sizes=sizes)
            visual_tensor, visual_present = held.visual, held.visual_present
            past, past_present = held.past, held.past_present
        return Lesson(
            prompt_ids,
            prompt_mask,
            visual_tensor,
            visual_present,
            past,
            past_present,
            asked,
            [window_weights(film.begins, len(film), self.windows) for film in films],
            [film.attributes for film in films],
        )


def train_watching(
    qformer: OnlineQFormer,
    speaker: Speaker,
    line: TimeLine,
    teacher: Teacher,
    part: Part,
    *,
    steps: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train Q-Former and language model in place; the time line stays as it is."""
    chance = random.Random(seed)  # noqa: S311 - training, not secrets
    line.requires_grad_(False)
    learning: list[nn.Module] = [qformer, speaker] if part.spoken else [qformer]
    optimiser = Optimiser(learning, rate=part.rate, steps=steps, warm=60)
    progress = {case.name: Progress(f"watching {case.name}", steps, say) for case in part.cases}
    lesson, left, case = None, 0, part.cases[0]
    scenes = part.scenes
    errors: list[float] = []
    for step in range(steps):
        if not left or lesson is None:
            case = chance.choices(part.cases, [case.share for case in part.cases])[0]
            lesson = teacher.lesson(case, scenes)
            left = part.practice if lesson.past is not None else 1
        left -= 1
        output = last_step(
            qformer,
            lesson.prompt_ids,
            lesson.prompt_mask,
            lesson.visual,
            lesson.visual_present,
            lesson.past,
            lesson.past_present,
        )[:, : qformer.query_tokens.shape[1]]
        target = torch.stack([line(a, w) for w, a in zip(lesson.weights, lesson.attributes, strict=True)])
        drawn = F.mse_loss(output, target)
        if part.spoken:
            loss, right = speaker.loss(output, teacher.tokens.answers(lesson.asked))
            optimiser.step(loss + drawn)
            progress[case.name].add(lesson.asked, right, loss=loss.item(), line=drawn.item())
        else:
            optimiser.step(drawn)
            progress[case.name].add([], torch.zeros(0), line=drawn.item())
        errors.append(drawn.item())
        for each in progress.values():
            each.said(step, f"up to {scenes} scenes")
        if len(errors) == _WINDOW:
            if sum(errors) / len(errors) < _GOOD:
                scenes = min(_MOST_SCENES, scenes + 1)
            errors.clear()
