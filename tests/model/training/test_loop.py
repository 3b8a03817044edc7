"""The training loop with a model of one matrix: steps, measurements, snapshots, and workers that share batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from malmm.model.training.learner import Shown
from malmm.model.training.loop import Recipe, State, TrainingError, train
from malmm.model.training.peers import Alone

SIZE = 3
RECIPE = Recipe(steps=12, batch=4, every=4, warm=3, rate=0.05, at_once=3)


class Lines:
    """Learns the sum of a picture's first row. An answer's length is its number of tokens, as texts have them."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.module = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 1)).double()

    def answer_tokens(self, shown: Sequence[Shown]) -> int:
        return sum(len(each.prompt) for each in shown)

    def summed_loss(self, shown: Sequence[Shown]) -> Tensor:
        said = self._said(shown)
        truth = torch.tensor([float(each.answer) for each in shown], dtype=torch.float64)
        weights = torch.tensor([len(each.prompt) for each in shown], dtype=torch.float64)
        return ((said - truth).square() * weights).sum()

    def answers(self, shown: Sequence[Shown]) -> list[str]:
        return [f"{round(value)}" for value in self._said(shown).tolist()]

    def _said(self, shown: Sequence[Shown]) -> Tensor:
        seen = torch.stack([torch.from_numpy(each.frames[0, 0, :, 0].astype(np.float64)) for each in shown])
        return self.module(seen)[:, 0]

    def trained_tensors(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    @property
    def weight(self) -> Tensor:
        return self.trained_tensors()["0.weight"]


def shown(number: int) -> Shown:
    frames = np.random.default_rng(number).integers(0, 4, (1, 1, SIZE, 3), dtype=np.uint8)
    return Shown(frames, (0.0,), 1.0, "?" * (1 + number % 3), str(int(frames[0, 0, :, 0].sum())))


class Lessons:
    """The examples of one worker; those of a step are a function of its number."""

    def __init__(self, rank: int = 0, count: int = 1, held_back: int = 5) -> None:
        self.rank, self.count, self.held_back = rank, count, held_back

    def training(self, begin: int, end: int) -> Iterator[list[Shown]]:
        for step in range(begin, end):
            yield [shown(step * RECIPE.batch + place) for place in range(self.rank, RECIPE.batch, self.count)]

    def measuring(self) -> Iterator[list[Shown]]:
        for number in range(self.rank, self.held_back, self.count):
            yield [shown(1000 + number)]


class Memory:
    """Keeps snapshots in this process."""

    def __init__(self) -> None:
        self.newest: tuple[State, dict[str, Tensor]] | None = None
        self.best: dict[str, Tensor] = {}

    def load(self) -> tuple[State, dict[str, Tensor]] | None:
        if self.newest is None:
            return None
        state, tensors = self.newest
        return replace(state, losses=[*state.losses], points=[*state.points]), tensors

    def load_best(self) -> dict[str, Tensor]:
        return self.best

    def keep(self, state: State, tensors: dict[str, Tensor], best: dict[str, Tensor] | None) -> None:
        kept = replace(state, losses=[*state.losses], points=[*state.points])
        self.newest = kept, {name: value.clone() for name, value in tensors.items()}
        self.best = best or self.best


class Threads:
    """Workers of one training as threads of this process."""

    def __init__(self, count: int) -> None:
        self.count, self.meeting = count, threading.Barrier(count)
        self.parts: list[Tensor] = [torch.empty(0)] * count

    def of(self, rank: int) -> Threads.One:
        return Threads.One(self, rank)

    class One:
        def __init__(self, group: Threads, rank: int) -> None:
            self.group, self.rank, self.count = group, rank, group.count

        def total(self, values: Tensor) -> Tensor:
            self.group.parts[self.rank] = values.clone()
            self.group.meeting.wait()
            summed = torch.stack(self.group.parts).sum(0)
            self.group.meeting.wait()
            return summed


def test_it_learns_and_measures_what_is_held_back() -> None:
    state = train(Lines(), RECIPE, Lessons(), Memory(), Alone())
    assert (state.step, state.ended, len(state.losses)) == (12, True, 12)
    assert sum(state.losses[-4:]) < sum(state.losses[:4]) / 2
    assert [point.step for point in state.points] == [4, 8, 12]
    assert state.points[-1].loss == pytest.approx(sum(state.losses[8:]) / 4)
    assert state.best in state.points


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_share_batches_have_the_losses_of_one(workers: int) -> None:
    """Also where their parts of a batch, or of what is held back, are not equally large."""
    alone = train(Lines(), RECIPE, Lessons(), Memory(), Alone())
    group, memory = Threads(workers), Memory()

    def worker(rank: int) -> State:
        return train(learners[rank], RECIPE, Lessons(rank, workers), memory, group.of(rank))

    learners = [Lines() for _ in range(workers)]
    with ThreadPoolExecutor(workers) as threads:
        states = list(threads.map(worker, range(workers)))
    for state in states:
        np.testing.assert_allclose(state.losses, alone.losses, rtol=1e-12)
        assert [point.accuracy for point in state.points] == [point.accuracy for point in alone.points]
    weights = [learner.weight for learner in learners]
    assert all(torch.equal(weights[0], other) for other in weights[1:])


@pytest.mark.parametrize("last", [1, 4, 6, 11])
def test_a_killed_training_goes_on_to_the_same_losses(last: int) -> None:
    """Bit by bit, wherever it was killed."""
    whole = Lines()
    unbroken = train(whole, RECIPE, Lessons(), Memory(), Alone())

    def killed(state: State) -> None:
        if state.step == last:
            raise KeyboardInterrupt

    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        train(Lines(), RECIPE, Lessons(), memory, Alone(), tell=killed)
    assert (memory.newest is not None) == (last > 4)
    resumed = Lines()
    assert train(resumed, RECIPE, Lessons(), memory, Alone()) == unbroken
    assert torch.equal(resumed.weight, whole.weight)


class Halves(Lines):
    """In single precision, so that its products can be taken in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.module.float()

    def _said(self, shown: Sequence[Shown]) -> Tensor:
        seen = torch.stack([torch.from_numpy(each.frames[0, 0, :, 0].astype(np.float32)) for each in shown])
        return self.module(seen)[:, 0]


def test_in_float16_a_killed_training_goes_on_with_the_scale_of_its_losses() -> None:
    whole = Halves()
    unbroken = train(whole, RECIPE, Lessons(), Memory(), Alone(), lower=torch.float16)
    # Too large a scale was halved, and has stood since.
    assert unbroken.scale is not None
    assert 0 < unbroken.scaled <= RECIPE.steps

    def killed(state: State) -> None:
        if state.step == 10:
            raise KeyboardInterrupt

    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        train(Halves(), RECIPE, Lessons(), memory, Alone(), lower=torch.float16, tell=killed)
    resumed = Halves()
    assert train(resumed, RECIPE, Lessons(), memory, Alone(), lower=torch.float16) == unbroken
    assert torch.equal(resumed.weight, whole.weight)


class Forgetful(Lines):
    """Its held-back answers are right at the first measurement and never again."""

    def __init__(self) -> None:
        super().__init__()
        self.measured = 0

    def answers(self, shown: Sequence[Shown]) -> list[str]:
        self.measured += 1
        return [each.answer if self.measured <= 5 else "?" for each in shown]


def test_it_ends_early_with_the_best_weights() -> None:
    memory, learner = Memory(), Forgetful()
    state = train(learner, replace(RECIPE, every=2, patience=2), Lessons(), memory, Alone())
    assert (state.step, state.ended, state.best) == (6, True, state.points[0])
    assert [point.accuracy for point in state.points] == [1.0, 0.0, 0.0]
    assert torch.equal(learner.weight, memory.best["0.weight"])
    # By the loss, which goes on falling, it does not end.
    by_loss = replace(RECIPE, every=2, patience=2, metric="loss")
    assert train(Forgetful(), by_loss, Lessons(), Memory(), Alone()).step == RECIPE.steps


def test_without_held_back_examples_the_last_weights_stay() -> None:
    memory = Memory()
    state = train(Lines(), RECIPE, Lessons(held_back=0), memory, Alone())
    assert (state.best, state.points[0].accuracy, memory.best) == (None, None, {})


def test_what_cannot_go_on_is_one_sentence() -> None:
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is (inf|nan): try a lower learning rate"):
        train(Lines(), replace(RECIPE, rate=1e200, warm=0), Lessons(), Memory(), Alone())
    frozen = Lines()
    frozen.module.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing of the model is trained"):
        train(frozen, RECIPE, Lessons(), Memory(), Alone())
    memory, other = Memory(), Lines()
    train(Lines(), RECIPE, Lessons(), memory, Alone())
    other.module = nn.Sequential(nn.Linear(SIZE, 1)).double()
    with pytest.raises(TrainingError, match="the snapshot is of another model"):
        train(other, RECIPE, Lessons(), memory, Alone())
