from __future__ import annotations

import torch
from torch import nn

from malmm.model.demo.training.optimising import Optimiser
from malmm.model.training.schedule import warm_cosine


def test_a_rate_rises_falls_and_does_not_end_at_nothing():
    factors = [warm_cosine(step, 10, 100, 0.02) for step in range(101)]
    assert factors[0] == 0.1
    assert max(factors) == factors[9] == factors[10] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[100] < 0.03


def test_it_learns_and_leaves_alone_what_has_no_gradient():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"table": nn.Embedding(8, 16), "deep": nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4))}
    )
    unused = nn.Linear(4, 4)
    before = unused.weight.clone()
    optimiser = Optimiser([model, unused], rate=0.01, steps=150, warm=5)
    truth = torch.randint(0, 4, (8,))
    losses = []
    for _ in range(150):
        logits = model["deep"](model["table"](torch.arange(8)))
        loss = nn.functional.cross_entropy(logits, truth)
        losses.append(loss.item())
        optimiser.step(loss)
    assert losses[-1] < 0.05 < losses[0]
    assert torch.equal(unused.weight, before)
