"""Training of the demonstration model: its parts against independent truths, and a tiny overfit."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mammofm_lite.errors import ExportError, UsageError
from mammofm_lite.export.models.asymmetry import AsymmetryHead
from mammofm_lite.export.models.boxes import anchor_boxes, decode_boxes
from mammofm_lite.export.models.diagnosis import LinearClassifier
from mammofm_lite.export.models.efficientnet import Features
from mammofm_lite.export.models.report import ReportConfig, ReportModel
from mammofm_lite.export.recipe import load_recipe
from mammofm_lite.export.seeds import TRAINING
from mammofm_lite.export.synthetic import PIXEL_MEAN, PIXEL_STD
from mammofm_lite.export.training import data, loop, losses
from mammofm_lite.export.training.batches import (
    CropPlan,
    _cut_boxes,
    _sigmoid_scale,
    crops,
    targets_of,
    varied_images,
    vary,
    whole_views,
)
from mammofm_lite.export.training.data import DataPlan, Practice, Study, View, make_studies
from mammofm_lite.export.training.encoders import (
    Encoded,
    TorchEncoder,
    pooled_exactly,
    quantized_encoder,
)
from mammofm_lite.export.training.features import (
    FeatureSet,
    make_features,
    shown_lesions,
)
from mammofm_lite.export.training.fitting import Twins, fit_head
from mammofm_lite.export.training.heads import Checks, _labels, fit_heads
from mammofm_lite.export.training.heard import Heard, Variations, make_heard
from mammofm_lite.export.training.loop import Budget, Stage, run_stage, save_state
from mammofm_lite.export.training.network import (
    DENSE_CLASSES,
    RISK_CLASSES,
    DemoNetwork,
    Prognoses,
    ReportWords,
    decoded,
    logit_of_rare,
    parts_of,
)
from mammofm_lite.export.training.nipple import nipple_box, nipple_row
from mammofm_lite.export.training.plan import Machine, Plan
from mammofm_lite.export.training.points import (
    Answers,
    Mark,
    Points,
    best_threshold,
    choose_points,
    marks_of,
    study_probability,
)
from mammofm_lite.export.training.rare import RARE, rare_seeds
from mammofm_lite.export.training.report_check import findings_told
from mammofm_lite.export.training.report_norms import balance, steady
from mammofm_lite.export.training.report_start import (
    NippleViews,
    renew_report,
    start_report,
)
from mammofm_lite.export.training.reports import (
    ReportLosses,
    TaughtReport,
    Writing,
    _Breast,
    _Woman,
    _woman,
    fused,
    looking_elsewhere,
    misplaced,
    squared_error,
    worded,
)
from mammofm_lite.export.training.stages import (
    CropLosses,
    MixedLosses,
    ViewLosses,
    _in_views,
    _lesion_losses,
    begin_rounding,
    hold_norms,
    risks,
    settle_norms,
    start_views,
    stretch_logit,
)
from mammofm_lite.export.training.write import filled_recipe
from mammofm_lite.export.weights import load_into
from mammofm_lite.phantom import PhantomLesion, PhantomPrecursor, PhantomTruth, render_phantom
from mammofm_lite.prepare import PreprocessingSpec, prepare_view
from mammofm_lite.views import STANDARD_VIEWS

RECIPE = Path(__file__).resolve().parents[2] / "export" / "recipes" / "demo.toml"
SIDE = 160  # the smallest picture whose map has the five cells that the prognosis divides


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield


@pytest.fixture(scope="module")
def network() -> DemoNetwork:
    """A network for small pictures, whose encoder nothing rounds."""
    return small_network()


def small_network() -> DemoNetwork:
    torch.manual_seed(0)
    recipe = load_recipe(RECIPE)
    small = replace(recipe.preprocessing, height=SIDE, width=SIDE)
    return DemoNetwork(replace(recipe, preprocessing=small), ReportWords())


def drawn_study(seed: int, *, malignant: bool) -> Study:
    """A study without rendering: noise, and in the left breast a bright square or nothing."""
    random = np.random.default_rng(seed)
    box = np.array([[60, 70, 100, 110]], np.float32)
    views = {}
    for view in STANDARD_VIEWS:
        image = random.integers(20, 120, (SIDE, SIDE)).astype(np.uint8)
        image[:8] = 0
        shown = malignant and view.startswith("L")
        if shown:
            image[70:110, 60:100] += 120
        some = slice(0, int(shown))
        views[view] = View(image, box[some], (0,)[some], np.zeros((0, 4), np.float32))
    lesion = PhantomLesion(
        kind="mass", laterality="L", malignant=True, suspicious=True, benign_type=None,
        descriptors={"shape": "irregular", "margin": "spiculated", "density": "high"},
        quadrant="upper outer", clock=1, depth="middle", nipple_depth_mm=30.0, diameter_mm=12.0,
        boxes_px={"L-CC": (60, 70, 100, 110), "L-MLO": (60, 70, 100, 110)}, contrast_to_noise={},
    )  # fmt: skip
    lesions = (lesion,) if malignant else ()
    risk = (0.9,) * 5 if malignant else (0.05,) * 5
    truth = PhantomTruth(
        seed, "b", lesions, 0.0, None, malignant, malignant, 0.5 if malignant else None, risk
    )
    return Study(truth, views)


def judged(loss: loop.Loss, seed: int = 0) -> dict[str, torch.Tensor]:
    """One step's losses."""
    return dict(loss(loss.draw(np.random.default_rng(seed))))


def test_two_studies_are_learned_by_heart(network: DemoNetwork, tmp_path: Path) -> None:
    """Crops: the square is found and called. Whole views: every head gets a gradient."""
    studies = [drawn_study(1, malignant=True), drawn_study(2, malignant=False)]
    device = torch.device("cpu")
    told: list[str] = []
    crop = CropLosses(network, studies, CropPlan(64, 8), device)

    def now() -> dict[str, float]:
        network.train()
        return {k: float(v.detach()) for k, v in judged(crop).items()}

    first = now()
    rates = dict.fromkeys(("encoder", "malignancy", "localization", "dense"), 2e-3)
    budget = Budget(0, steps=40)
    run_stage(Stage("crops", 1, network, crop, rates, budget, 0), tmp_path / "a", told.append)
    last = now()
    assert last["cells"] < 0.6 * first["cells"]
    assert last["boxes"] < 0.8 * first["boxes"]
    assert last["malignancy"] < 0.8 * first["malignancy"]
    assert "crops: 40 steps" in told[-1]
    network.requires_grad_(True)
    settle_norms(network, crop, 4, np.random.default_rng(0))
    start_views(network, studies, device)
    hold_norms(network)
    held = network.encoder._bn0.running_mean.clone()
    found = judged(ViewLosses(network, studies, 1, device))
    of_lesions = {"boxes", "cells", "offsets", "cells of risk", "malignancy"}
    assert set(found) == {*of_lesions, "density", "risk", "risk of windows"}
    sum(found.values()).backward()
    heads = network.prognosis.heads
    assert all(head.cc_stretch_params.grad.abs().sum() > 0 for head in heads)
    assert all(torch.isfinite(loss) for loss in found.values())
    mixed = MixedLosses(ViewLosses(network, studies, 1, device), CropPlan(64, 2))
    beside = judged(mixed)
    assert set(beside) == {*found, *(f"{name} of crops" for name in of_lesions)}
    assert all(beside[name] == found[name] for name in found)
    assert torch.equal(network.encoder._bn0.running_mean, held)
    assert network.encoder._conv_head.training


def test_the_longest_prefix_decides_the_rate() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    stage = Stage("x", 0, module, dict, {"a": 1.0, "ab": 0.0}, Budget(1), 0)
    optimizer = loop._optimizer(stage)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in module["a"].parameters()}
    assert [p.requires_grad for p in module.parameters()] == [True] * 2 + [False] * 4


# -------------------- the loop


@dataclass
class _Square:
    """A loss that is stopped at its step `stop_at`."""

    module: nn.Module
    stop_at: int | None
    judged: int = 0

    def draw(self, random: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal((8, 3)).astype(np.float32))

    def __call__(self, drawn: torch.Tensor) -> dict[str, torch.Tensor]:
        self.judged += 1
        if self.judged == self.stop_at:
            raise KeyboardInterrupt
        return {"square": ((self.module(drawn) - drawn[:, :1]) ** 2).mean()}


def _small_stage(module: nn.Module, steps: int, stop_at: int | None = None) -> Stage:
    loss = _Square(module, stop_at)
    return Stage("small", 7, module, loss, {"": 1e-2}, Budget(0, steps=steps), seed=3)


def test_processes_that_draw_ahead_change_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = nn.Linear(3, 1).state_dict()
    weights = []
    for drawers in (0, 2):
        module = nn.Linear(3, 1)
        module.load_state_dict(start)
        stage = replace(_small_stage(module, 9), drawers=drawers)
        run_stage(stage, tmp_path / f"{drawers}.state", print)
        weights.append(module.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_killed_stage_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_SECONDS", -1.0)
    torch.manual_seed(0)
    start = nn.Linear(3, 1).state_dict()
    weights = []
    for stop_at in (None, 6):
        module = nn.Linear(3, 1)
        module.load_state_dict(start)
        path = tmp_path / f"{stop_at}.state"
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                run_stage(_small_stage(module, 12, stop_at), path, print)
            module = nn.Linear(3, 1)  # a new process: nothing is left but the file
        run_stage(_small_stage(module, 12), path, print)
        weights.append(module.weight.detach().clone())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], start["weight"])


