"""The parts of a bundle that are one graph each: encoders, diagnosis, localization, prognosis."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mammofm_lite.errors import ExportError
from mammofm_lite.views import STANDARD_VIEWS, laterality

from .graphs import (
    LocalizationOptions,
    PreparedInput,
    candidates_graph,
    compare,
    diagnosis_graph,
    encoder_graph,
    localization_graph,
    prognosis_graph,
)
from .models.asymmetry import AsymmetryHead, PrognosisModel
from .models.boxes import postprocess
from .models.clip import ImageProjection, normalised
from .models.diagnosis import DiagnosisHead, LabelGroup, LinearClassifier
from .models.efficientnet import EfficientNet, named_config
from .models.retinanet import RawDetections, RetinaNet, RetinaNetConfig
from .part import (
    Arrays,
    GraphPart,
    Part,
    as_numpy,
    compile_graph,
    gate,
    run_compiled,
    run_graph,
)
from .pickled import BACKBONE, HEAD_ATTRIBUTES, UNUSED_TENSORS, asymmetry_config, check_paddings
from .recipe import (
    DetectorRecipe,
    DiagnosisRecipe,
    EncoderRecipe,
    LabelRecipe,
    LocalizationRecipe,
    PrognosisRecipe,
    Recipe,
    WeightSource,
    YearRecipe,
)
from .report_part import ReportPart
from .synthetic import synthetic_image, synthetic_vector
from .weights import Digests, different_tensors, digests, read_weights

if TYPE_CHECKING:
    from .text import TextSource

__all__ = ["EncoderPart", "head_parts"]

# Where the reference's files keep what is not the head's own (facts 2.1).
CLIP_BACKBONE: Final = "image_encoder."
CLIP_REST: Final = (CLIP_BACKBONE, "text_encoder.", "text_projection.", "logit_scale")
DETECTOR_BACKBONE: Final = "efficientnet."


class EncoderPart(GraphPart):
    """One EfficientNet; after `check` it holds the features of four example views."""

    kind = "encoder"

    def __init__(self, recipe: Recipe, spec: EncoderRecipe) -> None:
        super().__init__(spec.name)
        self.spec = spec
        self.source_size = (recipe.preprocessing.height, recipe.preprocessing.width)
        self.image_size = spec.input_size or self.source_size
        self.config = named_config(spec.architecture, spec.padding)
        self.shapes = self.config.feature_shapes(self.image_size)
        self.features: dict[str, Arrays] = {}
        self._digests: Digests = {}

    @property
    def entry(self) -> dict[str, Any]:
        shapes = {name: list(self.shapes[name]) for name in self.spec.outputs}
        return {"model": self.file, "outputs": shapes}

    @property
    def provenance(self) -> Any:
        return self.origin(self.spec.weights)

    def load(self) -> None:
        source = self.spec.weights
        self._module = EfficientNet(self.config).eval()
        if source.source == "file" and source.object:
            check_paddings(source, self.config)
        self.fill(self._module, source, ignore=("_fc.",))
        if source.source == "file":
            self._digests = digests(self._module.state_dict())

    def own_backbone(self, source: WeightSource, prefix: str) -> list[str]:
        """Tensors of this encoder that a head's file, under a prefix, holds with other numbers.

        Empty where the file holds no encoder of its own, or this one is synthetic.
        """
        if source.source == "synthetic" or not self._digests:
            return []
        inside = read_weights(replace(source, prefix=source.prefix + prefix)).tensors
        return different_tensors(self._digests, digests(inside)) if inside else []

    def graph(self) -> Any:
        outputs: Any = self.spec.outputs
        return encoder_graph(self._module, self.image_size, self.source_size, outputs)

    def example(self) -> tuple[Arrays, Arrays]:
        """The three-channel module as the reference runs it, so that the folded stem is checked."""
        image = self._image("L-CC")
        with torch.no_grad():
            gray = PreparedInput(self.image_size, self.source_size)(torch.from_numpy(image))
            features = self._module.features(gray.expand(-1, 3, -1, -1))
        named = {name: getattr(features, name) for name in self.spec.outputs}
        return {"image": image}, as_numpy(named)

    def rounding(self, inputs: Arrays, expected: Arrays) -> dict[str, float]:
        with torch.no_grad():
            gray = PreparedInput(self.image_size, self.source_size)(
                torch.from_numpy(inputs["image"])
            )
            precise = copy.deepcopy(self._module).double()
            features = precise.features(gray.double().expand(-1, 3, -1, -1))
        named = {name: getattr(features, name).numpy() for name in self.spec.outputs}
        return compare(named, expected)

    def _image(self, view: Any) -> npt.NDArray[np.uint8]:
        picture = synthetic_image(*self.source_size, 1, name=view, side=laterality(view))
        return np.ascontiguousarray(picture[None, None])

    def check(self, folder: Path, tolerance: float) -> None:
        super().check(folder, tolerance)
        compiled = compile_graph(str(folder / self.file))
        self.features = {
            view: run_compiled(compiled, {"image": self._image(view)}) for view in STANDARD_VIEWS
        }
        del self._module

    def expected_operations(self) -> dict[str, int]:
        blocks = self.config.blocks
        expanding = sum(block.expand != 1 for block in blocks)
        return {
            "Convolution": 2 + 3 * len(blocks) + expanding,
            "GroupConvolution": len(blocks),
            "TiledAttention": 0,
        }


class MemberPart(GraphPart):
    """One member of a head: what one graph answers on one encoder."""

    def __init__(self, head: str, encoder: EncoderPart, suffix: str) -> None:
        super().__init__(head + suffix)
        self.member_of = head
        self.encoder = encoder

    def check_backbone(
        self, source: WeightSource, prefix: str, what: str, *, accepted: bool | None
    ) -> None:
        """Refuse what was trained on another encoder than the bundle runs for it.

        The reference trains heads on copies of its encoder, whose batch statistics may have moved
        even where its weights were frozen (facts 6). Such a head on this encoder answers something
        else than the reference does: a recipe may accept that, but it is said and recorded.
        `accepted` is ``None`` where no recipe may.
        """
        differing = self.encoder.own_backbone(source, prefix)
        if not differing:
            return
        name = source.path.name if source.path else ""
        found = (
            f"{name} holds another encoder than {self.encoder.name!r} "
            f"(tensors that differ: {len(differing)}, the first {differing[0]})"
        )
        if not accepted:
            otherwise = "; or accept the difference with 'shared_backbone = true' in the head"
            raise ExportError(
                f"{self.member_of}, {what}: {found}. Declare an encoder from this file "
                f"(prefix = {source.prefix + prefix!r}) and name it for {what}"
                f"{'' if accepted is None else otherwise}"
            )
        self.notes.append(f"{what}: {found}")
        self.origin(source)["backbone"] = found


class DiagnosisPart(MemberPart):
    """`spec` is the head's recipe with the labels that run on `encoder` alone."""

    probabilities = frozenset({"probabilities"})

    def __init__(
        self,
        spec: DiagnosisRecipe,
        encoder: EncoderPart,
        suffix: str = "",
        text: "TextSource | None" = None,
    ) -> None:
        super().__init__("diagnosis", encoder, suffix)
        self.spec = spec
        self.text = text

    @property
    def entry(self) -> dict[str, Any]:
        return {
            "model": self.file,
            "encoder": self.encoder.name,
            "labels": [_label_entry(label) for label in self.spec.labels],
        }

    @property
    def provenance(self) -> Any:
        sources = {label.name: self.origin(label.weights) for label in self.spec.labels}
        if self.spec.projection_weights:
            sources["projection"] = self.origin(self.spec.projection_weights)
        for label in self.spec.labels:
            if self.text and label.weights.source == "text":
                sources[label.name] = {**label.weights.describe(), "prompts": list(label.classes)}
                sources["text encoder"] = self.text.provenance
        return sources

    def load(self) -> None:
        projection = None
        if self.spec.projection and self.spec.projection_weights:
            holder = torch.nn.Module()
            holder.image_projection = projection = ImageProjection(
                self.encoder.config.head_channels, self.spec.projection_size, self.spec.projection
            )
            self.fill(holder, self.spec.projection_weights, ignore=CLIP_REST)
            self._check_backbone(self.spec.projection_weights, "the projection")
        groups = [self._group(label) for label in self.spec.labels]
        self._module = DiagnosisHead(groups, projection).eval()

    def _group(self, label: LabelRecipe) -> LabelGroup:
        if label.kind == "zero_shot":
            return LabelGroup(label.name, label.kind, self._prompts(label))
        outputs = 1 if label.kind == "binary" else len(label.classes)
        classifier = LinearClassifier(self.encoder.config.head_channels, outputs)
        self.fill(classifier, label.weights, ignore=(CLIP_BACKBONE,))
        self._check_backbone(label.weights, f"label {label.name!r}")
        return LabelGroup(label.name, label.kind, classifier)

    def _check_backbone(self, source: WeightSource, what: str) -> None:
        self.check_backbone(source, CLIP_BACKBONE, what, accepted=self.spec.shared_backbone)

    def _prompts(self, label: LabelRecipe) -> Tensor:
        """Text embeddings [prompts, size] of a label's classes."""
        if label.weights.source == "text":
            assert self.text is not None  # the recipe is refused without one
            return self.text.embed(label.classes)
        rows = [
            synthetic_vector(f"prompt/{prompt}", (self.spec.projection_size,), label.weights.seed)
            for prompt in label.classes
        ]
        return normalised(torch.from_numpy(np.stack(rows)))

    def graph(self) -> Any:
        return diagnosis_graph(self._module, self.encoder.config.head_channels)

    def example(self) -> tuple[Arrays, Arrays]:
        pooled = self.encoder.features["L-CC"]["pooled"]
        with torch.no_grad():
            outputs = self._module(torch.from_numpy(pooled))
        names = ("probabilities", "image_embedding")
        return {"pooled": pooled}, as_numpy(dict(zip(names, outputs, strict=False)))

    def expected_operations(self) -> dict[str, int]:
        layers = {None: 0, "linear": 1, "mlp": 2}[self.spec.projection]
        return {"MatMul": len(self.spec.labels) + layers, "TiledAttention": 0}


