"""A float bundle becomes a measured INT8 bundle: whole or not at all, told in full."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammofm_lite import BundleError, Model
from mammofm_lite.bundle import SIGNATURE, Bundle, file_record
from mammofm_lite.errors import ExportError
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.quant import build as module
from mammofm_lite.quant import control
from mammofm_lite.quant.build import QuantizeOptions, quantize_bundle
from mammofm_lite.quant.gates import Gates
from mammofm_lite.quant.studies import StudyChoice

# Random weights: what is asked of trained ones would mean nothing here.
OPEN = Gates(0, 0, 1, 0, 1, 0, 0)


def described(bundle: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    return value


@pytest.fixture(scope="module")
def options(studies: Path) -> QuantizeOptions:
    return QuantizeOptions(StudyChoice(studies), OPEN, threads=1)


@pytest.fixture(scope="module")
def made(
    tiny: Path,
    options: QuantizeOptions,
    small: PhantomOptions,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[str]]:
    """The tiny bundle in INT8, and what was told."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny, folder / "restricted.mfm")
    (folder / "restricted.mfm" / SIGNATURE).write_text("of the float bundle")
    description = described(folder / "restricted.mfm")
    description["weights"] |= {"licence": "LicenseRef-X", "notice": "Only X.", "restricted": True}
    (folder / "restricted.mfm" / "bundle.json").write_text(json.dumps(description))
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.cost, "_REPEATS", 1)
        patch.setattr(module.cost, "_STUDY_REPEATS", 1)
        patch.setattr(module.cost, "write_phantom", partial(write_phantom, options=small))
        quantize_bundle(folder / "restricted.mfm", folder / "int8.mfm", options, tell=lines.append)
    return folder / "int8.mfm", lines


def test_the_description_is_the_same_but_for_what_changed(
    made: tuple[Path, list[str]], tiny: Path
) -> None:
    before, after = described(tiny), described(made[0])
    assert after["precision"] == "int8"
    assert after["weights"] == {
        "synthetic": True,
        "licence": "LicenseRef-X",
        "notice": "Only X.",
        "restricted": True,
    }
    for changing in ("precision", "weights", "files", "provenance", "self_check"):
        del before[changing], after[changing]
    assert before == after


def test_origin_and_check_are_extended(made: tuple[Path, list[str]], tiny: Path) -> None:
    before, after = described(tiny), described(made[0])
    for key in ("provenance", "self_check"):
        added = after[key].pop("quantization")
        assert after[key] == before[key]
        assert added
    source = described(made[0])["provenance"]["quantization"]["source"]
    restricted = made[0].with_name("restricted.mfm")
    assert source["sha256"] == Bundle.open(restricted).sha256
    assert source["precision"] == "f32_f16_weights"


def test_files_are_listed_and_the_signature_is_not_carried_over(
    made: tuple[Path, list[str]], tiny: Path
) -> None:
    opened = Bundle.open(made[0])
    names = {path.name for path in made[0].iterdir()}
    assert names == set(opened.files) | {"bundle.json"}
    assert set(opened.files) - set(Bundle.open(tiny).files) == {
        "quantization.json",
        "QUANTIZATION.md",
    }
    for name in ("head_diagnosis.bin", "head_prognosis.bin", "grammar.json", "tokenizer.json"):
        assert opened.files[name] == file_record(tiny / name)
    encoder = "encoder_view.bin"
    assert opened.files[encoder].bytes < 0.7 * file_record(tiny / encoder).bytes


def test_the_runtime_answers_with_it_and_says_so(
    made: tuple[Path, list[str]], studies: Path
) -> None:
    result = Model.load(made[0], threads=1).infer(studies / "a")
    assert {head.status for head in result.heads.values()} == {"answered"}
    assert result.model.precision == "int8"
    assert any("restricted: Only X." in notice for notice in result.notices)


