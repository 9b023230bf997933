"""Recipes: TOML files that say what goes into a bundle and where every weight comes from.

Each table names its weights as ``{ source = "synthetic", seed = N }`` (deterministic numbers for
parity tests and benchmarks) or ``{ source = "file", path = "...", key = "model", prefix = "..." }``
(a torch checkpoint, of which nothing is run; `key` picks the state dict inside it and `prefix` is
what its keys carry in front of this module's own). A file that is one pickled module, as the
prognosis checkpoints are, takes ``object = true`` in place of `key`. A zero-shot label's embeddings
come from ``{ source = "text" }``, the encoder of the recipe's ``[text]`` table (`text_recipe`).
Paths are relative to the recipe.

Diagnosis labels, detectors and prognosis years run on their head's `encoder`, or on one of their
own where they name it. An encoder that is another in all but its weights says ``like = "OTHER"``.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mammofm_lite._jsonread import Fields
from mammofm_lite.errors import ExportError
from mammofm_lite.prepare import PreprocessingSpec

from .text_recipe import TextRecipe, check_text, check_texts, read_text

__all__ = [
    "DetectorRecipe",
    "DiagnosisRecipe",
    "EncoderRecipe",
    "LabelRecipe",
    "LocalizationRecipe",
    "PrognosisRecipe",
    "Recipe",
    "ReportRecipe",
    "WeightSource",
    "YearRecipe",
    "load_recipe",
]

ARCHITECTURES = ("b0", "b2", "b5")
ENCODER_OUTPUTS = ("pooled", "map", "c3", "c4", "c5")
ENCODER_NAME = "[A-Za-z0-9_][A-Za-z0-9_-]{0,59}"
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class WeightSource:
    """Where one module's weights come from; those of a label of prompts from the text encoder."""

    source: Literal["synthetic", "file", "text"]
    seed: int = 0
    path: Path | None = None
    key: str = ""
    prefix: str = ""
    object: bool = False

    def describe(self) -> dict[str, Any]:
        """For the bundle's provenance: no folder names, only the file's own name."""
        if self.source == "synthetic":
            return {"source": "synthetic", "seed": self.seed}
        if self.source == "text":
            return {"source": "text"}
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
    encoder: str
    kind: Literal["binary", "categorical", "zero_shot"]
    classes: tuple[str, ...]
    threshold: float | None
    breast: str
    study: str
    recall: bool
    weights: WeightSource


@dataclass(frozen=True)
class DiagnosisRecipe:
    """`projection` is the CLIP image projection that zero-shot labels need, on its encoder.

    `shared_backbone` accepts labels whose file holds another encoder than they run on.
    """

    shared_backbone: bool
    labels: tuple[LabelRecipe, ...]
    projection: Literal["linear", "mlp"] | None
    projection_encoder: str | None
    projection_size: int
    projection_weights: WeightSource | None


@dataclass(frozen=True)
class DetectorRecipe:
    encoder: str
    labels: tuple[str, ...]
    threshold: float
    weights: WeightSource


@dataclass(frozen=True)
class LocalizationRecipe:
    channels: int
    max_detections: int
    detectors: tuple[DetectorRecipe, ...]


@dataclass(frozen=True)
class YearRecipe:
    year: int
    encoder: str
    weights: WeightSource


