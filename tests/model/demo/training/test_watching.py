from __future__ import annotations

import pytest
import torch

from malmm.model.demo.training.lessons import window_weights
from malmm.model.demo.training.speaking import edges
from malmm.model.demo.training.watching import PARTS, Case, Lengths, Marks

SIZE = 6


def test_a_scene_begins_where_another_fills_most_of_a_window():
    """Ten frames in five windows: scenes of 4, 1 and 5 frames; the one of a single frame fills most of no window."""
    begins, ends = edges(window_weights([0, 4, 5], 10, 5))
    assert begins.tolist() == [True, False, True, False, False]
    assert ends.tolist() == [False, True, False, False, True]


def test_the_error_of_the_marks_asks_for_marks_alone():
    """A linear reading that is right has no error, whatever else windows say, and one that says nothing learns."""
    weights = [window_weights([0, 4], 10, 5), window_weights([0, 3, 6], 10, 5)]
    marks = Marks(SIZE)
    truth = torch.stack([torch.stack(edges(each), dim=-1) for each in weights]).float()
    written = torch.cat([2 * truth - 1, torch.randn(2, 5, SIZE - 2)], dim=-1).requires_grad_()
    at_first = marks.error(written, weights)
    at_first.backward()
    assert at_first > 0.3
    assert marks.read.weight.grad is not None
    assert marks.read.weight.grad.abs().sum() > 0
    with torch.no_grad():
        marks.read.weight[:, :2] = 20 * torch.eye(2)
    assert marks.error(written, weights) < 1e-6
    assert marks.error(-written, weights) > 10


def test_films_of_a_case_get_longer_when_it_is_learned_and_those_of_others_do_not():
    lengths = Lengths([Case("easy", 0.5, 1, 1), Case("hard", 0.5, 1, 2)])
    for _ in range(50):
        lengths.add("easy", 0.05)
        lengths.add("hard", 0.4)
    assert (lengths.most("easy"), lengths.most("hard")) == (3, 2)
    for _ in range(1000):
        lengths.add("easy", 0.05)
    assert lengths.most("easy") == 9


@pytest.mark.parametrize("part", PARTS)
def test_each_case_of_a_part_is_practised(part):
    assert sum(case.share for case in part.cases) == pytest.approx(1)
    assert len({case.name for case in part.cases}) == len(part.cases)
    assert all(case.share > 0 and case.videos > 0 for case in part.cases)