def test_a_stage_refuses_what_it_cannot_go_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.state"
    path.write_bytes(b"no state")
    with pytest.raises(ExportError, match=r"x\.state is unreadable; delete it"):
        run_stage(_small_stage(nn.Linear(3, 1), 1), path, print)
    run_stage(_small_stage(nn.Linear(3, 1), 1), tmp_path / "y.state", print)
    with pytest.raises(ExportError, match=r"y\.state is of another model"):
        run_stage(_small_stage(nn.Linear(3, 2), 1), tmp_path / "y.state", print)


def test_products_are_short_while_a_step_is_learned_and_exact_after_it(tmp_path: Path) -> None:
    kinds = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before, seen = [kind.fp32_precision for kind in kinds], []

    class _Looking(_Square):
        def __call__(self, drawn: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append([kind.fp32_precision for kind in kinds])
            return super().__call__(drawn)

    module = nn.Linear(3, 1)
    stage = replace(_small_stage(module, 2), loss=_Looking(module, stop_at=2))
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, tmp_path / "s.state", print)
    assert seen[0] == ["bf16", "bf16"]
    assert [kind.fp32_precision for kind in kinds] == before


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    module = nn.Linear(3, 1)
    with torch.no_grad():
        module.weight.fill_(float("nan"))
    stage = _small_stage(module, 2)
    with pytest.raises(ExportError, match="small: the loss of step 0 is not finite"):
        run_stage(stage, tmp_path / "z.state", print)


@pytest.mark.parametrize("machine", [Machine(2, gpu=False), Machine(16, gpu=True)])
def test_a_plan_leaves_time_to_render(machine: Machine) -> None:
    hours = 0.2 if machine.gpu else 2
    plan = Plan.for_hours(hours, machine, seed=0)
    stages = (plan.crops_budget, plan.views_budget, plan.rare_budget, plan.report_budget)
    coarse, fine = (1.3, 2.4) if machine.gpu else (0.6, 1.1)  # seconds of a core
    rendered = ((plan.studies + plan.rare) * coarse + plan.checked * fine) / machine.cores
    first = plan.first * coarse / machine.cores if machine.gpu else rendered
    assert sum(stage.seconds for stage in stages) < 0.96 * (hours * 3600 - first)
    if machine.gpu:  # all of it by the time that crops are done with
        assert rendered < first + 1.1 * plan.crops_budget.seconds
    assert plan.encoded <= plan.studies


@pytest.mark.parametrize("machine", [Machine(2, gpu=False), Machine(16, gpu=True)])
def test_going_on_takes_as_long(machine: Machine) -> None:
    """What crops and views would have taken goes to crops again, the report and more phantoms."""
    plan = Plan.for_hours(0.5, machine, seed=0)
    more = plan.going_on()
    assert not more.views_budget
    assert "views" not in str(more)
    assert more.studies == more.encoded == round(1.1 * plan.studies)
    assert more.rare == round(1.1 * plan.rare)
    names = ("crops", "views", "anew", "rare", "report", "leant")
    before, after = ([getattr(p, f"{n}_budget").seconds for n in names] for p in (plan, more))
    assert after[0] > 0
    assert after[2] > 0
    assert after[3] > before[3]
    assert after[4] > before[4]
    assert after[5] > before[5] == 0
    if not machine.gpu:  # a GPU's cores render meanwhile
        others = more.studies + more.rare - plan.studies - plan.rare
        rendered = 0.6 * others / machine.cores
        encoded = 0.1 * (more.encoded - plan.encoded)  # seconds of a study
        assert sum(after) + rendered + encoded < sum(before)
    smoke = Plan.smoke(seed=0)
    assert smoke.going_on().rare_budget.steps == smoke.rare_budget.steps
    assert smoke.going_on().crops_budget.steps == smoke.crops_budget.steps


def test_another_seed_meets_other_phantoms() -> None:
    two = Machine(2, gpu=False)
    met = [set(p.phantoms[: p.studies]) for p in (Plan.for_hours(2, two, seed=s) for s in (0, 1))]
    assert not met[0] & met[1]
    assert Plan.for_hours(2, two, seed=0).phantoms == TRAINING
    most = Plan.for_hours(48, Machine(64, gpu=True), seed=10**9 + 24)
    assert len(most.phantoms) > most.going_on().studies


def test_hours_have_bounds() -> None:
    two = Machine(2, gpu=False)
    with pytest.raises(UsageError, match=r"hours is 0, allowed 0\.02 to 48"):
        Plan.for_hours(0, two, seed=0)
    told = "1860 phantoms to train on, 460 more with rare looks, 220 to check on"
    lasts = "crops 32 min, views 32 min, rare 26 min, report 10 min"
    assert str(Plan.for_hours(2, two, seed=0)) == f"{told}; {lasts}"
    assert "crops 3 steps" in str(Plan.smoke(seed=0))


# -------------------- data


def test_phantoms_are_rendered_once_and_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_CHUNK", 2)
    plan = DataPlan(range(3, 6), 1.0, PreprocessingSpec(64, 48, mirror="right"))
    told: list[tuple[int, int]] = []
    made = make_studies(tmp_path, plan, workers=0, tell=lambda *n: told.append(n))
    assert told == [(0, 3), (2, 3), (3, 3)]
    assert made[2].truth == render_phantom(5, plan.options)[0]
    assert [truth.seed for truth in made.truths()] == [3, 4, 5]
    before = [study.views["R-CC"].image.copy() for study in made]
    (tmp_path / "00001.1").unlink()  # as if killed while this chunk was made
    told.clear()
    again = make_studies(tmp_path, plan, workers=0, tell=lambda *n: told.append(n))
    assert told == [(2, 3), (3, 3)]
    assert all(map(np.array_equal, [study.views["R-CC"].image for study in again], before))
    for seeds in (range(3, 4), range(3, 6)):  # fewer, then as many as before
        again = make_studies(tmp_path, replace(plan, seeds=seeds), workers=0, tell=lambda *n: None)
        assert [truth.seed for truth in again.truths()] == list(seeds)
    other = replace(plan, seeds=range(3, 4), preprocessing=PreprocessingSpec(64, 48))
    make_studies(tmp_path, other, workers=0, tell=lambda *n: None)
    assert not (tmp_path / "00001.npy").exists()


def test_rare_looks_are_sought_in_their_shares() -> None:
    options = DataPlan(range(1), 1.0, PreprocessingSpec(64, 48), prevalence=0.5).options
    found = rare_seeds(range(300), 10, options, workers=0)
    assert rare_seeds(range(300), 10, options, workers=2) == found
    drawn = [render_phantom(seed, options)[0] for seed in found]
    looks = [
        {lesion.descriptors.get("morphology", lesion.kind) for lesion in truth.lesions}
        for truth in drawn
    ]
    assert all(look & set(RARE) for look in looks)
    for name, share in RARE.items():
        assert sum(name in look for look in looks) >= share * 10
    assert found == tuple(sorted(set(found)))
    with pytest.raises(ExportError, match="too few phantoms with architectural_distortion"):
        rare_seeds(range(3), 10, options, workers=0)


def test_other_seeds_are_other_phantoms(tmp_path: Path) -> None:
    plan = DataPlan((3, 5), 1.0, PreprocessingSpec(64, 48))
    made = make_studies(tmp_path, plan, workers=0, tell=lambda *n: None)
    assert [truth.seed for truth in made.truths()] == [3, 5]
    other = replace(plan, seeds=(3, 7))
    made = make_studies(tmp_path, other, workers=0, tell=lambda *n: None)
    assert [truth.seed for truth in made.truths()] == [3, 7]


def test_what_is_rare_is_practised_often() -> None:
    once, often = (
        [drawn_study(seed, malignant=False) for seed in (1, 2)],
        [drawn_study(3, malignant=True)],
    )
    practice = Practice(once, often, 2)
    assert [practice[i] for i in range(len(practice))] == [*once, *often, *often]
    assert practice[-1] is often[0]
    with pytest.raises(IndexError):
        practice[4]


def test_boxes_lie_where_the_lesions_are(tmp_path: Path) -> None:
    """Of a phantom with and one without its lesions, only what lies in the boxes differs."""
    spec = PreprocessingSpec(128, 96, mirror="right")
    plan = DataPlan(range(1), 1.0, spec)
    seed, study = 0, make_studies(tmp_path, plan, workers=0, tell=lambda *n: None)[0]
    assert study.truth.lesions
    assert study.truth.precursor is None
    bare, pictures = render_phantom(seed, replace(plan.options, lesions=0))
    assert not bare.lesions
    for name, view in study.views.items():
        plain = prepare_view(
            pictures[name],
            photometric_interpretation="MONOCHROME2",
            rescale_slope=1.0,
            rescale_intercept=0.0,
            laterality=name[0],
            spec=spec,
        ).image
        changed = np.abs(view.image.astype(int) - plain) > 25
        covered = np.zeros(changed.shape, bool)
        for x1, y1, x2, y2 in view.boxes:
            covered[int(y1 - 1) : int(y2 + 2), int(x1 - 1) : int(x2 + 2)] = True
        assert not (changed & ~covered).any()
        assert not len(view.boxes) or (changed & covered).any()


