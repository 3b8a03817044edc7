"""Stage 3: train the Q-Former to write the time line from memory, and the language model to read it.

Every example goes through the shipped banks. Their entries are detached, as in the authors' code; the last step is
computed again with gradients (``last_step``).

Most of the time line is what each window shows, so its error hardly asks for the faint marks of where scenes begin and
end. Those have an error of their own (``Marks``).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from malmm.model.demo.questions import Question
from malmm.model.demo.training.films import Reel, online_memory, stored_memory
from malmm.model.demo.training.lessons import Tokens, ask, window_weights
from malmm.model.demo.training.optimising import Optimiser
from malmm.model.demo.training.progress import Progress
from malmm.model.demo.training.speaking import Speaker, TimeLine, edges
from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer
from malmm.model.memory.positions import TimePositions
from malmm.model.training.banked_pass import remembered, together
from malmm.model.training.last_step import last_step

__all__ = ["PARTS", "Case", "Lengths", "Lesson", "Marks", "Part", "Teacher", "train_watching"]

_BANK_LENGTHS = (5, 8, 10, 10, 14, 20)
_MOST_FRAMES = 110
_QUESTIONS = 8
_MOST_SCENES = 9
_GOOD, _WINDOW = 0.15, 25


@dataclass(frozen=True)
class Case:
    """A way of using memory, how often it is practised, with how many videos at once, and of how many scenes at first.

    ``visual`` is the online pass with the visual bank alone, ``query`` with the query banks alone, ``both`` with
    both; ``stored`` and ``replay`` read what an archive keeps, of one segment or of up to three that were merged,
    without and with query banks.
    """

    name: str
    share: float
    videos: int
    scenes: int = _MOST_SCENES


@dataclass(frozen=True)
class Part:
    """A part of the stage. ``name`` is its result's, and ``marks`` what the error of the marks counts.

    Lessons with query banks cost much more to make than to learn from, so those are taken ``practice`` times.
    With no ``spoken`` answers the Q-Former learns the time line alone, which is several times cheaper.
    """

    name: str
    cases: tuple[Case, ...]
    steps: int
    rate: float
    marks: float
    practice: int = 1
    spoken: bool = True


PARTS = (
    # From single scenes to nine of them, with the visual bank alone: most videos for the time.
    Part("visual", (Case("visual", 0.8, 24, 1), Case("stored", 0.2, 16, 1)), 1200, 2e-3, 0.0, spoken=False),
    # The query banks alone, which is where reading them is learned: with the visual bank there, nothing asks for it.
    Part(
        "query",
        (Case("query", 0.65, 16, 1), Case("visual", 0.25, 24), Case("stored", 0.1, 16)),
        1700,
        1.2e-3,
        4.0,
        practice=3,
        spoken=False,
    ),
    Part(
        "every",
        (
            Case("both", 0.3, 16),
            Case("query", 0.3, 16),
            Case("visual", 0.2, 24),
            Case("replay", 0.1, 16),
            Case("stored", 0.1, 16),
        ),
        1600,
        1e-3,
        2.0,
        practice=3,
    ),
)


class Marks(nn.Module):
    """A linear reading of windows [V, W, D]: whether a scene begins, and whether one ends, in each."""

    # Most windows have none.
    _OFTEN = 3.0

    def __init__(self, size: int) -> None:
        super().__init__()
        self.read = nn.Linear(size, 2)
        # Not by chance, so that a run that goes on does what an unbroken one does.
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def error(self, written: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Binary cross-entropy of what ``written`` [V, W, D] says; ``weights`` [W, S] are scenes' shares of windows."""
        truth = torch.stack([torch.stack(edges(each), dim=-1) for each in weights])
        often = written.new_tensor(self._OFTEN)
        return F.binary_cross_entropy_with_logits(self.read(written), truth.float(), pos_weight=often)


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


class Lengths:
    """How many scenes films of each case have at most: one more, up to nine, whenever the time line's mean squared
    error over 25 of its steps is below ``_GOOD``. Thrown at long films at once, the Q-Former learns little.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        self._most = {case.name: case.scenes for case in cases}
        self._errors: defaultdict[str, list[float]] = defaultdict(list)

    def most(self, name: str) -> int:
        """Of the case of this name."""
        return self._most[name]

    def add(self, name: str, error: float) -> None:
        """Take in the error of a step of this case."""
        errors = self._errors[name]
        errors.append(error)
        if len(errors) == _WINDOW:
            if sum(errors) / len(errors) < _GOOD:
                self._most[name] = min(_MOST_SCENES, self._most[name] + 1)
            errors.clear()


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
    marks = Marks(qformer.hidden)
    learning: list[nn.Module] = [qformer, marks, speaker] if part.spoken else [qformer, marks]
    optimiser = Optimiser(learning, rate=part.rate, steps=steps, warm=60)
    progress = {case.name: Progress(f"watching {case.name}", steps, say) for case in part.cases}
    lesson, left, case = None, 0, part.cases[0]
    lengths = Lengths(part.cases)
    for step in range(steps):
        if not left or lesson is None:
            case = chance.choices(part.cases, [case.share for case in part.cases])[0]
            lesson = teacher.lesson(case, lengths.most(case.name))
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
        drawn, marked = F.mse_loss(output, target), marks.error(output, lesson.weights)
        loss = drawn + part.marks * marked
        numbers = {"line": drawn.item(), "marks": marked.item()}
        if part.spoken:
            spoken, right = speaker.loss(output, teacher.tokens.answers(lesson.asked))
            optimiser.step(loss + spoken)
            progress[case.name].add(lesson.asked, right, loss=spoken.item(), **numbers)
        else:
            optimiser.step(loss)
            progress[case.name].add([], torch.zeros(0), **numbers)
        for name, each in progress.items():
            each.said(step, f"up to {lengths.most(name)} scenes")
        lengths.add(case.name, drawn.item())
