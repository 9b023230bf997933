"""Synthetic four-view screening mammograms with a known truth; no patient is in them.

They serve to try, test and measure the whole way from DICOM files to results, and to train the
demonstration bundle. They are a plain likeness, not a model of disease: nothing that a network
scores on them says how it would do on women.
"""

from ._options import PhantomOptions
from ._render import render_phantom
from ._syntax import TRANSFER_SYNTAXES
from ._truth import PhantomLesion, PhantomPrecursor, PhantomTruth
from ._write import write_phantom

__all__ = [
    "TRANSFER_SYNTAXES",
    "PhantomLesion",
    "PhantomOptions",
    "PhantomPrecursor",
    "PhantomTruth",
    "render_phantom",
    "write_phantom",
]
