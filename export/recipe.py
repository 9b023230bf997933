"""Recipes: TOML files that say what goes into a bundle and where every weight comes from.

Each table names its weights as ``{ source = "synthetic", seed = N }`` (deterministic numbers for
parity tests and benchmarks) or ``{ source = "file", path = "...", key = "model", prefix = "..." }``
(a torch checkpoint, opened with ``weights_only=True``; `key` picks the state dict inside it and
`prefix` is what its keys carry in front of this module's own). Paths are relative to the recipe.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mammofm_lite._jsonread import Fields
from mammofm_lite.errors import ExportError
from mammofm_lite.prepare import PreprocessingSpec

__all__ = [
    "DiagnosisRecipe",
    "EncoderRecipe",
    "LabelRecipe",
    "LocalizationRecipe",
    "PrognosisRecipe",
    "Recipe",
    "ReportRecipe",
    "WeightSource",
    "load_recipe",
]

ARCHITECTURES = ("b0", "b2", "b5")
ENCODER_OUTPUTS = ("pooled", "map", "c3", "c4", "c5")
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class WeightSource:
    """Where one module's weights come from."""

    source: Literal["synthetic", "file"]
    seed: int = 0
    path: Path | None = None
    key: str = ""
    prefix: str = ""

    def describe(self) -> dict[str, Any]:
        """For the bundle's provenance: no folder names, only the file's own name."""
        if self.source == "synthetic":
            return {"source": "synthetic", "seed": self.seed}
        name = self.path.name if self.path else ""
        return {"source": "file", "file": name, "key": self.key, "prefix": self.prefix}


@dataclass(frozen=True)
class EncoderRecipe:
    """One encoder; `input_size` (rows, columns) differs from the prepared view for the detector."""

    name: str
    architecture: str
    padding: Literal["progressive", "nominal"]
    input_size: tuple[int, int] | None
    outputs: tuple[str, ...]
    weights: WeightSource


@dataclass(frozen=True)
class LabelRecipe:
    name: str
    kind: Literal["binary", "categorical", "zero_shot"]
    classes: tuple[str, ...]
    threshold: float | None
    breast: str
    study: str
    recall: bool
    weights: WeightSource


@dataclass(frozen=True)
class DiagnosisRecipe:
    """`projection` is the CLIP image projection that zero-shot labels need."""

    encoder: str
    labels: tuple[LabelRecipe, ...]
    projection: Literal["linear", "mlp"] | None
    projection_size: int
    projection_weights: WeightSource | None


@dataclass(frozen=True)
class LocalizationRecipe:
    encoder: str
    labels: tuple[str, ...]
    channels: int
    threshold: float
    max_detections: int
    weights: WeightSource


@dataclass(frozen=True)
class PrognosisRecipe:
    encoder: str
    stretch: Literal["matrix", "vector", "none"]
    latent: tuple[int, int]
    flexible: bool
    alignment: Literal["none", "latent"]
    mean: float
    std: float
    years: tuple[tuple[int, WeightSource], ...]


@dataclass(frozen=True)
class ReportRecipe:
    encoder: str
    dim: int
    heads: int
    fusion_layers: int
    decoder_layers: int
    max_tokens: int
    weights: WeightSource


@dataclass(frozen=True)
class Recipe:
    name: str
    version: str
    intended_use: str
    synthetic: bool
    half_weights: bool
    licence: str
    notice: str
    preprocessing: PreprocessingSpec
    encoders: tuple[EncoderRecipe, ...]
    diagnosis: DiagnosisRecipe | None
    localization: LocalizationRecipe | None
    prognosis: PrognosisRecipe | None
    report: ReportRecipe | None

    def encoder(self, name: str) -> EncoderRecipe:
        """The encoder a head names."""
        return next(encoder for encoder in self.encoders if encoder.name == name)


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    ExportError
        The file is missing, not TOML, or a field is missing, misspelt or out of range.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"no recipe at {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExportError(f"{path.name} is not a readable TOML file: {error}") from error
    fields = Fields(value, path.name, ExportError)
    fields.only("bundle", "licence", "preprocessing", "encoders", "heads")
    return _Reader(path.parent).recipe(fields)