def test_the_report_holds_every_figure(made: tuple[Path, list[str]]) -> None:
    report = json.loads((made[0] / "quantization.json").read_text())
    assert set(report) == {
        *("source", "studies", "settings", "gates", "failures", "graphs", "heads", "truth"),
        *("machine", "versions", "cost"),
    }
    encoder = report["graphs"]["encoder_view.xml"]
    assert encoder["layers"] == 2 + 10 * 4 + 9
    assert len(encoder["float_layers"]) == 2 * 10
    assert [drift["output"] for drift in encoder["outputs"]] == ["c3", "c4", "c5", "map", "pooled"]
    assert all(0.9 < drift["cosine"] <= 1 for drift in encoder["outputs"])
    assert set(report["heads"]) == {"diagnosis", "localization", "prognosis", "report"}
    assert report["studies"]["held_out_studies"] == 1
    cost = report["cost"]
    assert cost["size"]["int8_bytes"] < cost["size"]["float_bytes"]
    assert set(cost["graphs"]) == {"encoder_view.xml", "head_localization.xml"}
    assert min(cost["memory"].values()) > 50
    types = cost["graphs"]["encoder_view.xml"]["convolutions_by_type"]
    assert types["u8"] + types.get("i8", 0) == 51 - 20


def test_markdown_and_card_say_the_same(made: tuple[Path, list[str]], tiny: Path) -> None:
    report = json.loads((made[0] / "quantization.json").read_text())
    text = (made[0] / "QUANTIZATION.md").read_text()
    pooled = report["graphs"]["encoder_view.xml"]["outputs"][-1]
    assert f"| encoder_view.xml | pooled | {pooled['sqnr_db']:.1f} |" in text
    assert "**Within every gate.**" in text
    assert "signature" in text
    assert report["machine"]["cpu"] in text
    card = (made[0] / "MODEL_CARD.md").read_text()
    assert card.startswith((tiny / "MODEL_CARD.md").read_text())
    assert "## Quantization" in card


def test_progress_is_told_phase_by_phase(made: tuple[Path, list[str]]) -> None:
    assert {line[:5] for line in made[1] if line.startswith("[")} == {
        f"[{n}/5]" for n in range(1, 6)
    }
    assert any("times as fast" in line for line in made[1])


def test_an_int8_bundle_is_refused(
    made: tuple[Path, list[str]], options: QuantizeOptions, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="'mammofm-demo' is INT8 already; quantize the float"):
        quantize_bundle(made[0], tmp_path / "x.mfm", options)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_stays(
    made: tuple[Path, list[str]], tiny: Path, options: QuantizeOptions
) -> None:
    before = (made[0] / "bundle.json").read_bytes()
    with pytest.raises(ExportError, match="exists; give --force to replace it"):
        quantize_bundle(tiny, made[0], options)
    assert (made[0] / "bundle.json").read_bytes() == before


