from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.pipeline.schema.rows import ENCODED, rows_table, with_arrays
from malmm.pipeline.schema.stored_tokens import dequantized, quantized, tokens_at

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


def drawn(seed, shape, magnitude):
    generator = np.random.default_rng(seed)
    # Tokens of one memory differ in size by orders of magnitude, and some channels stand out.
    sizes = 10.0 ** generator.uniform(-4, magnitude, shape[:-1])
    return (generator.standard_t(3, shape) * sizes[..., None]).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), SHAPES, st.integers(-3, 3))
def test_a_number_is_off_by_half_a_scale_at_most(seed, shape, magnitude):
    tokens = drawn(seed, shape, magnitude)
    numbers, scales = quantized(tokens)
    assert (numbers.dtype, scales.dtype) == (np.int8, np.float16)
    assert (numbers.shape, scales.shape) == (shape, shape[:-1])
    exact = numbers.astype(np.float64) * scales.astype(np.float64)[..., None]
    assert (np.abs(exact - tokens) <= 0.5001 * scales.astype(np.float64)[..., None]).all()
    # The scale is the smallest float16 number that holds the largest of a token.
    smaller = np.nextafter(scales, np.float16(0)).astype(np.float64)
    largest = np.abs(tokens).max(-1)
    assert (127 * scales.astype(np.float64) >= largest).all()
    assert (127 * smaller < largest).all()
    read = dequantized(numbers, scales)
    assert read.dtype == np.float16
    np.testing.assert_allclose(read, exact, rtol=2**-11, atol=2**-24)


def test_tokens_of_nothing_but_zeros_stay_zeros():
    tokens = np.zeros((2, 3, 4), np.float32)
    tokens[1, 2] = 1.0
    numbers, scales = quantized(tokens)
    assert scales[0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(numbers[:, :, 0], [[0, 0, 0], [0, 0, 127]])
    np.testing.assert_allclose(dequantized(numbers, scales), tokens, rtol=1e-3)


@pytest.mark.parametrize("shape", [(3, 5, 6), (2, 5, 4, 6)])
def test_rows_with_and_without_scales_are_read_alike(shape):
    tokens = drawn(7, shape, 1)
    numbers, scales = quantized(tokens)
    rows = rows_table(
        [
            with_arrays({}, tokens=numbers, token_scales=scales),
            {},
            with_arrays({}, tokens=tokens.astype(np.float16)),
        ],
        ENCODED,
    )
    np.testing.assert_array_equal(tokens_at(rows, 0), dequantized(numbers, scales))
    np.testing.assert_array_equal(tokens_at(rows, 2), tokens.astype(np.float16))
    without = rows.drop_columns(["token_scales", "token_scales_shape"])
    assert isinstance(without, pa.Table)
    np.testing.assert_array_equal(tokens_at(without, 2), tokens.astype(np.float16))
