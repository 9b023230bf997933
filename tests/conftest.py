"""Fixtures shared by all tests: where the reference vectors and the real exam are, if present."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, so that a failure is ours and not the dice's. To look further:
# HYPOTHESIS_PROFILE=explore.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"{what} not present beside this checkout")
    return path


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden vectors of the reference model; skips where they are absent."""
    return _folder(SHARED / "reference", "reference vectors")


@pytest.fixture(scope="session")
def real_exam() -> Path:
    """One real four-view exam; skips where it is absent."""
    return _folder(SHARED / "data" / "real-exam", "the real exam")
