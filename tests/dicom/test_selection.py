"""Which file becomes which view: every rule, one row each."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from mammofm_lite import StudyError
from mammofm_lite.deviations import DEVIATIONS
from mammofm_lite.dicom import ReadOptions, _header, read_pixels, read_study

# pydicom's, of the invalid values that these tests write on purpose
pytestmark = pytest.mark.filterwarnings("ignore:(Invalid value|The value length):UserWarning")

STORAGE = "1.2.840.10008.5.1.4.1.1."


def modified(kit: Any, value: str, scheme: str = "SCT", **more: Any) -> Dataset:
    ds = kit.mammogram(**more)
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = [kit.code(value, scheme)]
    return ds


def frame_laterality(value: str) -> list[Dataset]:
    group, anatomy = Dataset(), Dataset()
    anatomy.FrameLaterality = value
    group.FrameAnatomySequence = [anatomy]
    return [group]


# -------------------- used


def test_the_four_views(kit: Any) -> None:
    views = ("R-MLO", "L-CC", "R-CC", "L-MLO")
    study = kit.read(*(kit.mammogram(view) for view in views))
    assert list(study.views) == ["L-CC", "L-MLO", "R-CC", "R-MLO"]
    assert study.study_instance_uid == kit.study_uid
    assert [(d.index, d.view, d.used, d.reason) for d in study.decisions] == [
        (number, view, True, "used") for number, view in enumerate(views, start=1)
    ]
    left = study.views["L-MLO"]
    assert (left.view, left.laterality, left.sop_instance_uid) == ("L-MLO", "L", "1.2.3.3")
    assert (left.rows, left.columns) == (24, 18)
    assert (left.rescale_slope, left.rescale_intercept) == (1.0, 0.0)
    assert left.photometric_interpretation == "MONOCHROME2"


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageLaterality": "left"},
        {"ImageLaterality": " L "},
        {"ImageLaterality": None, "Laterality": "L"},
        {"ImageLaterality": "", "Laterality": "LEFT"},
        {"ImageLaterality": None, "SharedFunctionalGroupsSequence": frame_laterality("L")},
        {"ViewPosition": "CC"},
        {"ViewPosition": "cc"},
        {"ViewPosition": "LCC"},
        {"ViewPosition": "LEFT  CC"},
        {"ViewPosition": "some vendor's words"},  # says nothing; the code does
        {"ViewCodeSequence": None, "ViewPosition": "CC"},
        {"ViewCodeSequence": [], "ViewPosition": "L CC"},
        {"PresentationIntentType": None},
        {"PresentationIntentType": "for presentation"},
        {"PatientOrientation": None},
        {"PatientOrientation": ""},
        {"PatientOrientation": "P\\R"},  # mirrored
        {"PatientOrientation": "A\\L"},  # upside down
        {"PatientOrientation": "LE\\CR"},
        {"PatientOrientation": "A"},
        {"PartialView": None},
        {"QualityControlImage": "NO"},
        {"ImageType": None},
        {"ImageType": ["ORIGINAL", "PRIMARY", "POST_PROCESSED"]},
        {"NumberOfFrames": None},
        {"NumberOfFrames": 1},
        {"BreastImplantPresent": None},
        {"EstimatedRadiographicMagnificationFactor": 1.1},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": "-2.5", "RescaleIntercept": "1E3"},
        {"PatientName": None, "PatientID": None, "PatientBirthDate": None},
    ],
    ids=str,
)
def test_used(kit: Any, changes: dict[str, Any]) -> None:
    (decision,) = kit.decide(kit.mammogram(**changes))
    assert (decision.used, decision.view, decision.reason) == (True, "L-CC", "used")


@pytest.mark.parametrize(
    ("value", "scheme"),
    [("399162004", "SCT"), ("R-10242", "SRT"), ("R-10242", "SNM3"), ("r-10242", "srt")],
)
def test_view_codes_are_matched_by_value(kit: Any, value: str, scheme: str) -> None:
    ds = kit.mammogram(ViewCodeSequence=[kit.code(value, scheme, "medio-lateral oblique")])
    assert kit.decide(ds)[0].view == "L-CC"


# -------------------- not used


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SOPClassUID": STORAGE + "1.2.1"}, "for_processing"),
        ({"SOPClassUID": STORAGE + "13.1.3"}, "tomosynthesis"),
        ({"SOPClassUID": STORAGE + "13.1.4"}, "projection"),
        ({"SOPClassUID": STORAGE + "13.1.5"}, "projection"),
        ({"SOPClassUID": STORAGE + "7"}, "secondary_capture"),
        ({"SOPClassUID": STORAGE + "7.3"}, "secondary_capture"),
        ({"SOPClassUID": STORAGE + "1"}, "computed_radiography"),
        ({"SOPClassUID": STORAGE + "1.1"}, "digital_radiography"),
        ({"SOPClassUID": STORAGE + "88.50"}, "structured_report"),
        ({"SOPClassUID": STORAGE + "88.59"}, "key_object"),
        ({"SOPClassUID": STORAGE + "11.1"}, "presentation_state"),
        ({"SOPClassUID": STORAGE + "104.1"}, "encapsulated_document"),
        ({"SOPClassUID": STORAGE + "6.1"}, "other_sop_class"),
        ({"SOPClassUID": "1.2.3.4"}, "other_sop_class"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "intent_contradiction"),
        ({"ImageLaterality": None}, "no_laterality"),
        ({"ImageLaterality": ""}, "no_laterality"),
        ({"ImageLaterality": "B"}, "no_laterality"),
        ({"ImageLaterality": "left breast"}, "no_laterality"),
        ({"ImageLaterality": "L\\R"}, "no_laterality"),
        ({"Laterality": "R"}, "laterality_contradiction"),
        ({"Laterality": "B"}, "laterality_contradiction"),
        ({"SharedFunctionalGroupsSequence": frame_laterality("R")}, "laterality_contradiction"),
        ({"ViewPosition": "RCC"}, "laterality_contradiction"),
        ({"PatientOrientation": "P\\L"}, "laterality_contradiction"),
        ({"PatientOrientation": "P\\LF"}, "laterality_contradiction"),
        ({"ViewCodeSequence": None}, "no_view"),
        ({"ViewCodeSequence": None, "ViewPosition": "CRANIO"}, "no_view"),
        ({"ViewPosition": "MLO"}, "view_contradiction"),
        ({"ViewPosition": "ML"}, "view_contradiction"),
        ({"ViewCodeSequence": None, "ViewPosition": "ML"}, "other_view"),
        ({"ViewCodeSequence": None, "ViewPosition": "LMO"}, "other_view"),
        ({"PartialView": "YES"}, "partial_view"),
        ({"QualityControlImage": "YES"}, "quality_control"),
        ({"QualityControlImage": "BOTH"}, "quality_control"),
        ({"CalibrationImage": "YES"}, "quality_control"),
        ({"BodyPartExamined": "PHANTOM"}, "quality_control"),
        ({"ImageType": ["DERIVED", "PRIMARY", "STEREO_MINUS"]}, "other_image_type"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PREFIRE_PLUS"]}, "other_image_type"),
        ({"ImageType": ["DERIVED", "PRIMARY", "", "LOW_ENERGY"]}, "other_image_type"),
        ({"ImageType": ["DERIVED", "PRIMARY", "POST_SUBTRACTION"]}, "other_image_type"),
        ({"EstimatedRadiographicMagnificationFactor": 1.8}, "view_modifier"),
        ({"PhotometricInterpretation": "RGB"}, "photometric_interpretation"),
        ({"PhotometricInterpretation": None}, "photometric_interpretation"),
        ({"SamplesPerPixel": 3}, "samples_per_pixel"),
        ({"NumberOfFrames": 2}, "multi_frame"),
        ({"Rows": None}, "pixel_format"),
        ({"Rows": 0}, "pixel_format"),
        ({"Columns": 32769}, "pixel_format"),
        ({"BitsAllocated": 32}, "pixel_format"),
        ({"BitsStored": 17}, "pixel_format"),
        ({"HighBit": 10}, "pixel_format"),
        ({"HighBit": 16}, "pixel_format"),
        ({"PixelRepresentation": 2}, "pixel_format"),
        ({"Rows": 25}, "pixel_size"),
        ({"Rows": 23}, "pixel_size"),
        ({"RescaleSlope": ""}, "rescale"),
        ({"RescaleSlope": "0"}, "rescale"),
        ({"RescaleSlope": ["1", "2"]}, "rescale"),
        ({"RescaleIntercept": ""}, "rescale"),
        ({"ModalityLUTSequence": [Dataset()]}, "rescale"),
        ({"PixelData": None}, "truncated"),
        ({"StudyInstanceUID": ""}, "no_identity"),
        ({"SOPInstanceUID": "Musterfrau"}, "no_identity"),
        ({"SOPInstanceUID": "19600229"}, "no_identity"),
    ],
    ids=str,
)  # fmt: skip
def test_not_used(kit: Any, changes: dict[str, Any], reason: str) -> None:
    (decision,) = kit.decide(kit.mammogram(**changes))
    assert (decision.used, decision.reason) == (False, reason)


@pytest.mark.parametrize(
    "value",
    ["399260004", "399352003", "399099002", "399192008", "399101009", "399196006", "399188001",
     "441555000", "127457009"],
)  # fmt: skip
def test_other_views(kit: Any, value: str) -> None:
    (decision,) = kit.decide(kit.mammogram(ViewCodeSequence=[kit.code(value)]))
    assert (decision.view, decision.reason) == (None, "other_view")


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ([("12345", "SCT")], "no_view"),
        ([("399162004", "SRT")], "no_view"),  # the value of another scheme
        ([("R-10242", "99ACME")], "no_view"),
        ([("399162004", "SCT"), ("399368009", "SCT")], "view_contradiction"),
        ([("399162004", "SCT"), ("12345", "SCT")], "view_contradiction"),
    ],
)
def test_unclear_view_codes(kit: Any, codes: list[tuple[str, str]], reason: str) -> None:
    """An unknown code is not replaced by View Position: the code is what counts."""
    ds = kit.mammogram(ViewCodeSequence=[kit.code(*each) for each in codes], ViewPosition="CC")
    assert kit.decide(ds)[0].reason == reason


MODIFIERS = {
    "399055006": "R-102D7", "399163009": "R-102D6", "399161006": "R-102D2", "399110001": "R-102C2",
    "399011000": "R-102D1", "399197002": "R-102D3", "399226006": "R-102D4", "414493004": "R-102CA",
    "415670009": "R-102C9", "442581004": "R-40AB3", "441752004": "P2-00161",
    "442593008": "R-40ABE", "442580003": "R-40AB2",
}  # fmt: skip


@pytest.mark.parametrize("value", [*MODIFIERS, "12345"])
def test_modified_views(kit: Any, value: str) -> None:
    top_level = kit.mammogram(uid="1.2.4", ViewModifierCodeSequence=[kit.code(value)])
    older = modified(kit, MODIFIERS.get(value, "X"), "SRT", uid="1.2.5")
    for decision in kit.decide(modified(kit, value), top_level, older):
        assert (decision.used, decision.view, decision.reason) == (False, "L-CC", "view_modifier")


@pytest.mark.parametrize(
    ("view", "orientation", "used"),
    [
        ("L-MLO", "A\\FR", True),
        ("L-MLO", "A\\RF", True),
        ("L-MLO", "P\\FR", True),  # mirrored
        ("L-MLO", "A\\HL", True),  # upside down
        ("L-MLO", "A\\F", True),
        ("L-MLO", "A\\R", True),
        ("L-MLO", "P\\FL", False),
        ("L-MLO", "A\\FL", False),  # mirrored, and of the right breast all the same
        ("L-MLO", "A\\HR", False),
        ("R-MLO", "P\\FL", True),
        ("R-MLO", "A\\FL", True),
        ("R-MLO", "A\\FR", False),
        ("R-MLO", "P\\HL", False),
        ("R-CC", "P\\L", True),
        ("R-CC", "A\\L", True),
        ("R-CC", "A\\R", False),
    ],
)
def test_patient_orientation_checks_the_side(
    kit: Any, view: str, orientation: str, used: bool
) -> None:
    other = kit.mammogram("L-CC" if view != "L-CC" else "R-CC", "1.2.9")
    study = kit.read(kit.mammogram(view, PatientOrientation=orientation), other)
    assert study.decisions[0].used is used
    assert used or study.decisions[0].reason == "laterality_contradiction"


# -------------------- several candidates


IMPLANT = "399209000"


def test_the_implant_displaced_image_is_preferred(kit: Any) -> None:
    full = kit.mammogram(uid="1.2.10", BreastImplantPresent="YES", AcquisitionTime="120000")
    displaced = modified(kit, IMPLANT, uid="1.2.11", BreastImplantPresent="YES")
    first, second = kit.decide(full, displaced)
    assert (first.used, first.view, first.reason) == (False, "L-CC", "implant_full_view")
    assert "1.2.11" in first.detail
    assert second.used
    assert "implant is displaced" in second.detail


@pytest.mark.parametrize("position", ["CCID", "LCCID", "L CCID"])
def test_implant_displaced_by_view_position(kit: Any, position: str) -> None:
    full = kit.mammogram(uid="1.2.10")
    displaced = kit.mammogram(uid="1.2.11", ViewCodeSequence=None, ViewPosition=position)
    assert [decision.used for decision in kit.decide(full, displaced)] == [False, True]


def test_an_implant_without_displaced_image_is_said(kit: Any) -> None:
    (decision,) = kit.decide(kit.mammogram(BreastImplantPresent="YES"))
    assert decision.used
    assert "no implant-displaced image" in decision.detail


NEWER, OLDER = {"AcquisitionTime": "101501"}, {"AcquisitionTime": "101459.999999"}


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"], **NEWER}, {}),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMO_2D"], **NEWER}, {}),
        ({}, NEWER),
        (OLDER, {}),
        ({"AcquisitionDate": "20240430", "AcquisitionTime": "235959"}, {}),
        ({"AcquisitionDate": None, "AcquisitionTime": None}, {}),
        ({"AcquisitionTime": "1015"}, {"AcquisitionTime": "10:15:00.5"}),
        ({"AcquisitionDate": "2024.04.30"}, {}),
        ({}, {"AcquisitionDate": None, "AcquisitionDateTime": "20240501101501.2+0100"}),
        ({}, {"AcquisitionDate": None, "ContentDate": "20240502", "ContentTime": "08"}),
        ({"SOPInstanceUID": "1.2.10"}, {"SOPInstanceUID": "1.2.9"}),  # by number, not by letter
    ],
    ids=str,
)
def test_the_better_of_two(kit: Any, loser: dict[str, Any], winner: dict[str, Any]) -> None:
    for order in (0, 1):
        pair = [kit.mammogram(uid="1.2.50"), kit.mammogram(uid="1.2.40")]
        for ds, changes in zip(pair, (winner, loser), strict=True):
            for keyword, value in changes.items():
                setattr(ds, keyword, "" if value is None else value)
        good = pair[0].SOPInstanceUID
        decisions = kit.decide(*(pair if order == 0 else pair[::-1]))
        by_uid = {decision.sop_instance_uid: decision for decision in decisions}
        assert by_uid.pop(good).used
        (lost,) = by_uid.values()
        assert (lost.used, lost.view, lost.reason) == (False, "L-CC", "repeat")
        assert good in lost.detail


def test_the_larger_of_two_equally_new(kit: Any) -> None:
    small, large = kit.mammogram(uid="1.2.1"), kit.mammogram(uid="1.2.2")
    kit.set_pixels(large, np.zeros((30, 20), np.int64), bits=12)
    assert [decision.used for decision in kit.decide(small, large)] == [False, True]


def test_a_synthetic_image_alone_is_used_and_named(kit: Any) -> None:
    ds = kit.mammogram(ImageType=["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"])
    (decision,) = kit.decide(ds)
    assert decision.used
    assert "synthesised" in decision.detail


# -------------------- computed radiography, where it is allowed


CR, DX = STORAGE + "1", STORAGE + "1.1"
ALLOWED = ReadOptions(allow_cr=True)


def radiograph(kit: Any, sop_class: str = CR, uid: str = "1.2.30", **changes: Any) -> Dataset:
    given = {"SOPClassUID": sop_class, "BodyPartExamined": "BREAST", "Modality": "CR"}
    return kit.mammogram(uid=uid, **(given | changes))


@pytest.mark.parametrize("sop_class", [CR, DX])
def test_computed_radiography_only_where_it_is_allowed(kit: Any, sop_class: str) -> None:
    kit.put("a", radiograph(kit, sop_class))
    kit.put("b", kit.mammogram("R-CC"))
    refused = read_study(kit.folder).decisions[0]
    assert refused.reason in ("computed_radiography", "digital_radiography")
    assert "used only where that is allowed" in refused.detail
    study = read_study(kit.folder, ALLOWED)
    assert study.decisions[0].used
    assert study.views["L-CC"].deviations == ("computed_radiography",)
    assert DEVIATIONS["computed_radiography"] in study.decisions[0].detail
    assert study.views["R-CC"].deviations == ()
    pixels = np.frombuffer(kit.mammogram().PixelData, "<u2").reshape(24, 18)
    np.testing.assert_array_equal(read_pixels(study.views["L-CC"]), pixels)


@pytest.mark.parametrize(
    "changes",
    [
        {"BodyPartExamined": "CHEST"},
        {"BodyPartExamined": None},
        {"SOPClassUID": STORAGE + "1.1.1"},  # For Processing
        {"SOPClassUID": STORAGE + "7"},
        {"SOPClassUID": STORAGE + "1.2.1"},
    ],
    ids=str,
)
def test_nothing_else_is_allowed_with_it(kit: Any, changes: dict[str, Any]) -> None:
    kit.put("a", radiograph(kit, **changes))
    kit.put("b", kit.mammogram("R-CC"))
    assert not read_study(kit.folder, ALLOWED).decisions[0].used


def test_the_other_rules_hold_for_computed_radiography(kit: Any) -> None:
    kit.put("a", radiograph(kit, ImageLaterality=None))
    kit.put("b", radiograph(kit, PartialView="YES", uid="1.2.31"))
    kit.put("c", radiograph(kit, uid="1.2.32", PresentationIntentType="FOR PROCESSING"))
    kit.put("d", kit.mammogram("R-CC"))
    reasons = [decision.reason for decision in read_study(kit.folder, ALLOWED).decisions]
    assert reasons == ["no_laterality", "partial_view", "intent_contradiction", "used"]
    kit.put("e", radiograph(kit, uid="1.2.33", PatientID="X"))
    with pytest.raises(StudyError, match="2 patients"):
        read_study(kit.folder, ALLOWED)


def test_a_digital_mammogram_is_preferred_to_computed_radiography(kit: Any) -> None:
    kit.put("a", radiograph(kit, AcquisitionTime="235959"))
    kit.put("b", kit.mammogram(ImageType=["DERIVED", "PRIMARY", "TOMO_2D"]))
    first, second = read_study(kit.folder, ALLOWED).decisions
    assert (first.reason, second.reason) == ("repeat", "used")
    assert "a digital mammogram of this view exists" in first.detail


# -------------------- copies


def test_a_copy_is_a_duplicate(kit: Any) -> None:
    first, second = kit.decide(kit.mammogram(), kit.mammogram())
    assert first.used
    assert (second.used, second.reason) == (False, "duplicate")


def test_copies_in_two_syntaxes_are_duplicates(kit: Any) -> None:
    kit.put("a", kit.mammogram(), "implicit")
    kit.put("b", kit.encoded(np.zeros((24, 18), np.int64), "rle", bits=12), "rle")
    first, second = read_study(kit.folder).decisions
    assert (first.used, second.reason) == (True, "duplicate")


def test_one_uid_with_two_contents_is_not_used(kit: Any) -> None:
    decisions = kit.decide(kit.mammogram(), kit.mammogram(RescaleSlope=2))
    assert {d.reason for d in decisions} == {"duplicate_contradiction"}


def test_a_truncated_copy_gives_way_to_the_whole_one(kit: Any) -> None:
    whole = kit.file_bytes(kit.mammogram())
    kit.put("a", whole[:-5])
    kit.put("b", whole)
    first, second = read_study(kit.folder).decisions
    assert (first.reason, first.view) == ("truncated", "L-CC")
    assert second.used


def test_a_rejection_note_withdraws_its_images(kit: Any) -> None:
    note, evidence, series, reference = Dataset(), Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPInstanceUID = "1.2.20"
    series.ReferencedSOPSequence = [reference]
    evidence.ReferencedSeriesSequence = [series]
    note.SOPClassUID, note.SOPInstanceUID = STORAGE + "88.59", "1.2.99"
    note.StudyInstanceUID = kit.study_uid
    note.ConceptNameCodeSequence = [kit.code("113001", "DCM")]
    note.CurrentRequestedProcedureEvidenceSequence = [evidence]
    newer = kit.mammogram(uid="1.2.20", AcquisitionTime="120000")
    decisions = kit.decide(newer, kit.mammogram(uid="1.2.21"), note)
    assert [d.reason for d in decisions] == ["rejected", "used", "key_object"]
    note.ConceptNameCodeSequence = [kit.code("113000", "DCM")]  # "of interest" withdraws nothing
    decisions = kit.decide(newer, kit.mammogram(uid="1.2.21"), note)
    assert [d.reason for d in decisions] == ["used", "repeat", "key_object"]


# -------------------- identity


def refused(kit: Any, *datasets: Dataset) -> str:
    with pytest.raises(StudyError) as caught:
        kit.read(*datasets)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_two_studies_are_refused(kit: Any) -> None:
    others = [kit.mammogram("R-CC", StudyInstanceUID=f"1.2.{number}") for number in (1, 2)]
    message = refused(kit, kit.mammogram(), *others)
    assert message.startswith("the mammograms are of 3 studies")
    assert message.endswith("give one study")


def test_an_unused_mammogram_of_another_study_counts(kit: Any) -> None:
    other = kit.mammogram("R-CC", StudyInstanceUID="1.2.1", ImageLaterality=None)
    assert "2 studies" in refused(kit, kit.mammogram(), other)


def test_a_phantom_of_another_study_does_not(kit: Any) -> None:
    phantom = kit.mammogram("R-CC", StudyInstanceUID="1.2.1", QualityControlImage="YES",
                            PatientID="QC")  # fmt: skip
    assert kit.decide(kit.mammogram(), phantom)[0].used


@pytest.mark.parametrize("changes", [{"PatientID": "X"}, {"PatientBirthDate": "19700101"}], ids=str)
def test_two_patients_are_refused(kit: Any, changes: dict[str, Any]) -> None:
    message = refused(kit, kit.mammogram(), kit.mammogram("R-CC", **changes))
    assert message.startswith("the mammograms are of 2 patients")


def test_two_names_without_ids_are_refused(kit: Any) -> None:
    first = kit.mammogram(PatientID="")
    message = refused(kit, first, kit.mammogram("R-CC", PatientID="", PatientName="Other"))
    assert message.startswith("the mammograms are of 2 patients")


def test_an_emptied_or_corrected_name_is_the_same_patient(kit: Any) -> None:
    emptied = kit.mammogram("R-CC", PatientID="", PatientBirthDate="", PatientName="")
    assert kit.decide(kit.mammogram(PatientName="Musterfrau-Huber^Erika"), emptied)[0].used


# -------------------- spacing


FACTOR = "EstimatedRadiographicMagnificationFactor"


@pytest.mark.parametrize(
    ("changes", "spacing", "source"),
    [
        ({FACTOR: "1.25"}, (0.08, 0.04), f"ImagerPixelSpacing / {FACTOR}"),
        ({}, (0.1, 0.05), "ImagerPixelSpacing"),
        ({FACTOR: ""}, (0.1, 0.05), "ImagerPixelSpacing"),
        ({FACTOR: "0"}, None, None),
        ({FACTOR: "0.01"}, None, None),
        ({"PixelSpacing": [0.09, 0.045]}, (0.1, 0.05), "ImagerPixelSpacing"),  # not calibrated
        ({"PixelSpacing": [0.09, 0.045], "PixelSpacingCalibrationType": "GEOMETRY"},
         (0.09, 0.045), "PixelSpacing"),
        ({"PixelSpacing": [0.09, 0.045], "PixelSpacingCalibrationType": "FIDUCIAL",
          "ImagerPixelSpacing": None}, (0.09, 0.045), "PixelSpacing"),
        ({"PixelSpacing": [0.09, 0.045], "ImagerPixelSpacing": None}, None, None),
        ({"ImagerPixelSpacing": None}, None, None),
        ({"ImagerPixelSpacing": ["0.1", "0"]}, None, None),
        ({"ImagerPixelSpacing": ["1e300", "0.1"]}, None, None),
        ({"ImagerPixelSpacing": "0.1"}, None, None),
        ({"ImagerPixelSpacing": ["0.1", "-0.1"]}, None, None),
    ],
    ids=str,
)  # fmt: skip
def test_pixel_spacing(kit: Any, changes: Any, spacing: Any, source: str | None) -> None:
    instance = kit.read(kit.mammogram(**changes)).views["L-CC"]
    assert instance.pixel_spacing_mm == (None if spacing is None else pytest.approx(spacing))
    assert instance.pixel_spacing_source == source


# -------------------- one line when nothing is usable


def test_what_there_was_is_counted(kit: Any) -> None:
    kit.put("a.txt", b"hello")
    kit.put("b.txt", b"")
    kit.put("c", kit.mammogram(SOPClassUID=STORAGE + "1.2.1"))
    with pytest.raises(StudyError) as caught:
        read_study(kit.folder)
    assert str(caught.value) == ("no usable mammogram among 3 files: 2 not DICOM, 1 For Processing")


@pytest.mark.parametrize("name", ["four", "1.dcm", ""])
def test_a_missing_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="the study does not exist") as caught:
        read_study(tmp_path / "Musterfrau" / name)
    assert "Musterfrau" not in str(caught.value)


def test_the_reader_keeps_exactly_the_attributes_that_are_used() -> None:
    """An attribute missing from the list would look absent in every file."""
    package = Path(_header.__file__).parent
    sources = "".join(
        (package / name).read_text() for name in ("_display.py", "_mammogram.py", "_study.py")
    )
    used = set(re.findall(r'"([A-Z][A-Za-z]+)"', sources))
    keywords = {word for word in used if tag_for_keyword(word) is not None}
    declared = {*_header.TAGS, *_header._ITEM_TAGS}
    assert keywords <= declared
    assert declared - keywords == {"SOPClassUID", "SOPInstanceUID"}  # read by the header itself
