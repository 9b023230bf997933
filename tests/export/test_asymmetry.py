"""The prognosis head agrees with the reference in every mode, and years combine as documented."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.asymmetry import (
    Asymmetry,
    AsymmetryConfig,
    AsymmetryHead,
    PrognosisModel,
    asymmetry_heatmap,
    peak_positions,
    usable_views,
)
from mammofm_lite.export.synthetic import (
    fill_module,
    normalise,
    synthetic_asym_features,
    synthetic_feature,
    synthetic_image,
    synthetic_tensor,
)

SEED = 1
VIEWS = ("L-CC", "R-CC", "L-MLO", "R-MLO")
HEATMAP_TOLERANCE = 1e-5  # relative to the largest value
IMAGE_HEATMAP_TOLERANCE = 5e-5  # the same, with the encoder's float32 error in it
RISK_TOLERANCE = 1e-6

CONFIGS = {
    "default": AsymmetryConfig(),
    "learned": AsymmetryConfig(
        mean=float(synthetic_tensor("learned_asym_mean", (), SEED)),
        std=float(synthetic_tensor("learned_asym_std", (), SEED)),
    ),
    "latent_flip": AsymmetryConfig(alignment="latent"),
    "vector_stretch": AsymmetryConfig(stretch="vector"),
    "no_stretch": AsymmetryConfig(stretch="none"),
    "fixed_stride": AsymmetryConfig(flexible=False),
    "latent_8x4": AsymmetryConfig(latent_height=8, latent_width=4),
    "topk3": AsymmetryConfig(topk=3),
    "batchnorm": AsymmetryConfig(use_bn=True),
}
MISSING = {
    "cc_missing": ("L-CC", "R-CC"),
    "left_cc_missing": ("L-CC",),
    "right_cc_missing": ("R-CC",),
    "mlo_missing": ("L-MLO", "R-MLO"),
    "all_missing": VIEWS,
}


@pytest.fixture(scope="module")
def exam() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(x) for name, x in synthetic_asym_features(SEED).items()}


@pytest.fixture(scope="module")
def default_head() -> AsymmetryHead:
    return fill_module(AsymmetryHead(AsymmetryConfig()), SEED)


def _run(head: AsymmetryHead, exam: dict[str, torch.Tensor], missing=()) -> Asymmetry:
    maps = [torch.zeros_like(exam[v]) if v in missing else exam[v] for v in VIEWS]
    return head(*maps, usable_views(maps[0], maps[2]))


def _check_case(
    golden: dict[str, np.ndarray],
    case: str,
    result: Asymmetry,
    heatmap_tolerance: float = HEATMAP_TOLERANCE,
):
    """Compare everything the archive records for a case."""
    pair = torch.stack([1 - result.score, result.score], dim=1)
    np.testing.assert_allclose(pair, golden[f"{case}/out"], rtol=0, atol=RISK_TOLERANCE)
    np.testing.assert_allclose(result.score, golden[f"{case}/risk"], rtol=0, atol=RISK_TOLERANCE)
    np.testing.assert_allclose(result.raw, golden[f"{case}/raw_mean"], rtol=heatmap_tolerance)
    np.testing.assert_allclose(result.scaled, golden[f"{case}/scaled"], rtol=1e-4, atol=1e-6)
    for index, projection in enumerate(("CC", "MLO")):
        heatmap = golden[f"{case}/{projection}_heatmap"]
        tolerance = heatmap_tolerance * heatmap.max()
        np.testing.assert_allclose(result.heatmap[:, index], heatmap, rtol=0, atol=tolerance)
        if f"{case}/{projection}_row_col" in golden:
            peak = peak_positions(result.heatmap[:, index])
            np.testing.assert_array_equal(peak, golden[f"{case}/{projection}_row_col"])
            value = golden[f"{case}/{projection}_value"]
            np.testing.assert_allclose(result.value[:, index], value, rtol=heatmap_tolerance)


@pytest.mark.parametrize("case", CONFIGS)
def test_mode_equals_reference(golden, exam, case: str):
    head = fill_module(AsymmetryHead(CONFIGS[case]), SEED)
    _check_case(golden("asymmetry"), case, _run(head, exam))


@pytest.mark.parametrize("case", MISSING)
def test_missing_view_equals_reference(golden, exam, default_head, case: str):
    _check_case(golden("asymmetry"), case, _run(default_head, exam, MISSING[case]))


def test_batch_equals_reference(golden, exam, default_head):
    second = {k: torch.from_numpy(x) for k, x in synthetic_asym_features(SEED, exam=1).items()}
    third = {k: torch.zeros_like(x) if "CC" in k else x for k, x in second.items()}
    batch = {view: torch.cat([exam[view], second[view], third[view]]) for view in VIEWS}
    _check_case(golden("asymmetry"), "batch3", _run(default_head, batch))


@pytest.fixture(scope="module")
def image_maps(b5) -> Callable[[str, bool], torch.Tensor]:
    """Encoder map of a full-size view, perhaps mirrored; each is computed once."""

    @cache
    def encode(view: str, mirrored: bool) -> torch.Tensor:
        image = synthetic_image(1520, 912, SEED, view, view[0])
        return b5(torch.from_numpy(normalise(image[:, ::-1] if mirrored else image)))[1]

    return encode


@pytest.mark.parametrize("alignment", [None, "pixel", "latent"])
def test_images_equal_reference(golden, image_maps, alignment):
    head = fill_module(AsymmetryHead(AsymmetryConfig(alignment=alignment)), SEED)
    maps = [image_maps(view, alignment == "pixel" and view[0] == "R") for view in VIEWS]
    result = head(*maps, torch.ones(1, 2))
    _check_case(golden("prognosis_images"), f"align_{alignment}", result, IMAGE_HEATMAP_TOLERANCE)


@pytest.mark.parametrize(("case", "flexible"), [("flexible", True), ("fixed", False)])
def test_metric_alone_equals_stored(stored, case: str, flexible: bool):
    expected = stored("asymmetry_metric")
    left, right = (
        torch.from_numpy(synthetic_feature(f"metric/{side}", (2, 7, 23, 17), SEED))
        for side in ("left", "right")
    )
    heatmap = asymmetry_heatmap(left - right, (5, 5), flexible)
    prefix = f"metric_small_{case}"
    np.testing.assert_allclose(heatmap, expected[f"{prefix}/heatmap"], rtol=HEATMAP_TOLERANCE)
    np.testing.assert_allclose(
        heatmap.flatten(1).amax(1), expected[f"{prefix}/value"], rtol=HEATMAP_TOLERANCE
    )
    peak = peak_positions(heatmap).numpy()
    # The reference's names are swapped: x_argmin is a row, y_argmin the best column of every row.
    rows = expected[f"{prefix}/x_argmin"]
    np.testing.assert_array_equal(peak[:, 0], rows)
    columns = expected[f"{prefix}/y_argmin"]
    np.testing.assert_array_equal(peak[:, 1], columns[np.arange(2), rows])


def test_maximum_is_per_channel_before_the_norm():
    difference = torch.zeros(1, 2, 2, 1)
    difference[0, 0, 0, 0], difference[0, 1, 1, 0] = 3.0, -4.0
    assert asymmetry_heatmap(difference, (1, 1), flexible=True).item() == pytest.approx(5.0)


def test_window_larger_than_map_is_refused():
    with pytest.raises(ExportError, match=r"4x9 cells cannot be divided into 5x5 windows"):
        asymmetry_heatmap(torch.zeros(1, 1, 4, 9), (5, 5), flexible=True)


@given(st.integers(5, 60), st.integers(5, 60), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_heatmap_size_predicts_the_heatmap(height, width, rows, columns, flexible):
    config = AsymmetryConfig(latent_height=rows, latent_width=columns, flexible=flexible)
    heatmap = asymmetry_heatmap(torch.zeros(1, 1, height, width), (rows, columns), flexible)
    assert config.heatmap_size((height, width)) == tuple(heatmap.shape[1:])


# ---- years --------------------------------------------------------------------------------------


def _small_model(means: dict[int, float]) -> PrognosisModel:
    heads = {
        year: AsymmetryHead(AsymmetryConfig(channels=4, mean=mean, std=1.0))
        for year, mean in means.items()
    }
    return PrognosisModel(heads).eval()


def _small_maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(1, 4, 10, 8, generator=generator) for _ in VIEWS]


def test_years_are_sorted_and_risk_never_falls():
    model = _small_model({3: 2.0, 1: 1.0, 5: 0.5, 2: 3.0, 4: 1.5})
    result = model(*_small_maps(), torch.ones(2))
    assert model.years == (1, 2, 3, 4, 5)
    raw = float(result.asymmetry[0])
    means = np.array([1.0, 3.0, 2.0, 1.5, 0.5])
    expected = 1 / (1 + np.exp(means - raw))
    np.testing.assert_allclose(result.score, expected, atol=RISK_TOLERANCE)
    np.testing.assert_allclose(result.risk, np.maximum.accumulate(expected), atol=RISK_TOLERANCE)
    assert result.heatmap.shape == (5, 2, 9, 8)
    assert result.peak.shape == (5, 2, 2)


@pytest.mark.parametrize(("usable", "index"), [((1.0, 0.0), 0), ((0.0, 1.0), 1)])
def test_unusable_projection_does_not_count(usable, index):
    model = _small_model({1: 0.0})
    maps = _small_maps()
    both, one = model(*maps, torch.ones(2)), model(*maps, torch.tensor(usable))
    assert one.asymmetry[0] == pytest.approx(float(both.heatmap[0, index].max()))


def test_years_with_different_windows_are_refused():
    heads = {
        1: AsymmetryHead(AsymmetryConfig(channels=2)),
        2: AsymmetryHead(AsymmetryConfig(channels=2, latent_height=4)),
    }
    with pytest.raises(ExportError, match=r"2 different heatmap windows among 2 years"):
        PrognosisModel(heads)
    with pytest.raises(ExportError, match=r"at least one year is needed"):
        PrognosisModel({})
