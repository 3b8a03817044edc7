from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import plain_pass, random_qformer
from torch import nn

from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer, falling_order
from malmm.model.memory.merge_policies import POLICIES

QUERIES = 3


def make(seed=0, **sizes):
    model = random_qformer(seed, **sizes)
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, QUERIES, model.config.hidden_size, generator=generator, dtype=torch.float64)
    return OnlineQFormer(model, nn.Parameter(query, requires_grad=False))


@st.composite
def batches(draw):
    segments, prompts = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    lengths = sorted((draw(st.integers(1, 8)) for _ in range(segments)), reverse=True)
    longest = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    qformer = make(
        seed,
        layers=draw(st.integers(1, 4)),
        cross_attention_frequency=draw(st.integers(1, 3)),
    )
    config = qformer.qformer.config
    words = [[draw(st.integers(1, longest)) for _ in range(prompts)] for _ in range(segments)]
    mask = torch.tensor([[[int(i < n) for i in range(longest)] for n in row] for row in words])
    shape = (segments, lengths[0], draw(st.integers(1, 4)), config.encoder_hidden_size)
    return {
        "qformer": qformer,
        "lengths": lengths,
        "frames": torch.randn(*shape, generator=generator, dtype=torch.float64),
        "ids": torch.randint(1, config.vocab_size, mask.shape, generator=generator) * mask,
        "mask": mask,
        "settings": MemorySettings(
            length=draw(st.integers(1, 4)),
            policy=draw(st.sampled_from(list(POLICIES))),
            visual=draw(st.booleans()),
            query=draw(st.booleans()),
        ),
    }


@torch.inference_mode()
def run(case, wanted=lambda step, active, going_on: True):
    """Outputs [K, P, D] after every step of every segment (None where not asked for), and the memories."""
    lengths, frames = case["lengths"], case["frames"]
    state = case["qformer"].start(
        case["ids"],
        case["mask"],
        steps=lengths[0],
        tokens_per_frame=frames.shape[2],
        settings=case["settings"],
    )
    prompts = case["ids"].shape[1]
    outputs = [[] for _ in lengths]
    for step in range(lengths[0]):
        active = sum(length > step for length in lengths)
        if active < state.active:
            state.retire(active)
        going_on = sum(length > step + 1 for length in lengths)
        want = wanted(step, active, going_on)
        output = case["qformer"].step(state, frames[:active, step : step + 1], want_output=want)
        assert (output is not None) == want
        for place in range(active):
            part = None if output is None else output[place * prompts : (place + 1) * prompts].clone()
            outputs[place].append(part)
    return outputs, state.finish()


def reference(case, segment, prompt):
    model, length = case["qformer"], case["lengths"][segment]
    words = int(case["mask"][segment, prompt].sum())
    chosen = case["settings"]
    outputs, bank = plain_pass(
        model.qformer.state_dict(),
        model.qformer.config,
        model.query_tokens[0],
        case["frames"][segment, :length],
        case["ids"][segment, prompt, :words],
        length=chosen.length,
        policy=chosen.policy,
        visual=chosen.visual,
        query=chosen.query,
    )
    bank.finish()
    return outputs, bank


@settings(max_examples=60, deadline=None)
@given(batches())
def test_every_segment_and_prompt_of_a_batch_is_as_alone_in_a_plain_pass(case):
    """Different lengths, K prompts of different lengths padded together, every policy and switch."""
    outputs, memories = run(case)
    for segment in range(len(case["lengths"])):
        for prompt in range(case["ids"].shape[1]):
            expected, bank = reference(case, segment, prompt)
            present = QUERIES + int(case["mask"][segment, prompt].sum())
            ours = torch.stack([step[prompt] for step in outputs[segment]])[:, :present]
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            memories[segment].tokens, torch.from_numpy(bank.tokens), rtol=0, atol=1e-10
        )
        assert torch.equal(memories[segment].sizes, torch.from_numpy(bank.sizes))
        assert torch.equal(memories[segment].first, torch.from_numpy(bank.first))


@settings(max_examples=30, deadline=None)
@given(batches(), st.data())
def test_outputs_that_nobody_wants_do_not_change_later_ones(case, data):
    every, memories = run(case)
    choices = [data.draw(st.booleans()) for _ in range(case["lengths"][0])]
    some, memories_of_some = run(case, lambda step, active, going_on: choices[step])
    for segment, steps in enumerate(some):
        for step, output in enumerate(steps):
            if output is not None:
                assert torch.equal(output, every[segment][step])
        assert torch.equal(memories[segment].tokens, memories_of_some[segment].tokens)


