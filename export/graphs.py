"""Conversion of the torch modules to OpenVINO models: one pure function per graph.

A graph holds all the mathematics between a prepared picture and a result, so a runtime only moves
tensors. Every input is named, and static but for the lengths of texts; every output is named.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.asymmetry import Prognosis, PrognosisModel
from mammofm_lite.export.models.diagnosis import DiagnosisHead
from mammofm_lite.export.models.efficientnet import EfficientNet
from mammofm_lite.export.models.retinanet import RawDetections, RetinaNet
from mammofm_lite.export.synthetic import PIXEL_MEAN, PIXEL_STD

__all__ = [
    "EncoderOutput",
    "LocalizationOptions",
    "PreparedInput",
    "candidates_graph",
    "compare",
    "convert",
    "cubic_matrix",
    "diagnosis_graph",
    "encoder_graph",
    "localization_graph",
    "operation_census",
    "prognosis_graph",
    "single",
    "suppress",
]

Float32Array = npt.NDArray[np.float32]
Size = tuple[int, int]
MapShape = tuple[int, int, int]
EncoderOutput = Literal["pooled", "map", "c3", "c4", "c5"]

_CUBIC_A: Final = -0.75
_LONGEST_PLAIN_MEAN: Final = 4096


# ---- conversion ---------------------------------------------------------------------------------


def convert(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[frozenset[str]],
    extensions: Sequence[Any] = (),
    free: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> ov.Model:
    """Trace a module on example inputs and name both ends of the graph.

    Parameters
    ----------
    module : torch.nn.Module
        Called with the inputs in order.
    inputs : mapping of str to Tensor
        Examples by the names that the graph's inputs get; their shapes become static.
    outputs : sequence of frozenset of str
        Names of every output.
    extensions : sequence
        Conversion extensions for operations that OpenVINO does not know.
    free : mapping of str to collection of int
        Axes of inputs that may have any size.
    """
    examples = tuple(inputs.values())
    ports = [_port(example, free.get(name, ())) for name, example in inputs.items()]
    with torch.no_grad(), warnings.catch_warnings():
        # Sizes become constants of the graph: that is the purpose, not an accident. And tracing,
        # though deprecated, is what OpenVINO's converter does itself; torch.export gives the same
        # graph of the encoder, four times slower.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)  # tracing reads transformers' old names
        traced = torch.jit.trace(module.eval(), examples, check_trace=False)
        model: ov.Model = ov.convert_model(traced, input=ports, extension=list(extensions) or None)
    _split_long_means(model)
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    for output, names in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names(set(names))
    return model


def _split_long_means(model: ov.Model) -> None:
    """Take means over large maps in two steps, rows first.

    The CPU plugin adds the cells of a map one after another in float32. Over the 760x456 cells of
    a full-size stem that loses four digits, and the encoder's output ends 5e-4 of its standard
    deviation away from the reference; in two steps it ends 2e-5 away, at the same speed. A pooling
    makes the first step, because two equal reductions would be merged again.
    """
    for op in model.get_ordered_ops():
        if op.get_type_name() != "ReduceMean" or not _is_long(op):
            continue
        row = [1, op.input_value(0).get_shape()[3]]
        rows = ops.avg_pool(op.input_value(0), row, [0, 0], [0, 0], row, exclude_pad=False)
        mean = ops.reduce_mean(rows, op.input_value(1), keep_dims=op.get_attributes()["keep_dims"])
        mean.set_friendly_name(op.get_friendly_name())
        op.output(0).replace(mean.output(0))


def _is_long(mean: ov.Node) -> bool:
    """Whether a mean runs over both axes of a map with many cells."""
    shape = mean.input_value(0).get_partial_shape()
    if shape.is_dynamic or len(shape) != 4:
        return False
    axes = mean.input_value(1).get_node().get_data() % 4
    _, _, rows, columns = shape.to_shape()
    if sorted(axes.ravel()) != [2, 3]:
        return False
    return bool(rows * columns > _LONGEST_PLAIN_MEAN)


_ELEMENT_TYPES: Final = {
    torch.uint8: ov.Type.u8,
    torch.bool: ov.Type.boolean,
    torch.int64: ov.Type.i64,
    torch.float32: ov.Type.f32,
}


def _port(example: Tensor, free: Collection[int]) -> tuple[list[int], ov.Type]:
    """Shape, with -1 for a free axis, and element type."""
    sizes = enumerate(example.shape)
    return [-1 if axis in free else size for axis, size in sizes], _ELEMENT_TYPES[example.dtype]


def single(names: Sequence[str]) -> list[frozenset[str]]:
    """One name for every output."""
    return [frozenset({name}) for name in names]


# ---- encoder ------------------------------------------------------------------------------------


def _cubic_taps(fraction: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weights ``[n, 4]`` of the four neighbours of points at a fraction of a pixel."""
    distance = np.abs(fraction[:, None] - np.arange(-1, 3))
    a = _CUBIC_A
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)


