"""One size for most tests: a whole breast at a coarse pixel, in a tenth of a second."""

import pytest

from mammofm_lite.phantom import PhantomOptions


@pytest.fixture(scope="session")
def small() -> PhantomOptions:
    """287 x 240 pixels of 0.8 mm: the default field."""
    return PhantomOptions(rows=287, columns=240, pixel_spacing_mm=0.8)
