"""A stage of training that may be killed at any moment and goes on where it was saved.

A stage has a budget of seconds, or of steps in tests. Every step draws from a generator seeded by
stage and step; what is saved holds weights, their moving average, the optimizer and the time used.
With a budget of seconds a faster machine makes more steps: the same seed gives the same phantoms
and the same order, not the same weights on every machine.
"""

import copy
import ctypes
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mammofm_lite.errors import ExportError
from mammofm_lite.writers.files import write_atomically

__all__ = [
    "Budget",
    "Loss",
    "Stage",
    "in_tenths",
    "keep_memory",
    "load_state",
    "print_line",
    "run_stage",
    "save_state",
]

Tell = Callable[[str], None]

_SAVE_SECONDS: Final = 60.0
_TELL_SECONDS: Final = 20.0
_AVERAGE: Final = 0.997
_WARM_UP: Final = 0.04
_LARGEST_GRADIENT: Final = 5.0
_KEPT_BYTES: Final = 1 << 30


class Loss(Protocol):
    """What a step is taught by. Drawing and learning are apart, so that processes may draw ahead
    while a GPU learns."""

    def draw(self, random: np.random.Generator) -> Any:
        """What the step sees: tensors on the CPU."""

    def __call__(self, drawn: Any) -> Mapping[str, Tensor]:
        """Losses by name; their sum is minimised."""


def keep_memory() -> None:
    """Let glibc keep what is freed: activations of every step would be mapped and zeroed anew.

    Measured on two cores: a step takes a third less time. Elsewhere than glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, _KEPT_BYTES)
    mallopt(mmap_threshold, _KEPT_BYTES)


@dataclass(frozen=True)
class Budget:
    """How long a stage lasts: `seconds`, or `steps` where they are given."""

    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        return f"{self.seconds / 60:.0f} min" if self.steps is None else f"{self.steps} steps"

    def __bool__(self) -> bool:
        return self.seconds > 0 or bool(self.steps)

    def longer(self, seconds: float) -> "Budget":
        """Lasts so many seconds more; of steps there are as many."""
        return replace(self, seconds=self.seconds + seconds)

    def progress(self, seconds: float, steps: int) -> float:
        """0 at the start, 1 when the stage is over."""
        if self.steps is not None:
            return min(steps / max(self.steps, 1), 1.0)
        return min(seconds / max(self.seconds, 1e-6), 1.0)


@dataclass(frozen=True)
class Stage:
    """What a stage trains and how.

    Attributes
    ----------
    name
        Names the stage in the log and in its file.
    number
        Seeds it, with `seed`.
    module
        Trained in place; at the end it holds the moving average.
    loss
        Draws what a step sees, and judges it.
    rates
        Learning rate by the prefix of a parameter's name; the longest prefix that fits counts.
    drawers
        Processes that draw ahead; 0 draws in this one. What is drawn does not depend on it.
    """

    name: str
    number: int
    module: nn.Module
    loss: Loss
    rates: Mapping[str, float]
    budget: Budget
    seed: int
    decay: float = 0.02
    drawers: int = 0


@dataclass
class _Run:
    """Where a stage stands."""

    stage: Stage
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        return self.stage.budget.progress(self.seconds, self.step)

    def state(self) -> dict[str, Any]:
        return {
            "module": self.stage.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.stage.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any] | None:
    """Read what `save_state` wrote; ``None`` where there is no file.

    Raises
    ------
    ExportError
        The file is not one of ours.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        raise ExportError(
            f"{path.name} is unreadable; delete it to train that stage anew"
        ) from error
    if not isinstance(state, dict):
        raise ExportError(
            f"{path.name} holds no training state; delete it to train that stage anew"
        )
    return state


def run_stage(stage: Stage, path: Path, tell: Tell) -> None:
    """Train, or go on training, until the budget is used; then `stage.module` is the average.

    Raises
    ------
    ExportError
        The saved state is unreadable or of another model, or the loss is not finite.
    """
    run = _Run(stage, copy.deepcopy(stage.module), _optimizer(stage))
    state = load_state(path)
    if state is not None:
        try:
            run.load(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ExportError(
                f"{path.name} is of another model; delete it to train anew"
            ) from error
    if run.progress < 1:
        _train(run, path, tell)
        save_state(path, run.state())
    tell(f"{stage.name}: {run.step} steps in {run.seconds / 60:.1f} min; {_shown(run.losses)}")
    stage.module.load_state_dict(run.average.state_dict())


def _optimizer(stage: Stage) -> torch.optim.Optimizer:
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in stage.module.named_parameters():
        fitting = [prefix for prefix in stage.rates if name.startswith(prefix)]
        rate = stage.rates[max(fitting, key=len)] if fitting else 0.0
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault((rate, parameter.dim() > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "peak": rate, "weight_decay": stage.decay if matrix else 0.0}
            for (rate, matrix), parameters in groups.items()
        ]
    )


