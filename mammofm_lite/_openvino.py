"""The one place that imports OpenVINO.

OpenVINO's Python package carries an opt-out usage-statistics client that may open a network
connection. Nothing in a hospital may: it is made unimportable before OpenVINO looks for it, and
OpenVINO then falls back to its own no-op stub.
"""

import sys
from typing import Any, Final

if "openvino_telemetry" not in sys.modules:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov
from openvino import opset15 as opset
from openvino.utils.node_factory import NodeFactory

from ._alternate_stack import own_alternate_stack
from .native import attention_precision, extension_path, instruction_set

__all__ = ["OPENVINO_VERSION", "NodeFactory", "cpu_properties", "make_core", "opset", "ov"]

OPENVINO_VERSION: Final[str] = ov.__version__.split("-")[0]
"""Of the library at hand, without the build number."""


def make_core() -> Any:
    """An ``openvino.Core`` that knows the operations of this package.

    Raises
    ------
    KernelError
        The compiled extension is missing, ``MAMMOFM_ISA`` asks for kernels that it or this CPU does
        not have, or ``MAMMOFM_ATTENTION`` for what they do not compute in: told now, not in the
        middle of a study.
    """
    instruction_set()
    attention_precision()
    core = ov.Core()
    core.add_extension(str(extension_path()))
    with own_alternate_stack():
        core.get_property("CPU", "FULL_DEVICE_NAME")  # creates the plugin, now and not later
    return core


def cpu_properties(threads: int) -> dict[str, Any]:
    """Compile options: one request at a time on `threads` threads, float32 as exported.

    Without the precision hint, CPUs with bfloat16 units would round activations to 8 bits of
    mantissa and the numbers of one bundle would differ from machine to machine.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
    }
