"""What a file says of padding, shutter, VOI LUT and grey scale, and what is kept of it."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mammofm_lite.background import (
    Background,
    CircularShutter,
    PixelPadding,
    PolygonalShutter,
    RectangularShutter,
)
from mammofm_lite.deviations import DEVIATIONS
from mammofm_lite.dicom import VoiLut, read_pixels, read_study

# pydicom's, of the invalid values that these tests write on purpose
pytestmark = pytest.mark.filterwarnings("ignore:(Invalid value|The value length):UserWarning")

RECTANGLE = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": 2,
    "ShutterRightVerticalEdge": 17,
    "ShutterUpperHorizontalEdge": 3,
    "ShutterLowerHorizontalEdge": 22,
}


def used(kit: Any, ds: Dataset, syntax: str = "explicit") -> Any:
    return read_study(kit.put("a", ds, syntax)).views["L-CC"]


def with_padding(kit: Any, value: Any, limit: Any = None, **changes: Any) -> Dataset:
    """US or SS by Pixel Representation, as the standard says; bytes are written as they are."""
    ds = kit.mammogram(**changes)
    vr = "SS" if ds.PixelRepresentation else "US"
    for keyword, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
        if isinstance(number, bytes):
            ds.add_new(keyword, "OB", number)
        elif number is not None:
            ds.add_new(keyword, vr, number)
    return ds


# -------------------- padding


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian"])
@pytest.mark.parametrize(
    ("signed", "value", "limit", "padding"),
    [
        (0, 0, None, PixelPadding(0, 0)),
        (0, 65535, None, PixelPadding(65535, 65535)),
        (1, -2000, None, PixelPadding(-2000, -2000)),
        (0, 10, 20, PixelPadding(10, 20)),
        (0, 4095, 4000, PixelPadding(4000, 4095)),  # MONOCHROME1 counts downwards
        (1, -5, 3, PixelPadding(-5, 3)),
        (0, None, None, None),
    ],
)
def test_pixel_padding(
    kit: Any, syntax: str, signed: int, value: Any, limit: Any, padding: Any
) -> None:
    ds = with_padding(kit, value, limit, PixelRepresentation=signed)
    instance = used(kit, ds, syntax)
    assert (instance.background, instance.deviations) == (Background(padding), ())


@pytest.mark.parametrize(("value", "limit"), [(b"\0\0\0\0", None), (0, b"abcdef"), (None, 4)])
def test_padding_that_cannot_be_understood_is_said(kit: Any, value: Any, limit: Any) -> None:
    instance = used(kit, with_padding(kit, value, limit))
    assert instance.background == Background()
    assert instance.deviations == ("pixel_padding_not_applied",)


# -------------------- shutter


@pytest.mark.parametrize(
    ("changes", "shutters"),
    [
        (RECTANGLE, (RectangularShutter(2, 17, 3, 22),)),
        ({"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [12, 9],
          "RadiusOfCircularShutter": 8}, (CircularShutter(12, 9, 8),)),
        ({"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 1, 9, 20, 5]},
         (PolygonalShutter(((1, 1), (1, 9), (20, 5))),)),
        (RECTANGLE | {"ShutterShape": ["RECTANGULAR", "CIRCULAR"],
         "CenterOfCircularShutter": [12, 9], "RadiusOfCircularShutter": 8},
         (RectangularShutter(2, 17, 3, 22), CircularShutter(12, 9, 8))),
        ({"ShutterShape": ""}, ()),
        ({"ShutterPresentationValue": 0}, ()),
    ],
)  # fmt: skip
def test_display_shutter(kit: Any, changes: dict[str, Any], shutters: Any) -> None:
    instance = used(kit, kit.mammogram(**changes))
    assert (instance.background, instance.deviations) == (Background(None, shutters), ())


@pytest.mark.parametrize(
    "changes",
    [
        {"ShutterShape": "BITMAP"},
        {"ShutterShape": "OVAL"},
        {"ShutterShape": "RECTANGULAR"},
        RECTANGLE | {"ShutterLeftVerticalEdge": None},
        RECTANGLE | {"ShutterLeftVerticalEdge": [1, 2]},
        RECTANGLE | {"ShutterShape": ["RECTANGULAR", "CIRCULAR"]},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [12],
         "RadiusOfCircularShutter": 8},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [12, 3],
         "RadiusOfCircularShutter": -8},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 1, 9]},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 1, 1, 9, 20]},
    ],
)  # fmt: skip
def test_a_shutter_that_cannot_be_understood_is_said(kit: Any, changes: dict[str, Any]) -> None:
    instance = used(kit, kit.mammogram(**changes))
    assert instance.background == Background()
    assert instance.deviations == ("display_shutter_not_applied",)
    assert DEVIATIONS["display_shutter_not_applied"] in read_study(kit.folder).decisions[0].detail


# -------------------- VOI LUT


@pytest.mark.parametrize(
    ("changes", "voi"),
    [
        ({}, VoiLut()),
        ({"WindowCenter": 2048, "WindowWidth": 4096}, VoiLut(((2048.0, 4096.0),))),
        ({"WindowCenter": [1, 2.5], "WindowWidth": [10, 20], "VOILUTFunction": "SIGMOID"},
         VoiLut(((1.0, 10.0), (2.5, 20.0)), "SIGMOID")),
        ({"WindowCenter": 1, "WindowWidth": 2, "VOILUTFunction": "LINEAR_EXACT"},
         VoiLut(((1.0, 2.0),), "LINEAR_EXACT")),
        ({"VOILUTFunction": "Musterfrau"}, VoiLut((), None)),
        ({"WindowCenter": [1, 2], "WindowWidth": 2}, VoiLut()),
        ({"WindowCenter": 1}, VoiLut()),
        ({"VOILUTSequence": [Dataset(), Dataset(), Dataset()]}, VoiLut((), "LINEAR", 3)),
    ],
    ids=str,
)  # fmt: skip
def test_voi_lut(kit: Any, changes: dict[str, Any], voi: VoiLut) -> None:
    assert used(kit, kit.mammogram(**changes)).voi == voi


def test_copies_that_were_windowed_differently_are_duplicates(kit: Any) -> None:
    first = kit.mammogram(WindowCenter=1, WindowWidth=2)
    decisions = kit.decide(first, kit.mammogram(WindowCenter=5, WindowWidth=2))
    assert [decision.reason for decision in decisions] == ["used", "duplicate"]


def test_copies_that_differ_in_padding_contradict_each_other(kit: Any) -> None:
    decisions = kit.decide(with_padding(kit, 0), with_padding(kit, 4095))
    assert {decision.reason for decision in decisions} == {"duplicate_contradiction"}


# -------------------- the sense of the grey scale


@pytest.mark.parametrize(
    ("photometric", "shape", "reason"),
    [
        ("MONOCHROME2", "IDENTITY", "used"),
        ("MONOCHROME1", "INVERSE", "used"),
        ("MONOCHROME2", "INVERSE", "presentation_contradiction"),
        ("MONOCHROME1", "IDENTITY", "presentation_contradiction"),
        ("MONOCHROME1", "identity", "presentation_contradiction"),
        ("MONOCHROME1", None, "used"),
        ("MONOCHROME1", "", "used"),
        ("MONOCHROME1", "LIN OD", "used"),
    ],
)
def test_presentation_lut_shape(kit: Any, photometric: str, shape: Any, reason: str) -> None:
    ds = kit.mammogram(PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    (decision,) = kit.decide(ds)
    assert (decision.reason, decision.view) == (reason, "L-CC")
    assert reason == "used" or photometric in decision.detail


# -------------------- nothing of it changes what is decoded


def test_stored_values_stay_as_they_are(kit: Any) -> None:
    plain = read_pixels(used(kit, kit.mammogram()))
    ds = with_padding(kit, 0, 4000, **RECTANGLE, WindowCenter=1, WindowWidth=2)
    np.testing.assert_array_equal(read_pixels(used(kit, ds)), plain)
