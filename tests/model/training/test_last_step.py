from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import random_qformer
from torch import nn

from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer
from malmm.model.training.banked_pass import together
from malmm.model.training.last_step import last_step

QUERIES, WORDS = 3, 4


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([(True, True), (False, True), (True, False)]),
    st.integers(0, 2**31),
)
def test_the_last_step_with_gradient_is_the_last_step(layers, lengths, prompts, length, banks, seed):
    """Computed anew from what the banks hold, it equals the online pass, in float64."""
    visual, query = banks
    lengths = sorted(lengths, reverse=True)
    generator = torch.Generator().manual_seed(seed)
    model = random_qformer(seed, layers=layers)
    qformer = OnlineQFormer(
        model, nn.Parameter(torch.randn(1, QUERIES, 16, generator=generator, dtype=torch.float64))
    )
    frames = torch.randn(len(lengths), lengths[0], 5, 12, generator=generator, dtype=torch.float64)
    ids = torch.randint(1, 30, (len(lengths), prompts, WORDS), generator=generator)
    mask = (torch.rand(ids.shape, generator=generator) < 0.7).long()
    mask[..., 0] = 1
    state = qformer.start(
        ids,
        mask,
        steps=lengths[0],
        tokens_per_frame=5,
        settings=MemorySettings(length, "token", visual, query),
    )
    outputs = [torch.empty(0)] * len(lengths)
    with torch.no_grad():
        for step in range(lengths[0]):
            active = sum(each > step for each in lengths)
            if active < state.active:
                state.retire(active)
            output = qformer.step(state, frames[:active, step : step + 1])
            for place in range(active):
                outputs[place] = output[place * prompts : (place + 1) * prompts].clone()
    seen, seen_present = together([held.tokens for held in state.visual.entries()])
    past, past_present = None, None
    if state.query:
        past = []
        for bank in state.query:
            rows, past_present = together([entries.tokens[:-1] for entries in bank.entries()])
            past.append(rows)
    again = last_step(qformer, ids.flatten(0, 1), mask.flatten(0, 1), seen, seen_present, past, past_present)
    present = torch.cat([mask.new_ones(len(again), QUERIES), mask.flatten(0, 1)], dim=1).bool()
    torch.testing.assert_close(again[present], torch.cat(outputs)[present], rtol=0, atol=1e-10)


def test_keys_and_values_of_what_is_remembered_have_a_gradient():
    model = random_qformer(1, layers=2).requires_grad_(True)
    qformer = OnlineQFormer(model, nn.Parameter(torch.randn(1, QUERIES, 16, dtype=torch.float64)))
    generator = torch.Generator().manual_seed(1)
    past = torch.randn(1, 2, QUERIES + 2, 16, generator=generator, dtype=torch.float64)
    visual = torch.randn(1, 3, 5, 12, generator=generator, dtype=torch.float64)
    ids, mask = torch.tensor([[5, 7]]), torch.ones(1, 2, dtype=torch.long)
    last_step(
        qformer,
        ids,
        mask,
        visual,
        torch.ones(1, 3, dtype=torch.bool),
        [past],
        torch.ones(1, 2, dtype=torch.bool),
    ).square().sum().backward()
    for layer, part in ((1, "attention"), (0, "crossattention")):
        inner = getattr(model.encoder.layer[layer], part).attention
        assert inner.key.weight.grad.abs().sum() > 0
        assert inner.value.weight.grad.abs().sum() > 0
