"""`prepare_view` against the reference's own results and a plain transcription of its rules.

The stored results are equal bit for bit: every comparison here is exact.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mammofm_lite import StudyError, UsageError
from mammofm_lite.export.synthetic import synthetic_raw12
from mammofm_lite.prepare import PreparedView, PreprocessingSpec, crop_runs, prepare_view

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
RULES = GOLDEN / "preproc_rules.npz"
CASES = json.loads((GOLDEN / "preproc.json").read_text())
SPEC = PreprocessingSpec()
SMALL = PreprocessingSpec(height=24, width=16, border_px=2)

with np.load(RULES) as _rules:
    EXTRACT = sorted({name.split("/")[1] for name in _rules.files if name.startswith("extract/")})
    RUNS = sorted({int(name.split("/")[1]) for name in _rules.files if name.startswith("runs/")})


def prepare(stored: npt.NDArray[Any], spec: PreprocessingSpec = SPEC, **given: Any) -> PreparedView:
    arguments: dict[str, Any] = {
        "photometric_interpretation": "MONOCHROME2",
        "rescale_slope": 1.0,
        "rescale_intercept": 0.0,
        "laterality": "R",
    }
    return prepare_view(stored, spec=spec, **(arguments | given))


def sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def glued(image: npt.NDArray[Any], rows: Any, columns: Any) -> npt.NDArray[Any]:
    keep_rows = np.concatenate([np.arange(*run) for run in rows])
    keep_columns = np.concatenate([np.arange(*run) for run in columns])
    return image[np.ix_(keep_rows, keep_columns)]


# -------------------- the reference's own results


def raw12(name: str) -> npt.NDArray[np.uint16]:
    """The synthetic raw images of the stored results."""
    (height, width), key, side = {
        "raw12_2600x1900_R": ((2600, 1900), "raw12", "R"),
        "raw12_3518x2800_L": ((3518, 2800), "raw12b", "L"),
        "raw12_1400x1000_R_mono1": ((1400, 1000), "raw12c", "R"),
    }[name]
    made = synthetic_raw12(height, width, seed=1, name=key, side=side)
    return 4095 - made if name.endswith("mono1") else made


def real(name: str, exam: Path) -> npt.NDArray[np.uint16]:
    view = name.removeprefix("real_").split("_")[0]
    stored = np.asarray(Image.open(exam / f"0_{view}.png")).astype(np.uint16)
    return 65535 - stored if name.endswith("inverted_mono1") else stored


def check_case(stored: npt.NDArray[np.uint16], case: dict[str, Any]) -> None:
    assert sha256(stored) == case["input_sha256"], "the test's input is not the reference's"
    view = prepare(stored, photometric_interpretation=case["photometric"])
    (row_run,), (column_run,) = view.geometry.row_runs, view.geometry.column_runs
    assert row_run == (case["rows"][0] + 5, case["rows"][1] + 6)
    assert column_run == (case["cols"][0] + 5, case["cols"][1] + 6)
    assert sha256(view.image) == case["output_sha256"]


@pytest.mark.parametrize(
    "name", ["raw12_1400x1000_R_mono1", "raw12_2600x1900_R", "raw12_3518x2800_L"]
)
def test_synthetic_mammograms_equal_the_reference(name: str) -> None:
    check_case(raw12(name), CASES[name])


@pytest.mark.parametrize(
    "name",
    ["L-CC", "L-CC_inverted_mono1", "L-MLO", "R-CC", "R-CC_as_mono1", "R-MLO"],
)
def test_a_real_exam_equals_the_reference(name: str, real_exam: Path) -> None:
    check_case(real(f"real_{name}", real_exam), CASES[f"real_{name}"])


@pytest.mark.parametrize("name", EXTRACT)
def test_crop_rule(name: str) -> None:
    with np.load(RULES) as rules:
        picture, expected = rules[f"extract/{name}/in"], rules[f"extract/{name}/out"]
    np.testing.assert_array_equal(glued(picture, *crop_runs(picture, 40)), expected)


@pytest.mark.parametrize("index", RUNS)
def test_run_length_rule(index: int) -> None:
    """Columns that are on where the vector is 1: those of the greatest stored value are kept."""
    with np.load(RULES) as rules:
        on, lengths = rules[f"runs/{index}/in"], rules[f"runs/{index}/out"]
    picture = np.zeros((10, on.size), np.uint8)
    picture[5, on == 1] = 200
    _, columns = crop_runs(picture, 40)
    kept = np.concatenate([np.arange(*run) for run in columns])
    np.testing.assert_array_equal(kept, np.flatnonzero(lengths == lengths.max()))


# -------------------- a plain transcription of the facts


def plain_grey(
    stored: npt.NDArray[Any], slope: float, intercept: float, inverted: bool, border: int
) -> npt.NDArray[np.uint8]:
    x = np.float32(stored)
    x *= slope
    x += intercept
    x = x[border:-border, border:-border]
    if inverted:
        x = x.max() - x
    x = x - x.min()
    return (255 * (x / x.max())).astype(np.uint8)


def plain_keep(on: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    off = [-1, *np.flatnonzero(~on), on.size]
    lengths = []
    for i, flag in enumerate(on):
        before = max((o for o in off if o < i), default=-1)
        after = min(o for o in off if o > i)
        lengths.append(min(after, on.size - 1) - max(before, 0) - 1 if flag else -1)
    return np.flatnonzero(np.array(lengths) == max(lengths))


def plain_crop(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    work = np.where(grey <= 40, 0, grey)
    half, reach = work.shape[0] // 2, int(0.4 * work.shape[0])
    columns = plain_keep(work[half - reach : half + reach].std(axis=0) != 0)
    grey, work = grey[:, columns], work[:, columns]
    half, reach = work.shape[1] // 2, int(0.4 * work.shape[1])
    return grey[plain_keep(work[:, half - reach : half + reach].std(axis=1) != 0)]


@given(
    stored=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32]),
        st.tuples(st.integers(12, 40), st.integers(12, 40)),
        elements=st.integers(0, 127),
        fill=st.just(3),
    ),
    slope=st.floats(-40, 40, width=32).filter(lambda value: abs(value) > 1e-3),
    intercept=st.floats(-5000, 5000, width=32),
    inverted=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_equals_a_plain_transcription(
    stored: npt.NDArray[Any], slope: float, intercept: float, inverted: bool
) -> None:
    inside = stored[2:-2, 2:-2]
    if inside.min() == inside.max():
        return
    expected = plain_grey(stored, slope, intercept, inverted, border=2)
    row_runs, column_runs = crop_runs(expected, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it takes the deviation of nothing
        cut = plain_crop(expected)
    np.testing.assert_array_equal(glued(expected, row_runs, column_runs), cut)
    spec = PreprocessingSpec(height=cut.shape[0], width=cut.shape[1], border_px=2)
    if cut.min() == cut.max():
        return
    view = prepare(
        stored,
        spec,
        photometric_interpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        rescale_slope=slope,
        rescale_intercept=intercept,
    )
    np.testing.assert_array_equal(view.image, cut)


@pytest.mark.parametrize("inverted", [False, True])
def test_every_12_bit_value_equals_the_plain_float32_way(inverted: bool) -> None:
    """All 4096 levels at once, with a slope and intercept that round."""
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    stored = np.random.default_rng(0).permuted(stored)
    spec = PreprocessingSpec(height=64, width=64, border_px=0)
    view = prepare(
        stored,
        spec,
        photometric_interpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        rescale_slope=0.6103515,
        rescale_intercept=-1024.3,
    )
    x = np.float32(stored) * np.float32(0.6103515) + np.float32(-1024.3)
    x = x.max() - x if inverted else x
    x = x - x.min()
    np.testing.assert_array_equal(view.image, (255 * (x / x.max())).astype(np.uint8))


def test_the_input_is_left_alone() -> None:
    stored = np.random.default_rng(1).integers(0, 4096, (60, 50), dtype=np.uint16)
    before = stored.copy()
    stored.setflags(write=False)
    prepare(stored, SMALL)
    np.testing.assert_array_equal(stored, before)


# -------------------- mirroring


@pytest.mark.parametrize(("mirror", "laterality", "flipped"), [
    ("none", "R", False), ("none", "L", False), ("right", "L", False), ("right", "R", True),
])  # fmt: skip
def test_mirror(mirror: Any, laterality: str, flipped: bool) -> None:
    stored = np.random.default_rng(2).integers(0, 4096, (60, 50), dtype=np.uint16)
    plain = prepare(stored, SMALL)
    spec = PreprocessingSpec(height=24, width=16, border_px=2, mirror=mirror)
    view = prepare(stored, spec, laterality=laterality)
    assert view.geometry.mirrored is flipped
    assert view.image.flags.c_contiguous
    np.testing.assert_array_equal(view.image, plain.image[:, :: -1 if flipped else 1])


# -------------------- refusals


GOOD = np.random.default_rng(3).integers(0, 4096, (60, 50), dtype=np.uint16)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.full((60, 50), 7, np.uint16), r"constant \(stored value 7 in every pixel"),
        (np.pad(np.full((50, 40), 7, np.uint16), 5), "constant"),
        (np.zeros((17, 50), np.uint16), "17 rows x 50 columns, too small.*at least 18 x 18"),
        (np.zeros((60, 50, 3), np.uint8), r"uint8 \[60, 50, 3\]; a view is one frame"),
        (np.zeros((60, 50), np.float32), "float32.*stored as integers"),
    ],
)
def test_refuses_pixels(stored: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        prepare(stored)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"photometric_interpretation": "RGB"}, "'RGB'; allowed: MONOCHROME1, MONOCHROME2"),
        ({"rescale_slope": 0.0}, "RescaleSlope is 0 .*non-zero"),
        ({"rescale_slope": float("nan")}, "RescaleSlope is nan"),
        ({"rescale_intercept": float("inf")}, "RescaleIntercept inf"),
        ({"rescale_slope": 1e38}, "leave the float32 range"),
        ({"rescale_slope": 1e-60}, "constant after the rescale"),
    ],
)
def test_refuses_attributes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        prepare(GOOD, **given)


def test_refuses_a_picture_that_the_resizing_levels_out() -> None:
    """A single bright pixel vanishes in the mean; the encoder would divide by zero."""
    stored = np.zeros((400, 400), np.uint16)
    stored[200:202, 200] = 1
    stored[200, 200:202] = 1
    stored[:5] = 1
    stored[5, 5] = stored[394, 394] = 1
    spec = PreprocessingSpec(height=1, width=1)
    with pytest.raises(StudyError, match="prepared view is constant"):
        prepare(stored, spec)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"height": 0}, "0 x 912"),
        ({"border_px": -1}, "border of -1 px"),
        ({"background_threshold": 255}, "background_threshold is 255, allowed 0 to 254"),
        ({"mirror": "left"}, "mirror is 'left', allowed none, right"),
    ],
)
def test_refuses_constants(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PreprocessingSpec(**given)