@dataclass(frozen=True)
class _Reader:
    folder: Path

    def recipe(self, fields: Fields) -> Recipe:
        bundle = fields.object("bundle").only(
            "name", "version", "intended_use", "synthetic", "half_weights"
        )
        licence = fields.object("licence").only("id", "notice")
        heads = fields.object("heads").only("diagnosis", "localization", "prognosis", "report")
        encoders = tuple(
            self.encoder(name, entry) for name, entry in fields.object("encoders").items()
        )
        recipe = Recipe(
            name=bundle.text("name"),
            version=bundle.text("version"),
            intended_use=bundle.text("intended_use"),
            synthetic=bundle.flag("synthetic"),
            half_weights=bundle.flag("half_weights"),
            licence=licence.text("id"),
            notice=licence.text("notice"),
            preprocessing=_preprocessing(fields.object("preprocessing")),
            encoders=encoders,
            diagnosis=self._head(heads, "diagnosis", self.diagnosis),
            localization=self._head(heads, "localization", self.localization),
            prognosis=self._head(heads, "prognosis", self.prognosis),
            report=self._head(heads, "report", self.report),
        )
        _check_encoders(recipe, fields)
        return recipe

    @staticmethod
    def _head(heads: Fields, name: str, read: Any) -> Any:
        return read(heads.object(name)) if name in heads else None

    def weights(self, fields: Fields) -> WeightSource:
        source = fields.choice("source", ("synthetic", "file"))
        if source == "synthetic":
            fields.only("source", "seed")
            return WeightSource("synthetic", seed=fields.integer("seed", 0, MAX_SEED))
        fields.only("source", "path", "key", "prefix")
        return WeightSource(
            "file",
            path=self.folder / fields.text("path"),
            key=fields.optional("key", fields.text) or "",
            prefix=fields.optional("prefix", fields.text) or "",
        )

    def encoder(self, name: str, fields: Fields) -> EncoderRecipe:
        fields.only("architecture", "padding", "input_size", "outputs", "weights")
        outputs = fields.texts("outputs")
        if unknown := [item for item in outputs if item not in ENCODER_OUTPUTS]:
            raise fields.error(
                f"{fields.where}: unknown output {unknown[0]!r}; "
                f"allowed: {', '.join(ENCODER_OUTPUTS)}"
            )
        size = fields.optional("input_size", lambda key: fields.integers(key, 2))
        return EncoderRecipe(
            name=name,
            architecture=fields.choice("architecture", ARCHITECTURES),
            padding=cast(Any, fields.choice("padding", ("progressive", "nominal"))),
            input_size=None if size is None else (size[0], size[1]),
            outputs=outputs,
            weights=self.weights(fields.object("weights")),
        )

    def diagnosis(self, fields: Fields) -> DiagnosisRecipe:
        fields.only("encoder", "labels", "projection")
        projection = fields.optional("projection", fields.object)
        if projection:
            projection.only("kind", "size", "weights")
        labels = tuple(self.label(entry) for entry in fields.objects("labels"))
        if not labels:
            raise fields.error(f"{fields.where}: 'labels' is empty")
        if projection is None and any(label.kind == "zero_shot" for label in labels):
            raise fields.error(f"{fields.where}: zero-shot labels need a 'projection'")
        return DiagnosisRecipe(
            encoder=fields.text("encoder"),
            labels=labels,
            projection=cast(Any, projection and projection.choice("kind", ("linear", "mlp"))),
            projection_size=projection.integer("size", 1, 8192) if projection else 0,
            projection_weights=self.weights(projection.object("weights")) if projection else None,
        )

    def label(self, fields: Fields) -> LabelRecipe:
        fields.only("name", "kind", "classes", "threshold", "breast", "study", "recall", "weights")
        kind = fields.choice("kind", ("binary", "categorical", "zero_shot"))
        binary = kind == "binary"
        classes = () if binary else fields.texts("classes")
        if not binary and len(classes) < 2:
            raise fields.error(f"{fields.where}: 'classes' needs two names or more")
        return LabelRecipe(
            name=fields.text("name"),
            kind=cast(Any, kind),
            classes=classes,
            threshold=fields.optional("threshold", lambda key: fields.number(key, 0.0, 1.0)),
            breast=fields.choice("breast", ("mean", "max") if binary else ("mean",)),
            study=fields.choice("study", ("mean", "max") if binary else ("mean", "highest_class")),
            recall=fields.flag("recall"),
            weights=self.weights(fields.object("weights")),
        )

    def localization(self, fields: Fields) -> LocalizationRecipe:
        fields.only("encoder", "labels", "channels", "threshold", "max_detections", "weights")
        labels = fields.texts("labels")
        if not labels:
            raise fields.error(f"{fields.where}: 'labels' is empty")
        return LocalizationRecipe(
            encoder=fields.text("encoder"),
            labels=labels,
            channels=fields.integer("channels", 8, 1024),
            threshold=fields.number("threshold", 0.05, 1.0),
            max_detections=fields.integer("max_detections", 1, 1000),
            weights=self.weights(fields.object("weights")),
        )

    def prognosis(self, fields: Fields) -> PrognosisRecipe:
        fields.only("encoder", "stretch", "latent", "flexible", "alignment", "mean", "std", "years")
        years = []
        for entry in fields.objects("years"):
            entry.only("year", "weights")
            years.append((entry.integer("year", 1, 30), self.weights(entry.object("weights"))))
        if not years or [year for year, _ in years] != sorted({year for year, _ in years}):
            raise fields.error(f"{fields.where}: 'years' must rise, each year once")
        latent = fields.integers("latent", 2)
        return PrognosisRecipe(
            encoder=fields.text("encoder"),
            stretch=cast(Any, fields.choice("stretch", ("matrix", "vector", "none"))),
            latent=(latent[0], latent[1]),
            flexible=fields.flag("flexible"),
            alignment=cast(Any, fields.choice("alignment", ("none", "latent"))),
            mean=fields.number("mean"),
            std=fields.number("std", 1e-6),
            years=tuple(years),
        )

    def report(self, fields: Fields) -> ReportRecipe:
        fields.only(
            "encoder", "dim", "heads", "fusion_layers", "decoder_layers", "max_tokens", "weights"
        )
        dim, heads = fields.integer("dim", 32, 4096), fields.integer("heads", 1, 64)
        if dim % heads or not 32 <= dim // heads <= 128:
            raise fields.error(f"{fields.where}: dim/heads must be a whole number from 32 to 128")
        return ReportRecipe(
            encoder=fields.text("encoder"),
            dim=dim,
            heads=heads,
            fusion_layers=fields.integer("fusion_layers", 1, 24),
            decoder_layers=fields.integer("decoder_layers", 1, 24),
            max_tokens=fields.integer("max_tokens", 32, 4096),
            weights=self.weights(fields.object("weights")),
        )


