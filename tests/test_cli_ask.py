"""`mammofm-lite ask` as a user meets it: a process, its two streams and its files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from mammofm_lite.ask import ask_schema
from mammofm_lite.phantom import PhantomOptions, write_phantom

VIEWS = ("L-CC", "L-MLO", "R-CC", "R-MLO")
TEXTS = ("spiculated mass", "no suspicious calcification")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from mammofm_lite.cli import main; main()"]
    return subprocess.run(
        command + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def fails(done: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    """One clear line on stderr, nothing on stdout, the right status."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    options = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    write_phantom(folder, seed=3, options=options)
    return folder


@pytest.fixture(scope="module")
def bundle(ask_bundle: Any) -> Path:
    path: Path = ask_bundle.path
    return path


@pytest.fixture(scope="module")
def asked(
    study: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    output = tmp_path_factory.mktemp("results") / "out"
    done = run("ask", study, *TEXTS, "--bundle", bundle, "-o", output)
    assert done.returncode == 0, done.stderr
    return output, done


def test_the_table(asked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """A row per text, the highest first, with the numbers of the JSON in aligned columns."""
    output, done = asked
    answers = json.loads((output / "ask.json").read_text())["texts"]
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("TEXTS, highest first"))
    head, *rows = lines[start + 1 : start + 4]
    assert head.split() == ["study", "right", "left", *VIEWS, "text"]
    ranked = sorted(range(2), key=lambda i: -answers[i]["study"])
    for row, index in zip(rows, ranked, strict=True):
        answer = answers[index]
        assert row.endswith(f" {answer['text']}")
        assert row.index(answer["text"]) == head.index("text")
        number, *values = row[: head.index("text")].split()
        assert number == str(index + 1)
        wanted = [answer["study"], answer["breasts"]["R"], answer["breasts"]["L"]]
        wanted += [answer["views"][view]["similarity"] for view in VIEWS]
        assert values == [f"{value:+.4f}" for value in wanted]
    assert len([line for line in lines if "columns" in line and "rows" in line]) == 8


def test_notices(asked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    text = asked[1].stdout
    for words in ("a ranking, not probabilities", "Not a medical device", "SYNTHETIC WEIGHTS"):
        assert words in text


def test_files_are_named_by_number(asked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    names = {path.name for path in asked[0].iterdir()}
    assert names == {"ask.json", *(f"ask-{n}-{view}.png" for n in (1, 2) for view in VIEWS)}
    jsonschema.validate(json.loads((asked[0] / "ask.json").read_text()), ask_schema())


def test_progress_tells_no_text(asked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert "text 1 of 2" in asked[1].stderr
    assert "ask L-CC" in asked[1].stderr
    assert "spiculated" not in asked[1].stderr


def test_pictures_tint_where_the_view_agrees(
    asked: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """The cell of the text's greatest agreement in the study is coloured, and two texts differ."""
    answers = json.loads((asked[0] / "ask.json").read_text())["texts"]
    views = answers[0]["views"]
    best = max(views, key=lambda view: views[view]["peak"]["agreement"])
    first, second = (
        np.asarray(Image.open(asked[0] / f"ask-{n}-{best}.png")).astype(int) for n in (1, 2)
    )
    scale = 1600 / 1147  # the longer side of the view in the picture
    x1, y1, x2, y2 = (round(edge * scale) for edge in views[best]["peak"]["box_px"])
    middle = first[(y1 + y2) // 2 - 5 : (y1 + y2) // 2 + 5, (x1 + x2) // 2 - 5 : (x1 + x2) // 2 + 5]
    assert (middle.max(axis=-1) - middle.min(axis=-1)).min() > 40  # yellow on grey
    assert np.abs(first[: round(1147 * scale)] - second[: round(1147 * scale)]).max() > 40


def test_json_alone(study: Path, bundle: Path, asked: Any) -> None:
    done = run("ask", study, *TEXTS, "--bundle", bundle, "--json", "-q")
    assert done.stderr == ""
    assert json.loads(done.stdout) == json.loads((asked[0] / "ask.json").read_text())


def test_results_are_replaced_only_when_told(study: Path, bundle: Path, asked: Any) -> None:
    output = asked[0]
    again = ("ask", study, "mass", "--bundle", bundle, "-o", output, "-q")
    fails(run(*again), 2, "the output folder already has ask.json; give --force")
    done = run(*again, "--force")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in output.iterdir()}
    assert names == {"ask.json", *(f"ask-1-{view}.png" for view in VIEWS)}


def test_a_bundle_that_carries_no_text_encoder(study: Path) -> None:
    fails(run("ask", study, "mass", "-q"), 4, "carries no text encoder; export it anew")


def test_a_text_is_not_repeated(study: Path, bundle: Path) -> None:
    done = run("ask", study, "mass", "Erika Musterfrau", "--bundle", bundle, "-q")
    fails(done, 2, "text 2 holds a word or sign")
    assert "Muster" not in done.stderr


def test_wrong_usage(study: Path) -> None:
    assert run("ask", study).returncode == 2
    fails(run("ask", study, "mass", "--force"), 2, "give -o")
    assert "finding" in run("ask", "--help").stdout