def cubic_matrix(source_px: int, target_px: int) -> Float32Array:
    """Resize of one axis as a matrix, with the weights of OpenCV's INTER_CUBIC.

    Half-pixel centres, a = -0.75, edge repeated. OpenCV's portable code rounds the weights of a
    uint8 picture to 11 bits (facts 7), but its x86 packages, the reference's among them, take
    another path that does not. These weights are not rounded: of the reference's own resized
    picture one pixel in 262144 then differs, and with rounded ones 2826.

    Parameters
    ----------
    source_px, target_px : int
        Length of the axis before and after.

    Returns
    -------
    numpy.ndarray
        float32 ``[target_px, source_px]``; each row has at most four entries.
    """
    position = (np.arange(target_px) + 0.5) * (source_px / target_px) - 0.5
    first = np.floor(position)
    taps = _cubic_taps(position - first)
    columns = np.clip(first.astype(np.int64)[:, None] + np.arange(-1, 3), 0, source_px - 1)
    matrix = np.zeros((target_px, source_px))
    np.add.at(matrix, (np.arange(target_px)[:, None], columns), taps)
    return matrix.astype(np.float32)


class PreparedInput(nn.Module):
    """From a uint8 picture to what the stem convolution reads, one channel."""

    def __init__(self, image_size: Size, source_size: Size) -> None:
        super().__init__()
        self._resizes = image_size != source_size
        if self._resizes:
            rows, columns = (
                torch.from_numpy(cubic_matrix(source, target))
                for source, target in zip(source_size, image_size, strict=True)
            )
            self.register_buffer("rows", rows)
            self.register_buffer("columns", columns.T.contiguous())

    def forward(self, image: Tensor) -> Tensor:
        x = image.to(torch.float32)
        if self._resizes:
            resized = self.get_buffer("rows") @ x @ self.get_buffer("columns")
            x = torch.clamp(torch.floor(resized + 0.5), 0.0, 255.0)
        x = x - x.amin(dim=(2, 3), keepdim=True)
        x = x / x.amax(dim=(2, 3), keepdim=True)
        return (x - PIXEL_MEAN) / PIXEL_STD


