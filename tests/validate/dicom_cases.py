"""Studies and their answers of every kind that DICOM results must carry.

The pixels are phantoms; the answers are put together here, so that the number of findings does not
depend on what a bundle happens to say, and what was written can be held against what was answered.
"""

import dataclasses
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydicom

from mammofm_lite.dicom import Study, read_study
from mammofm_lite.geometry import ViewGeometry
from mammofm_lite.phantom import PhantomOptions, PhantomTruth, write_phantom
from mammofm_lite.report import BreastReport, Lexicon, Report, ReportSection
from mammofm_lite.results import (
    SCHEMA_VERSION,
    DiagnosisResult,
    HeadOutcome,
    LabelScore,
    LocalizationResult,
    Mark,
    ModelInfo,
    PrognosisResult,
    Recall,
    ReportFlag,
    ReportResult,
    SoftwareInfo,
    StudyResult,
    ViewInfo,
    VoiPolicy,
    YearRisk,
)
from mammofm_lite.views import STANDARD_VIEWS, ViewName
from mammofm_lite.writers.dicom import Case, read_origins

NOW = datetime(2026, 1, 2, 3, 4, 5)
PATIENT = {
    "PatientName": "Müller^Änne^^Dr.=山田^花子",
    "PatientID": "PID 4711/ß",
    "PatientBirthDate": "19600229",
    "PatientSex": "F",
    "AccessionNumber": "ACC-0815",
    "StudyID": "S-42",
    "ReferringPhysicianName": "Sommer^Søren",
}
THRESHOLDS = {"mass": 0.4, "calcifications": 0.3}


@dataclass(frozen=True)
class Answered:
    """A study in a folder, and what was answered about it."""

    folder: Path
    study: Study
    result: StudyResult

    def case(self, now: datetime = NOW) -> Case:
        """What the writers take."""
        return Case.of(self.result, self.study, read_origins(self.study), now)


def phantom(
    folder: Path, lesions: int = 1, views: tuple[str, ...] = STANDARD_VIEWS, seed: int = 5
) -> PhantomTruth:
    """A coarse phantom with a patient's attributes; other views than `views` are taken away."""
    options = PhantomOptions(
        rows=230, columns=190, pixel_spacing_mm=1.0, lesions=lesions, prevalence=1.0
    )
    truth = write_phantom(folder, seed=seed, options=options)
    for view in STANDARD_VIEWS:
        path = folder / f"{view}.dcm"
        if view not in views:
            path.unlink()
            continue
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for keyword, text in PATIENT.items():
            setattr(dataset, keyword, text)
        dataset.save_as(path)
    return truth


def edit(folder: Path, view: str, **changes: Any) -> None:
    """Set attributes of a file; ``None`` takes one away."""
    dataset = pydicom.dcmread(folder / f"{view}.dcm")
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(folder / f"{view}.dcm")


# -------------------- answers

MODEL = ModelInfo(
    name="mammofm-test",
    version="1.2.3",
    sha256="0123456789abcdef" * 4,
    precision="int8",
    weights_licence="Apache-2.0",
    weights_synthetic=True,
    intended_use="Tests.",
    file_sha256=MappingProxyType({}),
)
SOFTWARE = SoftwareInfo("0.1.0", "2026.4.1", "avx2", "float32", "a CPU", 2, {})


def answer(
    study: Study,
    marks: tuple[Mark, ...] = (),
    *,
    unusable: tuple[ViewName, ...] = (),
    unanswered: tuple[str, ...] = (),
    heads: tuple[str, ...] = ("diagnosis", "localization", "prognosis", "report"),
) -> StudyResult:
    """What an engine would return; `unanswered` heads are not in the bundle."""
    used = tuple(view for view in study.views if view not in unusable)
    missing = tuple(view for view in STANDARD_VIEWS if view not in used)
    makers = {
        "diagnosis": lambda: _diagnosis(used),
        "localization": lambda: LocalizationResult(0.3, used, marks, THRESHOLDS),
        "prognosis": lambda: _prognosis(used),
        "report": lambda: _report(used),
    }
    outcomes = {name: _outcome(name, unanswered, makers[name]()) for name in heads}
    return StudyResult(
        schema_version=SCHEMA_VERSION,
        study_instance_uid=study.study_instance_uid,
        notices=("Not a medical device.", "SYNTHETIC WEIGHTS: the numbers mean nothing."),
        model=MODEL,
        software=SOFTWARE,
        files=study.decisions,
        views=tuple(_view(study, view) for view in used),
        missing_views=missing,
        recall=Recall(True, ("report: recall",)) if "report" in heads else None,
        heads=MappingProxyType(outcomes),
    )


def _outcome(name: str, unanswered: tuple[str, ...], result: Any) -> HeadOutcome:
    if name in unanswered:
        return HeadOutcome("not_answered", "not_in_bundle", f"the bundle has no {name} head", None)
    if result is None:
        return HeadOutcome("not_answered", "missing_views", "both CC or both MLO are needed", None)
    return HeadOutcome("answered", None, None, result)


def _view(study: Study, view: ViewName) -> ViewInfo:
    one = study.views[view]
    geometry = ViewGeometry(
        rows=one.rows,
        columns=one.columns,
        border_px=0,
        row_runs=((0, one.rows),),
        column_runs=((0, one.columns),),
        model_height=64,
        model_width=64,
    )
    return ViewInfo(
        view, one.sop_instance_uid, one.rows, one.columns, None, geometry, (), VoiPolicy(one.voi)
    )