def test_a_crop_moves_and_flips_its_boxes() -> None:
    picture = np.zeros((50, 40), np.float32)
    picture[20:25, 10:18] = 1
    boxes = np.array([[10, 20, 18, 25], [30, 40, 39, 49]], np.float32)
    for flips in ([False, False], [True, False], [False, True], [True, True]):
        cut = picture[12:32, 5:25]
        for axis in np.flatnonzero(flips):
            cut = np.flip(cut, axis)
        moved, kept = _cut_boxes(boxes, (5, 12), 20, np.array(flips))
        assert kept.tolist() == [True, False]
        x1, y1, x2, y2 = moved[0].astype(int)
        assert cut[y1:y2, x1:x2].all()
        assert cut.sum() == (y2 - y1) * (x2 - x1)


def test_unvaried_views_are_what_the_encoder_graph_makes_of_them() -> None:
    study = drawn_study(1, malignant=True)
    pictures = whole_views([study], ("mass",), None)
    grey = pictures.grey(torch.device("cpu"))
    assert float(grey.min()) == 0
    assert float(grey.max()) == 1
    assert pictures.aims.malignant.tolist() == [1, 1, 0, 0]


def test_a_varied_grey_scale_rises_and_keeps_its_ends() -> None:
    ramp = torch.linspace(0, 1, 101).expand(3, 1, 1, 101)
    slope, middle = (torch.tensor(v)[:, None, None, None] for v in ([0.5, 3, 6], [0.3, 0.6, 0.4]))
    scaled = _sigmoid_scale(ramp, slope, middle)
    assert bool((scaled.diff(dim=3) > 0).all())
    torch.testing.assert_close(scaled[..., [0, -1]], ramp[..., [0, -1]], rtol=0, atol=1e-6)
    steepest = scaled.diff(dim=3).argmax(dim=3).flatten()
    assert steepest.tolist() == pytest.approx([30, 60, 40], abs=1)


def test_views_of_one_examination_vary_together_and_background_stays_black() -> None:
    grey = torch.zeros(4, 1, 40, 40)
    grey[:, :, :, 12:] = 0.5
    dice = torch.Generator().manual_seed(3)
    varied = vary(grey, dice, alike=2)
    assert float(varied[..., :11].abs().max()) < 1e-6
    middles = varied[..., 20:].mean((1, 2, 3))
    assert float((middles[0] - middles[1]).abs()) < 0.002
    assert float((middles[2] - middles[0]).abs()) > 0.01


# -------------------- losses


def test_a_view_shows_its_nipple_and_no_crop_is_drawn_around_it() -> None:
    study, kinds = drawn_study(2, malignant=True), ("mass",)
    nipple = DENSE_CLASSES.index("nipple")
    for view, shown in study.views.items():
        targets = targets_of(study, view, kinds)
        assert targets.boxes[-1].tolist() == nipple_box(shown.image).tolist()
        assert targets.flags[:, nipple].tolist() == [0] * (len(targets.boxes) - 1) + [1]
        assert targets.labels[-1] == losses.NO_BOX
        assert len(targets.boxes) == len(shown.boxes) + len(shown.precursor) + 1
    drawn = crops([study], CropPlan(48, 40), kinds, np.random.default_rng(0))
    assert 0 < float(drawn.aims.flags[..., nipple].amax(dim=1).sum()) < 20


def test_a_strong_precursor_says_more_than_a_faint_one() -> None:
    """In proportion, as the logarithm of the hazard; its windows are taught its risk alike."""
    study = drawn_study(1, malignant=False)
    box = np.array([[60, 70, 100, 110]], np.float32)
    shown = {
        view: replace(one, precursor=box if view.startswith("L") else one.precursor)
        for view, one in study.views.items()
    }
    column = DENSE_CLASSES.index("precursor")
    said = []
    for strength in (0.3, 1.0):
        found = PhantomPrecursor("L", "upper outer", 1, "middle", strength, {})
        early = Study(replace(study.truth, precursor=found), shown)
        targets = targets_of(early, "L-CC", ("mass",))
        assert targets.flags[-1, column] == 0
        said.append(targets.flags[0, column])
        assert not targets_of(early, "R-CC", ("mass",)).flags[:, column].any()
    assert said == pytest.approx([0.95 * 0.3, 0.95])
    with torch.no_grad():  # what a cell says then, and with it the map's channel, is in proportion
        logits = torch.linspace(-6, 8, 14001)
        best = [
            float(logits[losses.focal(logits, torch.full_like(logits, one)).argmin()])
            for one in (0.95 * 0.3, 0.95 * 0.5, 0.95)
        ]
    raised = [logit - logit_of_rare() for logit in best]
    assert raised[1] / raised[0] == pytest.approx(0.5 / 0.3, rel=0.15)
    assert raised[2] / raised[0] == pytest.approx(1 / 0.3, rel=0.25)


def test_anchors_meet_their_boxes() -> None:
    """Also beside a picture without boxes, and with room for more boxes than there are."""
    size = (96, 96)
    boxes = np.array([[10, 12, 44, 50], [60, 60, 63, 64]], np.float32)
    padded = torch.zeros(2, 3, 4)
    padded[0, :2] = torch.from_numpy(boxes)
    real = torch.tensor([[True, True, False], [False, False, False]])
    both = losses.match_anchors(padded, real, size)
    assert (both[1] == -1).all()
    matched = both[0].numpy()
    anchors = anchor_boxes(size)
    assert {0, 1, -1, -2} == set(matched.tolist())
    shares = losses.overlaps(anchors, boxes)
    assert (shares[matched == -1].max(axis=1) < 0.4).all()
    assert (matched[shares[:, 0] >= 0.5] == 0).all()
    at = matched >= 0
    chosen, wanted = torch.from_numpy(anchors[at]), torch.from_numpy(boxes[matched[at]])
    decoded = decode_boxes(chosen, losses._deltas(chosen, wanted))
    np.testing.assert_allclose(decoded.numpy(), wanted.numpy(), atol=1e-3)
    bare = losses.match_anchors(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.bool), size)
    assert (bare == -1).all()


def test_a_precursor_is_no_box_of_the_detector() -> None:
    aims = losses.aims_of([
        losses.Targets(
            np.array([[10, 12, 44, 50], [60, 60, 90, 94]], np.float32),
            np.array([1, losses.NO_BOX]), np.zeros((2, 3), np.float32), False,
        ),
        losses.Targets(
            np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 3), np.float32), True
        ),
    ])  # fmt: skip
    matched = losses.match_anchors(aims.boxes, aims.labels != losses.NO_BOX, (96, 96))
    assert set(matched[0].tolist()) == {0, -1, -2}
    assert set(matched[1].tolist()) == {-1}
    assert aims.malignant.tolist() == [0, 1]


def test_cells_of_a_box_say_what_it_is() -> None:
    flags = np.zeros((2, len(DENSE_CLASSES)), np.float32)
    precursor = DENSE_CLASSES.index("precursor")
    flags[0, 0] = flags[1, precursor] = 1
    boxes = np.array([[16, 32, 48, 64], [5, 5, 6, 6]], np.float32)
    one = losses.Targets(boxes, np.array([0, losses.NO_BOX]), flags, False)
    none = losses.Targets(boxes[:0], one.labels[:0], flags[:0], False)
    wanted = losses.dense_targets(losses.aims_of([one, none]), (6, 6), (96, 96)).numpy()
    assert np.argwhere(wanted[0, 0]).tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert np.argwhere(wanted[0, precursor]).tolist() == [[0, 0]]
    assert wanted.sum() == 5


def test_cells_of_a_box_say_how_far_they_lie_from_its_middle() -> None:
    """The middle lies where four cells meet: half a cell from each, along rows and columns."""
    boxes, flags = np.array([[16, 32, 48, 64]], np.float32), np.eye(1, len(DENSE_CLASSES))
    lesion = losses.Targets(boxes, np.array([0]), flags.astype(np.float32), malignant=False)
    aims = losses.aims_of([lesion])
    offsets = torch.zeros(1, 2, 6, 6)
    nothing = float(losses.offset_loss(offsets, aims, (96, 96)))
    assert nothing == pytest.approx(2 * (0.5 - 1 / 18))  # smooth L1 along both, beta 1/9
    offsets[0, 0, 2:4, 1:3] = torch.tensor([[0.5, -0.5], [0.5, -0.5]])
    offsets[0, 1, 2:4, 1:3] = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    assert float(losses.offset_loss(offsets, aims, (96, 96))) == 0
    offsets[0, 1, 0, 0] = 3.0  # where nothing is
    assert float(losses.offset_loss(offsets, aims, (96, 96))) == pytest.approx(0.1 * 9 / 72)


# -------------------- the heads against the modules that are exported


