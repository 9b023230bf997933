"""One graph through NNCF: quantized on recorded inputs, or its weights compressed.

Settings, and why (measured on this package's graphs; see the README):

- preset ``mixed``: weights symmetric, activations asymmetric, for swish has a small negative side;
- overflow fix for every layer: weights use half of their range, so that CPUs that add pairs of
  8-bit products in 16 bits (no VNNI) cannot saturate and all CPUs answer alike;
- squeeze-excite convolutions stay float, and so does what `layers.never_quantized` names.
"""

import io
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final, Literal

import nncf

from mammofm_lite._openvino import make_core, ov
from mammofm_lite.errors import ExportError
from mammofm_lite.graphs import Tensors

from .layers import never_quantized

__all__ = ["BiasCorrection", "compress_weights", "quantize_graph", "read_graph", "save_graph"]

BiasCorrection = Literal["none", "fast", "full"]

NNCF_VERSION: Final[str] = nncf.__version__


def read_graph(path: Path) -> Any:
    """The ``openvino.Model`` of a file, our operations known."""
    return make_core().read_model(str(path))


def save_graph(model: Any, path: Path, *, half_weights: bool) -> None:
    """Write both halves; what is not 8-bit is stored as the bundle stores it."""
    ov.save_model(model, str(path), compress_to_fp16=half_weights)


def quantize_graph(
    path: Path,
    inputs: Sequence[Tensors],
    float_layers: Collection[str],
    bias_correction: BiasCorrection = "fast",
) -> Any:
    """The graph of a file with 8-bit convolutions.

    Parameters
    ----------
    path
        The float graph.
    inputs
        What it is calibrated on: inputs by name, one mapping per run.
    float_layers
        Names of convolutions that stay float.
    bias_correction
        ``full`` corrects layer after layer on the quantized inputs of each, and takes longer.
        ``none`` leaves them as they are, for weights that were trained rounded.

    Raises
    ------
    ExportError
        There is nothing to calibrate on.
    """
    if not inputs:
        raise ExportError(f"{path.name}: no calibration study feeds this graph")
    model = read_graph(path)
    ignored = [*never_quantized(model), *float_layers]
    with _quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(list(inputs)),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(inputs),
            fast_bias_correction=bias_correction != "full",
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE,
                disable_bias_correction=bias_correction == "none",
            ),
        )


def compress_weights(path: Path) -> Any:
    """The graph of a file with 8-bit symmetric weights per channel; it computes in float.

    Our operations and the state of a decoder are kept: `check_kept` proves it.

    Raises
    ------
    ExportError
        An operation of ours or a state is gone.
    """
    before = _kept_operations(read_graph(path))
    with _quiet():
        model = nncf.compress_weights(read_graph(path), mode=nncf.CompressWeightsMode.INT8_SYM)
    if _kept_operations(model) != before:
        raise ExportError(f"{path.name}: compression lost an operation or a state of the graph")
    return model


def _kept_operations(model: Any) -> list[str]:
    kept = ("TiledAttention", "ReadValue", "Assign")
    return sorted(op.get_type_name() for op in model.get_ops() if op.get_type_name() in kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws its progress on stdout, where only results may stand."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
