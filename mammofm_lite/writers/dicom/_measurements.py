"""Comprehensive 3D SR (PS3.3 A.35.13) after TID 1500: what research viewers and archives read.

It carries the answers of all heads: one measurement group per mark with its outline, one per head
and breast or study with its numbers, and one that says which head answered and which views are
missing. Concepts that the standard has no code for are of our own scheme, so that no reader takes
one for what it is not. The content is built by highdicom (the extra ``sr``).
https://dicom.nema.org/medical/dicom/current/output/chtml/part16/chapter_A.html#sect_TID_1500
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ...errors import UsageError
from ...results import LabelScore
from ...views import Laterality, laterality
from ..text import operating_points
from ._case import (
    ALGORITHM,
    Case,
    Image,
    Kind,
    TrackedMark,
    algorithm_parameters,
    algorithm_version,
)
from ._codes import (
    BREAST,
    CERTAINTY,
    COMPOSITION,
    DENSITIES,
    PERCENT,
    SCHEME,
    SIDES,
    Code,
    finding,
    label_code,
    own_code,
    probability_code,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

__all__ = ["check_highdicom", "measurement_report"]

_KIND: Final = Kind("sr", "1.2.840.10008.5.1.4.1.1.88.34", "SR", 9002)
_PROCEDURE: Final = Code("363679005", "SCT", "Imaging procedure")
_COUNT: Final = Code("{marks}", "UCUM", "marks")

_MISSING_VIEW: Final = own_code("MISSING-VIEW", "View that is missing")
_MARKS: Final = own_code("MARKS", "Marks at or above the operating point")
_STATEMENT: Final = own_code("STATEMENT", "To be read with every answer")
_SUGGESTION: Final = own_code("SUGGESTION", "Screening decision that the heads suggest")
_RECALL: Final[Mapping[bool, Code]] = {
    True: own_code("RECALL", "Recall"),
    False: own_code("NO-RECALL", "No recall"),
}
_ANSWERED: Final = own_code("ANSWERED", "Answered")
_NOT_ANSWERED: Final[Mapping[str | None, Code]] = {
    "not_in_bundle": own_code("NOT-IN-BUNDLE", "Not attempted: the bundle has no such head"),
    "missing_views": own_code("MISSING-VIEWS", "Not attempted: views are missing"),
}
_FAILED: Final = own_code("FAILED", "Failed")


def check_highdicom() -> None:
    """Refuse at once what would fail after the model has run.

    Raises
    ------
    UsageError
        highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--write sr needs {error.name}; install it with: pip install 'mammofm-lite[sr]'"
        ) from None


def measurement_report(case: Case) -> "FileDataset":
    """All answers about one study.

    Raises
    ------
    UsageError
        highdicom is not installed.
    """
    check_highdicom()
    from highdicom import sr

    report = sr.MeasurementReport(
        observation_context=_observer(case),
        procedure_reported=_coded(_PROCEDURE),
        imaging_measurements=[*_heads(case), *(_mark(case, each) for each in case.marks)],
    )
    dataset = case.new(_KIND)
    dataset.CodingSchemeIdentificationSequence = [_own_scheme()]
    return case.as_document(dataset, report[0])


def _observer(case: Case) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    model = case.result.model
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=case.device_uid,
        name=ALGORITHM,
        manufacturer_name=ALGORITHM,
        model_name=f"{model.name} {model.version}",
        serial_number=model.sha256[:16],
    )
    observer = sr.ObserverContext(codes.DCM.Device, device)
    return sr.ObservationContext(observer_device_context=observer)


def _coded(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


# -------------------- groups


def _heads(case: Case) -> Iterator[Any]:
    result = case.result
    yield _study(case)
    if result.diagnosis is not None:
        yield _scores(case, "Study", result.diagnosis.study, None)
        for side, scores in result.diagnosis.breasts.items():
            yield _scores(case, f"{SIDES[side].meaning} breast", scores, side)
    if result.localization is not None:
        yield _searched(case)
    if result.prognosis is not None:
        yield _risk(case)
    if result.report is not None:
        yield _report(case)


def _group(case: Case, name: str, algorithm: str, images: Sequence[Image], **content: Any) -> Any:
    """A measurement group that is about whole images (TID 1501)."""
    from highdicom import sr

    sources = [
        sr.SourceImageForMeasurementGroup(
            image.origin.sop_class_uid, image.instance.sop_instance_uid
        )
        for image in images
    ]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(case.uid("group", name), name),
        algorithm_id=_algorithm(case, algorithm),
        source_images=sources,
        **content,
    )


def _study(case: Case) -> Any:
    """Which heads answered, which views are missing, and what the heads suggest together."""
    result = case.result
    said = [
        _evaluation(
            own_code(f"H-{name}", f"{name} head"),
            _ANSWERED
            if outcome.status == "answered"
            else _NOT_ANSWERED.get(outcome.reason, _FAILED),
        )
        for name, outcome in result.heads.items()
    ]
    said += [_evaluation(_MISSING_VIEW, own_code(f"V-{v}", v)) for v in result.missing_views]
    if result.recall is not None:
        said.append(_evaluation(_SUGGESTION, _RECALL[result.recall.suggested]))
    group = _group(case, "Study", "study", case.used, qualitative_evaluations=said)
    return _with_text(group, ((_STATEMENT, line) for line in case.statements()))


