"""Recipes: TOML files that say what goes into a bundle and where every weight comes from.

Each table names its weights as ``{ source = "synthetic", seed = N }`` (deterministic numbers for
parity tests and benchmarks) or ``{ source = "file", path = "...", key = "model", prefix = "..." }``
(a torch checkpoint, of which nothing is run; `key` picks the state dict inside it and `prefix` is
what its keys carry in front of this module's own). A file that is one pickled module, as the
prognosis checkpoints are, takes ``object = true`` in place of `key`. Paths are relative to the
recipe.
"""

import tomllib
from collections.abc import Iterator
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
    object: bool = False

    def describe(self) -> dict[str, Any]:
        """For the bundle's provenance: no folder names, only the file's own name."""
        if self.source == "synthetic":
            return {"source": "synthetic", "seed": self.seed}
        name = self.path.name if self.path else ""
        place = {"object": True} if self.object else {"key": self.key}
        return {"source": "file", "file": name, **place, "prefix": self.prefix}


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
    """`projection` is the CLIP image projection that zero-shot labels need.

    `shared_backbone` accepts labels whose file holds another encoder than the head's.
    """

    encoder: str
    shared_backbone: bool
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
    """`mean` and `std` may be left to the years' files, where these hold the whole head.

    `shared_backbone` accepts years whose file holds another encoder than the head's.
    """

    encoder: str
    shared_backbone: bool
    stretch: Literal["matrix", "vector", "none"]
    latent: tuple[int, int]
    flexible: bool
    alignment: Literal["none", "latent"]
    mean: float | None
    std: float | None
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
    restricted: bool
    preprocessing: PreprocessingSpec
    encoders: tuple[EncoderRecipe, ...]
    diagnosis: DiagnosisRecipe | None
    localization: LocalizationRecipe | None
    prognosis: PrognosisRecipe | None
    report: ReportRecipe | None

    def encoder(self, name: str) -> EncoderRecipe:
        """The encoder a head names."""
        return next(encoder for encoder in self.encoders if encoder.name == name)

    def sources(self) -> Iterator[tuple[str, WeightSource]]:
        """Every weight source, with the name of what it fills."""
        for encoder in self.encoders:
            yield f"encoder {encoder.name!r}", encoder.weights
        if self.diagnosis:
            for label in self.diagnosis.labels:
                yield f"label {label.name!r}", label.weights
            if self.diagnosis.projection_weights:
                yield "the projection", self.diagnosis.projection_weights
        if self.localization:
            yield "localization", self.localization.weights
        for year, source in self.prognosis.years if self.prognosis else ():
            yield f"prognosis of year {year}", source
        if self.report:
            yield "report", self.report.weights


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
        licence = fields.object("licence").only("id", "notice", "restricted")
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
            restricted=licence.optional("restricted", licence.flag) or False,
            preprocessing=_preprocessing(fields.object("preprocessing")),
            encoders=encoders,
            diagnosis=self._head(heads, "diagnosis", self.diagnosis),
            localization=self._head(heads, "localization", self.localization),
            prognosis=self._head(heads, "prognosis", self.prognosis),
            report=self._head(heads, "report", self.report),
        )
        _check_encoders(recipe, fields)
        _check_origin(recipe, licence)
        return recipe

    @staticmethod
    def _head(heads: Fields, name: str, read: Any) -> Any:
        return read(heads.object(name)) if name in heads else None

    def weights(self, fields: Fields) -> WeightSource:
        source = fields.choice("source", ("synthetic", "file"))
        if source == "synthetic":
            fields.only("source", "seed")
            return WeightSource("synthetic", seed=fields.integer("seed", 0, MAX_SEED))
        fields.only("source", "path", "key", "prefix", "object")
        key = fields.optional("key", fields.text) or ""
        pickled = fields.optional("object", fields.flag) or False
        if pickled and key:
            raise fields.error(f"{fields.where}: 'key' has no meaning with 'object = true'")
        return WeightSource(
            "file",
            path=self.folder / fields.text("path"),
            key=key,
            prefix=fields.optional("prefix", fields.text) or "",
            object=pickled,
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
        fields.only("encoder", "shared_backbone", "labels", "projection")
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
            shared_backbone=fields.optional("shared_backbone", fields.flag) or False,
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
        fields.only(
            *("encoder", "shared_backbone", "stretch", "latent", "flexible", "alignment"),
            *("mean", "std", "years"),
        )
        years = []
        for entry in fields.objects("years"):
            entry.only("year", "weights")
            years.append((entry.integer("year", 1, 30), self.weights(entry.object("weights"))))
        if not years or [year for year, _ in years] != sorted({year for year, _ in years}):
            raise fields.error(f"{fields.where}: 'years' must rise, each year once")
        latent = fields.integers("latent", 2)
        whole = all(source.object for _, source in years)
        if not whole and not ("mean" in fields and "std" in fields):
            raise fields.error(
                f"{fields.where}: 'mean' and 'std' may be left out only where every year is a "
                "file with 'object = true'"
            )
        return PrognosisRecipe(
            encoder=fields.text("encoder"),
            shared_backbone=fields.optional("shared_backbone", fields.flag) or False,
            stretch=cast(Any, fields.choice("stretch", ("matrix", "vector", "none"))),
            latent=(latent[0], latent[1]),
            flexible=fields.flag("flexible"),
            alignment=cast(Any, fields.choice("alignment", ("none", "latent"))),
            mean=fields.optional("mean", fields.number),
            std=fields.optional("std", lambda key: fields.number(key, 1e-6)),
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


def _check_origin(recipe: Recipe, licence: Fields) -> None:
    """Weights from files need a licence stated in full; synthetic ones must be called so."""
    if recipe.restricted and not recipe.notice:
        raise licence.error(f"{licence.where}: a restricted licence needs its terms in 'notice'")
    for name, source in recipe.sources():
        if source.source == "file" and "restricted" not in licence:
            raise licence.error(f"{licence.where}: 'restricted' must be true or false")
        if source.source == "synthetic" and not recipe.synthetic:
            raise licence.error(f"the weights of {name} are synthetic; set bundle 'synthetic'")
