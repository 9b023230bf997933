"""Attention as the modules write it, and as a graph carries it: `mammofm.TiledAttention`.

In torch it is a custom operation with plain mathematics behind it, so a traced module keeps it as
one node, which the converter turns into one operation of our extension. Position of query i among
the keys is i + (keys - queries): the last query stands at the last key.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from openvino.frontend.pytorch import ConversionExtension
from openvino.utils.node_factory import NodeFactory
from torch import Tensor
from torch.nn import functional

from mammofm_lite.errors import ExportError
from mammofm_lite.native import extension_path

__all__ = ["attention_extension", "tiled_attention"]

_NAME: Final = "mammofm::tiled_attention"


_UNLIMITED: Final = -1


@torch.library.custom_op(_NAME, mutates_args=())
def _operation(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, window: int) -> Tensor:
    return _attention(query, key, value, key_mask, window)


@_operation.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, window: int) -> Tensor:
    return torch.empty_like(query)


def _attention(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, window: int) -> Tensor:
    """softmax(QK^T/sqrt(d) + mask)V; a query that may see no key gives zeros."""
    seen = key_mask[:, None, None, :]
    if window != _UNLIMITED:
        queries, keys = query.shape[2], key.shape[2]
        position = torch.arange(queries)[:, None] + (keys - queries)
        seen = seen & ((position - torch.arange(keys)).abs() <= window)
    looked = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    return torch.where(seen.any(dim=-1, keepdim=True), looked, torch.zeros(()))


def tiled_attention(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, window: int = _UNLIMITED
) -> Tensor:
    """Attend from every query to the keys that the mask shows and the window reaches.

    Parameters
    ----------
    query : Tensor
        float32 ``[batch, heads, queries, channels]``.
    key, value : Tensor
        float32 ``[batch, heads, keys, channels]``.
    key_mask : Tensor
        bool ``[batch, keys]``, true where a key may be seen.
    window : int
        Largest distance of a key from the query's position that is seen, on either side; -1 for
        any.

    Returns
    -------
    Tensor
        float32 ``[batch, heads, queries, channels]``.

    Raises
    ------
    ExportError
        If the window is less than -1.
    """
    if window < _UNLIMITED:
        raise ExportError(f"attention: the window is {window}; give -1 for none, or 0 and more")
    if torch.jit.is_tracing():
        answer: Tensor = _operation(query, key, value, key_mask, window)
        return answer
    return _attention(query, key, value, key_mask, window)


def attention_extension() -> ConversionExtension:
    """Teaches the converter to write `tiled_attention` as ``mammofm.TiledAttention``."""
    factory = NodeFactory()
    factory.add_extension(str(extension_path()))

    def convert(context: Any) -> Any:
        inputs = [context.get_input(i) for i in range(4)]
        window = context.get_values_from_const_input(4, dtype=int)
        attributes = {"causal": False, "window": window, "scale": 0.0}
        return factory.create("TiledAttention", inputs, attributes).outputs()

    return ConversionExtension(_NAME, convert)