@settings(max_examples=40, deadline=None)
@given(batches(), st.data())
def test_several_frames_at_once_are_as_one_by_one(case, data):
    every, memories = run(case)
    lengths, prompts = case["lengths"], case["ids"].shape[1]
    with torch.inference_mode():
        state = case["qformer"].start(
            case["ids"],
            case["mask"],
            steps=lengths[0],
            tokens_per_frame=case["frames"].shape[2],
            settings=case["settings"],
        )
        begin = 0
        while begin < lengths[0]:
            active = sum(length > begin for length in lengths)
            end = data.draw(st.integers(begin + 1, lengths[active - 1]))
            if active < state.active:
                state.retire(active)
            want = data.draw(st.booleans())
            output = case["qformer"].step(state, case["frames"][:active, begin:end], want_output=want)
            assert (output is not None) == want
            for place in range(active if want else 0):
                torch.testing.assert_close(
                    output[place * prompts : (place + 1) * prompts],
                    every[place][end - 1],
                    rtol=0,
                    atol=1e-10,
                )
            begin = end
        for ours, theirs in zip(state.finish(), memories, strict=True):
            assert torch.equal(ours.tokens, theirs.tokens)
            assert torch.equal(ours.first, theirs.first)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_no_output_is_given_where_none_is_wanted(layers):
    qformer = make(layers=layers)
    for query in (True, False):
        state = qformer.start(
            torch.ones(1, 1, 2, dtype=torch.long),
            None,
            steps=2,
            tokens_per_frame=4,
            settings=MemorySettings(length=2, query=query),
        )
        assert qformer.step(state, torch.zeros(1, 1, 4, 12, dtype=torch.float64), want_output=False) is None
        assert qformer.step(state, torch.zeros(1, 1, 4, 12, dtype=torch.float64)).shape == (
            1,
            QUERIES + 2,
            16,
        )


def test_entries_may_come_with_sizes():
    qformer = make()
    frames = torch.randn(2, 5, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sizes = torch.randint(1, 9, (2, 5, 4), generator=torch.Generator().manual_seed(3)).double()
    state = qformer.start(
        torch.ones(2, 1, 2, dtype=torch.long), None, steps=5, tokens_per_frame=4, settings=MemorySettings(2)
    )
    for step in range(5):
        qformer.step(state, frames[:, step : step + 1], sizes_STN=sizes[:, step : step + 1])
    for row, memory in enumerate(state.finish()):
        assert torch.equal(memory.sizes.sum(0), sizes[row].sum(0))


def test_a_pass_leaves_nothing_on_the_module():
    qformer = make()
    before = {name: id(value) for name, value in vars(qformer).items()}
    weights = {name: value.clone() for name, value in qformer.state_dict().items()}
    state = qformer.start(
        torch.ones(1, 1, 2, dtype=torch.long), None, steps=9, tokens_per_frame=4, settings=MemorySettings(2)
    )
    for _ in range(9):
        qformer.step(state, torch.randn(1, 1, 4, 12, dtype=torch.float64))
    assert {name: id(value) for name, value in vars(qformer).items()} == before
    assert all(torch.equal(weights[name], value) for name, value in qformer.state_dict().items())


def test_a_prompt_beyond_the_position_table_is_refused():
    with pytest.raises(ValueError, match="a prompt of 17 tokens: this Q-Former takes at most 16"):
        make().start(
            torch.ones(1, 1, 17, dtype=torch.long),
            None,
            steps=1,
            tokens_per_frame=4,
            settings=MemorySettings(),
        )


def test_the_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="a bank length of 0: at least 1; switch a bank off instead"):
        MemorySettings(length=0)
    with pytest.raises(ValueError, match="no merge policy 'best'"):
        MemorySettings(policy="best")
    assert dataclasses.astuple(MemorySettings()) == (20, "token", True, True)


@given(st.lists(st.integers(0, 9)))
def test_falling_order_is_stable(lengths):
    order = falling_order(lengths)
    assert sorted(order) == list(range(len(lengths)))
    assert [(-lengths[i], i) for i in order] == sorted((-length, i) for i, length in enumerate(lengths))
