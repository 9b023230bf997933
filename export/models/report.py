"""The report head: all views' tokens, a fusion transformer, a text decoder with a cache.

Our own design; the reference has published none. Every cell of every view's feature map is a
token. It carries where it lies (row, column), whose breast it shows and in which projection.
Tokens of all views attend to each other, and a small transformer writes the report, looking at
its own earlier tokens and at all visual tokens. Missing views are masked, not invented.

Source of the layers: Vaswani et al., arXiv 1706.03762; pre-normalisation, Xiong et al., arXiv
2002.04745.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite.export.attention import tiled_attention
from mammofm_lite.views import STANDARD_VIEWS, laterality, projection

__all__ = ["DecoderStep", "Memory", "ReportConfig", "ReportModel", "StepOutput", "Visual"]

_MLP_RATIO: Final = 4


@dataclass(frozen=True)
class ReportConfig:
    """Shape of a report head.

    Attributes
    ----------
    channels, rows, columns : int
        Shape of one view's feature map.
    dim, heads : int
        Width of a token and number of attention heads; ``dim / heads`` from 32 to 128.
    fusion_layers, decoder_layers : int
        Depth of both transformers.
    vocabulary : int
        Number of text tokens.
    max_tokens : int
        Longest report, its begin token included.
    """

    channels: int
    rows: int
    columns: int
    dim: int
    heads: int
    fusion_layers: int
    decoder_layers: int
    vocabulary: int
    max_tokens: int

    @property
    def cells(self) -> int:
        """Tokens of one view."""
        return self.rows * self.columns


class Memory(NamedTuple):
    """What the decoder looks at: keys and values of the visual tokens, per decoder layer."""

    mask: Tensor
    """bool ``[batch, 4 * cells]``, true where a view is present."""
    keys: tuple[Tensor, ...]
    """float32 ``[batch, heads, 4 * cells, dim / heads]`` per layer."""
    values: tuple[Tensor, ...]
    """As `keys`."""


class Visual(NamedTuple):
    """All views' tokens after they have looked at each other."""

    mask: Tensor
    """As in `Memory`."""
    tokens: Tensor
    """float32 ``[batch, 4 * cells, dim]``."""


class StepOutput(NamedTuple):
    """One decoded position."""

    logits: Tensor
    """``[batch, vocabulary]`` for the token after this one."""
    keys: tuple[Tensor, ...]
    """The cache with this position added, ``[batch, heads, max_tokens, dim / heads]`` per layer."""
    values: tuple[Tensor, ...]
    """As `keys`."""