@dataclass(frozen=True)
class PrognosisRecipe:
    """`mean` and `std` may be left to the years' files, where these hold the whole head.

    `shared_backbone` accepts years whose file holds another encoder than they run on.
    """

    shared_backbone: bool
    stretch: Literal["matrix", "vector", "none"]
    latent: tuple[int, int]
    flexible: bool
    alignment: Literal["none", "latent"]
    mean: float | None
    std: float | None
    years: tuple[YearRecipe, ...]


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
    text: TextRecipe | None

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
        for detector in self.localization.detectors if self.localization else ():
            yield f"the detector of {', '.join(detector.labels)}", detector.weights
        for year in self.prognosis.years if self.prognosis else ():
            yield f"prognosis of year {year.year}", year.weights
        if self.report:
            yield "report", self.report.weights
        if self.text:
            yield "the text encoder", self.text.weights


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
    fields.only("bundle", "licence", "preprocessing", "encoders", "heads", "text")
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
            self.encoder(name, entry) for name, entry in _alike(fields.object("encoders"))
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
            text=self._head(fields, "text", self.text),
        )
        _check_encoders(recipe, fields)
        _check_names(recipe, fields)
        _check_origin(recipe, licence)
        check_text(recipe, fields)
        return recipe

    @staticmethod
    def _head(heads: Fields, name: str, read: Any) -> Any:
        return read(heads.object(name)) if name in heads else None

    def text(self, fields: Fields) -> TextRecipe:
        return read_text(fields, self.folder, self.weights)

    def prompt_weights(self, fields: Fields) -> WeightSource:
        """Where the embeddings of a label's prompts come from."""
        if fields.choice("source", ("synthetic", "text")) == "synthetic":
            return self.weights(fields)
        fields.only("source")
        return WeightSource("text")

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
            projection.only("kind", "encoder", "size", "weights")
        on = _encoder_of(fields, projection) if projection else None
        labels = tuple(self.label(fields, entry, on) for entry in fields.objects("labels"))
        if not labels:
            raise fields.error(f"{fields.where}: 'labels' is empty")
        return DiagnosisRecipe(
            shared_backbone=fields.optional("shared_backbone", fields.flag) or False,
            labels=labels,
            projection=cast(Any, projection and projection.choice("kind", ("linear", "mlp"))),
            projection_encoder=on,
            projection_size=projection.integer("size", 1, 8192) if projection else 0,
            projection_weights=self.weights(projection.object("weights")) if projection else None,
        )

    def label(self, head: Fields, fields: Fields, projected: str | None) -> LabelRecipe:
        """`projected` is the encoder of the projection, on which zero-shot labels run."""
        fields.only(
            *("name", "encoder", "kind", "classes", "threshold", "breast", "study", "recall"),
            "weights",
        )
        kind = fields.choice("kind", ("binary", "categorical", "zero_shot"))
        if kind == "zero_shot" and projected is None:
            raise fields.error(f"{head.where}: zero-shot labels need a 'projection'")
        if kind == "zero_shot" and "encoder" in fields:
            raise fields.error(
                f"{fields.where}: a zero-shot label runs on the encoder of the projection; "
                "delete 'encoder'"
            )
        binary = kind == "binary"
        classes = () if binary else fields.texts("classes")
        if not binary and len(classes) < 2:
            raise fields.error(f"{fields.where}: 'classes' needs two names or more")
        read_weights = self.prompt_weights if kind == "zero_shot" else self.weights
        weights = read_weights(fields.object("weights"))
        if weights.source == "text":
            check_texts(fields.text("name"), classes)
        return LabelRecipe(
            name=fields.text("name"),
            encoder=projected if projected and kind == "zero_shot" else _encoder_of(head, fields),
            kind=cast(Any, kind),
            classes=classes,
            threshold=fields.optional("threshold", lambda key: fields.number(key, 0.0, 1.0)),
            breast=fields.choice("breast", ("mean", "max") if binary else ("mean",)),
            study=fields.choice("study", ("mean", "max") if binary else ("mean", "highest_class")),
            recall=fields.flag("recall"),
            weights=weights,
        )

    def localization(self, fields: Fields) -> LocalizationRecipe:
        fields.only("encoder", "channels", "max_detections", "detectors")
        detectors = tuple(self.detector(fields, entry) for entry in fields.objects("detectors"))
        if not detectors:
            raise fields.error(f"{fields.where}: 'detectors' is empty")
        return LocalizationRecipe(
            channels=fields.integer("channels", 8, 1024),
            max_detections=fields.integer("max_detections", 1, 1000),
            detectors=detectors,
        )

    def detector(self, head: Fields, fields: Fields) -> DetectorRecipe:
        fields.only("encoder", "labels", "threshold", "weights")
        labels = fields.texts("labels")
        if not labels:
            raise fields.error(f"{fields.where}: 'labels' is empty")
        return DetectorRecipe(
            encoder=_encoder_of(head, fields),
            labels=labels,
            threshold=fields.number("threshold", 0.05, 1.0),
            weights=self.weights(fields.object("weights")),
        )

    def prognosis(self, fields: Fields) -> PrognosisRecipe:
        fields.only(
            *("encoder", "shared_backbone", "stretch", "latent", "flexible", "alignment"),
            *("mean", "std", "years"),
        )
        years = tuple(self.year(fields, entry) for entry in fields.objects("years"))
        if not years or [item.year for item in years] != sorted({item.year for item in years}):
            raise fields.error(f"{fields.where}: 'years' must rise, each year once")
        latent = fields.integers("latent", 2)
        whole = all(item.weights.object for item in years)
        if not whole and not ("mean" in fields and "std" in fields):
            raise fields.error(
                f"{fields.where}: 'mean' and 'std' may be left out only where every year is a "
                "file with 'object = true'"
            )
        return PrognosisRecipe(
            shared_backbone=fields.optional("shared_backbone", fields.flag) or False,
            stretch=cast(Any, fields.choice("stretch", ("matrix", "vector", "none"))),
            latent=(latent[0], latent[1]),
            flexible=fields.flag("flexible"),
            alignment=cast(Any, fields.choice("alignment", ("none", "latent"))),
            mean=fields.optional("mean", fields.number),
            std=fields.optional("std", lambda key: fields.number(key, 1e-6)),
            years=years,
        )

    def year(self, head: Fields, fields: Fields) -> YearRecipe:
        fields.only("year", "encoder", "weights")
        return YearRecipe(
            year=fields.integer("year", 1, 30),
            encoder=_encoder_of(head, fields),
            weights=self.weights(fields.object("weights")),
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


def _alike(encoders: Fields) -> Iterator[tuple[str, Fields]]:
    """Encoders with what they take from the one they are `like`: everything but the weights."""
    for name, entry in encoders.items():
        if not re.fullmatch(ENCODER_NAME, name):
            raise encoders.error(
                f"{encoders.where}: {name[:60]!r} is no name for an encoder; use letters, digits, "
                "'_' and '-', at most 60"
            )
        if "like" not in entry:
            yield name, entry
            continue
        other = entry.text("like")
        model = encoders.mapping().get(other)
        if not isinstance(model, dict) or "like" in model:
            raise entry.error(
                f"{entry.where}: 'like' must name an encoder that is described in full"
            )
        own = {key: value for key, value in entry.mapping().items() if key != "like"}
        shape = {key: value for key, value in model.items() if key != "weights"}
        yield name, Fields({**shape, **own}, entry.where, entry.error)


def _encoder_of(head: Fields, entry: Fields) -> str:
    """The encoder that an entry of a head names, or else the head's."""
    if "encoder" in entry:
        return entry.text("encoder")
    if "encoder" not in head:
        raise entry.error(f"{entry.where}: 'encoder' is missing, here and in the head")
    return head.text("encoder")


def _named_encoders(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every head with every encoder that it runs on."""
    for label in recipe.diagnosis.labels if recipe.diagnosis else ():
        yield "diagnosis", label.encoder
    if recipe.diagnosis and recipe.diagnosis.projection_encoder:
        yield "diagnosis", recipe.diagnosis.projection_encoder
    for detector in recipe.localization.detectors if recipe.localization else ():
        yield "localization", detector.encoder
    for year in recipe.prognosis.years if recipe.prognosis else ():
        yield "prognosis", year.encoder
    if recipe.report:
        yield "report", recipe.report.encoder


def _check_encoders(recipe: Recipe, fields: Fields) -> None:
    known = {encoder.name: encoder for encoder in recipe.encoders}
    named = list(_named_encoders(recipe))
    if not named:
        raise fields.error(f"{fields.where}: no head")
    _check_projection(recipe, fields)
    for head, entry in fields.object("heads").items():
        if "encoder" in entry and (head, entry.text("encoder")) not in named:
            raise entry.error(
                f"{entry.where}: nothing here runs on encoder {entry.text('encoder')!r}; delete it"
            )
    for head, encoder in named:
        if encoder not in known:
            raise fields.error(f"{fields.where}: head {head!r} names unknown encoder {encoder!r}")
        lacking = [out for out in NEEDED_OUTPUTS[head] if out not in known[encoder].outputs]
        if lacking:
            raise fields.error(
                f"{fields.where}: head {head!r} needs output {lacking[0]!r} of encoder {encoder!r}"
            )
    if unused := [name for name in known if name not in {encoder for _, encoder in named}]:
        raise fields.error(f"{fields.where}: no head runs on encoder {unused[0]!r}; delete it")


def _check_projection(recipe: Recipe, fields: Fields) -> None:
    """Of use to zero-shot labels, and to prompts or `ask`, which need a text encoder too."""
    on = recipe.diagnosis.projection_encoder if recipe.diagnosis else None
    if recipe.diagnosis is None or on is None or recipe.text is not None:
        return
    if on not in {label.encoder for label in recipe.diagnosis.labels}:
        where = f"{fields.where}: heads.diagnosis.projection"
        raise fields.error(f"{where}: no label runs on its encoder {on!r}")


def _check_names(recipe: Recipe, fields: Fields) -> None:
    """Answers are kept by name."""
    diagnosis, localization = recipe.diagnosis, recipe.localization
    names = {
        "diagnosis": [label.name for label in diagnosis.labels] if diagnosis else [],
        "localization": [n for d in localization.detectors for n in d.labels]
        if localization
        else [],
    }
    for head, labels in names.items():
        if twice := [name for name in labels if labels.count(name) > 1]:
            raise fields.error(f"{fields.where}: head {head!r} has label {twice[0]!r} twice")


def _check_origin(recipe: Recipe, licence: Fields) -> None:
    """Weights from files need a licence stated in full; synthetic ones must be called so."""
    if recipe.restricted and not recipe.notice:
        raise licence.error(f"{licence.where}: a restricted licence needs its terms in 'notice'")
    for name, source in recipe.sources():
        if source.source == "file" and "restricted" not in licence:
            raise licence.error(f"{licence.where}: 'restricted' must be true or false")
        if source.source == "synthetic" and not recipe.synthetic:
            raise licence.error(f"the weights of {name} are synthetic; set bundle 'synthetic'")
