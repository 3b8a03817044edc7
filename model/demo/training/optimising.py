"""The optimiser of all stages but the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from malmm.model.training.schedule import warm_cosine

__all__ = ["Optimiser"]

_MOMENTUM, _DECAY = 0.95, 0.02
# The share of the learning rate that is left at the end.
_FLOOR = 0.02


class Optimiser:
    """Muon for the matrices inside transformers, AdamW for the rest, with warm-up and a cosine.

    Muon (Jordan et al., 2024), in the scaling of Liu et al., 2025 (arXiv 2502.16982), in which one rate suits both.
    Single precision: torch's own orthogonalises in bfloat16, which a CPU without that type does very slowly.
    """

    def __init__(self, modules: Sequence[nn.Module], *, rate: float, steps: int, warm: int) -> None:
        tables = {id(m.weight) for part in modules for m in part.modules() if isinstance(m, nn.Embedding)}
        every = {id(p): p for part in modules for p in part.parameters() if p.requires_grad}
        self._matrices: dict[torch.Size, list[nn.Parameter]] = {}
        others = []
        for key, parameter in every.items():
            if parameter.ndim == 2 and key not in tables and min(parameter.shape) > 2:
                self._matrices.setdefault(parameter.shape, []).append(parameter)
            else:
                others.append(parameter)
        self._momentum = {shape: torch.zeros(len(alike), *shape) for shape, alike in self._matrices.items()}
        self._every = list(every.values())
        self._others = torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._others, lambda step: warm_cosine(step, warm, steps, _FLOOR)
        )

    def step(self, loss: Tensor) -> None:
        """Learn from a loss."""
        for parameter in self._every:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._every, 1.0)
        rate = self._schedule.get_last_lr()[0]
        with torch.no_grad():
            for shape, alike in self._matrices.items():
                momentum = self._momentum[shape]
                gradients = {i: each.grad for i, each in enumerate(alike) if each.grad is not None}
                if not gradients:
                    continue
                used, gradient = list(gradients), torch.stack(list(gradients.values()))
                momentum[used] = _MOMENTUM * momentum[used] + gradient
                update = _orthogonal(gradient + _MOMENTUM * momentum[used])
                scale = 0.2 * max(shape) ** 0.5
                for place, direction in zip(used, update, strict=True):
                    alike[place].mul_(1 - rate * _DECAY).sub_(direction, alpha=rate * scale)
        self._others.step()
        self._schedule.step()


def _orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices [B, m, n] with singular values near one, by five Newton-Schulz steps."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
