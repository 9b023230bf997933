"""DICOM studies: which files are the four standard views, and their pixels.

`read_study` looks at the heads of the files and decides; `read_pixels` decodes one chosen view.
Nothing is guessed, every file gets a decision, and no message names a path or a patient.

>>> from pathlib import Path
>>> from mammofm_lite.dicom import read_pixels, read_study
>>> study = read_study(Path("study"))                  # doctest: +SKIP
>>> pixels = read_pixels(study.views["L-CC"])          # doctest: +SKIP
"""

from ._display import VoiLut
from ._origin import PATIENT_IDENTITY, Origin, read_origin
from ._pixels import GivenPixels, read_pixels
from ._study import read_study
from ._types import FileDecision, Instance, ReadOptions, Study

__all__ = [
    "PATIENT_IDENTITY",
    "FileDecision",
    "GivenPixels",
    "Instance",
    "Origin",
    "ReadOptions",
    "Study",
    "VoiLut",
    "read_origin",
    "read_pixels",
    "read_study",
]