def _train(run: _Run, path: Path, tell: Tell) -> None:
    with _drawing(run) as steps:
        _learn(run, steps, path, tell)


class _Draws(Dataset[Any]):
    """What every step of a stage sees, by its number."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __getitem__(self, step: int) -> Any:
        stage = self._stage
        return stage.loss.draw(np.random.default_rng([stage.seed, stage.number, step]))


@contextmanager
def _drawing(run: _Run) -> Iterator[Iterator[Any]]:
    """What the steps to come see, in order, without end."""
    draws, steps, drawers = _Draws(run.stage), count(run.step), run.stage.drawers
    if drawers == 0:
        yield (draws[step] for step in steps)
        return
    # Forked: the studies, mapped into memory, are shared and never sent.
    loader: Iterable[Any] = DataLoader(
        draws,
        batch_size=None,
        sampler=steps,
        num_workers=drawers,
        multiprocessing_context="fork",
        prefetch_factor=2,
    )
    yield iter(loader)


def _learn(run: _Run, steps: Iterator[Any], path: Path, tell: Tell) -> None:
    saved = told = time.monotonic()
    while run.progress < 1:
        start = time.monotonic()
        _step(run, next(steps))
        now = time.monotonic()
        run.seconds += now - start
        if now - saved > _SAVE_SECONDS:
            save_state(path, run.state())
            saved = time.monotonic()
        if now - told > _TELL_SECONDS:
            tell(_line(run))
            told = now


@contextmanager
def _short_products() -> Iterator[None]:
    """Let a processor that multiplies in bfloat16 do so: what is added up stays float32."""
    kinds = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "bf16"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _step(run: _Run, drawn: Any) -> None:
    stage = run.stage
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * _schedule(run.progress)
    run.optimizer.zero_grad()
    with _short_products():
        losses = stage.loss(drawn)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise ExportError(f"{stage.name}: the loss of step {run.step} is not finite")
        total.backward()
    trained = [p for group in run.optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(trained, _LARGEST_GRADIENT)
    run.optimizer.step()
    run.step += 1
    _follow(run)
    for name, loss in losses.items():
        value = float(loss.detach())
        run.losses[name] = value + 0.97 * (run.losses.get(name, value) - value)


def _schedule(progress: float) -> float:
    """Share of the learning rate: a short rise, then a cosine."""
    rise = min(progress / _WARM_UP, 1.0) if _WARM_UP else 1.0
    return float(max(rise, 0.02) * (0.5 + 0.5 * np.cos(np.pi * progress)) + 1e-3)


@torch.no_grad()
def _follow(run: _Run) -> None:
    """Move the average towards the weights, faster while they are young."""
    keep = min(_AVERAGE, (1 + run.step) / (10 + run.step))
    own = run.stage.module.state_dict()
    averages = run.average.state_dict()
    moving = [name for name, mean in averages.items() if mean.is_floating_point()]
    torch._foreach_lerp_([averages[n] for n in moving], [own[n] for n in moving], 1 - keep)
    for name in averages.keys() - set(moving):
        averages[name].copy_(own[name])


def _line(run: _Run) -> str:
    stage, left = run.stage, "?"
    if run.progress > 0:
        left = f"{run.seconds * (1 / run.progress - 1) / 60:.1f}"
    return (
        f"{stage.name}: {100 * run.progress:3.0f} %, step {run.step}, {left} min left; "
        f"{_shown(run.losses)}"
    )


def _shown(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in losses.items())


def in_tenths(tell: Tell, what: str) -> Callable[[int, int], None]:
    """What is called with how much is done of how much, and tells of whole tenths only."""
    told = -1

    def count_up(done: int, count: int) -> None:
        nonlocal told
        if (tenth := 10 * done // max(count, 1)) > told:
            told = tenth
            tell(f"{what}: {done} of {count}")

    return count_up


def print_line(line: str) -> None:
    """Say a line of progress at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
