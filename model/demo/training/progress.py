"""Progress output of the language stages."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from malmm.model.demo.questions import DESCRIBE, Question

__all__ = ["Progress"]

_EVERY = 50


class Progress:
    """Counts right answers by kind and prints their shares every fifty steps."""

    def __init__(self, name: str, steps: int, say: Callable[[str], None]) -> None:
        self._name, self._steps, self._say = name, steps, say
        self._began = time.monotonic()
        self._right: defaultdict[str, list[bool]] = defaultdict(list)
        self._numbers: defaultdict[str, list[float]] = defaultdict(list)
        self.least = 0.0
        """The lesser of the shares of right answers and of right descriptions when it was last said."""

    def add(self, asked: Sequence[Sequence[Question]], right: Tensor, **numbers: float) -> None:
        """Take in a step: whether each of its questions was answered right [V, K], and what else to average."""
        for of_film, row in zip(asked, right.tolist(), strict=True):
            for question, exact in zip(of_film, row, strict=True):
                self._right[question.kind].append(exact)
        for name, value in numbers.items():
            self._numbers[name].append(value)

    def said(self, step: int, note: str = "") -> bool:
        """Print, if it is time to; true when it was."""
        if step % _EVERY != _EVERY - 1:
            return False
        kinds = {kind: float(np.mean(values)) for kind, values in sorted(self._right.items())}
        whole = kinds.get(DESCRIBE, 0.0)
        others = [exact for kind, values in self._right.items() if kind != DESCRIBE for exact in values]
        answers = float(np.mean(others)) if others else 0.0
        self.least = min(answers, whole)
        means = " ".join(f"{name} {np.mean(values):.3f}" for name, values in sorted(self._numbers.items()))
        pace = (time.monotonic() - self._began) / (step + 1)
        self._say(
            f"{self._name} {step + 1}/{self._steps} {note} {means} answers {answers:.3f} ({pace:.2f} s/step): "
            + " ".join(f"{kind} {share:.2f}" for kind, share in kinds.items())
        )
        self._right.clear()
        self._numbers.clear()
        return True