def _split(x: Tensor, heads: int) -> Tensor:
    """``[batch, n, dim]`` to ``[batch, heads, n, dim / heads]``."""
    batch, count, dim = x.shape
    return x.reshape(batch, count, heads, dim // heads).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    """``[batch, heads, n, dim / heads]`` to ``[batch, n, dim]``."""
    batch, heads, count, width = x.shape
    return x.transpose(1, 2).reshape(batch, count, heads * width)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(0.0)

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[batch, heads, n, dim / heads]`` of tokens ``[batch, n, dim]``."""
        return _split(self.key(x), self._heads), _split(self.value(x), self._heads)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, key_mask: Tensor) -> Tensor:
        """Tokens ``[batch, n, dim]`` after looking at the keys."""
        query = _split(self.query(x), self._heads)
        looked = self.out(_join(tiled_attention(query, key, value, key_mask)))
        kept: Tensor = self.dropout(looked)
        return kept


class _MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rise = nn.Linear(dim, _MLP_RATIO * dim)
        self.fall = nn.Linear(_MLP_RATIO * dim, dim)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        kept: Tensor = self.dropout(self.fall(functional.gelu(self.rise(x))))
        return kept


class _FusionLayer(nn.Module):
    """Every token looks at the tokens of all views."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = _Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = _MLP(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.attention(normed, *self.attention.key_value(normed), mask)
        fused: Tensor = x + self.mlp(self.mlp_norm(x))
        return fused


class _DecoderLayer(nn.Module):
    """A text token looks at its forerunners, then at the visual tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = _Attention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_attention = _Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = _MLP(dim)

    def forward(
        self, x: Tensor, cache: tuple[Tensor, Tensor, Tensor], memory: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Tokens after this layer; `cache` and `memory` are (keys, values, mask)."""
        x = x + self.self_attention(self.self_norm(x), *cache)
        x = x + self.cross_attention(self.cross_norm(x), *memory)
        decoded: Tensor = x + self.mlp(self.mlp_norm(x))
        return decoded


class ReportModel(nn.Module):
    """From the feature maps of up to four views to the tokens of a report."""

    def __init__(self, config: ReportConfig) -> None:
        super().__init__()
        self.config = config
        dim, heads = config.dim, config.heads
        self.projection = nn.Linear(config.channels, dim)
        self.projection_norm = nn.LayerNorm(dim)
        self.row_embedding = nn.Embedding(config.rows, dim)
        self.column_embedding = nn.Embedding(config.columns, dim)
        self.side_embedding = nn.Embedding(2, dim)
        self.view_embedding = nn.Embedding(2, dim)
        self.fusion = nn.ModuleList(_FusionLayer(dim, heads) for _ in range(config.fusion_layers))
        self.fusion_norm = nn.LayerNorm(dim)
        self.token_embedding = nn.Embedding(config.vocabulary, dim)
        self.position_embedding = nn.Embedding(config.max_tokens, dim)
        self.decoder = nn.ModuleList(
            _DecoderLayer(dim, heads) for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(dim)

    def _places(self) -> Tensor:
        """What a token knows of its place: ``[4 * cells, dim]``, views in their fixed order."""
        rows = self.row_embedding.weight[:, None] + self.column_embedding.weight[None]
        cells = rows.reshape(self.config.cells, self.config.dim)
        sides = [int(laterality(view) == "R") for view in STANDARD_VIEWS]
        projections = [int(projection(view) == "MLO") for view in STANDARD_VIEWS]
        return torch.cat(
            [
                cells + self.side_embedding.weight[side] + self.view_embedding.weight[kind]
                for side, kind in zip(sides, projections, strict=True)
            ]
        )

    def fuse(self, maps: Sequence[Tensor], present: Tensor) -> Visual:
        """Fuse the views.

        Parameters
        ----------
        maps : sequence of Tensor
            One ``[batch, channels, rows, columns]`` per standard view, in their fixed order;
            anything finite where a view is missing.
        present : Tensor
            float32 ``[batch, 4]``: 1 where a view is present.
        """
        cells = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)
        return self.fuse_cells(self.projection(cells), present)

    def fuse_cells(self, cells: Tensor, present: Tensor) -> Visual:
        """As `fuse`, of cells as `projection` gives them: ``[batch, 4 * cells, dim]``."""
        x = self.projection_norm(cells) + self._places()
        mask = present[:, :, None].expand(-1, -1, self.config.cells).flatten(1) > 0
        for layer in self.fusion:
            x = layer(x, mask)
        return Visual(mask, self.fusion_norm(x))

    def memory(self, maps: Sequence[Tensor], present: Tensor) -> Memory:
        """What the decoder looks at of the views; parameters as of `fuse`."""
        return self.remember(self.fuse(maps, present))

    def remember(self, seen: Visual) -> Memory:
        """What the decoder looks at of fused views."""
        pairs = [layer.cross_attention.key_value(seen.tokens) for layer in self.decoder]
        keys, values = (tuple(pair[i] for pair in pairs) for i in range(2))
        return Memory(seen.mask, keys, values)

    def step(
        self,
        token: Tensor,
        position: Tensor,
        memory: Memory,
        cache: Sequence[tuple[Tensor, Tensor]],
    ) -> StepOutput:
        """Decode one position.

        Parameters
        ----------
        token, position : Tensor
            int64 ``[batch, 1]``; the position counts from 0, the same in the whole batch.
        cache : sequence of pairs of Tensor
            Keys and values of earlier positions per layer; zeros before the first.
        """
        x = self.token_embedding(token) + self.position_embedding(position)
        places = torch.arange(self.config.max_tokens)[None]
        seen, here = places <= position, (places == position)[:, None, :, None]
        keys, values = [], []
        for index, layer in enumerate(self.decoder):
            key, value = layer.self_attention.key_value(layer.self_norm(x))
            keys.append(torch.where(here, key, cache[index][0]))
            values.append(torch.where(here, value, cache[index][1]))
            look = (memory.keys[index], memory.values[index], memory.mask)
            x = layer(x, (keys[-1], values[-1], seen), look)
        logits = self.decoder_norm(x[:, 0]) @ self.token_embedding.weight.T
        return StepOutput(logits, tuple(keys), tuple(values))

    def empty_cache(self, batch: int = 1) -> list[tuple[Tensor, Tensor]]:
        """The cache before the first position."""
        config = self.config
        shape = (batch, config.heads, config.max_tokens, config.dim // config.heads)
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in self.decoder]


class DecoderStep(nn.Module):
    """`ReportModel.step` with a flat list of tensors, as tracing needs it.

    Inputs: token, position, mask, then key and value of the memory per layer, then key and value
    of the cache per layer. Outputs: logits, then key and value of the new cache per layer.
    """

    def __init__(self, model: ReportModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, token: Tensor, position: Tensor, mask: Tensor, *pairs: Tensor
    ) -> tuple[Tensor, ...]:
        layers = len(self.model.decoder)
        memory = Memory(mask, pairs[0 : 2 * layers : 2], pairs[1 : 2 * layers : 2])
        cached = pairs[2 * layers :]
        cache = list(zip(cached[0::2], cached[1::2], strict=True))
        answer = self.model.step(token, position, memory, cache)
        new = [tensor for pair in zip(answer.keys, answer.values, strict=True) for tensor in pair]
        return (answer.logits, *new)
