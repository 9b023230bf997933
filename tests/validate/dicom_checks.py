"""Our own checks of DICOM results, by reading them with pydicom alone.

What the public validators pass over: the root concept, the template's name, that references lead
to the study's images, that coordinates are those of the answer, that codes mean what the standard
says, and that nothing stands there which was not answered.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pydicom
from dicom_cases import PATIENT, Answered, marks_of_result
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from mammofm_lite.results import Mark

ROOTS = {
    "cad-sr.dcm": ("1.2.840.10008.5.1.4.1.1.88.50", "111036", "4000"),
    "sr.dcm": ("1.2.840.10008.5.1.4.1.1.88.34", "126000", "1500"),
}
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
OWN = "99MAMMOFMLITE"
HIGHDICOMS_WORDING = {"Source": "Source (attribute)"}


def check(name: str, dataset: Dataset, answered: Answered) -> None:
    """All checks of one object.

    Raises
    ------
    AssertionError
        What is wrong.
    """
    check_header(dataset, answered)
    check_codes(dataset)
    check_references(dataset, answered)
    if name.endswith("-gsps.dcm"):
        assert dataset.SOPClassUID == GSPS
        check_presentation_state(name.removesuffix("-gsps.dcm"), dataset, answered)
        return
    sop_class, concept, template = ROOTS[name]
    assert dataset.SOPClassUID == sop_class
    assert dataset.ConceptNameCodeSequence[0].CodeValue == concept
    assert dataset.ConceptNameCodeSequence[0].CodingSchemeDesignator == "DCM"
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == template
    assert dataset.ContentTemplateSequence[0].MappingResource == "DCMR"
    whole = answered.result.missing_views == () and all(
        each.status == "answered" for each in answered.result.heads.values()
    )
    assert dataset.CompletionFlag == ("COMPLETE" if whole else "PARTIAL")
    if name == "cad-sr.dcm":
        check_cad(dataset, answered, whole)
    else:
        check_measurements(dataset, answered)


# -------------------- every object


def check_header(dataset: Dataset, answered: Answered) -> None:
    """Patient and study are the source's, the equipment is the bundle."""
    for keyword, text in PATIENT.items():
        assert str(dataset[keyword].value) == text, keyword
    assert dataset.StudyInstanceUID == answered.study.study_instance_uid
    source = pydicom.dcmread(next(answered.folder.glob("*.dcm")), stop_before_pixels=True)
    for keyword in ("StudyDate", "StudyTime", "StudyDescription"):
        assert dataset[keyword].value == source[keyword].value, keyword
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    (equipment,) = dataset.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert answered.result.model.sha256 in equipment.ContributionDescription
    assert equipment.DeviceUID.startswith("2.25.")


def check_codes(dataset: Dataset) -> None:
    """Value, scheme and meaning as in the standard, or of our own scheme."""
    for item in walk(dataset):
        if "CodeValue" not in item:
            continue
        value, scheme = item.CodeValue, item.CodingSchemeDesignator
        assert 0 < len(item.CodeMeaning.encode()) <= 64
        assert len(value) <= 16
        if scheme in ("DCM", "SCT"):
            entries = (entry[value][0] for entry in concepts[scheme].values() if value in entry)
            known = {meaning.replace("\u200b", "") for meaning in entries}
            meaning = HIGHDICOMS_WORDING.get(item.CodeMeaning, item.CodeMeaning)
            assert meaning in known, f"{scheme} {value} {meaning}: {known}"
        else:
            assert scheme in ("UCUM", "RFC5646", OWN), scheme