class _EncoderGraph(nn.Module):
    def __init__(
        self, encoder: EfficientNet, prepare: PreparedInput, outputs: tuple[EncoderOutput, ...]
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.encoder = _gray(encoder)
        self._outputs = outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder.features(self.prepare(image))
        return tuple(getattr(features, name) for name in self._outputs)


def _gray(encoder: EfficientNet) -> EfficientNet:
    """Copy of an encoder that reads one channel instead of equal ones; other weights are shared."""
    state = dict(encoder.state_dict())
    state["_conv_stem.weight"] = encoder.gray_stem_weight().detach()
    with torch.device("meta"):
        gray = EfficientNet(replace(encoder.config, in_channels=1))
    known = {key: state[key] for key in gray.state_dict()}
    gray.load_state_dict(known, strict=True, assign=True)
    gray.eval()
    return gray


def _output_names(outputs: Sequence[EncoderOutput]) -> list[frozenset[str]]:
    """Names per distinct tensor: ``map`` and ``c5`` are the same one."""
    unknown = [name for name in outputs if name not in get_args(EncoderOutput)]
    if unknown or not outputs:
        given = ", ".join(unknown) or "none"
        allowed = ", ".join(get_args(EncoderOutput))
        raise ExportError(f"encoder outputs {given}: expected some of {allowed}")
    same = frozenset({"map", "c5"}) & frozenset(outputs)
    named = [same if name in same else frozenset({name}) for name in outputs]
    return list(dict.fromkeys(named))


def encoder_graph(
    encoder: EfficientNet,
    image_size: Size,
    source_size: Size | None = None,
    outputs: Sequence[EncoderOutput] = ("pooled", "map"),
) -> ov.Model:
    """Graph from a prepared picture to features.

    Parameters
    ----------
    encoder : EfficientNet
        Unchanged; its stem is folded to one channel in the graph.
    image_size : tuple of int
        Height and width the encoder works at.
    source_size : tuple of int, optional
        Height and width of the prepared picture, when the graph must resize it (cubic).
    outputs : sequence of str
        Which of ``pooled`` [1, C], ``map`` [1, C, h, w], ``c3``, ``c4``, ``c5``. ``c5`` is the map:
        with both asked for, one output carries both names.

    Returns
    -------
    openvino.Model
        Input ``image`` uint8 ``[1, 1, H, W]``. A constant picture gives NaN: refuse it before.

    Raises
    ------
    ExportError
        If an output is unknown.
    """
    names = _output_names(outputs)
    source = source_size or image_size
    chosen = tuple(next(name for name in outputs if name in group) for group in names)
    module = _EncoderGraph(encoder, PreparedInput(image_size, source), chosen)
    # Not constant: 0/0 while tracing would only be noise, but it would be noise.
    example = torch.arange(source[0] * source[1]).remainder(251).to(torch.uint8)
    return convert(module, {"image": example.reshape(1, 1, *source)}, names)


# ---- heads --------------------------------------------------------------------------------------


def diagnosis_graph(head: DiagnosisHead, channels: int) -> ov.Model:
    """Graph ``pooled`` [1, channels] -> ``probabilities`` [1, K], perhaps ``image_embedding``."""
    names = ["probabilities"] if head.projection is None else ["probabilities", "image_embedding"]
    return convert(head, {"pooled": torch.ones(1, channels)}, single(names))


@dataclass(frozen=True)
class LocalizationOptions:
    """What decides which boxes come out.

    Attributes
    ----------
    image_size : tuple of int
        Height and width of the encoder's input in pixels.
    source_size : tuple of int
        Height and width of the prepared picture, in whose pixels boxes are given.
    score_threshold : float
        A box is kept when it scores strictly above.
    iou_threshold : float
        A box goes when it overlaps a better one strictly more.
    max_detections : int
        Boxes at most, best first.
    """

    image_size: Size
    source_size: Size
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100


class _Candidates(nn.Module):
    """All decoded boxes with their best class."""

    def __init__(self, detector: RetinaNet, image_size: Size) -> None:
        super().__init__()
        self.detector = detector
        self._image_size = image_size

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw: RawDetections = self.detector.raw(c3, c4, c5, self._image_size)
        scores, labels = raw.scores.max(dim=2)
        return self.detector.decode(raw.deltas, self._image_size), scores, labels


def _upright(boxes: ov.Output) -> ov.Output:
    """Empty instead of inverted boxes, for suppression alone.

    One-sided clipping leaves boxes with x1 > x2. In the reference such a box overlaps nothing;
    OpenVINO would swap its corners first.
    """
    corners = ops.split(boxes, np.int64(2), 2)
    upper_left, lower_right = corners.output(0), corners.output(1)
    return ops.concat([upper_left, ops.maximum(lower_right, upper_left)], 2).output(0)


def _kept(boxes: ov.Output, scores: ov.Output, options: LocalizationOptions) -> ov.Output:
    """Indices ``[n]`` of the boxes that survive, falling score."""
    # OpenVINO suppresses at IoU >= threshold, the reference at IoU > threshold.
    strict = np.nextafter(np.float32(options.iou_threshold), np.float32(2.0))
    selected = ops.non_max_suppression(
        _upright(boxes),
        ops.unsqueeze(scores, np.int64(1)),
        np.int64(options.max_detections),
        strict,
        np.float32(options.score_threshold),
        box_encoding="corner",
        sort_result_descending=True,
        output_type="i64",
    ).output(0)
    return ops.gather(selected, np.int64(2), np.int64(1)).output(0)


def suppress(model: ov.Model, options: LocalizationOptions) -> ov.Model:
    """Append suppression and scaling to a graph of candidates, see `candidates_graph`."""
    boxes, scores, labels = (output.get_node().input_value(0) for output in model.outputs)
    kept = _kept(boxes, scores, options)
    (height, width), (source_height, source_width) = options.image_size, options.source_size
    x, y = source_width / width, source_height / height

    def chosen(candidates: ov.Output) -> ov.Output:
        first = ops.squeeze(candidates, np.int64(0))
        return ops.gather(first, kept, np.int64(0)).output(0)

    results = {
        "boxes": ops.multiply(chosen(boxes), np.array([x, y, x, y], np.float32)).output(0),
        "scores": chosen(scores),
        "labels": chosen(labels),
    }
    for name, result in results.items():
        result.get_tensor().set_names({name})
    return ov.Model(list(results.values()), model.get_parameters(), "localization")


def candidates_graph(
    detector: RetinaNet, feature_shapes: Mapping[str, tuple[int, ...]], image_size: Size
) -> ov.Model:
    """Graph ``c3``, ``c4``, ``c5`` -> every anchor's box, before any is dropped.

    Outputs ``all_boxes`` [1, anchors, 4] in pixels of the encoder's input, ``all_scores``
    [1, anchors] of the best class, ``all_labels`` [1, anchors]. Parameters as for
    `localization_graph`; this is its first part, on its own for looking inside.
    """
    inputs = {name: torch.zeros(feature_shapes[name]) for name in ("c3", "c4", "c5")}
    outputs = single(("all_boxes", "all_scores", "all_labels"))
    return convert(_Candidates(detector, image_size), inputs, outputs)


def localization_graph(
    detector: RetinaNet,
    feature_shapes: Mapping[str, tuple[int, ...]],
    options: LocalizationOptions,
) -> ov.Model:
    """Graph from encoder features to boxes of a prepared picture.

    Parameters
    ----------
    detector : RetinaNet
        Its own encoder, if any, is not part of this graph.
    feature_shapes : mapping
        Shapes of ``c3``, ``c4``, ``c5``, as `EfficientNetConfig.feature_shapes` gives them.
    options : LocalizationOptions
        Sizes and thresholds, fixed in the graph.

    Returns
    -------
    openvino.Model
        ``boxes`` float32 [n, 4] (x1, y1, x2, y2; as the reference clips, a box outside the picture
        has x1 > x2 or y1 > y2), ``scores`` float32 [n], ``labels`` int64 [n]; n depends on the
        picture, at most ``max_detections``.
    """
    return suppress(candidates_graph(detector, feature_shapes, options.image_size), options)


def prognosis_graph(model: PrognosisModel, map_shape: MapShape) -> ov.Model:
    """Graph from the four views' maps to the risk of every year.

    Parameters
    ----------
    model : PrognosisModel
        One head per year.
    map_shape : tuple of int
        Channels, rows and columns of one map.

    Returns
    -------
    openvino.Model
        Inputs ``cc_left``, ``cc_right``, ``mlo_left``, ``mlo_right`` [1, C, h, w] and ``usable``
        [2] (CC, MLO), of which at least one must be 1; outputs as `Prognosis` names them.
    """
    views = ("cc_left", "cc_right", "mlo_left", "mlo_right")
    inputs = {view: torch.zeros(1, *map_shape) for view in views}
    return convert(model, {**inputs, "usable": torch.ones(2)}, single(Prognosis._fields))


# ---- looking at graphs --------------------------------------------------------------------------


def operation_census(model: ov.Model) -> dict[str, int]:
    """How many operations of each type a graph has, by type name."""
    return dict(sorted(Counter(op.get_type_name() for op in model.get_ops()).items()))


def _relative_error(
    expected: npt.NDArray[Any], actual: npt.NDArray[Any], scale: float | None
) -> float:
    if expected.shape != actual.shape:
        return math.inf
    if expected.size == 0:
        return 0.0
    difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max()
    scale = scale or expected.std(dtype=np.float64) or np.abs(expected).max() or 1.0
    error = float(difference / scale)
    return error if math.isfinite(error) else math.inf


def compare(
    expected: Mapping[str, npt.ArrayLike],
    actual: Mapping[str, npt.ArrayLike],
    probabilities: Collection[str] = (),
) -> dict[str, float]:
    """Largest difference of every expected array, over its standard deviation.

    An array of equal values is measured against its largest magnitude instead, and one named among
    `probabilities` against 1: a handful of probabilities may lie close together by chance. Another
    shape or a value that is not finite counts as infinite.

    Raises
    ------
    KeyError
        If ``actual`` lacks a name.
    """
    return {
        name: _relative_error(
            np.asarray(array), np.asarray(actual[name]), 1.0 if name in probabilities else None
        )
        for name, array in expected.items()
    }
