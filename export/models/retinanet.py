"""RetinaNet over EfficientNet features, with the reference's doubled-up pyramid and keys.

The reference reads C3 and C4 one stride lower than usual and makes up for it by upsampling twice,
so P3..P7 still have strides 8..128. Source: arXiv 1708.02002; facts 2.1, 5.2, 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite.export.models.boxes import (
    ANCHORS_PER_CELL,
    Detections,
    anchor_boxes,
    clip_boxes,
    decode_boxes,
    level_sizes,
    postprocess,
)
from mammofm_lite.export.models.efficientnet import EfficientNet, EfficientNetConfig

__all__ = ["RawDetections", "RetinaNet", "RetinaNetConfig"]

Size = tuple[int, int]
_TOWER_DEPTH = 4


@dataclass(frozen=True)
class RetinaNetConfig:
    """Shape of a detector.

    Attributes
    ----------
    feature_channels : tuple of int
        Channels of C3, C4 and C5.
    n_classes : int
        Classes scored at every anchor.
    channels : int
        Channels of the pyramid and of both heads; 256 in the reference.
    encoder : EfficientNetConfig, optional
        The detector's own encoder; without one it reads another encoder's features.
    """

    feature_channels: tuple[int, int, int]
    n_classes: int
    channels: int = 256
    encoder: EfficientNetConfig | None = None

    @classmethod
    def with_own_encoder(cls, encoder: EfficientNetConfig, n_classes: int) -> RetinaNetConfig:
        """Return the reference's detector: its own encoder copy, padded from the nominal size."""
        own = encoder.with_padding("nominal")
        return cls(own.pyramid_channels, n_classes, encoder=own)


class RawDetections(NamedTuple):
    """Outputs of the heads for every anchor, levels P3..P7 concatenated."""

    scores: Tensor
    """``[batch, anchors, classes]`` after the sigmoid."""
    deltas: Tensor
    """``[batch, anchors, 4]`` as (dx, dy, dw, dh)."""


def _upsample(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _fit(x: Tensor, size: Size) -> Tensor:
    """Crop or extend a map at its lower-right end, repeating the edge, to exactly ``size``.

    Identity for sizes the reference accepts (multiples of 32 with its own encoder). It lets a
    detector share the features of any encoder, whose static padding may add or lose a cell.
    """
    rows, columns = size
    missing = (rows - int(x.shape[2]), columns - int(x.shape[3]))
    if max(missing) > 0:
        padding = (0, max(missing[1], 0), 0, max(missing[0], 0))
        x = functional.pad(x, padding, mode="replicate")
    return x[:, :, :rows, :columns] if min(missing) < 0 else x


class _Pyramid(nn.Module):
    """Feature pyramid P3..P7 from C3, C4, C5."""

    def __init__(self, feature_channels: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        c3, c4, c5 = feature_channels
        self.P5_1 = nn.Conv2d(c5, channels, 1)
        self.P5_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.P4_1 = nn.Conv2d(c4, channels, 1)
        self.P4_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.P3_1 = nn.Conv2d(c3, channels, 1)
        self.P3_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.P6 = nn.Conv2d(c5, channels, 3, stride=2, padding=1)
        self.P7_2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor, image_size: Size) -> list[Tensor]:
        grid3, grid4, grid5, *_ = level_sizes(image_size)
        c3, c4, c5 = _fit(c3, grid4), _fit(c4, grid5), _fit(c5, grid5)
        p5 = self.P5_1(c5)
        t4 = _fit(_upsample(p5) + _upsample(self.P4_1(c4)), grid4)
        t3 = _fit(_upsample(t4) + _upsample(self.P3_1(c3)), grid3)
        p6 = self.P6(c5)
        p7 = self.P7_2(functional.relu(p6))
        return [self.P3_2(t3), self.P4_2(t4), self.P5_2(p5), p6, p7]


class _Tower(nn.Module):
    """Four convolutions with ReLU and an output convolution, shared by all levels."""

    def __init__(self, channels: int, values_per_anchor: int) -> None:
        super().__init__()
        for index in range(1, _TOWER_DEPTH + 1):
            self.add_module(f"conv{index}", nn.Conv2d(channels, channels, 3, padding=1))
        self.output = nn.Conv2d(channels, ANCHORS_PER_CELL * values_per_anchor, 3, padding=1)
        self._values = values_per_anchor

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, anchors of this level, values]``, anchors by row, column, shape."""
        for index in range(1, _TOWER_DEPTH + 1):
            x = functional.relu(self.get_submodule(f"conv{index}")(x))
        maps: Tensor = self.output(x)
        return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, self._values)


class _DetectorEncoder(EfficientNet):
    """The detector's encoder with its unused classifier, kept so that checkpoints load strictly."""

    def __init__(self, config: EfficientNetConfig, n_classes: int) -> None:
        super().__init__(config)
        self._fc = nn.Linear(config.head_channels, n_classes)


@lru_cache(maxsize=4)
def _anchors(image_size: Size) -> Tensor:
    return torch.from_numpy(anchor_boxes(image_size))


class RetinaNet(nn.Module):
    """The detector: pyramid, two heads and, in the reference, its own encoder."""

    def __init__(self, config: RetinaNetConfig) -> None:
        super().__init__()
        self.config = config
        self.fpn = _Pyramid(config.feature_channels, config.channels)
        # The attribute names are the checkpoint's keys.
        self.regressionModel = _Tower(config.channels, 4)
        self.classificationModel = _Tower(config.channels, config.n_classes)
        self.efficientnet = (
            _DetectorEncoder(config.encoder, config.n_classes) if config.encoder else None
        )

    def raw(self, c3: Tensor, c4: Tensor, c5: Tensor, image_size: Size) -> RawDetections:
        """Scores and regressions of every anchor.

        Parameters
        ----------
        c3, c4, c5 : Tensor
            Encoder features ``[batch, channels, height, width]``.
        image_size : tuple of int
            Height and width of the encoder's input in pixels.
        """
        levels = self.fpn(c3, c4, c5, image_size)
        deltas = torch.cat([self.regressionModel(level) for level in levels], dim=1)
        logits = torch.cat([self.classificationModel(level) for level in levels], dim=1)
        return RawDetections(torch.sigmoid(logits), deltas)

    def decode(self, deltas: Tensor, image_size: Size) -> Tensor:
        """Decoded, clipped boxes ``[batch, anchors, 4]``."""
        return clip_boxes(decode_boxes(_anchors(image_size), deltas), image_size)

    def forward(self, image: Tensor) -> Detections:
        """Detections of one normalised picture ``[1, 3, height, width]`` by the own encoder.

        Raises
        ------
        TypeError
            If the detector has no encoder of its own.
        """
        if self.efficientnet is None:
            raise TypeError("this detector has no encoder: call raw() with another one's features")
        height, width = (int(side) for side in image.shape[2:])
        features = self.efficientnet.features(image)
        raw = self.raw(features.c3, features.c4, features.c5, (height, width))
        return postprocess(self.decode(raw.deltas, (height, width))[0], raw.scores[0])
