"""A file that is put into a bundle is listed, and voids its signature."""

import shutil
from pathlib import Path

import pytest

from mammofm_lite import BundleError
from mammofm_lite.bundle import Bundle, demo_bundle_path
from mammofm_lite.export.bundle_files import put_file


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_bundle_path(), tmp_path / "demo.mfm"))


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "new.json"])
def test_it_is_listed_and_verified(bundle: Path, name: str) -> None:
    (bundle / "bundle.sig").write_text("void")
    before = Bundle.open(bundle)
    after = put_file(bundle, name, b"text")
    assert after.files[name].bytes == 4
    assert {**before.files, name: after.files[name]} == dict(after.files)
    assert not (bundle / "bundle.sig").exists()
    (bundle / name).write_text("TEXT")
    with pytest.raises(BundleError, match=f"{name} was altered"):
        Bundle.open(bundle)


def test_a_broken_bundle_is_left_alone(bundle: Path) -> None:
    (bundle / "grammar.json").write_text("{}")
    with pytest.raises(BundleError, match=r"grammar\.json has 2 bytes"):
        put_file(bundle, "new.json", b"text")
    assert not (bundle / "new.json").exists()