def check_references(dataset: Dataset, answered: Answered) -> None:
    """Every image that is named is one of the study, and reports list all of them as evidence."""
    by_uid = {}
    for one in answered.study.views.values():
        path = answered.folder / f"{one.view}.dcm"
        by_uid[one.sop_instance_uid] = pydicom.dcmread(path, stop_before_pixels=True)
    for item in walk(dataset):
        if "ReferencedSOPInstanceUID" in item:
            image = by_uid[item.ReferencedSOPInstanceUID]
            assert item.ReferencedSOPClassUID == image.SOPClassUID
        for image_keyword in ("ReferencedSOPSequence", "ReferencedImageSequence"):
            for reference in item.get(image_keyword, []) if "SeriesInstanceUID" in item else []:
                image = by_uid[reference.ReferencedSOPInstanceUID]
                assert item.SeriesInstanceUID == image.SeriesInstanceUID
    if "ContentSequence" in dataset:
        (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
        assert study.StudyInstanceUID == answered.study.study_instance_uid
        listed = [
            each.ReferencedSOPInstanceUID
            for series in study.ReferencedSeriesSequence
            for each in series.ReferencedSOPSequence
        ]
        assert sorted(listed) == sorted(by_uid)


def walk(dataset: Dataset) -> Iterator[Dataset]:
    """The data set and every item in it."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from walk(item)


# -------------------- Mammography CAD SR


def check_cad(dataset: Dataset, answered: Answered, whole: bool) -> None:
    """One finding per mark, in the order of the marks, with its place, score and algorithm."""
    result = answered.result
    marks = marks_of_result(result)
    findings = [item for item in tree(dataset) if concept(item) == "111059"]
    assert len(findings) == len(marks)
    for item, mark in zip(findings, marks, strict=True):
        _check_cad_finding(dataset, item, mark, answered)
    (summary,) = [item for item in tree(dataset) if concept(item) == "111017"]
    expected = {(True, False): "111241", (True, True): "111242"}
    if result.localization is None:
        expected = dict.fromkeys([(whole, bool(marks))], "111245")
    elif not whole:
        expected = {(False, False): "111243", (False, True): "111244"}
    assert summary.ConceptCodeSequence[0].CodeValue == expected[whole, bool(marks)]
    (detections,) = [item for item in tree(dataset) if concept(item) == "111064"]
    failed = [view for view in answered.study.views if view in result.missing_views]
    status = "111225" if result.localization is None else "111223" if failed else "111222"
    assert detections.ConceptCodeSequence[0].CodeValue == status
    _check_searched(dataset, detections, answered, failed)


def _check_searched(
    dataset: Dataset, detections: Dataset, answered: Answered, failed: Sequence[str]
) -> None:
    if answered.result.localization is None:
        assert "ContentSequence" not in detections
        return
    places = {"111063": list(answered.result.localization.views_searched), "111025": list(failed)}
    for container in detections.ContentSequence:
        for performed in container.ContentSequence:
            uids = [
                _image_at(dataset, child)
                for child in performed.ContentSequence
                if "ReferencedContentItemIdentifier" in child
            ]
            views = places[concept(container)]
            assert uids == [_uid(answered, view) for view in views]


def _check_cad_finding(dataset: Dataset, item: Dataset, mark: Mark, answered: Answered) -> None:
    children = {concept(child): child for child in item.ContentSequence}
    assert children["111056"].ConceptCodeSequence[0].CodeValue == "111150"
    assert children["112039"].TextValue.endswith(mark.label)
    assert children["112040"].UID.startswith("2.25.")
    assert "mammofm-test" in children["111001"].TextValue
    assert "1.2.3" in children["111003"].TextValue
    kind = item.ConceptCodeSequence[0].CodeValue
    known = {"mass": "129793001", "calcifications": "129769006", "distortion": "129792006"}
    assert kind == known.get(mark.label, "111099")
    if kind == "111099":
        assert children["111058"].TextValue == mark.label
    certainty = children["111012"].MeasuredValueSequence[0]
    assert abs(float(certainty.NumericValue) - 100 * mark.score) <= 5e-4
    assert certainty.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    x1, y1, x2, y2 = mark.box_px
    centre, outline = children["111010"], children["111041"]
    assert centre.GraphicType == "POINT"
    np.testing.assert_allclose(centre.GraphicData, [(x1 + x2) / 2, (y1 + y2) / 2], rtol=1e-6)
    assert outline.GraphicType == "POLYLINE"
    check_outline(outline.GraphicData, mark)
    for place in (centre, outline):
        (selected,) = place.ContentSequence
        assert selected.RelationshipType == "SELECTED FROM"
        assert _image_at(dataset, selected) == _uid(answered, mark.view)


def _image_at(dataset: Dataset, reference: Dataset) -> str:
    """Follow a by-reference relationship (PS3.3 C.17.3.2.5: counted from 1, the root is 1)."""
    item = dataset
    first, *path = reference.ReferencedContentItemIdentifier
    assert first == 1
    for number in path:
        item = item.ContentSequence[number - 1]
    assert item.ValueType == "IMAGE"
    return str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def check_outline(graphic_data: Sequence[float], mark: Mark) -> None:
    """A closed rectangle whose edges are the box's, to the precision of FL."""
    points = np.array(graphic_data, dtype=np.float64).reshape(-1, 2)
    assert len(points) == 5
    assert (points[0] == points[-1]).all()
    box = [*points.min(axis=0), *points.max(axis=0)]
    np.testing.assert_allclose(box, mark.box_px, rtol=1e-6, atol=1e-6)
    assert len({tuple(point) for point in points}) == 4
    assert all((a == b).sum() == 1 for a, b in pairwise(points))


# -------------------- TID 1500


def check_measurements(dataset: Dataset, answered: Answered) -> None:
    """A group with an outline per mark, and the numbers of every head that answered."""
    result = answered.result
    groups = [item for item in tree(dataset) if concept(item) == "125007"]
    outlined = [each for each in groups if any(concept(c) == "111030" for c in children_of(each))]
    for group in groups:
        (template,) = group.ContentTemplateSequence
        assert template.TemplateIdentifier == ("1410" if group in outlined else "1501")
    marks = marks_of_result(result)
    assert len(outlined) == len(marks)
    for group, mark in zip(outlined, marks, strict=True):
        (region,) = [child for child in children_of(group) if concept(child) == "111030"]
        check_outline(region.GraphicData, mark)
        (source,) = children_of(region)
        referenced = source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert referenced == _uid(answered, mark.view)
        (score,) = _numbers(group, "111012")
        assert abs(score - 100 * mark.score) <= 5e-4
    risks = [value for year in range(1, 11) for value in _numbers(dataset, f"RISK-{year}")]
    expected = result.prognosis.years if result.prognosis else ()
    np.testing.assert_allclose(risks, [100 * each.risk for each in expected], atol=5e-4)
    cancer = _numbers(dataset, "111047")
    scores = [result.diagnosis.study, *result.diagnosis.breasts.values()]
    assert len(cancer) == len(scores)
    np.testing.assert_allclose(
        cancer, [100 * each[0].probabilities["yes"] for each in scores], atol=5e-4
    )
    said = {concept(each): each.ConceptCodeSequence[0].CodeValue for each in children_of(groups[0])
            if each.ValueType == "CODE" and concept(each).startswith("H-")}  # fmt: skip
    reasons = {None: "ANSWERED", "not_in_bundle": "NOT-IN-BUNDLE", "missing_views": "MISSING-VIEWS"}
    assert said == {f"H-{name}": reasons[each.reason] for name, each in result.heads.items()}
    missing = [each.ConceptCodeSequence[0].CodeValue for each in children_of(groups[0])
               if concept(each) == "MISSING-VIEW"]  # fmt: skip
    assert missing == [f"V-{view}" for view in result.missing_views]


def _numbers(item: Dataset, code: str) -> list[float]:
    return [
        float(each.MeasuredValueSequence[0].NumericValue)
        for each in tree(item)
        if each.get("ValueType") == "NUM" and concept(each) == code
    ]


# -------------------- presentation states


def check_presentation_state(view: str, dataset: Dataset, answered: Answered) -> None:
    """The marks of one view as outlines, and the words that go with them."""
    marks = [mark for mark in marks_of_result(answered.result) if mark.view == view]
    (series,) = dataset.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == _uid(answered, view)
    assert dataset.Laterality == view[0]
    annotations = {each.GraphicLayer: each for each in dataset.GraphicAnnotationSequence}
    layers = {each.GraphicLayer for each in dataset.GraphicLayerSequence}
    assert set(annotations) == layers == ({"NOTICES", "MARKS"} if marks else {"NOTICES"})
    (notice,) = annotations["NOTICES"].TextObjectSequence
    assert "NOT FOR CLINICAL USE" in notice.UnformattedTextValue
    if marks:
        outlines = annotations["MARKS"].GraphicObjectSequence
        for outline, mark in zip(outlines, marks, strict=True):
            assert outline.GraphicAnnotationUnits == "PIXEL"
            check_outline(outline.GraphicData, mark)
        words = [each.UnformattedTextValue for each in annotations["MARKS"].TextObjectSequence]
        assert all(mark.label in text for mark, text in zip(marks, words, strict=True))
    check_display(dataset, pydicom.dcmread(answered.folder / f"{view}.dcm"))


def check_display(dataset: Dataset, source: Dataset) -> None:
    """The image looks as it does without the presentation state."""
    (area,) = dataset.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [source.Columns, source.Rows]
    assert dataset.PresentationLUTShape == source.PresentationLUTShape
    (window,) = dataset.SoftcopyVOILUTSequence
    assert window.WindowCenter == source.WindowCenter
    assert window.WindowWidth == source.WindowWidth
    assert dataset.get("ShutterShape") == source.get("ShutterShape")
    assert dataset.get("ShutterUpperHorizontalEdge") == source.get("ShutterUpperHorizontalEdge")


# -------------------- trees


def tree(item: Dataset) -> Iterator[Dataset]:
    """A content item and all below it."""
    yield item
    for child in children_of(item):
        yield from tree(child)


def children_of(item: Dataset) -> Sequence[Dataset]:
    children: Any = item.get("ContentSequence", [])
    return children


def concept(item: Dataset) -> str:
    """Code value of an item's name, ``""`` where it has none."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _uid(answered: Answered, view: str) -> str:
    return answered.study.views[view].sop_instance_uid  # type: ignore[index]
