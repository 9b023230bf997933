"""What a pickled module says of itself besides its weights, against what the recipe says.

A prognosis checkpoint is one whole object: how it compares the two sides, and the padding of its
encoder's convolutions, stand in it. A recipe that contradicts its file is refused.

Source: facts 1.2, 2.3, 6.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from mammofm_lite.errors import ExportError

from .checkpoint import Checkpoint, open_checkpoint, shown
from .models.asymmetry import AsymmetryConfig
from .models.efficientnet import EfficientNetConfig
from .recipe import PrognosisRecipe, WeightSource

__all__ = ["BACKBONE", "HEAD_ATTRIBUTES", "UNUSED_TENSORS", "asymmetry_config", "check_paddings"]

_LARGEST: Final = 1 << 20
BACKBONE: Final = "backbone.image_encoder."
HEAD_ATTRIBUTES: Final = frozenset(
    {
        *("use_stretch", "use_stretch_matrix", "flexible_asymmetry", "latent_h", "latent_w"),
        *("alignment_space", "use_bn", "topk_for_heatmap", "bias_term"),
        *("initial_asym_mean", "initial_asym_std", "learned_asym_mean", "learned_asym_std"),
    }
)
# Read apart, or without a part in the reference's own forward pass.
UNUSED_TENSORS: Final = (
    *("backbone.", "initial_asym_", "learned_asym_", "topk_weights"),
    *("cc_stretch_bias", "mlo_stretch_bias"),
)


def asymmetry_config(
    recipe: PrognosisRecipe, year: int, source: WeightSource, channels: int
) -> AsymmetryConfig:
    """How one year compares the two sides: by the recipe, and by the file where it says so.

    Raises
    ------
    ExportError
        The file lacks a setting, or it and the recipe contradict each other.
    """
    own = _from_file(source) if source.object else {}
    wanted = {
        "stretch": recipe.stretch,
        "latent": list(recipe.latent),
        "flexible": recipe.flexible,
        "alignment": recipe.alignment,
        "mean": recipe.mean,
        "std": recipe.std,
    }
    _check_agreement(f"prognosis of year {year}", source, wanted, own)
    mean, std = (own.get(name, wanted[name]) for name in ("mean", "std"))
    return AsymmetryConfig(
        channels=channels,
        latent_height=recipe.latent[0],
        latent_width=recipe.latent[1],
        stretch=recipe.stretch,
        flexible=recipe.flexible,
        alignment=None if recipe.alignment == "none" else recipe.alignment,
        use_bn=own.get("use_bn", False),
        topk=own.get("topk"),
        mean=mean,
        std=std,
    )


def _check_agreement(
    where: str, source: WeightSource, wanted: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    differing = [
        f"{name} is {shown(repr(own[name]))} in the file, {value!r} in the recipe"
        for name, value in wanted.items()
        if name in own and value is not None and not _same(own[name], value)
    ]
    if differing:
        name = source.path.name if source.path else ""
        raise ExportError(f"{where}: recipe and {name} contradict: {'; '.join(differing)}")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def _from_file(source: WeightSource) -> dict[str, Any]:
    """The head's settings in the recipe's words."""
    assert source.path is not None
    checkpoint = open_checkpoint(source.path)
    settings = _Settings(checkpoint)
    matrix = "matrix" if settings.of("use_stretch_matrix", bool) else "vector"
    if settings.of("bias_term", object, None) is not None:
        raise ExportError(f"checkpoint {checkpoint.path.name}: 'bias_term' is not supported")
    return {
        "stretch": matrix if settings.of("use_stretch", bool) else "none",
        "latent": [settings.of("latent_h", int), settings.of("latent_w", int)],
        "flexible": settings.of("flexible_asymmetry", bool),
        "alignment": settings.of("alignment_space", str, None) or "none",
        "use_bn": settings.of("use_bn", bool),
        "topk": settings.of("topk_for_heatmap", int, None),
        "mean": settings.number("mean"),
        "std": settings.number("std", above=0.0),
    }


class _Settings:
    """Attributes of a pickled head, each checked for its kind."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._values = checkpoint.attributes()

    def of(self, name: str, kind: type, *others: Any) -> Any:
        """A setting of a kind, or one of some other values."""
        missing = object()
        value = self._values.get(name, missing)
        whole = isinstance(value, kind)
        if kind is int:
            whole = type(value) is int and 0 <= value <= _LARGEST
        if value is missing or not (whole or value in others):
            raise ExportError(
                f"checkpoint {self._checkpoint.path.name}: {name!r} is missing or no "
                f"{kind.__name__}"
            )
        return value

    def number(self, name: str, above: float = -math.inf) -> float:
        """The learned mean or std where the file has one, the initial one otherwise."""
        learned = self._checkpoint.number(self._values.get(f"learned_asym_{name}"))
        initial = self._checkpoint.number(self._values.get(f"initial_asym_{name}"))
        value = initial if learned is None else learned
        if value is None or not math.isfinite(value) or value <= above:
            raise ExportError(
                f"checkpoint {self._checkpoint.path.name}: its {name} is {value}, not usable"
            )
        return value


def check_paddings(source: WeightSource, config: EfficientNetConfig) -> None:
    """Compare the padding that a pickled encoder carries with that of the architecture.

    Raises
    ------
    ExportError
        A convolution of the file pads otherwise: wrong architecture or wrong padding rule.
    """
    assert source.path is not None
    found = open_checkpoint(source.path).paddings(source.prefix)
    blocks = {f"_blocks.{i}._depthwise_conv": b.padding for i, b in enumerate(config.blocks)}
    expected = {"_conv_stem": config.stem_padding, **blocks}
    for name, padding in found.items():
        ours = expected.get(name, (0, 0)) * 2
        if padding != ours:
            raise ExportError(
                f"checkpoint {source.path.name}: {shown(name)} pads by {shown(repr(padding))}, "
                f"{config.name!r} with {config.padding!r} padding by {ours}"
            )
