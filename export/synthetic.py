"""Deterministic synthetic weights, images and feature maps.

Every value is a pure function of a name, a shape and a seed, so two implementations of one network
can be compared without exchanging weights. It is also the ``synthetic`` weight source of a recipe.

The random stream of a name is ``PCG64(crc32(name) xor (seed * 0x9E3779B1 mod 2**32))``. Gaussians
are drawn in float64 in C order and cast to float32 last; images use integer arithmetic only, so
they are the same bytes on every machine.

Source: the fixtures' own rule, reference README "How to re-create a network".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "PIXEL_MEAN",
    "PIXEL_STD",
    "fill_module",
    "normalise",
    "synthetic_asym_features",
    "synthetic_feature",
    "synthetic_image",
    "synthetic_raw12",
    "synthetic_tensor",
    "synthetic_vector",
    "weight_key",
]

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
Shape = tuple[int, ...]

PIXEL_MEAN: Final = 0.3089279
PIXEL_STD: Final = 0.25053555408335154

_ENCODER_PREFIXES: Final = ("image_encoder.", "efficientnet.")
_STRETCH_KEYS: Final = ("cc_stretch_params", "mlo_stretch_params")

# Standard deviation of a weight is gain / sqrt(fan_in). The gains keep activations of a random
# network near one at every depth, so that a golden comparison is sensitive everywhere.
_GAINS: Final[dict[str, float]] = {
    "_conv_stem.weight": 1.0,
    "_expand_conv.weight": 1.2,
    "_depthwise_conv.weight": 1.4,
    "_se_reduce.weight": 1.0,
    "_se_expand.weight": 0.7,
    "_conv_head.weight": 0.8,
    "_fc.weight": 1.0,
    "fpn.P7_2.weight": 1.4,
    "regressionModel.output.weight": 1.0,
    "classificationModel.output.weight": 1.8,
}
_PROJECT_GAIN: Final = {"residual": 0.7, "first": 1.7}
_DETECTOR_CONV_GAIN: Final = 1.4
_CLASSIFICATION_BIAS: Final = -8.0
_PREACTIVATION_BIAS_STD: Final = 0.7
_BIAS_STD: Final = 0.05


def _generator(name: str, seed: int) -> np.random.Generator:
    mixed = zlib.crc32(name.encode()) ^ ((seed * 0x9E3779B1) & 0xFFFFFFFF)
    return np.random.Generator(np.random.PCG64(mixed))


# ---- weights ------------------------------------------------------------------------------------


def weight_key(state_key: str) -> str:
    """Name of a tensor inside its own module: an encoder's prefix is dropped.

    The encoder inside a detector, a classifier and a CLIP checkpoint thus gets the same numbers.
    """
    for prefix in _ENCODER_PREFIXES:
        if state_key.startswith(prefix):
            return state_key[len(prefix) :]
    return state_key


def _tail(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _gain(key: str, shape: Shape) -> float:
    if _tail(key) == "_project_conv.weight":
        out_channels, hidden = shape[:2]
        return _PROJECT_GAIN["residual" if hidden in (out_channels, 6 * out_channels) else "first"]
    for name in (_tail(key), key):
        if name in _GAINS:
            return _GAINS[name]
    in_detector = key.startswith(("regressionModel.", "classificationModel."))
    return _DETECTOR_CONV_GAIN if in_detector else 1.0


def _stretch(rng: np.random.Generator, shape: Shape) -> npt.NDArray[np.float64]:
    noise = rng.standard_normal(shape)
    return np.eye(shape[0]) + 0.01 * noise if len(shape) == 2 else 1.0 + 0.2 * noise


def _matrix(rng: np.random.Generator, key: str, shape: Shape) -> npt.NDArray[np.float64]:
    values = rng.standard_normal(shape)
    if shape[1] > 3:  # zero-sum rows keep deep activations bounded; the stem has 3 inputs
        values -= values.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    scaled: npt.NDArray[np.float64] = _gain(key, shape) / np.sqrt(np.prod(shape[1:])) * values
    return scaled


def _bias(rng: np.random.Generator, key: str, shape: Shape) -> npt.NDArray[np.float64]:
    preactivation = _tail(key) in ("_bn0.bias", "_bn1.bias")
    std = _PREACTIVATION_BIAS_STD if preactivation else _BIAS_STD
    offset = _CLASSIFICATION_BIAS if key == "classificationModel.output.bias" else 0.0
    return np.asarray(std * rng.standard_normal(shape) + offset)


_SPECIAL: Final[dict[str, Callable[[np.random.Generator, Shape], Any]]] = {
    "cc_stretch_params": _stretch,
    "mlo_stretch_params": _stretch,
    "cc_stretch_bias": lambda rng, shape: 0.5 * rng.standard_normal(shape),
    "mlo_stretch_bias": lambda rng, shape: 0.5 * rng.standard_normal(shape),
    "learned_asym_mean": lambda rng, shape: np.full(shape, 340.0 + 20.0 * rng.random()),
    "learned_asym_std": lambda rng, shape: np.full(shape, 140.0 + 20.0 * rng.random()),
    "logit_scale": lambda _rng, shape: np.full(shape, np.log(1.0 / 0.07)),
}


def _values(rng: np.random.Generator, key: str, shape: Shape) -> Any:
    leaf = key.rsplit(".", maxsplit=1)[-1]
    if key in _SPECIAL:
        return _SPECIAL[key](rng, shape)
    if leaf == "running_mean":
        return 0.03 * rng.standard_normal(shape)
    if leaf == "running_var":
        return 0.4 + 1.2 * rng.random(shape)
    if leaf == "weight" and len(shape) == 1:
        return 0.9 + 0.2 * rng.random(shape)
    if leaf == "bias" or len(shape) <= 1:
        return _bias(rng, key, shape)
    return _matrix(rng, key, shape)


def synthetic_tensor(key: str, shape: Shape, seed: int) -> npt.NDArray[Any]:
    """Value of one state-dict tensor.

    Parameters
    ----------
    key : str
        Name inside its own module, as `weight_key` returns it.
    shape : tuple of int
        Shape of the tensor; ``()`` for a scalar.
    seed : int
        Seed of the whole network.

    Returns
    -------
    numpy.ndarray
        float32, or int64 for ``num_batches_tracked``.
    """
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    return np.asarray(_values(_generator(key, seed), key, shape), dtype=np.float32)


def fill_module(
    module: nn.Module, seed: int, rename: Callable[[str], str] | None = None
) -> nn.Module:
    """Load synthetic values into every tensor of a torch module's state dict, strictly.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    seed : int
        Seed of the whole network.
    rename : callable, optional
        Turns a state-dict key into the full key of the checkpoint it would come from; needed for a
        module that is only a part of one. The encoder's prefixes need no renaming.

    Returns
    -------
    torch.nn.Module
        The same module, in evaluation mode.
    """
    import torch  # the images and weights of this file need numpy alone

    full_key = rename or (lambda key: key)
    state = {
        key: torch.from_numpy(
            synthetic_tensor(weight_key(full_key(key)), tuple(tensor.shape), seed)
        )
        for key, tensor in module.state_dict().items()
    }
    module.load_state_dict(state, strict=True)
    return module.eval()


# ---- images -------------------------------------------------------------------------------------


def _running_sum(values: Int64Array, length: int, axis: int) -> Int64Array:
    """Sum over ``length`` consecutive values along an axis, edges repeated."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (length // 2 + 1, length - length // 2 - 1)
    total = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.int64)
    size = values.shape[axis]
    upper = np.take(total, np.arange(length, length + size), axis=axis)
    lower = np.take(total, np.arange(size), axis=axis)
    return np.asarray(upper - lower, np.int64)


