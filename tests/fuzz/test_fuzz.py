"""A short fuzz of everything that is read: only our own errors come out.

``python tests/fuzz/run.py --count 20000`` does more, in processes with limits of memory and time.
"""

import importlib.util
import io
import json
import re
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, generate_frames

HERE = Path(__file__).parent


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_targets", HERE / "targets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


fuzz = _load()

MUTATIONS = st.lists(
    st.builds(
        fuzz.Mutation,
        st.sampled_from(fuzz.KINDS),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, (1 << 32) - 1),
    ),
    min_size=1,
    max_size=6,
)


def survives(target: str, which: int, mutations: list[Any]) -> None:
    seeds, read = fuzz.TARGETS[target]
    read(fuzz.mutate(seeds()[which % len(seeds())], mutations))


@pytest.mark.parametrize("target", list(fuzz.TARGETS))
def test_seeds_are_accepted(target: str) -> None:
    """Otherwise all mutants would be refused for one and the same reason."""
    seeds, read = fuzz.TARGETS[target]
    assert [read(seed) for seed in seeds()] == ["accepted"] * len(seeds())


@given(st.integers(0, 100), MUTATIONS)
@settings(max_examples=1000, deadline=None)
def test_studies(which: int, mutations: list[Any]) -> None:
    survives("study", which, mutations)


@given(st.integers(0, 100), MUTATIONS)
@settings(max_examples=1000, deadline=None)
def test_code_streams(which: int, mutations: list[Any]) -> None:
    survives("codestream", which, mutations)


@given(st.integers(0, 1), MUTATIONS)
@settings(max_examples=500, deadline=None)
def test_descriptions(which: int, mutations: list[Any]) -> None:
    survives("bundle", which, mutations)


@given(st.integers(0, 1), MUTATIONS)
@settings(max_examples=200, deadline=None)
def test_descriptions_in_c(which: int, mutations: list[Any]) -> None:
    survives("c bundle", which, mutations)


@given(st.integers(0, 1), MUTATIONS)
@settings(max_examples=300, deadline=None)
def test_grammars(which: int, mutations: list[Any]) -> None:
    survives("grammar", which, mutations)


@given(MUTATIONS)
@settings(max_examples=200, deadline=None)
def test_tokenizers(mutations: list[Any]) -> None:
    survives("tokenizer", 0, mutations)


def test_a_zip_member_without_name() -> None:
    """Found by the fuzzer: the standard library asks for the last letter of its name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"x")
    data = bytearray(packed.getvalue())
    head = data.index(b"PK\1\2")
    data[head + 28 : head + 30] = b"\0\0"  # length of the name, and the name itself
    del data[head + 46]
    end = data.index(b"PK\5\6")
    data[end + 12 : end + 16] = (end - head).to_bytes(4, "little")
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        assert [item.filename for item in archive.infolist()] == [""]
    assert fuzz.read_a_study(bytes(data)) == "refused"


def test_the_long_fuzzer_runs_and_reports_what_it_finds(tmp_path: Path) -> None:
    """Its own alarm works: a target that fails on one mutant is told with its number."""
    command = [sys.executable, HERE / "run.py", "--target", "bundle", "--count", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["mutants"] == report["accepted"] + report["refused"] == 40
    assert report["defects"] == []
    # Too little memory to start: every worker dies, and that is told, not taken for success.
    command += ["--memory-gib", "0.01", "--workers", "1", "--count", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["defects"]


@pytest.mark.parametrize(("coding", "marker"), [("jpeg-ls", b"\xff\xf7"), ("rle", b"")])
@pytest.mark.parametrize("side", [11_600, 32_768])
def test_a_small_file_that_claims_a_huge_image(coding: str, marker: bytes, side: int) -> None:
    """8 KB of JPEG-LS made CharLS allocate gigabytes before it found the rest missing."""
    make = fuzz._conftest()
    pixels = np.random.default_rng(1).integers(0, 4096, (64, 64))
    ds = make.encoded(pixels, coding, bits=12)
    frame = bytearray(next(generate_frames(ds.PixelData, number_of_frames=1)))
    if marker:
        head = frame.index(marker)
        frame[head + 5 : head + 9] = struct.pack(">HH", side, side)
    ds.Rows = ds.Columns = side
    ds["PixelData"].value = encapsulate([bytes(frame)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fuzz.read_a_study(make.file_bytes(ds, make.SYNTAXES[coding])) == "refused"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_the_guided_fuzzer_finds_its_way_into_our_code(tmp_path: Path) -> None:
    """Mutants that reach new code are kept: without instruments none would be."""
    done = subprocess.run(
        [sys.executable, str(HERE / "guided.py"), "bundle", "-runs=300", "-seed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kept = re.search(r"DONE\s+cov: \d+ ft: \d+ corp: (\d+)/", done.stderr)
    assert kept is not None, done.stderr[-2000:]
    assert int(kept[1]) > 2
    assert not list(tmp_path.iterdir())
