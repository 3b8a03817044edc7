from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import BOUNDED, MERGING, PlainBank

from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import POLICIES, merge_policy


def make_bank(rows=1, length=4, steps=10, positions=3, channels=5, policy="token", **more):
    options = {"device": "cpu", "dtype": torch.float64} | more
    return Bank(
        rows=rows,
        length=length,
        steps=steps,
        positions=positions,
        channels=channels,
        policy=merge_policy(policy),
        **options,
    )


@st.composite
def runs(draw, policies=tuple(POLICIES)):
    """Rows that end at different times, with their tokens, sizes and up to two affine maps of them."""
    rows = draw(st.integers(1, 4))
    lengths = sorted((draw(st.integers(1, 14)) for _ in range(rows)), reverse=True)
    positions, channels = draw(st.integers(1, 4)), draw(st.integers(3, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = (rows, lengths[0], positions)
    tokens = torch.randn(*shape, channels, generator=generator, dtype=torch.float64)
    sizes = None
    if draw(st.booleans()):
        sizes = torch.randint(1, 6, shape, generator=generator).double()
    maps = [
        torch.randn(channels + 1, width, generator=generator, dtype=torch.float64)
        for width in draw(st.lists(st.integers(1, 4), max_size=2))
    ]
    return {
        "lengths": lengths,
        "tokens": tokens,
        "sizes": sizes,
        "maps": maps,
        "length": draw(st.integers(1, 6)),
        "policy": draw(st.sampled_from(policies)),
    }


def mapped(tokens, weights):
    return tokens @ weights[:-1] + weights[-1]


def run(case, after_step=None):
    tokens, sizes, lengths = case["tokens"], case["sizes"], case["lengths"]
    rows, steps, positions, channels = tokens.shape
    bank = make_bank(
        rows=rows,
        length=case["length"],
        steps=steps,
        positions=positions,
        channels=channels,
        policy=case["policy"],
    )
    for step in range(steps):
        active = sum(length > step for length in lengths)
        if active < bank.active:
            bank.retire(active)
        change = bank.append(tokens[:active, step], None if sizes is None else sizes[:active, step])
        if after_step is not None:
            after_step(bank, step, change)
    return bank


class PlainRows:
    """The same rows as plain lists."""

    def __init__(self, case):
        self.case = case
        self.memories = [PlainBank(case["length"], case["policy"]) for _ in case["lengths"]]

    def step(self, step):
        for row, memory in enumerate(self.memories):
            if step < self.case["lengths"][row]:
                sizes = None if self.case["sizes"] is None else self.case["sizes"][row, step].numpy()
                memory.append(self.case["tokens"][row, step].numpy(), sizes)


def assert_same(entries, memory):
    assert len(entries) == len(memory.entries)
    assert entries.appended == memory.appended
    np.testing.assert_allclose(entries.tokens.numpy(), memory.tokens, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(entries.sizes.numpy(), memory.sizes)
    np.testing.assert_array_equal(entries.first.numpy(), memory.first)


@settings(max_examples=80, deadline=None)
@given(runs())
def test_a_bank_holds_what_a_plain_list_would(case):
    rows = PlainRows(case)

    def check(bank, step, change):
        rows.step(step)
        for entries, memory in zip(bank.entries(), rows.memories, strict=True):
            assert_same(entries, memory)

    bank = run(case, check)
    for entries, memory in zip(bank.finish(), rows.memories, strict=True):
        memory.finish()
        assert_same(entries, memory)


@settings(max_examples=40, deadline=None)
@given(runs())
def test_what_goes_through_the_changes_stays_the_affine_map_of_the_entries(case):
    buffers = []

    def check(bank, step, change):
        if not buffers:
            buffers.extend(bank.buffer(weights.shape[1]) for weights in case["maps"])
        assert change.count == bank.count
        held = bank.tokens_BSNC[: bank.active, : bank.count]
        new = case["tokens"][: bank.active, step]
        for weights, buffer in zip(case["maps"], buffers, strict=True):
            change.apply(buffer, mapped(new, weights))
            torch.testing.assert_close(
                buffer[: bank.active, : bank.count], mapped(held, weights), rtol=0, atol=1e-10
            )

    run(case, check)


@settings(max_examples=20, deadline=None)
@given(runs())
def test_changes_may_be_applied_when_the_bank_is_long_done(case):
    changes = []
    bank = run(case, lambda bank, step, change: changes.append((bank.active, change)))
    buffer = bank.buffer(case["tokens"].shape[-1])
    for step, (active, change) in enumerate(changes):
        change.apply(buffer, case["tokens"][:active, step])
    last = changes[-1][1].count
    torch.testing.assert_close(
        buffer[: bank.active, :last], bank.tokens_BSNC[: bank.active, :last], rtol=0, atol=1e-10
    )


@settings(max_examples=40, deadline=None)
@given(runs(policies=BOUNDED))
def test_a_finished_bank_is_never_longer_than_its_length(case):
    for entries, length in zip(run(case).finish(), case["lengths"], strict=True):
        assert len(entries) == min(length, case["length"])


@settings(max_examples=40, deadline=None)
@given(runs(policies=MERGING))
def test_merging_loses_no_frame_and_parts_time_at_every_position(case):
    total = torch.ones_like(case["tokens"][..., 0]) if case["sizes"] is None else case["sizes"]
    for row, entries in enumerate(run(case).finish()):
        length = case["lengths"][row]
        assert torch.equal(entries.sizes.sum(0), total[row, :length].sum(0))
        assert (entries.first[0] == 0).all()
        ends = torch.cat([entries.first[1:], torch.full_like(entries.first[:1], length)])
        assert (ends > entries.first).all()
        if case["sizes"] is None:
            assert torch.equal(entries.sizes, (ends - entries.first).double())


@settings(max_examples=30, deadline=None)
@given(runs())
def test_a_row_that_ended_stays_as_it_is(case):
    ended = {}

    def check(bank, step, change):
        for row, entries in enumerate(bank.entries()):
            if row >= bank.active:
                before = ended.setdefault(row, entries)
                assert torch.equal(before.tokens, entries.tokens)
                assert torch.equal(before.sizes, entries.sizes)
                assert torch.equal(before.first, entries.first)

    run(case, check)


@settings(max_examples=25, deadline=None)
@given(runs())
def test_a_row_does_not_depend_on_the_others(case):
    together = run(case).finish()
    for row, length in enumerate(case["lengths"]):
        alone = case | {
            "lengths": [length],
            "tokens": case["tokens"][row : row + 1, :length],
            "sizes": None if case["sizes"] is None else case["sizes"][row : row + 1, :length],
        }
        (entries,) = run(alone).finish()
        assert torch.equal(entries.tokens, together[row].tokens)
        assert torch.equal(entries.first, together[row].first)


@pytest.mark.parametrize(("policy", "steps"), [("none", 3), ("none", 1), ("token", 3)])
def test_more_entries_than_were_announced_is_an_error(policy, steps):
    bank = make_bank(steps=steps, length=5, policy=policy)
    for _ in range(steps):
        bank.append(torch.zeros(1, 3, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"one more"):
        bank.append(torch.zeros(1, 3, 5, dtype=torch.float64))


def test_length_zero_holds_the_newest_entry_only():
    bank = make_bank(length=0, steps=1)
    for step in range(3):
        bank.append(torch.full((1, 3, 5), float(step), dtype=torch.float64))
        (entries,) = bank.entries()
        assert len(entries) == 1
        assert (entries.tokens == step).all()
        assert (entries.first == step).all()
    assert len(bank.finish()[0]) == 1


def test_padding_has_no_say_in_which_frames_are_joined():
    """Position 0 says that the last two frames are alike, position 1, which is padding, the first two."""
    bank = make_bank(length=2, steps=3, positions=2, policy="frame", present_BN=torch.tensor([[True, False]]))
    shown = torch.eye(5, dtype=torch.float64)
    for at_0, at_1 in ((0, 3), (1, 3), (1, 4)):
        bank.append(torch.stack([shown[at_0], shown[at_1]])[None])
    (entries,) = bank.finish()
    assert entries.sizes.tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("wrong", [{"length": -1}, {"steps": 0}, {"rows": 0}])
def test_a_bank_of_invalid_size_is_refused(wrong):
    with pytest.raises(ValueError, match="is not possible"):
        make_bank(**wrong)


def test_rows_cannot_come_back():
    bank = make_bank(rows=2)
    bank.retire(1)
    with pytest.raises(ValueError, match="2 rows cannot be active of 1"):
        bank.retire(2)


@pytest.mark.parametrize("steps", [1, 5, 100_000])
def test_memory_is_bounded_by_length_not_by_steps(steps):
    bank = make_bank(rows=2, length=4, steps=steps, device="meta", dtype=torch.float32)
    assert bank.nbytes == 2 * min(steps, 5) * 3 * 5 * 4
    assert bank.buffer(7).shape == (2, min(steps, 5), 3, 7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sizes_stay_exact_in_half_precision(dtype):
    bank = make_bank(length=1, steps=500, dtype=dtype)  # bfloat16 counts to 256
    for _ in range(500):
        bank.append(torch.ones(1, 3, 5, dtype=dtype))
    (entries,) = bank.finish()
    assert (entries.sizes == 500).all()
    assert entries.tokens.dtype == dtype
    assert (entries.tokens == 1).all()


def test_printing_a_row_shows_shapes():
    bank = make_bank()
    bank.append(torch.zeros(1, 3, 5, dtype=torch.float64))
    assert repr(bank.finish()[0]) == "BankEntries(tokens=(1, 3, 5), appended=1)"