def test_teacher_forcing_is_stepping() -> None:
    torch.manual_seed(1)
    model = ReportModel(ReportConfig(16, 2, 3, 64, 2, 1, 2, 40, 12)).eval()
    maps = [torch.randn(2, 16, 2, 3) for _ in STANDARD_VIEWS]
    memory = model.memory(maps, torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 0]]))
    tokens = torch.randint(0, 40, (2, 7))
    cache, rows = model.empty_cache(2), []
    for position in range(7):
        step = model.step(
            tokens[:, position : position + 1], torch.tensor([[position]]), memory, cache
        )
        cache = list(zip(step.keys, step.values, strict=True))
        rows.append(step.logits)
    torch.testing.assert_close(
        decoded(model, tokens, memory).logits, torch.stack(rows, 1), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("alignment", ["none", "latent"])
def test_the_prognosis_is_that_of_the_exported_heads(alignment: str) -> None:
    spec = load_recipe(RECIPE).prognosis
    assert spec is not None
    prognoses = Prognoses(replace(spec, alignment=alignment), 6)
    torch.manual_seed(2)
    for head in prognoses.heads:
        nn.init.uniform_(head.cc_stretch_params)
        nn.init.uniform_(head.mlo_stretch_params)
    maps = torch.randn(8, 6, 20, 12)
    logits = prognoses.logits(prognoses.study_squares(maps))
    cc_left, mlo_left, cc_right, mlo_right = maps.unflatten(0, (2, 4)).unbind(1)
    for year, head in enumerate(prognoses.heads):
        config = replace(head.config, mean=float(prognoses.mean.detach()), std=1.0)
        exported = AsymmetryHead(config)
        exported.load_state_dict(head.state_dict())
        answer = exported(cc_left, cc_right, mlo_left, mlo_right, torch.ones(2, 2))
        torch.testing.assert_close(logits[:, year], answer.scaled, atol=1e-4, rtol=1e-4)


def test_windows_hold_what_their_cells_hold() -> None:
    """The risk is that of the most asymmetric window, and a window is taught what it covers."""
    spec = load_recipe(RECIPE).prognosis
    assert spec is not None
    prognoses = Prognoses(spec, 6)
    torch.manual_seed(3)
    squares = prognoses.study_squares(torch.randn(8, 6, 20, 12))
    windows = prognoses.window_logits(squares)
    torch.testing.assert_close(windows.amax(dim=3).mean(dim=2), prognoses.logits(squares))

    rows, columns = 20 - 4 + 1, 12 - 2 + 1
    cells = torch.zeros(8, 1, 20, 12)
    cells[3, 0, 10, 6] = 1  # the right MLO view of the first study
    held = prognoses.covered(cells).unflatten(2, (rows, columns))
    wanted = torch.zeros(2, 2, rows, columns)
    wanted[0, 1, 7:11, 5:7] = 1
    assert torch.equal(held, wanted)
    mirroring = Prognoses(replace(spec, alignment="latent"), 6)
    turned = mirroring.covered(cells).unflatten(2, (rows, columns))
    assert torch.equal(turned, wanted.flip(3))


def test_a_crop_is_judged_as_part_of_a_view() -> None:
    """As if its cells took the place of as many of the view's, which is taught nothing."""
    random = torch.Generator().manual_seed(4)
    maps = torch.randn(3, 3, 5, 5, generator=random, requires_grad=True)
    views = torch.randn(2, 3, 20, 12, generator=random, requires_grad=True)
    seen = Features(maps.mean((2, 3)), maps, maps, maps)
    placed = _in_views(seen, (160, 160), views.mean((2, 3)), (640, 384))
    for row, view in enumerate((0, 1, 0)):
        cells = torch.cat(
            [maps[row].flatten(1), views[view].mean((1, 2))[:, None].expand(-1, 240 - 25)], dim=1
        )
        torch.testing.assert_close(placed[row], cells.mean(dim=1))
    placed.sum().backward()
    assert views.grad is None
    assert maps.grad is not None


def test_weights_that_know_views_learn_crops_as_part_of_them(network: DemoNetwork) -> None:
    """A crop without a cancer in a view without one says of malignancy what the view says, nearly;
    the density of the woman that a crop is of is not that of the view's."""
    cpu, size = torch.device("cpu"), network.size
    studies = [drawn_study(2, malignant=False)]
    views = start_views(network, [*studies, drawn_study(1, malignant=True)], cpu)
    assert views.shape == (6, network.malignancy.classifier.classification_head.in_features)
    assert not views.requires_grad
    hold_norms(network)
    losses = CropLosses(network, studies, CropPlan(64, 4), cpu, views)
    drawn = losses.draw(np.random.default_rng(0))
    given = losses(drawn)
    assert set(given) == {"boxes", "cells", "offsets", "cells of risk", "malignancy"}
    share = 64 * 64 / (size[0] * size[1])
    pooled = network.features(drawn.grey(cpu)).pooled
    beside = views[: len(pooled)]
    logits = network.malignancy(beside + share * (pooled - beside))[:, 0]
    wanted = functional.softplus(logits).mean()
    torch.testing.assert_close(given["malignancy"], wanted)


def test_answers_about_views_are_brought_to_scale(network: DemoNetwork) -> None:
    """However far off: the mean risk is that of the studies, by channels that say it."""
    cpu, studies = torch.device("cpu"), [drawn_study(n, malignant=n % 2 == 0) for n in range(4)]
    head = network.malignancy.classifier.classification_head
    with torch.no_grad():
        head.bias.add_(30.0)
        network.prognosis.mean.add_(5.0)
    start_views(network, studies, cpu)
    for year in network.prognosis.heads:
        stretch = year.cc_stretch_params.detach().abs().flatten()
        assert stretch[: len(RISK_CLASSES)].min() > 20 * stretch[len(RISK_CLASSES) :].max()
    with torch.no_grad():
        features = [
            network.features(whole_views([s], network.kinds, None).grey(cpu)) for s in studies
        ]
        risk = [network.prognosis.logits(network.prognosis.study_squares(f.map)) for f in features]
        logits = torch.cat([network.malignancy(f.pooled)[:, 0] for f in features])
    wanted = risks([study.truth for study in studies]).mean()
    assert torch.cat(risk).mean() == pytest.approx(float(torch.logit(wanted)), abs=1e-3)
    assert torch.sigmoid(logits).mean() == pytest.approx(0.25, abs=1e-3)  # 4 views of 16


def test_the_first_channels_say_what_raises_a_risk(network: DemoNetwork) -> None:
    """By themselves: where they are large as wanted, and nothing elsewhere, nothing is lost."""
    pictures = whole_views([drawn_study(1, malignant=True)], network.kinds, None)
    with torch.no_grad():
        seen = network.features(pictures.grey(torch.device("cpu")))
    there = losses.dense_targets(pictures.aims, tuple(seen.map.shape[2:]), (SIDE, SIDE))
    wanted = [DENSE_CLASSES.index(name) for name in ("malignant", "precursor")]
    maps = seen.map.clone()
    maps[:, :2] = 10 * there[:, wanted]
    logits = network.risk_cells(maps)
    assert torch.equal(logits > 0, there[:, wanted] > 0)
    assert logits.min() == pytest.approx(math.log(0.01 / 0.99))

    def lost(changed: torch.Tensor) -> float:
        features = Features(seen.pooled, changed, seen.c3, seen.c4)
        found = _lesion_losses(network, features, pictures.aims, (SIDE, SIDE))
        return float(found["cells of risk"].detach())

    assert 0 <= lost(maps) < 1e-2
    assert lost(maps.roll(1, dims=3)) > 1


def test_normal_views_have_to_be_there(network: DemoNetwork) -> None:
    cpu, study = torch.device("cpu"), drawn_study(1, malignant=True)
    normal = drawn_study(2, malignant=False)
    assert len(start_views(network, [study, normal], cpu)) == 6
    shown = dict.fromkeys(STANDARD_VIEWS, study.views["L-CC"])
    with pytest.raises(ExportError, match="no view without a cancer among the first phantoms"):
        start_views(network, [Study(study.truth, shown)], cpu)


# -------------------- features of a frozen encoder, and the report


def test_heads_hear_the_encoder_quantized() -> None:
    """Its maps are nearer to those that torch rounds than to exact ones, by half of the error."""
    network = small_network()
    cpu, studies = torch.device("cpu"), [drawn_study(n, malignant=n % 2 == 0) for n in range(3)]
    crops_of = CropLosses(network, studies, CropPlan(SIDE, 4), cpu)
    settle_norms(network, crops_of, 4, np.random.default_rng(0))  # lest values die on the way
    encoder = quantized_encoder(network, studies, 1)
    exact = TorchEncoder(network, cpu)(studies)
    begin_rounding(network, studies, cpu)
    rounded, given = TorchEncoder(network, cpu)(studies), encoder(studies)
    for wanted, int8, plain in zip(rounded, given, exact, strict=True):
        assert int8.shape == plain.shape
        error, cost = (float((one - wanted).square().mean()) for one in (int8, plain))
        assert 0 < error < cost / 2
    name = encoder.fingerprint()
    with torch.no_grad():
        network.encoder._bn1.bias.add_(1.0)
    assert quantized_encoder(network, studies, 1).fingerprint() != name


def test_features_are_made_once_per_encoder(network: DemoNetwork, tmp_path: Path) -> None:
    studies = [drawn_study(1, malignant=True), drawn_study(2, malignant=False)]
    told: list[int] = []

    def encode() -> FeatureSet:
        cpu = torch.device("cpu")
        return make_features(
            tmp_path,
            TorchEncoder(network, cpu),
            network.prognosis,
            studies,
            lambda done, _: told.append(done),
        )

    made = encode()
    (folder,) = tmp_path.iterdir()
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = encode()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    assert told == [2, 2]
    with torch.no_grad():
        pictures = whole_views([studies[1]], network.kinds, None)
        seen = network.features(pictures.grey(torch.device("cpu")))
        maps = seen.map
        np.testing.assert_allclose(made.pooled()[1], seen.pooled.numpy(), atol=1e-4, rtol=1e-4)
        squares = network.prognosis.study_squares(maps)
        np.testing.assert_allclose(again.map(1, 2), maps[2].numpy(), atol=2e-3, rtol=2e-3)
        wanted = squares[:, :, : len(RISK_CLASSES)]
        torch.testing.assert_close(made.squares()[1:], wanted, atol=1e-2, rtol=5e-3)
        network.encoder._bn1.bias.add_(1.0)
    encode()
    assert [path.name for path in tmp_path.iterdir()] != [folder.name]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture(scope="module")
def women() -> Heard:
    """Three women who are noise in two variations; the first and the last have the same
    composition."""
    random = np.random.default_rng(0)
    variations = [random.standard_normal((3, 4, 128, 5, 5)).astype(np.float16) for _ in range(2)]
    studies = [drawn_study(i, malignant=i == 0) for i in range(3)]
    truths = [study.truth for study in studies]
    truths[1] = replace(truths[1], density="d")
    shown = [shown_lesions(study) for study in studies]
    maps, roots = np.zeros((3, 4, 1280, 5, 5), np.float16), np.zeros((3, 2, 2, 25), np.float16)
    pooled = [random.standard_normal((3, 4, 1280), np.float32) for _ in range(2)]
    features = FeatureSet([maps], [roots], [pooled[0]], truths, shown)
    return Heard(variations, pooled, features)


class Echo:
    """An encoder whose map is the picture, in channels of different brightness."""

    def fingerprint(self) -> str:
        return "echo"

    def __call__(
        self, studies: Sequence[Study], random: np.random.Generator | None = None
    ) -> Encoded:
        kinds = ("mass",)
        pictures = whole_views(studies, kinds, random).grey(torch.device("cpu"))
        cells = functional.adaptive_avg_pool2d(pictures, 5)
        maps = (cells * torch.linspace(-1, 1, 1280)[:, None, None]).unflatten(0, (-1, 4))
        return Encoded(maps, maps.mean(dim=(3, 4)))


def test_what_is_heard_is_projected_once(network: DemoNetwork, tmp_path: Path) -> None:
    """Plain pictures as the features have them, others as the encoder says of varied ones."""
    studies = [drawn_study(n, malignant=n == 1) for n in range(3)]
    encoder, told = Echo(), list[int]()
    features = make_features(tmp_path, encoder, network.prognosis, studies, lambda *_: None)
    projection, varied = network.report.projection, Variations(encoder, studies, 2, seed=5)

    def hear() -> Heard:
        return make_heard(tmp_path, projection, features, varied, lambda done, _: told.append(done))

    def projected(maps: torch.Tensor) -> torch.Tensor:
        return projection(maps.movedim(0, 2)).movedim(2, 0)

    heard = hear()
    assert (len(heard.variations), told) == (3, [1, 2, 3])
    with torch.no_grad():
        plain = projected(encoder(studies).maps[2, 1])
        other = projected(encoder(studies, np.random.default_rng([5, 1])).maps[2, 1])
    np.testing.assert_allclose(heard.view(2, 1), plain, atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(heard.view(2, 1, 2), other, atol=2e-3, rtol=2e-3)
    pooled = [encoder(studies, np.random.default_rng([5, number])).pooled for number in range(2)]
    for given, wanted in zip(heard.pooled, [encoder(studies).pooled, *pooled], strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert np.abs(heard.view(2, 1, 1) - heard.view(2, 1, 2)).max() > 0.01
    (folder,) = tmp_path.iterdir()
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    hear()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    with torch.no_grad():
        projection.bias.add_(1.0)
    assert np.abs(hear().view(2, 1) - heard.view(2, 1) - 1).max() < 0.02


def test_cells_that_a_lesion_reaches_into(women: Heard) -> None:
    """Columns 60 to 100 and rows 70 to 110 of 160 pixels, in cells of 32."""
    assert SIDE == 160
    features = women.features
    rows, columns = np.nonzero(features.cells(0, 1, 0))
    assert (set(rows), set(columns)) == ({2, 3}, {1, 2, 3})
    assert not features.cells(0, 2, 0).any()
    assert not features.cells(1, 0, 0).any()


def test_a_woman_of_two_breasts(women: Heard) -> None:
    """The left breast of the first becomes the right one, the right of the last the left one, each
    in a variation of its own."""
    made = _woman(women, (_Breast(2, "R", 1), _Breast(0, "L", 0)), (0, 1, 2))
    assert np.array_equal(made.maps[0], women.variations[1][2, 2])
    assert np.array_equal(made.maps[3], women.variations[0][0, 1])
    assert [lesion.laterality for lesion in made.truth.lesions] == ["R"]
    assert made.views == ("L-CC", "L-MLO", "R-CC")
    ((left_cc, left_mlo, right_cc, right_mlo),) = made.lesions
    assert not left_cc.any()
    assert not left_mlo.any()
    assert np.array_equal(right_cc, women.features.cells(0, 0, 0))
    assert np.array_equal(right_mlo, women.features.cells(0, 1, 0))
    cranio_caudal, oblique = made.seen(0).reshape(2, 4, 5, 5)
    assert np.array_equal(cranio_caudal[2], right_cc)
    assert cranio_caudal.sum() == right_cc.sum()
    assert not oblique.any()  # the one view that is not at hand
    (place,) = made.placed()
    assert np.array_equal(place.cells, made.seen(0))
    assert place.halves == (1.0, 1.0)
    assert place.away == pytest.approx((0.5, math.sqrt(0.75)))  # one o'clock


def test_the_decoder_learns_what_it_may_choose(network: DemoNetwork, women: Heard) -> None:
    writing = Writing(ReportWords())
    taught = TaughtReport(network.report).requires_grad_(True)
    losses = ReportLosses(taught, women, writing, 6, mirrored=True, device=torch.device("cpu"))
    optimizer = torch.optim.Adam(taught.parameters(), 3e-3)
    values, looking, quadrants = [], [], []
    for step in range(12):
        told = judged(losses, step % 2)
        optimizer.zero_grad()
        sum(told.values(), torch.zeros(())).backward()
        optimizer.step()
        values.append(float(told["words"].detach()))
        if "looking" in told:
            looking.append(float(told["looking"].detach()))
            quadrants.append(float(told["quadrants"].detach()))
    assert max(values[-2:]) < 0.75 * min(values[:2])
    assert looking[-1] < 0.75 * looking[0]
    assert quadrants[-1] < 0.75 * quadrants[0]
    cells = [torch.from_numpy(women.view(0, place)[None].copy()) for place in range(4)]
    assert writing.read(writing.write(taught.report, cells)).composition in "abcd"


def test_cells_are_fused_as_their_maps_are(network: DemoNetwork) -> None:
    report, present = network.report.eval(), torch.tensor([[1.0, 1, 0, 1]])
    maps = [torch.randn(1, 1280, 5, 5) for _ in STANDARD_VIEWS]
    with torch.no_grad():
        cells = [report.projection(one.movedim(1, 3)).movedim(3, 1) for one in maps]
        torch.testing.assert_close(
            fused(report, cells, present).tokens, report.fuse(maps, present).tokens
        )


def test_only_who_is_taught_forgets(network: DemoNetwork, women: Heard) -> None:
    """Dropout: two answers to the same differ while the head is taught, not afterwards."""
    taught = TaughtReport(network.report)
    losses = ReportLosses(taught, women, Writing(ReportWords()), 4, True, torch.device("cpu"))
    drawn = losses.draw(np.random.default_rng(0))
    taught.train()
    first, second = (float(losses(drawn)["words"].detach()) for _ in range(2))
    assert first != second
    taught.eval()
    first, second = (float(losses(drawn)["words"].detach()) for _ in range(2))
    assert first == second


def test_findings_told_are_counted(
    network: DemoNetwork, women: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three women one has a mass, which is told, or nothing is."""
    writing = Writing(ReportWords())
    texts = iter([])

    def write(self: Writing, *_: object) -> str:
        return next(texts)

    monkeypatch.setattr(Writing, "write", write)
    words = ReportWords().tokenizer

    def report_on(truth: PhantomTruth) -> str:
        return words.decode([token.number for token in writing.tokens(truth, STANDARD_VIEWS)])

    truths = women.features.truths
    texts = iter([report_on(truth) for truth in truths])
    assert findings_told(network.report, writing, women) == (1.0, 1.0, 1.0)
    texts = iter([report_on(truths[0])] * 3)
    assert findings_told(network.report, writing, women) == (1 / 3, 1.0, 0.5)


def test_words_of_lesions_count_more(network: DemoNetwork, women: Heard) -> None:
    taught, writing = TaughtReport(network.report), Writing(ReportWords())
    losses = ReportLosses(taught, women, writing, 6, mirrored=True, device=torch.device("cpu"))
    drawn = losses.draw(np.random.default_rng(1))
    places, telling = drawn.places.tolist(), drawn.telling.tolist()
    assert 0 < len(telling) < len(places)
    heavier = torch.tensor([1.4 if place in telling else 1.0 for place in places])
    facts = drawn.weights > 0.5
    assert 0 < facts.sum() < len(facts)
    torch.testing.assert_close(drawn.weights[facts], heavier[facts])
    assert drawn.weights[~facts].tolist() == pytest.approx([0.1] * int((~facts).sum()))


def test_what_counts_more_is_told_when_it_is_less_likely() -> None:
    """Of two women alike one has a finding: told as likely as its weight is of both."""
    logit = torch.tensor(math.log(1.4), requires_grad=True)
    logits = torch.stack([logit, torch.zeros(())]).expand(2, 2)
    worded(logits, torch.tensor([0, 1]), torch.tensor([1.4, 1.0])).backward()
    assert logit.grad is not None
    assert float(logit.grad) == pytest.approx(0, abs=1e-6)


def test_a_choice_is_where_more_than_one_token_may_come(women: Heard) -> None:
    writing = Writing(ReportWords())
    text = writing.tokens(women.features.truths[0], STANDARD_VIEWS)
    tokens = [token.number for token in text]
    choices = writing.choices(tokens, STANDARD_VIEWS)
    assert 0 < len(choices) < len(tokens)
    assert all(tokens[position] in allowed and len(allowed) > 1 for position, allowed in choices)
    words = ReportWords().tokenizer
    told = words.decode([token.number for token in text if token.lesion == 0])
    assert told == "Mass: irregular, spiculated, high density; upper outer quadrant, middle third."


def test_how_little_is_looked_at_a_lesion() -> None:
    """Who asks for nothing looks everywhere alike: the logarithm of a share of cells."""
    torch.manual_seed(0)
    model = ReportModel(ReportConfig(16, 2, 3, 64, 2, 1, 2, 40, 12)).eval()
    maps = [torch.randn(2, 16, 2, 3) for _ in STANDARD_VIEWS]
    memory = model.memory(maps, torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 0]]))
    looking = [torch.randn(2, 7, 64) for _ in range(2)]
    telling = torch.tensor([[0, 3], [1, 5]])
    lesions = torch.zeros(2, 2, 24, dtype=torch.bool)
    lesions[0, 0, :2] = lesions[0, 1, 6:9] = lesions[1, 0, 12] = True
    found: Any = [layer.cross_attention for layer in model.decoder]
    with torch.no_grad():
        asked = looking_elsewhere(model, memory, looking, telling, lesions)
        logs = []
        for index, attention in enumerate(found):
            for row, (woman, at) in enumerate(telling.tolist()):
                query = attention.query(looking[index][woman, at]).reshape(2, 32)
                for head in range(2):
                    scores = memory.keys[index][woman, head] @ query[head] / 32**0.5
                    seen = torch.softmax(scores[memory.mask[woman]], dim=0)
                    there = lesions[row, head][memory.mask[woman]]
                    logs += [-float(seen[there].sum().log())] * bool(there.any())
        assert float(asked) == pytest.approx(np.mean(logs), abs=1e-5)
        for attention in found:
            attention.query.weight.zero_()
            attention.query.bias.zero_()
        alike = looking_elsewhere(model, memory, looking, telling, lesions)
    wanted = np.log([24 / 2, 24 / 3, 12 / 1]).mean()
    assert float(alike) == pytest.approx(wanted, abs=1e-5)


def test_how_wrongly_cells_say_where_their_lesion_lies() -> None:
    """Lesions count alike however many their cells; a half that no view tells does not count."""
    cells = torch.zeros(2, 2, 8, dtype=torch.bool)
    cells[0, 0, :2] = cells[0, 1, 4] = cells[1, 1, 5:8] = True
    halves = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.manual_seed(0)
    said = torch.randn(2, 8, 2, requires_grad=True)
    chance = torch.sigmoid(said.detach())
    first, second = chance[0, [0, 1, 4]], chance[1, 5:8]
    entropies = [-first[:, 0].log(), -(1 - first[:, 1]).log(), -second[:, 1].log()]
    loss = misplaced(said, cells, halves)
    assert float(loss.detach()) == pytest.approx(float(torch.stack(entropies).mean()), abs=1e-6)
    loss.backward()
    assert said.grad is not None
    taught = said.grad != 0
    assert not taught[0, [2, 3, 5, 6, 7]].any()
    assert not taught[1, :, 0].any()
    assert taught[0, [0, 1, 4]].all()


def test_the_clock_is_asked_for_what_is_shown() -> None:
    said = torch.tensor([[0.5, 9.0], [0.0, -1.0]])
    shown = torch.tensor([[True, False], [True, True]])
    error = squared_error(said, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), shown)
    assert float(error) == pytest.approx((0.25 + 0 + 4) / 3)
    assert float(squared_error(said, said, torch.zeros_like(shown))) == 0


def test_the_checkpoint_fits_the_recipe(network: DemoNetwork, tmp_path: Path) -> None:
    """What training writes is what export reads, tensor by tensor."""
    save_state(tmp_path / "model.pth", {k: dict(v) for k, v in parts_of(network).items()})
    points = Points(malignancy=0.31, localization=0.42, mean=4.5, std=0.75)
    (tmp_path / "demo.toml").write_text(filled_recipe(RECIPE.read_text(), points))
    recipe = load_recipe(tmp_path / "demo.toml")
    assert recipe.diagnosis is not None
    assert recipe.localization is not None
    assert recipe.prognosis is not None
    assert recipe.report is not None
    assert recipe.diagnosis.labels[0].threshold == 0.31
    assert recipe.localization.detectors[0].threshold == 0.42
    assert (recipe.prognosis.mean, recipe.prognosis.std) == (4.5, 0.75)
    assert not recipe.synthetic
    assert "never for any patient" in recipe.intended_use
    assert "synthetic phantoms" in recipe.notice
    modules = {
        "encoder": network.encoder, "malignancy": network.malignancy, "density": network.density,
        "localization": network.localization, "report": network.report,
        **{f"year{i}": head for i, head in enumerate(network.prognosis.heads, 1)},
    }  # fmt: skip
    seen = set()
    for _, source in recipe.sources():
        before = {k: v.clone() for k, v in modules[source.key].state_dict().items()}
        for tensor in modules[source.key].state_dict().values():
            tensor.zero_()
        load_into(modules[source.key], source)
        after = modules[source.key].state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        seen.add(source.key)
    assert seen == set(modules)


def test_a_recipe_without_a_line_to_fill_is_refused() -> None:
    points = Points(0.5, 0.5, 1.0, 1.0)
    with pytest.raises(ExportError, match="one line with '# measured: malignancy', has 0"):
        filled_recipe("std = 1.0  # measured: std\n", points)


# -------------------- operating points


def test_calibration_is_folded_into_the_layers(network: DemoNetwork) -> None:
    """Logits three times too large and off by two come back, and so do those of the risk."""
    random = np.random.default_rng(4)
    true = torch.from_numpy(random.normal(-1, 2, (4000, 1)).astype(np.float32)).expand(-1, 4)
    drawn = random.random(4000) < study_probability(true).numpy()
    risk = torch.from_numpy(random.normal(-2, 1, (4000, 5)).astype(np.float32))
    base = drawn_study(0, malignant=False).truth
    truths = [
        replace(base, malignant=bool(m), recall=bool(m), risk_by_year=tuple(r))
        for m, r in zip(drawn, torch.sigmoid(risk).tolist(), strict=True)
    ]
    marks = [[Mark(1 - i / 4000, -1)] for i in range(4000)]
    given = Answers(true * 3 + 2, torch.zeros(4000, 4, 4), risk * 2 - 1, marks, [0] * 4000)
    head = network.malignancy.classifier.classification_head
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    with torch.no_grad():
        network.prognosis.mean.fill_(5.0)
        network.prognosis.log_std.fill_(0.0)
    points = choose_points(network, given, truths)
    torch.testing.assert_close(head.weight, weight / 3, rtol=0.1, atol=0)
    torch.testing.assert_close(head.bias, (bias - 2) / 3, rtol=0.1, atol=0.1)
    # (raw - 5) / 1 = 2 r - 1, so r = (raw - 4) / 2
    assert points.mean == pytest.approx(4, abs=0.02)
    assert points.std == pytest.approx(2, abs=0.02)
    assert points.malignancy == pytest.approx(0.5, abs=0.12)
    false = sum(mark[0].score >= points.localization for mark in marks)
    assert false == 2000


def test_a_mark_hits_by_its_centre_or_by_overlap_and_once() -> None:
    targets = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    boxes = np.array([[4, 4, 6, 6], [0, 0, 10, 10], [15, 0, 30, 12], [50, 50, 60, 60]], np.float32)
    marks = marks_of(boxes, [0.9, 0.8, 0.7, 0.6], targets)
    assert [mark.lesion for mark in marks] == [0, -1, 1, -1]


def test_the_recall_threshold_gives_the_most_right_answers() -> None:
    probability = np.array([0.9, 0.2, 0.7, 0.4, 0.6], np.float32)
    threshold = best_threshold(probability, [True, False, True, False, False])
    assert 0.6 < threshold < 0.7


def nipple_views(network: DemoNetwork) -> NippleViews:
    """Noise, and in the last column one channel that shows the nipple's cell, and one that tells
    where in it the nipple lies."""
    config, dice = network.report.config, torch.Generator().manual_seed(0)
    maps = torch.randn(64, config.channels, config.rows, config.columns, generator=dice)
    rows = torch.rand(64, generator=dice) * (config.rows - 1)
    apart = rows[:, None] - torch.arange(config.rows)
    maps[:, 7, :, -1] = 20.0 * (apart.abs() == apart.abs().amin(dim=1, keepdim=True))
    maps[:, 8, :, -1] = apart
    with torch.no_grad():
        network.dense_map.weight[DENSE_CLASSES.index("nipple")] = 0
        network.dense_map.weight[DENSE_CLASSES.index("nipple"), 7] = 0.3
        network.dense_offsets.weight.zero_()
        network.dense_offsets.weight[1, 8] = 1
    return NippleViews(maps, rows)


def test_a_report_begins_with_what_cells_say(network: DemoNetwork) -> None:
    start_report(network, nipple_views(network))
    maps = torch.randn(1, network.dense_map.in_channels, 5, 5)
    with torch.no_grad():
        said = network.dense_map(maps).flatten(2).transpose(1, 2)
        token = network.report.projection(maps.flatten(2).transpose(1, 2))
    wanted = 0.5 * (said - math.log(0.01 / 0.99))
    torch.testing.assert_close(token[..., : len(DENSE_CLASSES)], wanted, rtol=1e-4, atol=1e-5)


def test_tokens_of_lesions_lie_where_in_their_cells_these_do(network: DemoNetwork) -> None:
    """As if the ramps of rows and columns were read between cells."""
    views, report, dice = nipple_views(network), network.report, torch.Generator().manual_seed(1)
    start_report(network, views)
    config, lesions = report.config, torch.rand(views.maps[:, 0].shape, generator=dice) < 0.2
    views.maps[:, 5] = 40.0 * lesions
    with torch.no_grad():
        network.dense_map.weight.zero_()
        network.dense_map.weight[:, 5] = 0.1
        network.dense_offsets.weight.zero_()
        for axis, channel in enumerate((3, 4)):
            network.dense_offsets.weight[axis, channel] = 0.5
        network.dense_offsets.bias.zero_()
    renew_report(network, views)
    with torch.no_grad():
        cells = views.maps.permute(0, 2, 3, 1)[lesions]
        tokens = report.projection_norm(report.projection(cells))
    places, relative = config.dim - 12, len(DENSE_CLASSES)
    for place, channel, steep, count in (
        (places, 4, 1.5, config.rows),
        (relative, 4, 4.0, config.rows),
        (places + 5, 3, 1.5, config.columns),
    ):
        moved = tokens[:, place] * (count - 1) / (2 * steep)
        slope = np.polyfit(cells[:, channel].numpy(), moved.numpy(), 1)[0]
        assert slope == pytest.approx(0.5, rel=0.1)


def test_norms_take_nothing_from_what_tokens_count(network: DemoNetwork) -> None:
    """However much its cell has to say, a token's numbers are changed alike; those of lesions stay
    as large as they were, and a second time changes nothing."""
    views, report = nipple_views(network), network.report
    start_report(network, views)
    dice = torch.Generator().manual_seed(2)
    varied = views.maps * torch.empty(len(views.maps), 1, 5, 5).uniform_(0.02, 0.3, generator=dice)
    cells = varied.permute(0, 2, 3, 1)
    with torch.no_grad():
        given = report.projection(cells)
    assert given.mean(dim=-1).abs().max() < 1e-4 * given.abs().max()
    fresh = small_network().report
    pair = slice(len(DENSE_CLASSES) + 1, len(DENSE_CLASSES) + 3)

    def lesions(maps: torch.Tensor) -> torch.Tensor:
        return maps[:, 7] > 1

    def normed() -> torch.Tensor:
        with torch.no_grad():
            return fresh.projection_norm(fresh.projection(cells))

    def uneven(tokens: torch.Tensor) -> float:
        """By how much an answer is multiplied otherwise in one cell than in another."""
        with torch.no_grad():
            said = fresh.projection(cells)[..., 0]
        scales = (tokens[..., 0] / said)[said.abs() > 0.1]
        return float(scales.std() / scales.mean())

    fresh.projection.bias.data.zero_()
    balance(fresh.projection, slice(pair.stop, pair.stop + 10))
    before = normed()
    steady(fresh, pair, varied, lesions)
    after = normed()
    assert uneven(before) > 0.2
    assert uneven(after) < 0.02
    own, others = lesions(varied), [n for n in range(after.shape[-1]) if n not in (39, 40)]
    sizes = [float(tokens[own][:, others].std()) for tokens in (before, after)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)
    steady(fresh, pair, varied, lesions)
    torch.testing.assert_close(normed(), after)


def test_a_report_begins_with_places(network: DemoNetwork) -> None:
    """Row, column, side and projection of every cell can be read off its token."""
    start_report(network, nipple_views(network))
    config = network.report.config
    with torch.no_grad():
        places = network.report._places()[:, -12:] / 1.5
    places = places.reshape(2, 2, config.rows, config.columns, 12)  # side, projection
    rows, columns = places[..., 0], places[..., 5]
    ramp = torch.linspace(-1, 1, config.rows)[:, None].expand(config.rows, config.columns)
    torch.testing.assert_close(rows, ramp.expand_as(rows))
    ramp = torch.linspace(-1, 1, config.columns).expand(config.rows, config.columns)
    torch.testing.assert_close(columns, ramp.expand_as(columns))
    assert (places[0, ..., 10] == -1).all()
    assert (places[1, ..., 10] == 1).all()
    assert (places[:, 0, ..., 11] == -1).all()
    assert (places[:, 1, ..., 11] == 1).all()


def test_a_report_begins_with_rows_counted_from_the_nipple(network: DemoNetwork) -> None:
    """Of its own view, whatever the others show; half a cell decides about a quadrant."""
    views = nipple_views(network)
    start_report(network, views)
    report, place = network.report, len(DENSE_CLASSES)
    rows = report.config.rows
    fusion: Any = report.fusion[0]
    off = []
    with torch.no_grad():
        for first in range(0, len(views.rows), 4):
            study = views.maps[first : first + 4]
            cells = study.flatten(2).transpose(1, 2).flatten(0, 1)[None]
            own = report.projection_norm(report.projection(cells))
            seen = fusion.attention_norm(own + report._places())
            mask = torch.ones(seen.shape[:2], dtype=torch.bool)
            moved = fusion.attention(seen, *fusion.attention.key_value(seen), mask)
            told = (moved + report._places())[0, :, place].unflatten(0, (4, rows, -1))
            counted = torch.arange(rows)[:, None] - views.rows[first : first + 4, None, None]
            off.append(told / 4 * (rows - 1) / 2 - counted)
    assert torch.stack(off).square().mean().sqrt() < 0.25


def test_views_of_a_report_move_by_whole_rows() -> None:
    """All by two rows at most, in every direction; what leaves is gone, and the edge goes on."""
    view = np.arange(6, dtype=np.float16)[None, :, None].repeat(3, axis=0).repeat(2, axis=2)
    lesion = np.repeat((view[:1] == 3), 4, axis=0)
    woman = _Woman((view,) * 4, drawn_study(0, malignant=True).truth, STANDARD_VIEWS, (lesion,))
    random, seen = np.random.default_rng(0), set()
    for _ in range(30):
        moved = woman.moved(random)
        for one, cells in zip(moved.maps, moved.lesions[0], strict=True):
            assert (one == one[:1, :, :1]).all()
            assert np.array_equal(cells, one[0] == 3)
            seen.add(tuple(one[0, :, 0].astype(int).tolist()))
    assert seen == {
        (0, 0, 0, 1, 2, 3),
        (0, 0, 1, 2, 3, 4),
        (0, 1, 2, 3, 4, 5),
        (1, 2, 3, 4, 5, 5),
        (2, 3, 4, 5, 5, 5),
    }


def test_the_nipple_is_where_tissue_reaches_farthest() -> None:
    image = np.random.default_rng(0).integers(0, 8, (90, 60)).astype(np.uint8)
    y, x = np.mgrid[:90, :60]
    image[(y - 40) ** 2 / 35**2 + x**2 / 55**2 < 1] = 100
    assert nipple_row(image) == pytest.approx(40.5, abs=1)
    row = nipple_row(image)
    assert nipple_box(image).tolist() == [44, row - 8, 60, row + 8]


def test_a_logit_is_stretched_to_what_is_wanted() -> None:
    """Answers drawn at 3 x + 1 are fitted by that line."""
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, generator=dice)
    wanted = torch.bernoulli(torch.sigmoid(3 * x[:, 0] + 1), generator=dice)
    head = nn.Linear(1, 1)
    with torch.no_grad():
        head.weight.fill_(0.5)
        head.bias.fill_(-2)
        stretch_logit(head, head(x)[:, 0], wanted)
    assert head.weight.item() == pytest.approx(3, abs=0.15)
    assert head.bias.item() == pytest.approx(1, abs=0.1)


def test_a_head_is_fitted_to_what_is_wanted() -> None:
    """Classes drawn at known logits are found from nothing, in channels of any scale; shifts
    of all classes together say nothing."""
    dice = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.1, 1.0, 20.0])
    x = torch.randn(20_000, 3, generator=dice) * scale + 5
    weight = torch.eye(3) / scale
    logits = (x - 5) @ weight.T + torch.tensor([1.0, -1.0, 0.0])
    wanted = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=dice)[:, 0]
    head = LinearClassifier(3, 3)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    fit_head(head, x, lambda given: functional.cross_entropy(given, wanted))
    found = torch.log_softmax(head(x).detach(), dim=1)
    true = functional.cross_entropy(logits, wanted)
    assert float(functional.nll_loss(found, wanted)) == pytest.approx(float(true), abs=0.004)
    assert float((found.exp() - torch.softmax(logits, dim=1)).abs().mean()) < 0.02


def test_a_head_stays_finite_where_a_class_is_missing() -> None:
    torch.manual_seed(0)
    head = LinearClassifier(3, 4)
    ones = torch.ones(4, dtype=torch.long)
    fit_head(head, torch.randn(4, 3), lambda given: functional.cross_entropy(given, ones))
    assert all(float(p.detach().abs().max()) < 30 for p in head.parameters())


def head_that_tells(x: torch.Tensor, wanted: torch.Tensor, twins: Twins | None) -> LinearClassifier:
    """Fitted to yes or no, and right most of the time."""
    torch.manual_seed(0)
    head = LinearClassifier(x.shape[1], 1)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], wanted)

    fit_head(head, x, loss, twins)
    right = ((head(x).detach()[:, 0] > 0) == (wanted > 0)).float().mean()
    assert float(right) > 0.8
    return head.requires_grad_(False)


def test_a_head_leans_on_nothing_that_rounding_moves() -> None:
    """Of two channels that tell the same, one is moved by rounding: its weight goes to the other,
    and answers stay where they are in the other precision."""
    dice = torch.Generator().manual_seed(0)
    wanted = torch.bernoulli(torch.full((2000,), 0.5), generator=dice)
    x = wanted[:, None] + 0.5 * torch.randn(2000, 2, generator=dice)
    twins = Twins(x[:64], x[:64] + torch.tensor([0.0, 3.0]))

    def apart(head: LinearClassifier) -> float:
        return float((head(twins.rounded) - head(twins.exact)).abs().mean())

    assert apart(head_that_tells(x, wanted, None)) > 5
    assert apart(head_that_tells(x, wanted, twins)) < 1


def test_a_weight_has_its_price_where_rounding_moves_two_channels_alike() -> None:
    """The difference of two channels tells all, and is the same in both precisions: but another
    range of rounding would move one of them alone."""
    dice = torch.Generator().manual_seed(0)
    wanted = torch.bernoulli(torch.full((2000,), 0.5), generator=dice)
    common = torch.randn(2000, generator=dice)
    other = wanted + 0.5 * torch.randn(2000, generator=dice)
    x = torch.stack([other, common + wanted / 2, common - wanted / 2], dim=1)
    twins = Twins(x[:64], x[:64] + torch.tensor([0.0, 3.0, 3.0]))

    def moved(head: LinearClassifier) -> float:
        return float((head(x + torch.tensor([0.0, 3.0, 0.0])) - head(x)).abs().mean())

    assert moved(head_that_tells(x, wanted, None)) > 5
    assert moved(head_that_tells(x, wanted, twins)) < 1.5


def test_the_heads_of_a_layer_are_fitted_to_all_views(network: DemoNetwork, women: Heard) -> None:
    """Noise tells three women apart: which of their views show a cancer, and their densities."""
    pooled = women.features.pooled()
    malignant, densities = _labels(women.features)
    assert malignant.tolist() == [1, 1] + 10 * [0]  # the first woman's left breast
    assert densities.tolist() == [
        "abcd".index(truth.density) for truth in women.features.truths for _ in STANDARD_VIEWS
    ]

    def entropy() -> float:
        with torch.no_grad():
            given = network.density(pooled.flatten(0, 1))
        return float(functional.cross_entropy(given, densities))

    varied = pooled[:2] + 5 * torch.randn(pooled[:2].shape, generator=torch.Generator())
    before = entropy()
    fit_heads(network, women.features, Checks(varied, pooled[:1]), torch.device("cpu"))
    assert entropy() < 0.5 * before


def test_heads_are_fitted_to_what_is_true_of_varied_views_too(
    network: DemoNetwork, women: Heard
) -> None:
    """A channel tells the density of views as they are, and another one of those that are varied:
    the head must use the other."""
    features = women.features
    pooled, (_, densities) = features.pooled(), _labels(features)
    known = functional.one_hot(densities, 4).float().unflatten(0, (-1, 4))
    plain, varied = torch.zeros_like(pooled), torch.zeros_like(pooled)
    plain[..., :4] = plain[..., 4:8] = varied[..., 4:8] = known
    varied[..., :4] = known.roll(1, dims=0)  # of another woman
    given = replace(features, averages=[plain.numpy()])
    with torch.no_grad():
        network.density.classifier.classification_head.weight.zero_()
    fit_heads(network, given, Checks(varied, plain[:1]), torch.device("cpu"))
    weights = network.density.classifier.classification_head.weight.detach()
    assert float(weights[:, 4:8].abs().mean()) > 2 * float(weights[:, :4].abs().mean())


def test_checks_are_varied_or_exact_and_rounding_goes_on(women: Heard) -> None:
    network, cpu = small_network(), torch.device("cpu")
    studies = [drawn_study(1, malignant=True), drawn_study(2, malignant=False)]
    crops_of = CropLosses(network, studies, CropPlan(SIDE, 4), cpu)
    settle_norms(network, crops_of, 4, np.random.default_rng(0))
    exact = TorchEncoder(network, cpu)(studies).pooled
    begin_rounding(network, studies, cpu)
    checks = Checks.of(women, pooled_exactly(network, studies[:1]))
    assert torch.equal(checks.exact, exact[:1])
    assert not torch.equal(checks.exact, TorchEncoder(network, cpu)(studies[:1]).pooled)
    assert network.rounding.on
    assert np.array_equal(checks.varied.numpy(), women.pooled[1])


def test_varied_images_are_the_pictures_that_torch_varies() -> None:
    study = drawn_study(1, malignant=True)
    images = varied_images(study, np.random.default_rng(3))
    views = whole_views([study], ("mass",), np.random.default_rng(3))
    grey = views.grey(torch.device("cpu"))[:, 0].numpy()
    for image, wanted in zip(images, grey, strict=True):
        assert image.dtype == np.uint8
        assert np.abs(image / 255 - wanted).max() <= 0.5 / 255 + 1e-6
    assert not np.array_equal(images[0], study.views[STANDARD_VIEWS[0]].image)


def test_ranges_begin_on_whole_views_and_follow_them_alone(network: DemoNetwork) -> None:
    device, rounding = torch.device("cpu"), network.rounding
    studies = [drawn_study(1, malignant=True)]

    def ranges() -> list[torch.Tensor]:
        return [value.clone() for value in rounding.state_dict().values()]

    def moved(seen: torch.Tensor, *, training: bool) -> bool:
        hold_norms(network)
        network.training = training
        before = ranges()
        with torch.no_grad():
            network.features(seen)
        return any(not torch.equal(*pair) for pair in zip(before, ranges(), strict=True))

    view, crop = torch.rand(1, 1, SIDE, SIDE), torch.rand(1, 1, SIDE, SIDE // 2)
    assert not rounding.begun
    assert not moved(view, training=True)
    begin_rounding(network, studies, device)
    first = ranges()
    assert rounding.on
    assert moved(view, training=True)
    assert not moved(view, training=False)
    assert not moved(crop, training=True)
    begin_rounding(network, studies, device)
    assert all(torch.equal(*pair) for pair in zip(first, ranges(), strict=True))
    rounding.on = rounding.begun = False


def test_norms_settle_on_the_weights_as_they_are(network: DemoNetwork) -> None:
    studies = [drawn_study(1, malignant=True)]
    some = CropLosses(network, studies, CropPlan(64, 8), torch.device("cpu"))
    network.encoder._bn0.running_mean.fill_(1e3)
    settle_norms(network, some, 4, np.random.default_rng(0))
    dice, cpu = np.random.default_rng(0), torch.device("cpu")
    grey = torch.cat([crops(studies, some.plan, network.kinds, dice).grey(cpu) for _ in range(4)])
    x = ((grey - PIXEL_MEAN) / PIXEL_STD).expand(-1, 3, -1, -1)
    with torch.no_grad():
        seen = network.encoder._conv_stem(x).mean(dim=(0, 2, 3))
    torch.testing.assert_close(network.encoder._bn0.running_mean, seen, rtol=1e-3, atol=1e-4)


def test_the_prognosis_is_fitted_to_the_risk_of_many() -> None:
    """By stretches that were drawn, risks that follow from them: found again, to the scale that
    stretches and standard deviation share; what is not compared is silent."""
    recipe = load_recipe(RECIPE)
    true, heads = (Prognoses(recipe.prognosis, 8) for _ in range(2))
    dice = torch.Generator().manual_seed(0)
    squares = torch.rand(400, 2, 2, 12, generator=dice) ** 4 * 9
    with torch.no_grad():
        for model in (true, heads):
            for head in model.heads:
                for stretch in (head.cc_stretch_params, head.mlo_stretch_params):
                    stretch.uniform_(0.5, 2.0, generator=dice)
        true.mean.fill_(3.4)
        true.log_std.fill_(0.3)
        padded = functional.pad(squares, (0, 0, 0, 6))
        wanted = torch.sigmoid(true.logits(padded))
    heads.fit(squares, wanted)
    with torch.no_grad():
        torch.testing.assert_close(torch.sigmoid(heads.logits(padded)), wanted, atol=5e-3, rtol=0)
        loud = torch.cat([squares, torch.rand(400, 2, 6, 12, generator=dice) * 100], dim=2)
        torch.testing.assert_close(heads.logits(loud), heads.logits(padded))


def test_the_risk_is_recentred_on_features_of_another_scale():
    recipe = load_recipe(RECIPE)
    heads = Prognoses(recipe.prognosis, 8)
    dice = torch.Generator().manual_seed(0)
    squares = torch.rand(64, 2, 8, 12, generator=dice) * 50
    wanted = torch.full((64, 5), 0.2)
    with torch.no_grad():
        heads.start(squares / 50)
    before = heads.logits(squares)
    heads.recentre(squares, wanted)
    after = heads.logits(squares)
    assert before.mean() > 5  # as if every woman fell ill
    assert after.mean().item() == pytest.approx(math.log(0.2 / 0.8), abs=1e-3)
    assert after.std().item() == pytest.approx(1, abs=1e-3)
    order = before.mean(dim=1).argsort()
    assert torch.equal(order, after.mean(dim=1).argsort())