def _texture(
    rng: np.random.Generator, size: tuple[int, int], cell: int, amplitude: int
) -> Int64Array:
    """Smooth texture in 0..amplitude: a coarse random grid, repeated, box-blurred twice."""
    height, width = size
    coarse = rng.integers(0, amplitude + 1, (height // cell + 2, width // cell + 2))
    texture = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.int64)
    for _ in range(2):
        texture = _running_sum(_running_sum(texture, cell, 0), cell, 1) // (cell * cell)
    return texture


def _spots(
    rng: np.random.Generator, size: tuple[int, int], breast: tuple[int, int, int]
) -> Int64Array:
    """Six bright round spots inside a breast given as (centre row, row radius, column radius)."""
    height, width = size
    centre_row, row_radius, column_radius = breast
    rows, columns = np.ogrid[:height, :width]
    total = np.zeros(size, np.int64)
    for _ in range(6):
        row = centre_row + int(rng.integers(-70, 71)) * row_radius // 100
        column = int(rng.integers(10, 80)) * column_radius // 100
        radius = max(height * int(rng.integers(6, 34)) // 1520, 2)
        brightness = int(rng.integers(50, 120))
        distance = (rows - row) ** 2 + (columns - column) ** 2
        total += np.maximum(brightness - (brightness * distance) // (radius * radius), 0)
    return total


def synthetic_image(
    height: int, width: int, seed: int, name: str = "image", side: Literal["L", "R"] = "L"
) -> UInt8Array:
    """Breast-like picture: a textured half-ellipse with bright spots on an exactly black ground.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    seed : int
        Seed of the exam.
    name : str
        Name of the picture; another name gives another picture.
    side : {"L", "R"}
        The image edge the breast is attached to.

    Returns
    -------
    numpy.ndarray
        uint8 ``[height, width]``.
    """
    rng = _generator(f"synthetic_image/{name}", seed)
    centre_row = height * int(rng.integers(44, 57)) // 100
    row_radius = height * int(rng.integers(36, 46)) // 100
    column_radius = width * int(rng.integers(66, 88)) // 100
    rows = np.arange(height, dtype=np.int64)[:, None]
    columns = np.arange(width, dtype=np.int64)[None, :]
    # 65536 * (1 - squared ellipse radius): positive inside the breast
    depth = (
        65536
        - ((rows - centre_row) ** 2 * 65536) // (row_radius * row_radius)
        - (columns * columns * 65536) // (column_radius * column_radius)
    )
    size = (height, width)
    value = 70 + 60 * (column_radius - np.minimum(columns, column_radius)) // column_radius - 95
    for divisor, amplitude in ((12, 90), (48, 60), (190, 40)):
        value = value + _texture(rng, size, max(height // divisor, 2), amplitude)
    value = value + _spots(rng, size, (centre_row, row_radius, column_radius))
    rim = np.clip(depth, 0, 16384)
    value = np.maximum((np.clip(value, 12, 255) * rim) // 16384, 1)
    image = np.where(depth > 0, value, 0).astype(np.uint8)
    return np.ascontiguousarray(image[:, ::-1]) if side == "R" else image


def synthetic_raw12(
    height: int, width: int, seed: int, name: str = "raw12", side: Literal["L", "R"] = "R"
) -> UInt16Array:
    """12-bit stored pixels: a synthetic breast, detector noise and a burnt-in label.

    Returns
    -------
    numpy.ndarray
        uint16 ``[height, width]`` in 0..4095.
    """
    rng = _generator(f"synthetic_raw12/{name}", seed)
    image = synthetic_image(height, width, seed, name=f"raw12/{name}", side=side).astype(np.int64)
    value = 80 + image * 15 + rng.integers(0, 64, (height, width))
    value[: height // 40, : width // 6] = 3000
    stored: UInt16Array = np.clip(value, 0, 4095).astype(np.uint16)
    return stored


def normalise(image: UInt8Array) -> Float32Array:
    """Network input of the reference: per-image min-max, then (x - mean) / std, three channels.

    Parameters
    ----------
    image : numpy.ndarray
        uint8 ``[height, width]``, not constant.

    Returns
    -------
    numpy.ndarray
        float32 ``[1, 3, height, width]``. Source: facts 1.4.
    """
    value = image.astype(np.float32)
    value -= value.min()
    value /= value.max()
    value = (value - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    return np.ascontiguousarray(np.broadcast_to(value, (1, 3, *value.shape)))


# ---- feature maps -------------------------------------------------------------------------------


def synthetic_feature(name: str, shape: Shape, seed: int, scale: float = 1.0) -> Float32Array:
    """Feature map distributed like the output of a SiLU: negatives squashed above -0.28."""
    value = scale * _generator(f"feature/{name}", seed).standard_normal(shape)
    return np.where(value < 0, np.maximum(0.1 * value, -0.27), value).astype(np.float32)


def synthetic_vector(name: str, shape: Shape, seed: int, scale: float = 1.0) -> Float32Array:
    """Plain gaussian vectors, e.g. hidden states of a text encoder."""
    return (scale * _generator(f"vector/{name}", seed).standard_normal(shape)).astype(np.float32)


_ASYM_SCALE: Final = 2.2
_ASYM_HOT: Final = {
    "L-CC": (slice(30, 37), slice(3, 7)),
    "R-MLO": (slice(8, 15), slice(18, 23)),
}


def synthetic_asym_features(
    seed: int, shape: tuple[int, int, int, int] = (1, 2048, 48, 29), exam: int = 0
) -> dict[str, Float32Array]:
    """Four feature maps of one exam, keyed by view, each float32 of ``shape``.

    Left and right share a base map; one side of each projection has a hot region, so the place of
    the largest asymmetry is unambiguous.
    """
    features = {}
    for projection in ("CC", "MLO"):
        base = synthetic_feature(f"exam{exam}/base-{projection}", shape, seed, _ASYM_SCALE)
        for view in (f"L-{projection}", f"R-{projection}"):
            own = synthetic_feature(f"exam{exam}/{view}", shape, seed, _ASYM_SCALE)
            feature = base + 0.5 * own
            if view in _ASYM_HOT:
                rows, columns = _ASYM_HOT[view]
                region = feature[:, :, rows, columns]
                region += synthetic_feature(
                    f"exam{exam}/hot-{view}", region.shape, seed, _ASYM_SCALE
                )
            features[view] = feature.astype(np.float32)
    return features
