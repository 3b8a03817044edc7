"""The training loop: steps, measurements, early stopping, and snapshots from which a killed training goes on.

It needs neither Ray nor files: examples come from a ``Feed``, snapshots go to a ``Keeper``, and other workers are
``Peers``. A step's loss is the mean over the answers' tokens of the whole batch, however many workers share it and in
however many parts each computes its own. So two workers have the losses of one, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from malmm.model.training.learner import Learner, Shown
from malmm.model.training.peers import Peers
from malmm.model.training.schedule import warm_cosine

__all__ = ["Feed", "Keeper", "Point", "Recipe", "State", "TrainingError", "train"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingError(ValueError):
    """A training that cannot go on. The message is one sentence for users."""


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's (He et al., CVPR 2024) but for the lengths.

    ``steps`` of ``batch`` examples over all workers, each of which computes at most ``at_once`` of its own at a time.
    AdamW with ``decay`` and the learning rate ``rate``, which rises over ``warm`` steps and falls along a cosine. The
    held-back examples are measured, and a snapshot kept, after every ``every`` steps. Training ends early after
    ``patience`` measurements without a better one by ``metric``, one of ``malmm.model.training.choices.METRICS``.
    """

    steps: int
    batch: int
    every: int
    warm: int = 1000
    rate: float = 1e-4
    decay: float = 0.05
    at_once: int = 8
    patience: int | None = None
    metric: str = "accuracy"


@dataclass(frozen=True)
class Point:
    """A measurement after ``step`` steps: the mean loss of the steps since the last one, and, where examples are held
    back, their ``accuracy`` and their loss."""

    step: int
    loss: float
    accuracy: float | None = None
    held_back_loss: float | None = None

    def better(self, other: Point | None, metric: str) -> bool:
        """Whether this one is better than another, or than none. False if nothing is held back."""
        if self.accuracy is None or self.held_back_loss is None:
            return False
        if other is None or other.accuracy is None or other.held_back_loss is None:
            return True
        if metric == "loss":
            return self.held_back_loss < other.held_back_loss
        # Of equal accuracies the surer answers.
        return (self.accuracy, -self.held_back_loss) > (other.accuracy, -other.held_back_loss)


@dataclass
class State:
    """Where a training is: steps done, each step's loss, and what was measured. ``best`` is the best measurement.

    ``scale`` is what a loss in float16 is multiplied by, and ``scaled`` the steps since it changed.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    best: Point | None = None
    ended: bool = False
    scale: float | None = None
    scaled: int = 0


class Feed(Protocol):
    """This worker's part of the examples."""

    def training(self, begin: int, end: int) -> Iterator[list[Shown]]:
        """Its examples of each of the steps [begin, end), in order."""

    def measuring(self) -> Iterator[list[Shown]]:
        """Its held-back examples, in lists that fit into memory; nothing if none are held back."""


class Keeper(Protocol):
    """Where snapshots are kept."""

    def load(self) -> tuple[State, dict[str, Tensor]] | None:
        """The newest snapshot; None before there is one."""

    def load_best(self) -> dict[str, Tensor]:
        """The parameters at the best measurement."""

    def keep(self, state: State, tensors: dict[str, Tensor], best: dict[str, Tensor] | None) -> None:
        """Keep a snapshot, and with ``best`` parameters that are the best so far."""


