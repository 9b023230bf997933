"""Diagnosis from the pooled features: linear classifiers and zero-shot prompts, side by side.

Source: facts 3, 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.clip import ImageProjection, normalised, zero_shot_probabilities

__all__ = ["DiagnosisHead", "LabelGroup", "LinearClassifier"]

LabelKind = Literal["binary", "categorical", "zero_shot"]


class _ClassificationHead(nn.Module):
    def __init__(self, channels: int, n_outputs: int) -> None:
        super().__init__()
        self.classification_head = nn.Linear(channels, n_outputs)


class LinearClassifier(nn.Module):
    """Logits from pooled features, under the keys ``classifier.classification_head.*``."""

    def __init__(self, channels: int, n_outputs: int) -> None:
        super().__init__()
        self.classifier = _ClassificationHead(channels, n_outputs)

    @property
    def n_outputs(self) -> int:
        """Logits per picture."""
        return int(self.classifier.classification_head.out_features)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits ``[batch, n_outputs]`` from ``[batch, channels]``."""
        logits: Tensor = self.classifier.classification_head(pooled)
        return logits


@dataclass(frozen=True, eq=False)
class LabelGroup:
    """One question put to a picture, and what answers it.

    Attributes
    ----------
    name : str
        The label, e.g. ``"malignancy"`` or ``"density"``.
    kind : {"binary", "categorical", "zero_shot"}
        Sigmoid of one logit; softmax over classes; softmax over prompts' cosine similarities.
    source : LinearClassifier or Tensor
        The classifier, or for ``zero_shot`` the prompts' normalised text embeddings
        ``[prompts, channels]``.
    """

    name: str
    kind: LabelKind
    source: LinearClassifier | Tensor

    @property
    def width(self) -> int:
        """Number of probabilities this group adds."""
        if isinstance(self.source, LinearClassifier):
            return self.source.n_outputs
        return int(self.source.shape[0])


def _check(group: LabelGroup) -> None:
    zero_shot = group.kind == "zero_shot"
    if zero_shot == isinstance(group.source, LinearClassifier):
        needed = "text embeddings" if zero_shot else "a linear classifier"
        raise ExportError(f"label {group.name!r} is {group.kind}: it needs {needed}")
    allowed = group.width == 1 if group.kind == "binary" else group.width >= 2
    if not allowed:
        count = "exactly one output" if group.kind == "binary" else "two or more classes"
        raise ExportError(
            f"label {group.name!r} is {group.kind} with {group.width} outputs: expected {count}"
        )


class DiagnosisHead(nn.Module):
    """All labels of a bundle from one pooled vector.

    Parameters
    ----------
    groups : sequence of LabelGroup
        In the order of the output.
    projection : ImageProjection, optional
        Needed when a group is zero-shot.

    Raises
    ------
    ExportError
        If there is no label, or a group's kind does not fit what answers it.
    """

    def __init__(
        self, groups: Sequence[LabelGroup], projection: ImageProjection | None = None
    ) -> None:
        super().__init__()
        if not groups:
            raise ExportError("a diagnosis head needs at least one label: none was given")
        if projection is None and any(group.kind == "zero_shot" for group in groups):
            raise ExportError("zero-shot labels need an image projection: none was given")
        self.kinds = tuple(group.kind for group in groups)
        self.projection = projection
        self.classifiers = nn.ModuleDict()
        for index, group in enumerate(groups):
            _check(group)
            if isinstance(group.source, LinearClassifier):
                self.classifiers[str(index)] = group.source
            else:
                self.register_buffer(f"text_{index}", group.source)

    def _probabilities(self, index: int, pooled: Tensor, embedding: Tensor | None) -> Tensor:
        kind = self.kinds[index]
        if kind == "zero_shot":
            assert embedding is not None  # __init__ refuses a zero-shot label without projection
            return zero_shot_probabilities(embedding, self.get_buffer(f"text_{index}"))
        logits = self.classifiers[str(index)](pooled)
        return torch.sigmoid(logits) if kind == "binary" else torch.softmax(logits, dim=-1)

    def forward(self, pooled: Tensor) -> tuple[Tensor, ...]:
        """Answer all labels.

        Parameters
        ----------
        pooled : Tensor
            float32 ``[batch, channels]``.

        Returns
        -------
        tuple of Tensor
            ``probabilities`` [batch, sum of widths]; with a projection also the normalised
            ``image_embedding`` [batch, projection size].
        """
        embedding = None if self.projection is None else normalised(self.projection(pooled))
        groups = [self._probabilities(i, pooled, embedding) for i in range(len(self.kinds))]
        probabilities = torch.cat(groups, dim=1)
        return (probabilities,) if embedding is None else (probabilities, embedding)
