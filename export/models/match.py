"""One view held against texts: how similar they are, and where in the view.

Source: facts 4; the map of a linear projection after Zhou et al., arXiv 1512.04150, whose class
activation is moved here from logits to cosines.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .clip import ImageProjection, normalised

__all__ = ["AgreementKind", "TextMatch"]

AgreementKind = Literal["exact", "cells"]


class TextMatch(nn.Module):
    """Cosine similarity of a view and texts, and its map.

    The pooled features are the mean over the map's cells, and a linear projection of a mean is the
    mean of projections. So with one the map is ``exact``: a cell's share, its projection along the
    text over the length of the whole view's projection, and the mean of the shares is the
    similarity. An ``mlp`` does not divide like that: there a cell's value is the cosine of its own
    projection, as if the view were that cell alone (``cells``).

    Parameters
    ----------
    projection : ImageProjection
        Of the CLIP checkpoint that the text encoder is from.
    """

    def __init__(self, projection: ImageProjection) -> None:
        super().__init__()
        self.projection = projection

    @property
    def kind(self) -> AgreementKind:
        """What the map is."""
        return "exact" if self.projection.kind == "linear" else "cells"

    def forward(self, pooled: Tensor, cells: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Compare.

        Parameters
        ----------
        pooled, cells : Tensor
            float32 ``[1, channels]`` and ``[1, channels, rows, columns]`` of one view.
        embedding : Tensor
            float32 ``[n, size]``, texts, each of length 1.

        Returns
        -------
        tuple of Tensor
            ``similarity`` [n] and ``agreement`` [n, rows, columns].
        """
        view = self.projection(pooled)
        similarity = (embedding @ normalised(view).T)[:, 0]
        features = cells[0].flatten(1)
        if self.kind == "exact":
            linear = self.projection.projection
            along = embedding @ linear.weight @ features + (embedding @ linear.bias)[:, None]
            agreement = along / torch.linalg.vector_norm(view)
        else:
            agreement = embedding @ normalised(self.projection(features.T)).T
        return similarity, agreement.unflatten(1, (cells.shape[2], cells.shape[3]))
