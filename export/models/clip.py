"""Projections that put pictures and texts into one space, and zero-shot scoring with them.

Source: Radford et al., arXiv 2103.00020; facts 2.1, 4.
"""

from __future__ import annotations

import math
from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "ClipProjections",
    "ImageProjection",
    "ProjectionKind",
    "TextPooling",
    "TextProjection",
    "normalised",
    "pool_text",
    "zero_shot_probabilities",
]

ProjectionKind = Literal["linear", "mlp"]
TextPooling = Literal["eos", "bos", "mean"]


class _Projection(nn.Module):
    """Linear map, or with ``mlp`` LayerNorm(p + fc(GELU(p))) of it.

    Parameters
    ----------
    in_channels, out_channels : int
        Lengths of the vectors.
    kind : {"linear", "mlp"}
        Shape of the projection.
    """

    def __init__(self, in_channels: int, out_channels: int, kind: ProjectionKind) -> None:
        super().__init__()
        self.kind = kind
        self.projection = nn.Linear(in_channels, out_channels)
        if kind == "mlp":
            self.fc = nn.Linear(out_channels, out_channels)
            self.layer_norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Project ``[batch, in_channels]`` to ``[batch, out_channels]``, not normalised."""
        projected: Tensor = self.projection(x)
        if self.kind == "linear":
            return projected
        normed: Tensor = self.layer_norm(projected + self.fc(functional.gelu(projected)))
        return normed


class ImageProjection(_Projection):
    """From pooled image features to the shared space."""


class TextProjection(_Projection):
    """From pooled text features to the shared space."""


class ClipProjections(nn.Module):
    """What a CLIP checkpoint holds besides its two encoders, under the same keys."""

    def __init__(
        self, image_channels: int, text_channels: int, out_channels: int, kind: ProjectionKind
    ) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.image_projection = ImageProjection(image_channels, out_channels, kind)
        self.text_projection = TextProjection(text_channels, out_channels, kind)


def normalised(x: Tensor) -> Tensor:
    """Divide vectors ``[..., channels]`` by their L2 norm; no epsilon, as in the reference."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm


def pool_text(hidden: Tensor, attention_mask: Tensor, pooling: TextPooling) -> Tensor:
    """One vector ``[batch, channels]`` per text.

    Parameters
    ----------
    hidden : Tensor
        Last hidden states ``[batch, length, channels]``, padded on the right.
    attention_mask : Tensor
        ``[batch, length]``, 1 at tokens and 0 at padding.
    pooling : {"eos", "bos", "mean"}
        Last token, first token, or the mean over tokens.
    """
    match pooling:
        case "bos":
            return hidden[:, 0]
        case "eos":
            last = attention_mask.sum(dim=1) - 1
            return hidden[torch.arange(hidden.shape[0]), last]
        case "mean":
            weight = attention_mask[..., None].to(hidden.dtype)
            return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        case _:
            assert_never(pooling)


def zero_shot_probabilities(image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """Softmax over prompts of the plain cosine similarity, ``[images, prompts]``.

    Both sides must be normalised. No temperature: the reference applies none at evaluation, so
    the values lie close together and mean something only as a ranking.
    """
    return torch.softmax(image_embeddings @ text_embeddings.T, dim=-1)
