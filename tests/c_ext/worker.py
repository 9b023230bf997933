"""A process with its own MAMMOFM_ISA that answers questions about TiledAttention.

The choice of kernels is made once per process, so every instruction set needs one. Cases go the
whole way that a bundle's graph goes: extension, compiled model, inference. The worker reads
pickled (attributes, arrays) from stdin and writes the pickled result to stdout: an array, or the
text of the exception.
"""

import pickle
import sys
from functools import cache
from typing import Any

import numpy as np
import openvino.opset15 as opset
from openvino.utils.node_factory import NodeFactory

from mammofm_lite._openvino import cpu_properties, make_core, ov
from mammofm_lite.native import extension_path


def build_model(
    attributes: dict[str, Any], shapes: list[list[int]], mask_type: type = bool
) -> ov.Model:
    """One TiledAttention with three inputs, or four where `shapes` has a key_mask."""
    types = [np.float32, np.float32, np.float32, mask_type]
    inputs = [opset.parameter(*pair) for pair in zip(shapes, types, strict=False)]
    factory = NodeFactory()
    factory.add_extension(str(extension_path()))
    node = factory.create("TiledAttention", [i.output(0) for i in inputs], attributes)
    return ov.Model([node.output(0)], inputs)


@cache
def _compiled(attributes: tuple[tuple[str, Any], ...], mask_type: type | None, threads: int) -> Any:
    """With dynamic shapes, so that one compilation serves every case."""
    shapes = [[-1] * 4] * 3 + ([[-1] * 2] if mask_type else [])
    model = build_model(dict(attributes), shapes, mask_type or bool)
    return make_core().compile_model(model, "CPU", cpu_properties(threads))


def answer(attributes: dict[str, Any], arrays: list[np.ndarray]) -> np.ndarray:
    """Run the operation; `attributes` may also hold the number of threads."""
    threads = attributes.pop("threads", 2)
    mask_type = arrays[3].dtype.type if len(arrays) == 4 else None
    result: np.ndarray = _compiled(tuple(attributes.items()), mask_type, threads)(arrays)[0]
    return result


def main() -> None:
    while True:
        try:
            attributes, arrays = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result: np.ndarray | str = answer(attributes, arrays)
        except Exception as error:
            result = str(error)
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