def _label_entry(label: LabelRecipe) -> dict[str, Any]:
    return {
        "name": label.name,
        "kind": label.kind,
        "classes": list(label.classes),
        "threshold": label.threshold,
        "breast": label.breast,
        "study": label.study,
        "recall": label.recall,
    }


class LocalizationPart(MemberPart):
    """One detector of the head."""

    probabilities = frozenset({"scores", "all_scores"})

    def __init__(
        self,
        spec: LocalizationRecipe,
        detector: DetectorRecipe,
        encoder: EncoderPart,
        suffix: str = "",
    ) -> None:
        super().__init__("localization", encoder, suffix)
        self.spec = spec
        self.detector = detector

    @property
    def entry(self) -> dict[str, Any]:
        return {
            "model": self.file,
            "encoder": self.encoder.name,
            "labels": list(self.detector.labels),
            "threshold": self.detector.threshold,
        }

    @property
    def provenance(self) -> Any:
        return self.origin(self.detector.weights)

    def load(self) -> None:
        channels = self.encoder.config.pyramid_channels
        config = RetinaNetConfig(channels, len(self.detector.labels), self.spec.channels)
        self._module = RetinaNet(config).eval()
        # The checkpoint's encoder copy is a part of its own.
        source, what = self.detector.weights, f"the detector of {', '.join(self.detector.labels)}"
        self.fill(self._module, source, ignore=(DETECTOR_BACKBONE,))
        self.check_backbone(source, DETECTOR_BACKBONE, what, accepted=None)

    def _options(self) -> LocalizationOptions:
        return LocalizationOptions(
            self.encoder.image_size,
            self.encoder.source_size,
            max_detections=self.spec.max_detections,
        )

    def graph(self) -> Any:
        return localization_graph(self._module, self.encoder.shapes, self._options())

    def check(self, folder: Path, tolerance: float) -> None:
        """Compare the boxes that are kept, and every candidate before any is dropped."""
        super().check(folder, tolerance)
        inputs, raw = self._raw()
        boxes = self._module.decode(raw.deltas, self.encoder.image_size)
        expected = as_numpy({"all_boxes": boxes, "all_scores": raw.scores.amax(dim=2)})
        graph = candidates_graph(self._module, self.encoder.shapes, self.encoder.image_size)
        differences = compare(expected, run_graph(graph, inputs), self.probabilities)
        gate(self.name, differences, tolerance)
        self.differences |= differences

    def _raw(self) -> tuple[Arrays, RawDetections]:
        """Inputs and head outputs for the example view with the best score, to have boxes."""
        size = self.encoder.image_size
        found = []
        for features in self.encoder.features.values():
            inputs = {name: features[name] for name in ("c3", "c4", "c5")}
            with torch.no_grad():
                found.append(
                    (inputs, self._module.raw(*map(torch.from_numpy, inputs.values()), size))
                )
        return max(found, key=lambda pair: float(pair[1].scores.max()))

    def example(self) -> tuple[Arrays, Arrays]:
        inputs, raw = self._raw()
        size = self.encoder.image_size
        found = postprocess(self._module.decode(raw.deltas, size)[0], raw.scores[0])
        best = found[slice(0, self.spec.max_detections)]
        y, x = (s / i for s, i in zip(self.encoder.source_size, size, strict=True))
        boxes = best.boxes * torch.tensor([x, y, x, y])
        return inputs, as_numpy({"boxes": boxes, "scores": best.scores, "labels": best.labels})

    def expected_operations(self) -> dict[str, int]:
        pyramid, levels, tower = 8, 5, 5
        return {
            "Convolution": pyramid + levels * 2 * tower,
            "NonMaxSuppression": 1,
            "TiledAttention": 0,
        }