def _preprocessing(fields: Fields) -> PreprocessingSpec:
    fields.only("height", "width", "border_px", "background_threshold", "mirror")
    return PreprocessingSpec(
        height=fields.integer("height", 32, 8192),
        width=fields.integer("width", 32, 8192),
        border_px=fields.integer("border_px", 0, 100),
        background_threshold=fields.integer("background_threshold", 0, 254),
        mirror=cast(Any, fields.choice("mirror", ("none", "right"))),
    )


NEEDED_OUTPUTS = {
    "diagnosis": ("pooled",),
    "localization": ("c3", "c4", "c5"),
    "prognosis": ("map",),
    "report": ("map",),
}


def _check_encoders(recipe: Recipe, fields: Fields) -> None:
    known = {encoder.name: encoder for encoder in recipe.encoders}
    heads = {name: getattr(recipe, name) for name in NEEDED_OUTPUTS}
    if not any(heads.values()):
        raise fields.error(f"{fields.where}: no head")
    for name, head in heads.items():
        if head is None:
            continue
        if head.encoder not in known:
            raise fields.error(
                f"{fields.where}: head {name!r} names unknown encoder {head.encoder!r}"
            )
        lacking = [out for out in NEEDED_OUTPUTS[name] if out not in known[head.encoder].outputs]
        if lacking:
            raise fields.error(
                f"{fields.where}: head {name!r} needs output {lacking[0]!r} "
                f"of encoder {head.encoder!r}"
            )
