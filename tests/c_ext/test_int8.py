"""TiledAttention with INT8 products, forced, on every instruction set that the machine has."""

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mammofm_lite.native import attention_precision, supported_instruction_sets

Attention = Callable[..., np.ndarray]
Truth = Callable[..., np.ndarray]
Start = Callable[..., Attention]

# Difference over truth, as lengths; normal random numbers give 1.2e-2.
TOLERANCE = 2e-2
FEW = 32  # fewer queries run in float32


@pytest.fixture(scope="module", params=["portable", "avx2", "avx512", "avx512_vnni"])
def int8(request: pytest.FixtureRequest, start_attention: Start) -> Attention:
    if request.param not in supported_instruction_sets():
        pytest.skip(f"this CPU lacks {request.param}")
    return start_attention(request.param, "int8")


def make_inputs(
    heads: int, queries: int, keys: int, depth: int, batch: int = 1, seed: int = 0
) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((batch, heads, n, depth), dtype=np.float32)
        for n in (queries, keys, keys)
    ]


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    assert np.isfinite(actual).all()
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30))


def is_rounded(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the INT8 kernel made it: float32 is exact to 1e-5, and no rounding is that good."""
    return error(actual, expected) > 1e-5


@given(
    batch=st.integers(1, 2),
    queries=st.integers(FEW, 700),
    keys=st.integers(1, 400),
    depth=st.integers(1, 256),
    causal=st.booleans(),
    window=st.sampled_from([-1, 0, 5, 100]),
    share=st.sampled_from([None, 0.0, 0.05, 0.9]),
    seed=st.integers(0, 99),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
def test_any_shape_and_mask(
    int8: Attention,
    truth: Truth,
    batch: int,
    queries: int,
    keys: int,
    depth: int,
    causal: bool,
    window: int,
    share: float | None,
    seed: int,
) -> None:
    arrays = make_inputs(1, queries, keys, depth, batch, seed)
    if share is not None:
        arrays.append(np.random.default_rng(seed).random((batch, keys)) < share)
    expected = truth(*arrays, causal=causal, window=window)
    result = int8(*arrays, causal=causal, window=window)
    assert error(result, expected) < TOLERANCE
    # A row that sees no key is exactly zero.
    assert not result[~expected.any(axis=-1)].any()


def test_four_views(int8: Attention, truth: Truth) -> None:
    """Keys in parts over two threads, which are merged."""
    arrays = make_inputs(1, 130, 5568, 64)
    expected = truth(*arrays)
    result = int8(*arrays)
    assert is_rounded(result, expected)
    assert error(result, expected) < TOLERANCE


def test_what_keys_and_values_have_in_common_costs_nothing(int8: Attention, truth: Truth) -> None:
    """A bias of a hundred times the spread: without smoothing, the spread would be rounded away."""
    query, key, value = make_inputs(2, 200, 500, 64)
    expected = truth(query, key, value)
    key += 100 * np.random.default_rng(1).standard_normal(64).astype(np.float32)
    assert error(int8(query, key, value), expected) < TOLERANCE
    shifted = int8(query, key, value + np.float32(100)) - 100
    assert error(shifted, expected) < TOLERANCE


def test_high_scores(int8: Attention, truth: Truth) -> None:
    """One key wins by far: its weight is one, whatever the scores were rounded to."""
    query, key, value = make_inputs(2, 100, 300, 64)
    key[:, :, 7] += 3 * query.mean(axis=2)
    query *= 30
    key[:, :, ::3] = query[:, :, :100] / 10
    assert error(int8(query, key, value), truth(query, key, value)) < TOLERANCE


@pytest.mark.parametrize("scale", [-0.125, 1e-3, 1e-30])
def test_scale(int8: Attention, truth: Truth, scale: float) -> None:
    arrays = make_inputs(2, 64, 200, 64)
    assert error(int8(*arrays, scale=scale), truth(*arrays, scale=scale)) < TOLERANCE


def test_rows_of_nothing(int8: Attention, truth: Truth) -> None:
    """Zero queries, keys and values have no size to divide by."""
    query, key, value = make_inputs(1, 64, 130, 40)
    query[:, :, 5], key[:, :, 9:20], value[..., 3] = 0, 0, 0
    expected = truth(query, key, value)
    result = int8(query, key, value)
    assert error(result, expected) < TOLERANCE
    assert not result[..., 3].any()
    tiny = np.float32(1e-38)
    assert not (np.abs(int8(query, key * tiny, value * tiny)) > 1e-37).any()


# -------------------- what is left to the float32 kernel


@pytest.mark.parametrize("queries", [1, FEW - 1, FEW])
def test_few_queries(int8: Attention, truth: Truth, queries: int) -> None:
    arrays = make_inputs(1, queries, 300, 64)
    assert is_rounded(int8(*arrays), truth(*arrays)) == (queries >= FEW)


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf, 1e16])
@pytest.mark.parametrize("keys", [60, 5568])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_numbers_that_cannot_be_rounded(
    int8: Attention, start_attention: Start, where: int, what: float, keys: int
) -> None:
    """They have the effect that they have in float32, to the bit."""
    arrays = make_inputs(1, 70, keys, 64)
    arrays[where][0, 0, 20, 7] = what
    plain = start_attention(int8.isa, "float32")
    np.testing.assert_array_equal(int8(*arrays), plain(*arrays))


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_what_key_mask_hides_does_not_matter(int8: Attention, truth: Truth, garbage: float) -> None:
    query, key, value = make_inputs(2, 64, 600, 50)
    mask = np.random.default_rng(0).random((1, 600)) < 0.6
    expected = truth(query, key, value, mask)
    key[:, :, ~mask[0]] = garbage
    value[:, :, ~mask[0]] = garbage
    result = int8(query, key, value, mask)
    assert is_rounded(result, expected)
    assert error(result, expected) < TOLERANCE


# -------------------- repetition, choice


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_answer_twice(int8: Attention, threads: int) -> None:
    arrays = make_inputs(2, 300, 700, 64)
    first = int8(*arrays, window=200, threads=threads)
    for _ in range(4):
        np.testing.assert_array_equal(int8(*arrays, window=200, threads=threads), first)


@pytest.mark.parametrize("asked", ["float32", "int8"])
@pytest.mark.parametrize("forced", ["", "float32", "int8"])
def test_who_decides(start_attention: Start, truth: Truth, asked: str, forced: str) -> None:
    """The environment, else the graph where the CPU gains by it; and the package tells the same."""
    isa = supported_instruction_sets()[-1]
    arrays = make_inputs(1, 64, 200, 64)
    rounded = is_rounded(start_attention(isa, forced)(*arrays, precision=asked), truth(*arrays))
    gains = isa == "avx512_vnni"
    assert rounded == ((forced or asked) == "int8" and (gains or forced == "int8"))
    code = "import sys, mammofm_lite.native as n; print(n.attention_precision(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, asked],
        env={**os.environ, "MAMMOFM_ATTENTION": forced},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ("int8" if rounded else "float32")


def test_cpus_that_gain_nothing_stay_with_float32(start_attention: Start, truth: Truth) -> None:
    arrays = make_inputs(1, 64, 200, 64)
    result = start_attention("portable", "")(*arrays, precision="int8")
    assert not is_rounded(result, truth(*arrays))


def test_an_unknown_precision_is_refused(start_attention: Start) -> None:
    told = start_attention("", "bf16").ask(*make_inputs(1, 1, 1, 32))
    assert "MAMMOFM_ATTENTION: unknown precision 'bf16'; give float32 or int8" in told


def test_the_default_is_float32() -> None:
    assert attention_precision() == os.environ.get("MAMMOFM_ATTENTION", "float32")