def _heat_at(heatmaps: npt.NDArray[Any], places: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values ``[years, 2]`` of heatmaps ``[years, 2, rows, columns]`` at (row, column) of each."""
    rows, columns = np.moveaxis(places, -1, 0)
    years, sides = np.indices(rows.shape)
    values: npt.NDArray[Any] = heatmaps[years, sides, rows, columns]
    return values


class PrognosisPart(MemberPart):
    """`spec` is the head's recipe with the years that run on `encoder` alone."""

    probabilities = frozenset({"score", "risk"})

    def __init__(self, spec: PrognosisRecipe, encoder: EncoderPart, suffix: str = "") -> None:
        super().__init__("prognosis", encoder, suffix)
        self.spec = spec

    @property
    def _map_size(self) -> tuple[int, int]:
        _, _, rows, columns = self.encoder.shapes["map"]
        return rows, columns

    @property
    def entry(self) -> dict[str, Any]:
        window = [size // part for size, part in zip(self._map_size, self.spec.latent, strict=True)]
        return {
            "model": self.file,
            "encoder": self.encoder.name,
            "years": [item.year for item in self.spec.years],
            "map": list(self._map_size),
            "window": window,
            "stride": [1, 1] if self.spec.flexible else window,
            "alignment": self.spec.alignment,
        }

    @property
    def provenance(self) -> Any:
        return {f"year {item.year}": self.origin(item.weights) for item in self.spec.years}

    def load(self) -> None:
        heads = {}
        channels = self.encoder.config.head_channels
        for item in self.spec.years:
            config = asymmetry_config(self.spec, item.year, item.weights, channels)
            heads[item.year] = AsymmetryHead(config)
            self._fill_head(heads[item.year], item.year, item.weights)
        self._module = PrognosisModel(heads).eval()

    def _fill_head(self, head: AsymmetryHead, year: int, source: WeightSource) -> None:
        if not source.object:
            self.fill(head, source)
            return
        unused = ("cc_stretch_params", "mlo_stretch_params") if self.spec.stretch == "none" else ()
        self.fill(head, source, ignore=(*UNUSED_TENSORS, *unused))
        origin = self.origin(source)
        origin["ignored"] = [name for name in origin["ignored"] if name not in HEAD_ATTRIBUTES]
        origin |= {"mean": head.config.mean, "std": head.config.std}
        accepted = self.spec.shared_backbone
        self.check_backbone(source, BACKBONE, f"year {year}", accepted=accepted)

    def graph(self) -> Any:
        return prognosis_graph(self._module, self.encoder.shapes["map"][1:])

    def example(self) -> tuple[Arrays, Arrays]:
        maps = self.encoder.features
        inputs: Arrays = {
            "cc_left": maps["L-CC"]["map"],
            "cc_right": maps["R-CC"]["map"],
            "mlo_left": maps["L-MLO"]["map"],
            "mlo_right": maps["R-MLO"]["map"],
            "usable": np.ones(2, np.float32),
        }
        with torch.no_grad():
            answer = self._module(*map(torch.from_numpy, inputs.values()))
        return inputs, as_numpy(answer._asdict())

    def compared(self, expected: Arrays, actual: Arrays) -> dict[str, float]:
        """A peak elsewhere counts by how much less heat is expected there: of two windows that are
        nearly alike, rounding decides which comes out on top."""
        heat = expected["heatmap"]
        both = ({**one, "peak": _heat_at(heat, one["peak"])} for one in (expected, actual))
        return super().compared(*both)

    def expected_operations(self) -> dict[str, int]:
        matrices = 2 * len(self.spec.years) if self.spec.stretch == "matrix" else 0
        return {"Convolution": matrices, "MaxPool": 2 * len(self.spec.years), "TiledAttention": 0}


Entry = TypeVar("Entry", LabelRecipe, YearRecipe)


def _by_encoder(entries: Iterable[Entry]) -> dict[str, tuple[Entry, ...]]:
    """Labels or years by the encoder they run on, each group in the recipe's order."""
    groups: dict[str, tuple[Entry, ...]] = {}
    for entry in entries:
        groups[entry.encoder] = (*groups.get(entry.encoder, ()), entry)
    return groups


def head_parts(
    recipe: Recipe, encoders: Mapping[str, EncoderPart], text: "TextSource | None" = None
) -> Iterator[Part]:
    """The parts of the recipe's heads, given the encoders they name, and its text encoder's.

    A head of one member has its plain name, a member among several that of its encoder behind it;
    a detector its number, for two may share an encoder.
    """
    if recipe.diagnosis:
        yield from _diagnosis_parts(recipe.diagnosis, encoders, text)
    if recipe.localization:
        detectors = recipe.localization.detectors
        for number, detector in enumerate(detectors, start=1):
            suffix = f"_{number}" if len(detectors) > 1 else ""
            encoder = encoders[detector.encoder]
            yield LocalizationPart(recipe.localization, detector, encoder, suffix)
    if recipe.prognosis:
        years = _by_encoder(recipe.prognosis.years)
        for name, own in years.items():
            suffix = f"_{name}" if len(years) > 1 else ""
            yield PrognosisPart(replace(recipe.prognosis, years=own), encoders[name], suffix)
    if recipe.report:
        encoder = encoders[recipe.report.encoder]
        yield ReportPart(recipe.report, encoder.shapes["map"], encoder.features)
    if text and text.recipe.carry:
        yield text.part(encoders[text.diagnosis.projection_encoder])


def _diagnosis_parts(
    spec: DiagnosisRecipe, encoders: Mapping[str, EncoderPart], text: "TextSource | None"
) -> Iterator[DiagnosisPart]:
    """The projection goes with the labels on its encoder, zero-shot ones among them."""
    labels = _by_encoder(spec.labels)
    for name, own in labels.items():
        part = replace(spec, labels=own)
        if name != spec.projection_encoder:
            part = replace(part, projection=None, projection_encoder=None, projection_weights=None)
        suffix = f"_{name}" if len(labels) > 1 else ""
        yield DiagnosisPart(part, encoders[name], suffix, text)