def _diagnosis(used: tuple[ViewName, ...]) -> DiagnosisResult:
    density = {"a": 0.1, "b": 0.2, "c": 0.6, "d": 0.1}
    scores = (
        LabelScore("malignancy", {"yes": 0.73456}, "yes", 0.5),
        LabelScore("density", density, "c", None),
        LabelScore("skin thickening", {"yes": 0.25}, None, None),
    )
    sides = tuple(dict.fromkeys(view[0] for view in used))
    breasts: Any = dict.fromkeys(sides, scores)
    return DiagnosisResult(dict.fromkeys(used, scores), breasts, scores)


def _prognosis(used: tuple[ViewName, ...]) -> PrognosisResult | None:
    pairs: Any = [kind for kind in ("CC", "MLO") if {f"L-{kind}", f"R-{kind}"} <= set(used)]
    years = tuple(YearRisk(year, year / 100, year / 100) for year in range(1, 6))
    return PrognosisResult(years, tuple(pairs), ()) if pairs else None


def _report(used: tuple[ViewName, ...]) -> ReportResult:
    sections = (
        ReportSection("composition", "Composition", "Heterogeneously dense."),
        ReportSection("assessment", "Assessment", "Recall is suggested."),
    )
    report = Report(
        text="\n".join(f"{each.title}: {each.text}" for each in sections),
        lexicon=Lexicon("BI-RADS", "5"),
        sections=sections,
        composition="c",
        breasts={side: BreastReport("no_findings", ()) for side in ("R", "L")},
        recall=True,
        birads_estimate="0",
        management="additional imaging",
    )
    return ReportResult(report, used, (ReportFlag("x", "The heads disagree on recall."),))


def marks_of(study: Study, truth: PhantomTruth, copies: int = 1) -> tuple[Mark, ...]:
    """What a perfect detector would mark: the lesions' boxes, in fractions of a pixel."""
    kinds = {"mass": "mass", "calcifications": "calcifications"}
    marks = []
    for view in study.views:
        boxes = [
            (kinds.get(lesion.kind, "distortion"), lesion.boxes_px[view])
            for lesion in truth.lesions
            if view in lesion.boxes_px
        ]
        for number, (label, box) in enumerate(boxes * copies):
            x1, y1, x2, y2 = (float(edge) for edge in box)
            shift = number / 8
            exact = (x1 + shift, y1 + 0.125, x2 + shift, y2 + 0.375)
            marks.append(Mark(view, label, 0.9 - number / 100, exact, None))
    return tuple(marks)


# -------------------- all kinds


def _planted(folder: Path, lesions: int, copies: int = 1, **phantom_options: Any) -> Answered:
    truth = phantom(folder, lesions, **phantom_options)
    study = read_study(folder)
    return Answered(folder, study, answer(study, marks_of(study, truth, copies)))


def no_finding(folder: Path) -> Answered:
    """Four views, all heads answered, nothing found."""
    return _planted(folder, 0)


def one_finding(folder: Path) -> Answered:
    """One lesion, so one mark in each view of its breast; only the first is left."""
    planted = _planted(folder, 1)
    first = marks_of_result(planted.result)[:1]
    return replace(planted, result=answer(planted.study, first))


def many_findings(folder: Path) -> Answered:
    """Three lesions, marked several times in every view."""
    return _planted(folder, 3, copies=3)


def missing_view(folder: Path) -> Answered:
    """No right MLO; the others have findings."""
    return _planted(folder, 3, views=("L-CC", "L-MLO", "R-CC"))


def one_view(folder: Path) -> Answered:
    """Only a left CC, so no prognosis, and nothing found."""
    return _planted(folder, 0, views=("L-CC",))


def unusable_view(folder: Path) -> Answered:
    """Four files, but the pixels of one cannot be used; a head is not in the bundle."""
    planted = _planted(folder, 1)
    marks = tuple(m for m in marks_of_result(planted.result) if m.view != "L-MLO")
    result = answer(planted.study, marks, unusable=("L-MLO",), unanswered=("report",))
    return replace(planted, result=result)


def no_detection(folder: Path) -> Answered:
    """The localization head was not asked for."""
    planted = _planted(folder, 1)
    return replace(planted, result=answer(planted.study, heads=("diagnosis", "report")))


def other_labels(folder: Path) -> Answered:
    """Labels that no table knows, long and in other scripts; MONOCHROME1 with a shutter."""
    truth = phantom(folder, 1, seed=6)
    for view in STANDARD_VIEWS:
        edit(
            folder,
            view,
            PhotometricInterpretation="MONOCHROME1",
            PresentationLUTShape="INVERSE",
            ShutterShape="RECTANGULAR",
            ShutterLeftVerticalEdge=1,
            ShutterRightVerticalEdge=190,
            ShutterUpperHorizontalEdge=1,
            ShutterLowerHorizontalEdge=230,
        )
    study = read_study(folder)
    label = "läsion \\ of a kind that is described at much greater length than a code may be"
    marks = tuple(replace(mark, label=label) for mark in marks_of(study, truth))
    result = answer(study, marks)
    found = dataclasses.replace(result.localization, thresholds={label: 0.3})  # type: ignore[type-var]
    heads = {**result.heads, "localization": HeadOutcome("answered", None, None, found)}
    return Answered(folder, study, replace(result, heads=MappingProxyType(heads)))


def marks_of_result(result: StudyResult) -> tuple[Mark, ...]:
    """The marks, or none where none were looked for."""
    return result.localization.marks if result.localization else ()


KINDS = {
    make.__name__: make
    for make in (
        no_finding,
        one_finding,
        many_findings,
        missing_view,
        one_view,
        unusable_view,
        no_detection,
        other_labels,
    )
}