def _scores(case: Case, where: str, scores: Sequence[LabelScore], side: Laterality | None) -> Any:
    images = [image for image in case.used if side in (None, laterality(image.view))]
    content: dict[str, Any] = {"finding_sites": [_site(side)]} if side else {}
    values = [_percent(*pair) for score in scores for pair in _probabilities(score)]
    classes = [_evaluation(*_class(score)) for score in scores if "yes" not in score.probabilities]
    return _group(
        case,
        f"{where}: diagnosis",
        "diagnosis",
        images,
        measurements=values,
        qualitative_evaluations=classes or None,
        **content,
    )


def _probabilities(score: LabelScore) -> Iterator[tuple[Code, float]]:
    for name, probability in score.probabilities.items():
        if name == "yes":
            yield probability_code(score.label), probability
        else:
            yield label_code(f"Probability of {score.label} {name}"), probability


def _class(score: LabelScore) -> tuple[Code, Code]:
    """The most probable class of a categorical label."""
    value = score.value or ""
    if score.label == "density" and set(score.probabilities) == set(DENSITIES):
        return COMPOSITION, DENSITIES[value]
    return label_code(score.label), label_code(f"{score.label} {value}")


def _searched(case: Case) -> Any:
    """How many marks there are: none is an answer, too."""
    found = case.result.localization
    assert found is not None
    group = _group(
        case,
        "Study: localization",
        "localization",
        case.used,
        measurements=[_number(_MARKS, len(case.marks), _COUNT)],
    )
    return _with_text(group, [(_MARKS, f"Operating point: {operating_points(found)}")])


def _risk(case: Case) -> Any:
    answer = case.result.prognosis
    assert answer is not None
    compared = [image for image in case.used if image.view[2:] in answer.projections_used]
    risks = [
        _percent(own_code(f"RISK-{each.year}", f"Risk of cancer within {each.year} y"), each.risk)
        for each in answer.years
    ]
    return _group(case, "Study: prognosis", "prognosis", compared, measurements=risks)


def _report(case: Case) -> Any:
    """The report's sections as text; of its fields those that stand for the whole study."""
    answer = case.result.report
    assert answer is not None
    said = [_evaluation(_SUGGESTION, _RECALL[answer.report.recall])]
    if answer.report.composition in DENSITIES:
        said.append(_evaluation(COMPOSITION, DENSITIES[answer.report.composition]))
    images = [image for image in case.used if image.view in answer.views_used]
    group = _group(case, "Study: report", "report", images, qualitative_evaluations=said)
    sections = ((label_code(each.title), each.text) for each in answer.report.sections)
    flags = ((_STATEMENT, flag.detail) for flag in answer.flags)
    return _with_text(group, [*sections, *flags])


def _mark(case: Case, tracked: TrackedMark) -> Any:
    """TID 1410: the outline of a mark in its original image."""
    import numpy as np
    from highdicom import sr

    origin, instance = tracked.image.origin, tracked.image.instance
    source = sr.SourceImageForRegion(origin.sop_class_uid, instance.sop_instance_uid)
    outline = np.array(tracked.corners, dtype=np.float64).reshape(-1, 2)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(tracked.uid, tracked.title),
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, outline, source),
        finding_type=_coded(finding(tracked.mark.label)),
        algorithm_id=_algorithm(case, "localization"),
        finding_sites=[_site(laterality(tracked.mark.view))],
        measurements=[_percent(CERTAINTY, tracked.mark.score)],
    )


# -------------------- items


def _algorithm(case: Case, head: str) -> Any:
    from highdicom.sr import AlgorithmIdentification

    return AlgorithmIdentification(
        name=f"{case.result.model.name} {head}",
        version=algorithm_version(case),
        parameters=[algorithm_parameters(case)],
    )


def _site(side: Laterality) -> Any:
    from highdicom.sr import FindingSite

    return FindingSite(_coded(BREAST), _coded(SIDES[side]))


def _evaluation(name: Code, value: Code) -> Any:
    from highdicom.sr import QualitativeEvaluation

    return QualitativeEvaluation(_coded(name), _coded(value))


def _percent(name: Code, share: float) -> Any:
    return _number(name, round(100 * share, 3), PERCENT)


def _number(name: Code, value: float, unit: Code) -> Any:
    from highdicom.sr import Measurement

    return Measurement(_coded(name), value, _coded(unit))


def _with_text(group: Any, lines: Iterable[tuple[Code, str]]) -> Any:
    """The group with TEXT items after those that highdicom knows how to build."""
    from highdicom.sr import RelationshipTypeValues, TextContentItem

    for name, said in lines:
        item = TextContentItem(_coded(name), said, RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(item)
    return group


def _own_scheme() -> "Dataset":
    from pydicom.dataset import Dataset

    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = "Labels and status words of mammofm-lite"
    scheme.CodingSchemeResponsibleOrganization = "The mammofm-lite authors"
    return scheme