def train(
    learner: Learner,
    recipe: Recipe,
    feed: Feed,
    keeper: Keeper,
    peers: Peers,
    *,
    lower: torch.dtype | None = None,
    tell: Callable[[State], None] = lambda state: None,
) -> State:
    """Train to the end, from the newest snapshot on, and leave the best parameters in the learner.

    ``lower`` is the type that matrix products of a step are computed in, None for the parameters' own. ``tell`` is
    called after every step. Without held-back examples the last parameters count as the best. Raises TrainingError for
    a loss that is not a number.
    """
    run = _Run(learner, recipe, peers, lower)
    found = keeper.load()
    state = State()
    if found is not None:
        state, tensors = found
        run.put(state, tensors)
    while state.step < recipe.steps and not state.ended:
        begin, end = state.step, min(recipe.steps, (state.step // recipe.every + 1) * recipe.every)
        for shown in feed.training(begin, end):
            state.losses.append(run.step(state.step, shown))
            state.step += 1
            tell(state)
        if state.step != end:
            raise TrainingError(f"examples for {state.step - begin} of {end - begin} steps came")
        point = run.measured(state, state.step - begin, feed.measuring())
        improved = point.better(state.best, recipe.metric)
        state.points.append(point)
        if improved:
            state.best = point
        state.ended = state.step >= recipe.steps or _has_waited(state, recipe)
        if run.scaler.is_enabled():
            held = run.scaler.state_dict()
            state.scale, state.scaled = held["scale"], held["_growth_tracker"]
        if peers.rank == 0:
            keeper.keep(state, run.tensors(), run.parameters() if improved else None)
        # Nobody goes on before the snapshot is there.
        peers.total(torch.zeros(1, device=run.device))
        tell(state)
    if state.best is not None and state.best.step != state.step:
        run.put_parameters(keeper.load_best())
    return state


def _has_waited(state: State, recipe: Recipe) -> bool:
    if recipe.patience is None or state.best is None:
        return False
    return sum(point.step > state.best.step for point in state.points) >= recipe.patience


class _Run:
    """Parameters and optimiser of a training."""

    def __init__(self, learner: Learner, recipe: Recipe, peers: Peers, lower: torch.dtype | None) -> None:
        self.learner, self.recipe, self.peers, self.lower = learner, recipe, peers, lower
        self.named = {
            name: parameter
            for name, parameter in learner.module.named_parameters()
            if parameter.requires_grad
        }
        if not self.named:
            raise TrainingError("nothing of the model is trained")
        self.device = next(iter(self.named.values())).device
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in self.named.values():
            groups[parameter.ndim > 1].append(parameter)
        # As in the authors' code, vectors (biases and norms) do not decay.
        self.optimiser = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": recipe.decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=recipe.rate,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=lower == torch.float16)

    def step(self, number: int, shown: Sequence[Shown]) -> float:
        """Learn from this worker's part of a batch; the loss of the whole batch."""
        self.optimiser.zero_grad(set_to_none=True)
        tokens = self._total([self.learner.answer_tokens(shown)])[0]
        total = 0.0
        for begin in range(0, len(shown), self.recipe.at_once):
            with self._lower():
                loss = self.learner.summed_loss(shown[begin : begin + self.recipe.at_once])
            self.scaler.scale(loss / tokens).backward()
            total += float(loss.detach())
        loss_of_all = self._total([total])[0] / tokens
        if not math.isfinite(loss_of_all):
            raise TrainingError(f"the loss of step {number + 1} is {loss_of_all}: try a lower learning rate")
        self._add_gradients()
        factor = warm_cosine(number, self.recipe.warm, self.recipe.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * factor
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss_of_all

    @torch.no_grad()
    def measured(self, state: State, steps: int, shown: Iterator[list[Shown]]) -> Point:
        """Measure the held-back examples over all workers."""
        right = count = tokens = 0
        total = 0.0
        for part in shown:
            with self._lower():
                total += float(self.learner.summed_loss(part))
                answers = self.learner.answers(part)
            tokens += self.learner.answer_tokens(part)
            right += sum(a.strip() == each.answer.strip() for a, each in zip(answers, part, strict=True))
            count += len(part)
        all_right, all_count, all_tokens, all_loss = self._total([right, count, tokens, total])
        loss = sum(state.losses[-steps:]) / steps
        if not all_count:
            return Point(state.step, loss)
        return Point(state.step, loss, all_right / all_count, all_loss / all_tokens)

    def parameters(self) -> dict[str, Tensor]:
        """Copies of what is trained, on the CPU."""
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in self.named.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that a snapshot needs: parameters, and the optimiser's moments."""
        found = {f"parameter.{name}": value for name, value in self.parameters().items()}
        for name, parameter in self.named.items():
            held = self.optimiser.state.get(parameter, {})
            found |= {
                f"{key}.{name}": held[key].detach().cpu().contiguous() for key in _MOMENTS if key in held
            }
            if "step" in held:
                found[f"step.{name}"] = held["step"].detach().cpu().reshape(1)
        return found

    @torch.no_grad()
    def put(self, state: State, tensors: dict[str, Tensor]) -> None:
        """Go on from a snapshot. Raises TrainingError for one of another model."""
        self.put_parameters(
            {
                key.removeprefix("parameter."): value
                for key, value in tensors.items()
                if key.startswith("parameter.")
            }
        )
        for name, parameter in self.named.items():
            if f"step.{name}" not in tensors:
                continue
            held: dict[str, Any] = {
                key: tensors[f"{key}.{name}"].to(parameter.device, copy=True) for key in _MOMENTS
            }
            self.optimiser.state[parameter] = held | {"step": tensors[f"step.{name}"].reshape(())}
        if state.scale is not None and self.scaler.is_enabled():
            held = {"scale": state.scale, "_growth_tracker": state.scaled}
            self.scaler.load_state_dict(self.scaler.state_dict() | held)

    @torch.no_grad()
    def put_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Take over parameters. Raises TrainingError for those of another model."""
        if {name: value.shape for name, value in tensors.items()} != {
            name: value.shape for name, value in self.named.items()
        }:
            raise TrainingError("the snapshot is of another model")
        for name, parameter in self.named.items():
            parameter.copy_(tensors[name])

    def _lower(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.lower is None else torch.autocast(self.device.type, self.lower)

    def _total(self, values: Sequence[float]) -> list[float]:
        summed: list[float] = self.peers.total(
            torch.tensor(values, dtype=torch.float64, device=self.device)
        ).tolist()
        return summed

    def _add_gradients(self) -> None:
        """Add up all workers' gradients: each has that of its own part of the batch's mean."""
        if self.peers.count == 1:
            return
        gradients = [value.grad for value in self.named.values() if value.grad is not None]
        summed = self.peers.total(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, of_all in zip(gradients, summed.split(sizes), strict=True):
            gradient.copy_(of_all.view_as(gradient))
