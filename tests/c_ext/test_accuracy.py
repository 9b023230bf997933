"""TiledAttention against float64, on every instruction set that the machine has."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Attention = Callable[..., np.ndarray]
Truth = Callable[..., np.ndarray]

# Largest absolute error, for inputs of unit variance and the default scale.
TOLERANCE = 1e-5
# In one block of keys; in parts over two threads, which are merged, even for a single query.
KEYS = pytest.mark.parametrize("keys", [40, 5568])


def make_inputs(
    batch: int, heads: int, queries: int, keys: int, depth: int, seed: int = 0
) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((batch, heads, length, depth), dtype=np.float32)
        for length in (queries, keys, keys)
    ]


def make_key_mask(batch: int, keys: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, keys)) < share


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Also NaN exactly where NaN is expected."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    queries=st.integers(1, 200),
    keys=st.integers(1, 400),
    depth=st.integers(32, 128),
    causal=st.booleans(),
    window=st.sampled_from([-1, 0, 5, 100]),
    share=st.sampled_from([None, 0.0, 0.05, 0.9]),
    seed=st.integers(0, 99),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
def test_any_shape_and_mask(
    attention: Attention,
    truth: Truth,
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    depth: int,
    causal: bool,
    window: int,
    share: float | None,
    seed: int,
) -> None:
    arrays = make_inputs(batch, heads, queries, keys, depth, seed)
    if share is not None:
        arrays.append(make_key_mask(batch, keys, share, seed))
    expected = truth(*arrays, causal=causal, window=window)
    assert_close(attention(*arrays, causal=causal, window=window), expected)


@pytest.mark.parametrize("depth", [1, 5, 31, 129, 255, 256])
@pytest.mark.parametrize("queries", [1, 70])
def test_depths_beyond_the_promised(
    attention: Attention, truth: Truth, queries: int, depth: int
) -> None:
    arrays = make_inputs(1, 2, queries, 90, depth)
    assert_close(attention(*arrays), truth(*arrays))


@pytest.mark.parametrize(
    ("queries", "keys", "attributes"),
    [
        (1392, 1392, {}),  # one view
        (1392, 1392, {"causal": True, "window": 300}),
        (130, 5568, {}),  # four views
        (1, 5568, {}),  # one query: its keys are split over the threads
        (1, 5568, {"window": 3000}),
        (3, 5568, {"causal": True}),
    ],
)
def test_long(
    attention: Attention, truth: Truth, queries: int, keys: int, attributes: dict[str, Any]
) -> None:
    arrays = [*make_inputs(1, 2, queries, keys, 64), make_key_mask(1, keys, 0.8)]
    assert_close(attention(*arrays, **attributes), truth(*arrays, **attributes))


@pytest.mark.parametrize("attributes", [{"causal": True}, {"window": 4}, {}])
def test_more_queries_than_keys(
    attention: Attention, truth: Truth, attributes: dict[str, Any]
) -> None:
    """The first queries stand before the first key; causally they see nothing and get zeros."""
    arrays = make_inputs(2, 2, 150, 20, 48)
    result = attention(*arrays, **attributes)
    assert_close(result, truth(*arrays, **attributes))
    if attributes.get("causal"):
        assert not result[:, :, :130].any()
        assert result[:, :, 130:].all()


@pytest.mark.parametrize("queries", [1, 2, 100])
def test_a_window_beyond_every_key_is_none(attention: Attention, queries: int) -> None:
    arrays = make_inputs(1, 1, queries, 300, 32)
    unlimited = attention(*arrays)
    np.testing.assert_array_equal(attention(*arrays, window=2**63 - 1), unlimited)
    np.testing.assert_array_equal(attention(*arrays, window=300 + queries), unlimited)


@pytest.mark.parametrize("queries", [1, 40])
def test_scale(attention: Attention, truth: Truth, queries: int) -> None:
    """Scores up to several hundred: the weights are nearly one-hot, nothing overflows."""
    arrays = make_inputs(1, 2, queries, 500, 64)
    assert_close(attention(*arrays, scale=10.0), truth(*arrays, scale=10.0), tolerance=1e-3)
    assert_close(attention(*arrays, scale=-0.1), truth(*arrays, scale=-0.1))


@pytest.mark.parametrize("queries", [1, 77])
def test_many_small_weights_are_not_lost(attention: Attention, truth: Truth, queries: int) -> None:
    """One key with score 17 and thousands with 0: each weight alone is less than half a unit in the
    last place of the sum."""
    query, key, value = make_inputs(1, 1, queries, 3000, 64)
    query[...], key[...] = 0, 0
    query[..., 0], key[:, :, 3, 0], value[...] = 17, 8, 1
    value[:, :, 3] = 0
    expected = truth(query, key, value)
    np.testing.assert_allclose(attention(query, key, value), expected, rtol=1e-5)


# -------------------- masked keys, NaN and infinities


@pytest.mark.parametrize("queries", [1, 9, 100])
@KEYS
def test_no_visible_key_gives_zeros(
    attention: Attention, truth: Truth, queries: int, keys: int
) -> None:
    arrays = make_inputs(2, 1, queries, keys, 64)
    mask = make_key_mask(2, keys, 0.5)
    mask[0, : keys // 2] = False  # the first part sees nothing, the second does
    mask[1] = False
    result = attention(*arrays, mask)
    assert not result[1].any()
    assert_close(result, truth(*arrays, mask))


@pytest.mark.parametrize("queries", [1, 9, 100])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_what_key_mask_hides_does_not_matter(
    attention: Attention, truth: Truth, queries: int, garbage: float
) -> None:
    query, key, value = make_inputs(2, 2, queries, 600, 50)
    mask = make_key_mask(2, 600, 0.6)
    expected = truth(query, key, value, mask)
    for array in (key, value):
        array.transpose(0, 2, 1, 3)[~mask] = garbage
    assert_close(attention(query, key, value, mask), expected)


@pytest.mark.parametrize("attributes", [{"causal": True}, {"window": 10}])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_what_position_hides_does_not_matter(
    attention: Attention, truth: Truth, attributes: dict[str, Any], garbage: float
) -> None:
    """The last key is garbage: rows that may not see it are as if it were not there, in the very
    block where other rows do see it."""
    query, key, value = make_inputs(1, 2, 100, 100, 64)
    clean = truth(query, key, value, **attributes)
    key[:, :, -1] = value[:, :, -1] = garbage
    result = attention(query, key, value, **attributes)
    blind = 99 if "causal" in attributes else 89
    assert_close(result[:, :, :blind], clean[:, :, :blind])
    assert not np.isfinite(result[:, :, blind:]).any()


@pytest.mark.parametrize("queries", [1, 50])
@KEYS
@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("key", np.nan),
        ("key", np.inf),
        ("key", -np.inf),
        ("value", np.nan),
        ("value", np.inf),
        ("query", np.nan),
        ("query", np.inf),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_visible_specials_are_as_in_softmax(
    attention: Attention, truth: Truth, queries: int, keys: int, where: str, what: float
) -> None:
    arrays = dict(zip(("query", "key", "value"), make_inputs(1, 2, queries, keys, 64), strict=True))
    arrays["query"][..., 7] = 1  # so that an infinite key gives an infinite score of its sign
    arrays[where][0, 0, queries // 2, 7] = what
    expected = truth(*arrays.values())
    weightless = (where, what) == ("key", -np.inf)
    assert np.isfinite(expected).all() == weightless
    assert_close(attention(*arrays.values()), expected)


@pytest.mark.parametrize("queries", [1, 50])
@KEYS
def test_only_scores_of_minus_infinity_are_nan(
    attention: Attention, truth: Truth, queries: int, keys: int
) -> None:
    """Unlike a row that sees no key, this is 0 / 0, in torch too."""
    query, key, value = make_inputs(1, 2, queries, keys, 32)
    query[...], key[..., 0] = 1, -np.inf
    assert np.isnan(truth(query, key, value)).all()
    assert np.isnan(attention(query, key, value)).all()


# -------------------- forms of the inputs, repetition


def test_no_queries_no_keys_no_heads(attention: Attention) -> None:
    assert attention(*make_inputs(1, 2, 0, 5, 32)).shape == (1, 2, 0, 32)
    assert attention(*make_inputs(0, 2, 4, 5, 32)).shape == (0, 2, 4, 32)
    without_keys = attention(*make_inputs(1, 2, 4, 0, 32))
    np.testing.assert_array_equal(without_keys, np.zeros((1, 2, 4, 32), np.float32))


def test_key_mask_may_be_bytes(attention: Attention, truth: Truth) -> None:
    arrays = make_inputs(2, 1, 20, 30, 32)
    mask = np.random.default_rng(1).choice([0, 1, 2, 255], size=(2, 30)).astype(np.uint8)
    assert_close(attention(*arrays, mask), truth(*arrays, mask))


@pytest.mark.parametrize(("queries", "keys"), [(1, 5568), (300, 700)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_answer_twice(attention: Attention, queries: int, keys: int, threads: int) -> None:
    arrays = [*make_inputs(1, 3, queries, keys, 64), make_key_mask(1, keys, 0.7)]
    first = attention(*arrays, causal=True, threads=threads)
    for _ in range(5):
        np.testing.assert_array_equal(attention(*arrays, causal=True, threads=threads), first)
