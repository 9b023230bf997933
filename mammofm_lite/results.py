"""What `Model.infer` returns: frozen dataclasses, and their JSON form.

The JSON form is versioned (`SCHEMA_VERSION`) and described by ``schema/result-1.schema.json``,
which ships in the package. Fields are only ever added within one major version.

Coordinates of boxes are continuous pixel-edge coordinates of the original image: x is the column,
y the row, and the top-left corner of the top-left pixel is (0, 0), as in DICOM PS3.3 C.18.6
(Spatial Coordinates).
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from .dicom import FileDecision, VoiLut
from .geometry import ViewGeometry
from .report import Report
from .views import Laterality, Projection, ViewName

__all__ = [
    "NOT_IN_JSON",
    "SCHEMA_VERSION",
    "AsymmetryMap",
    "AsymmetryPeak",
    "DiagnosisResult",
    "HeadOutcome",
    "LabelScore",
    "LocalizationResult",
    "Mark",
    "ModelInfo",
    "PrognosisResult",
    "Recall",
    "ReportFlag",
    "ReportResult",
    "SoftwareInfo",
    "StudyResult",
    "ViewInfo",
    "VoiPolicy",
    "YearRisk",
    "record",
    "result_schema",
]

# 1.1: deviations and voi of a view; 1.2: thresholds per label; 1.3: software.attention, .kernels
SCHEMA_VERSION: Final = "1.3"
NOT_IN_JSON: Final = {"json": False}

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ModelInfo:
    """Which bundle answered."""

    name: str
    version: str
    sha256: str
    precision: str
    weights_licence: str
    weights_synthetic: bool
    intended_use: str
    file_sha256: Mapping[str, str]


@dataclass(frozen=True)
class SoftwareInfo:
    """What ran it, and on what.

    `attention` is what our attention kernels compute in, in the graphs that the answers come from:
    ``"float32"``, ``"int8"`` (few queries are float32 all the same), or ``"none"`` where none of
    them has any. `kernels`: per such graph in which operations of ours ran, which, with which
    kernels, and how many.
    """

    mammofm_lite: str
    openvino: str
    instruction_set: str
    attention: Literal["float32", "int8", "none"]
    cpu: str
    threads: int
    kernels: Mapping[str, str]


@dataclass(frozen=True)
class VoiPolicy:
    """What was done with the file's windows and tables for display, and what it carries.

    `applied` is always ``"none"``: the reference's pixel steps apply no VOI LUT, and its
    checkpoints were trained so.
    """

    file: VoiLut
    applied: Literal["none"] = "none"
    why: str = "the reference applies no VOI LUT"


@dataclass(frozen=True)
class ViewInfo:
    """One view that was used.

    `deviations` holds codes out of `deviations.DEVIATIONS`, which has a sentence for each; it is
    empty where the file was taken as it is and every pixel step was the reference's.
    """

    view: ViewName
    sop_instance_uid: str
    rows: int
    columns: int
    pixel_spacing_source: str | None
    geometry: ViewGeometry
    deviations: tuple[str, ...]
    voi: VoiPolicy


@dataclass(frozen=True)
class LabelScore:
    """One label's answer for a view, a breast or the study.

    `value` is the most probable class of a categorical label, and for a binary one ``"yes"`` or
    ``"no"`` against `threshold`, or ``None`` where the bundle sets no threshold.
    """

    label: str
    probabilities: Mapping[str, float]
    value: str | None
    threshold: float | None


@dataclass(frozen=True)
class DiagnosisResult:
    views: Mapping[ViewName, tuple[LabelScore, ...]]
    breasts: Mapping[Laterality, tuple[LabelScore, ...]]
    study: tuple[LabelScore, ...]


@dataclass(frozen=True)
class Mark:
    """One localized finding: box x1, y1, x2, y2 in original pixels, and in mm at the breast."""

    view: ViewName
    label: str
    score: float
    box_px: Box
    box_mm: Box | None


@dataclass(frozen=True)
class LocalizationResult:
    """Marks at or above the bundle's operating points, by falling score in every view.

    `thresholds` holds the operating point of every label that was searched for, and `threshold`
    the lowest of them. Scores of labels that different detectors mark are on different scales.
    """

    threshold: float
    views_searched: tuple[ViewName, ...]
    marks: tuple[Mark, ...]
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class YearRisk:
    """Risk of cancer within `year` years.

    `score` is what the reference model computes for that year alone; `risk` is the running
    maximum over the years, so that a longer time never carries a smaller risk.
    """

    year: int
    score: float
    risk: float


@dataclass(frozen=True)
class AsymmetryPeak:
    """Where left and right differ most: the same window of the model frame in both images."""

    year: int
    projection: Projection
    left_box_px: Box
    right_box_px: Box


@dataclass(frozen=True)
class AsymmetryMap:
    """Where a view differs from the other side.

    `values` is float32 [rows, columns]; `extent_px` is what its cells cover together, as x1, y1,
    x2, y2 in prepared pixels of the view.
    """

    values: npt.NDArray[np.float32]
    extent_px: Box


@dataclass(frozen=True)
class PrognosisResult:
    """`heatmaps` holds, per view that was compared, the asymmetry of the last year."""

    years: tuple[YearRisk, ...]
    projections_used: tuple[Projection, ...]
    peaks: tuple[AsymmetryPeak, ...]
    heatmaps: Mapping[ViewName, AsymmetryMap] = field(
        default_factory=dict, metadata=NOT_IN_JSON, compare=False, repr=False
    )


@dataclass(frozen=True)
class ReportFlag:
    """A disagreement between the report and another head."""

    code: str
    detail: str


@dataclass(frozen=True)
class ReportResult:
    report: Report
    views_used: tuple[ViewName, ...]
    flags: tuple[ReportFlag, ...]


@dataclass(frozen=True)
class HeadOutcome:
    """Whether a head answered, and if not, why: ``not_in_bundle`` or ``missing_views``."""

    status: Literal["answered", "not_answered"]
    reason: str | None
    detail: str | None
    result: DiagnosisResult | LocalizationResult | PrognosisResult | ReportResult | None


@dataclass(frozen=True)
class Recall:
    """The screening decision that the answering heads suggest, and what each of them said."""

    suggested: bool
    basis: tuple[str, ...]


@dataclass(frozen=True)
class StudyResult:
    """Everything that was found in one study, and everything needed to trace it."""

    schema_version: str
    study_instance_uid: str
    notices: tuple[str, ...]
    model: ModelInfo
    software: SoftwareInfo
    files: tuple[FileDecision, ...]
    views: tuple[ViewInfo, ...]
    missing_views: tuple[ViewName, ...]
    recall: Recall | None
    heads: Mapping[str, HeadOutcome]

    def _answer(self, head: str) -> Any:
        outcome = self.heads.get(head)
        return outcome.result if outcome else None

    @property
    def diagnosis(self) -> DiagnosisResult | None:
        """The diagnosis head's answer, or ``None``; `heads` says why."""
        answer: DiagnosisResult | None = self._answer("diagnosis")
        return answer

    @property
    def localization(self) -> LocalizationResult | None:
        """The localization head's answer, or ``None``; `heads` says why."""
        answer: LocalizationResult | None = self._answer("localization")
        return answer

    @property
    def prognosis(self) -> PrognosisResult | None:
        """The prognosis head's answer, or ``None``; `heads` says why."""
        answer: PrognosisResult | None = self._answer("prognosis")
        return answer

    @property
    def report(self) -> ReportResult | None:
        """The report head's answer, or ``None``; `heads` says why."""
        answer: ReportResult | None = self._answer("report")
        return answer

    def to_json(self) -> dict[str, Any]:
        """The result as JSON types, valid against `result_schema`."""
        return record(self)

    def to_json_text(self) -> str:
        """`to_json` as text: keys in order of declaration, two-space indent, newline at the end."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def record(value: Any) -> dict[str, Any]:
    """A dataclass by its fields, as JSON types; without those that stay out of the JSON."""
    shown = (f for f in dataclasses.fields(value) if f.metadata.get("json", True))
    return {f.name: _plain(getattr(value, f.name)) for f in shown}


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return _plain(value.to_json())
    if dataclasses.is_dataclass(value):
        return record(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


@cache
def result_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `StudyResult.to_json`."""
    path = Path(__file__).parent / "schema" / "result-1.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema
