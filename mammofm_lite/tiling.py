"""An encoder's inverted bottlenecks, found in its graph and given to our kernels.

`tile` rewrites a graph in memory; the file keeps OpenVINO's own operations, which are what the
rewritten graph is tested against, and what runs where our kernels would not be faster. A block that
is not exactly of the known form stays as it is.
"""

from typing import Any, Final

from ._openvino import NodeFactory
from .graph_match import consumers, name_of
from .native import extension_path
from .tiling_f32 import F32Block, f32_blocks
from .tiling_int8 import Int8Block, int8_blocks

__all__ = ["ALL_PRECISIONS", "tile"]

ALL_PRECISIONS: Final = frozenset({"int8", "float32"})

_Block = Int8Block | F32Block


def _read_elsewhere(block: _Block, readers: set[str]) -> bool:
    """Whether anything but the operations `readers` needs what the block ends in."""
    others = {name_of(node) for node in consumers(block.exit)} - readers
    if name_of(block.raw) != name_of(block.exit):
        others |= {name_of(node) for node in consumers(block.raw)} - {name_of(block.exit)}
    return bool(others)


def _emit(node: Any, block: _Block) -> None:
    """Let what read the block's last values in planes of floats read those of the operation."""
    replaced = block.raw.output(0)
    node.output(1).get_tensor().set_names(replaced.get_tensor().get_names())
    for target in replaced.get_target_inputs():
        target.replace_source_output(node.output(1))


def tile(model: Any, precisions: frozenset[str] = ALL_PRECISIONS) -> list[str]:
    """Replace the inverted bottlenecks of a graph by `mammofm.TiledMBConv`, in place.

    Consecutive blocks hand each other bytes, or floats, channels last; what else reads a block's
    values reads them in planes of floats, as before.

    Parameters
    ----------
    model : openvino.Model
        With fixed shapes, and batches of one.
    precisions
        Blocks to replace: quantized ones (``int8``), and others (``float32``).

    Returns
    -------
    list of str
        Names of the replaced blocks: of the operation that each of them ended in.
    """
    blocks: list[_Block] = []
    if "int8" in precisions:
        blocks += int8_blocks(model)
    if "float32" in precisions:
        blocks += f32_blocks(model)
    readers: dict[str, set[str]] = {}
    for block in blocks:
        readers.setdefault(name_of(block.entry), set()).update(block.readers)
    emitting = [_read_elsewhere(block, readers.get(name_of(block.exit), set())) for block in blocks]
    factory = NodeFactory()
    factory.add_extension(str(extension_path()))
    made: dict[str, Any] = {}
    for block, emit in zip(blocks, emitting, strict=True):
        before = made.get(name_of(block.entry))
        x = block.first_input() if before is None else before.output(0)
        node = factory.create(block.operation, [x, *block.inputs()], block.attributes(emit))
        node.set_friendly_name(f"{name_of(block.exit)}/tiled")
        if emit:
            _emit(node, block)
        made[name_of(block.exit)] = node
    model.validate_nodes_and_infer_types()
    return list(made)
