"""Windows and masks of attention: torch against a plain sum, and the graph against torch."""

import warnings

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mammofm_lite.errors import ExportError
from mammofm_lite.export.attention import attention_extension, tiled_attention
from mammofm_lite.export.graphs import operation_census
from mammofm_lite.export.part import compile_graph

TOLERANCE = 2e-6  # float32 against float64, values near 1
HEADS, DEPTH = 2, 32
WINDOWS = (-1, 0, 1, 3, 64)


class Attention(nn.Module):
    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return tiled_attention(query, key, value, mask > 0, self.window)


def tensors(batch: int, queries: int, keys: int, seed: int) -> list[Tensor]:
    """Query, key, value, and a mask in which every text has a length of its own."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, HEADS, queries, DEPTH), *[(batch, HEADS, keys, DEPTH)] * 2]
    lengths = torch.randint(0, keys + 1, (batch, 1), generator=generator)
    mask = (torch.arange(keys) < lengths).to(torch.int64)
    return [torch.randn(shape, generator=generator) for shape in shapes] + [mask]


def plain(given: list[Tensor], window: int) -> npt.NDArray[np.float64]:
    """Attention by its definition, one query at a time in float64."""
    query, key, value, mask = (tensor.numpy().astype(np.float64) for tensor in given)
    answer = np.zeros(query.shape)
    for b, h, i in np.ndindex(query.shape[:3]):
        place = i + key.shape[2] - query.shape[2]
        distance = np.abs(np.arange(key.shape[2]) - place)
        seen = (mask[b] > 0) & ((window == -1) | (distance <= window))
        if seen.any():
            weight = np.exp(key[b, h, seen] @ query[b, h, i] / np.sqrt(DEPTH))
            answer[b, h, i] = weight / weight.sum() @ value[b, h, seen]
    return answer


LENGTHS = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))


@given(LENGTHS, st.sampled_from(WINDOWS), st.integers(0, 1000))
def test_torch_is_the_definition(shape: tuple[int, int, int], window: int, seed: int) -> None:
    made = tensors(*shape, seed)
    actual = Attention(window)(*made).numpy()
    np.testing.assert_allclose(actual, plain(made, window), rtol=0, atol=TOLERANCE)


def graph(window: int) -> ov.Model:
    """Traced at one length, for any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(Attention(window), tuple(tensors(2, 5, 5, 0)), check_trace=False)
    any_length = [([-1, HEADS, -1, DEPTH], ov.Type.f32)] * 3 + [([-1, -1], ov.Type.i64)]
    return ov.convert_model(traced, input=any_length, extension=[attention_extension()])


@pytest.mark.parametrize("window", WINDOWS)
def test_the_graph_is_torch_at_every_length(window: int) -> None:
    model = graph(window)
    census = operation_census(model)
    assert census["TiledAttention"] == 1
    assert census.keys().isdisjoint({"Softmax", "ScaledDotProductAttention"})
    compiled = compile_graph(model)
    for seed, shape in enumerate([(1, 1, 1), (2, 5, 5), (3, 150, 150), (1, 4, 90), (2, 70, 3)]):
        made = tensors(*shape, seed)
        (actual,) = compiled([tensor.numpy() for tensor in made]).values()
        expected = Attention(window)(*made).numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def test_the_window_changes_the_answer() -> None:
    made = tensors(1, 9, 9, 1)
    made[3][:] = 1
    everything, near, itself = (Attention(window)(*made) for window in (-1, 2, 0))
    assert (everything - near).abs().max() > 0.1
    torch.testing.assert_close(itself, made[2], rtol=0, atol=TOLERANCE)


def test_a_window_that_is_none() -> None:
    with pytest.raises(ExportError, match="the window is -2; give -1 for none, or 0 and more"):
        Attention(-2)(*tensors(1, 2, 2, 0))
