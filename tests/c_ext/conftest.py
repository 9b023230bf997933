"""TiledAttention per instruction set, in a process of its own, and its truth in float64."""

import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mammofm_lite.native import supported_instruction_sets

WORKER = Path(__file__).with_name("worker.py")
DEFAULTS: dict[str, Any] = {"causal": False, "window": -1, "scale": 0.0}


class Attention:
    """The operation in a process that runs the kernels of `isa`, in `precision` if it is given."""

    def __init__(self, isa: str, precision: str = "") -> None:
        self.isa = isa
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            env={**os.environ, "MAMMOFM_ISA": isa, "MAMMOFM_ATTENTION": precision},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, *arrays: np.ndarray, **attributes: Any) -> np.ndarray | str:
        """The result, or the text of the exception."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(({**DEFAULTS, **attributes}, list(arrays)), self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def __call__(self, *arrays: np.ndarray, **attributes: Any) -> np.ndarray:
        result = self.ask(*arrays, **attributes)
        assert isinstance(result, np.ndarray), result
        return result

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session", params=["portable", "avx2", "avx512", "avx512_vnni"])
def attention(request: pytest.FixtureRequest) -> Iterator[Attention]:
    """The operation, once per instruction set that this machine has."""
    if request.param not in supported_instruction_sets():
        pytest.skip(f"this CPU lacks {request.param}")
    worker = Attention(request.param)
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def start_attention() -> Iterator[Callable[..., Attention]]:
    """Start the operation under any values of MAMMOFM_ISA and MAMMOFM_ATTENTION."""
    started: dict[tuple[str, str], Attention] = {}

    def start(isa: str, precision: str = "") -> Attention:
        if (isa, precision) not in started:
            started[isa, precision] = Attention(isa, precision)
        return started[isa, precision]

    yield start
    for worker in started.values():
        worker.close()


@pytest.fixture(scope="session")
def build_model() -> Callable[..., Any]:
    """`build_model` of the worker."""
    return runpy.run_path(str(WORKER))["build_model"]


@pytest.fixture(scope="session")
def truth() -> Callable[..., np.ndarray]:
    """The definition, in float64 with an explicit softmax over an explicit mask."""
    return _truth


def _truth(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    key_mask: np.ndarray | None = None,
    causal: bool = False,
    window: int = -1,
    scale: float = 0.0,
) -> np.ndarray:
    q, k, v = (torch.from_numpy(array).double() for array in (query, key, value))
    queries, keys, depth = q.shape[2], k.shape[2], q.shape[3]
    position = torch.arange(queries)[:, None] + keys - queries
    distance = position - torch.arange(keys)
    seen = torch.ones(len(q), 1, queries, keys, dtype=torch.bool)
    if causal:
        seen &= distance >= 0
    if window >= 0:
        seen &= distance.abs() <= window
    if key_mask is not None:
        seen &= torch.from_numpy(key_mask != 0)[:, None, None, :]
    scores = q @ k.transpose(-1, -2) * (scale or depth**-0.5)
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    weights = torch.where(seen, weights, 0.0)
    return (weights @ v).numpy()