def test_no_bundle_is_told(options: QuantizeOptions, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle directory"):
        quantize_bundle(tmp_path / "none", tmp_path / "x.mfm", options)


def test_drift_above_the_gate_writes_nothing(
    boxless: Path, options: QuantizeOptions, tmp_path: Path
) -> None:
    strict = replace(options, gates=replace(OPEN, pooled_cosine=1.0), rounds=0)
    with pytest.raises(
        ExportError,
        match=r"drifts above the gate \(encoder_view\.xml: pooled cosine 0\.9\d+ is below 1\); "
        "nothing was written",
    ):
        quantize_bundle(boxless, tmp_path / "x.mfm", strict)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_accepted_drift_is_written_down_and_rounds_give_precision_back(
    boxless: Path,
    options: QuantizeOptions,
    made: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One round on an encoder that cannot pass: it gets better, and the bundle tells the rest."""
    monkeypatch.setattr(control, "_RUNS", 3)
    gates = replace(OPEN, map_cosine=1.0)
    accepting = replace(options, gates=gates, rounds=1, accept_drift=True)
    lines: list[str] = []
    quantize_bundle(boxless, tmp_path / "x.mfm", accepting, tell=lines.append)
    report = json.loads((tmp_path / "x.mfm" / "quantization.json").read_text())
    plain = json.loads((made[0] / "quantization.json").read_text())
    ours, theirs = (one["graphs"]["encoder_view.xml"] for one in (report, plain))
    assert ours["given_back"]
    assert theirs["given_back"] == []
    assert set(ours["given_back"]) <= set(ours["float_layers"])
    least = [min(drift["cosine"] for drift in one["outputs"]) for one in (ours, theirs)]
    assert least[0] > least[1]
    assert {failure["where"] for failure in report["failures"]} == {"encoder_view.xml"}
    assert any("round 1 of 1" in line for line in lines)
    assert any("accepted by --accept-drift" in line for line in lines)
    assert "DRIFT ABOVE THE GATE" in (tmp_path / "x.mfm" / "QUANTIZATION.md").read_text()
    assert "DRIFT ABOVE THE GATE" in (tmp_path / "x.mfm" / "MODEL_CARD.md").read_text()


@pytest.mark.usefixtures("quick")
def test_a_head_that_drifts_gets_its_graphs_back_and_graphs_are_repeatable(
    boxless: Path,
    options: QuantizeOptions,
    made: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report that may never pass: its two graphs are the float ones again."""
    real = module.head_drifts

    def drifting(*given: Any) -> Any:
        drifts = real(*given)
        return {**drifts, "report": {**drifts["report"], "recall_equal": 0.0}}

    monkeypatch.setattr(module, "head_drifts", drifting)
    gates = replace(OPEN, report_recall=1.0)
    once = replace(options, gates=gates, rounds=1, accept_drift=True)
    quantize_bundle(boxless, tmp_path / "x.mfm", once)
    opened, before, quantized = map(Bundle.open, (tmp_path / "x.mfm", boxless, made[0]))
    for name in ("head_report_decoder.bin", "head_report_fusion.bin"):
        assert opened.files[name] == before.files[name]
        assert quantized.files[name] != before.files[name]
    # The same studies give the same bytes.
    assert opened.files["encoder_view.bin"] == quantized.files["encoder_view.bin"]
    report = json.loads((tmp_path / "x.mfm" / "quantization.json").read_text())
    entry = report["graphs"]["head_report_fusion.xml"]
    assert entry == {"treatment": "keep", "reason": "given back: the answers of report drifted"}


def test_the_command_line_says_what_is_missing(tiny: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        code = f"import sys; sys.argv[1:] = {list(arguments)!r}; "
        code += "sys.argv.insert(1, 'quantize'); from mammofm_lite.cli import main; main()"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 4, done.stderr
        assert done.stdout == ""
        return done.stderr

    told = refused(str(tiny), "-o", str(tmp_path / "x.mfm"))
    assert "nothing to calibrate on: give --calibration DIR or --phantoms N" in told


def test_features_stay_close(made: tuple[Path, list[str]], tiny: Path, studies: Path) -> None:
    """By the runtime alone, apart from the quantizer's own figures."""
    models = [Model.load(path, threads=1) for path in (tiny, made[0])]
    answers = [model.infer(studies / "a").diagnosis for model in models]
    changes = []
    for view in ("L-CC", "R-MLO"):
        pair = [answer.views[view] for answer in answers if answer]
        for one, other in zip(*pair, strict=True):
            ours, theirs = one.probabilities.values(), other.probabilities.values()
            changes.append(np.abs(np.subtract(list(ours), list(theirs))).max())
    assert 0 < max(changes) < 0.1


@pytest.mark.usefixtures("quick")
def test_a_head_without_graphs_to_give_back_takes_from_its_encoder(
    boxless: Path, options: QuantizeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diagnosis is float already: when its answers drift, the encoder's layers are what is left."""
    monkeypatch.setattr(control, "_RUNS", 2)
    monkeypatch.setattr(control, "_RANKING_VIEWS", 1)
    strict = replace(options, gates=replace(OPEN, probability=0.0), rounds=1, accept_drift=True)
    quantize_bundle(boxless, tmp_path / "x.mfm", strict)
    report = json.loads((tmp_path / "x.mfm" / "quantization.json").read_text())
    assert report["graphs"]["encoder_view.xml"]["given_back"]
    assert {failure["where"] for failure in report["failures"]} == {"diagnosis"}
    assert report["graphs"]["head_report_fusion.xml"] == {"treatment": "compress"}
