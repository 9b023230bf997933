"""The recipe of a trained model: the shipped one with its measured numbers filled in."""

import re
from dataclasses import asdict

from mammofm_lite.errors import ExportError

from .points import Points

__all__ = ["filled_recipe"]


def filled_recipe(text: str, points: Points) -> str:
    """Put the measured numbers into the lines ``key = 0.5  # measured: NAME`` of a recipe.

    Raises
    ------
    ExportError
        The recipe lacks such a line, or has it more than once.
    """
    for name, value in asdict(points).items():
        line = re.compile(rf"^(\w+) = \S+(  # measured: {name})$", re.MULTILINE)
        text, count = line.subn(rf"\g<1> = {value:.6g}\g<2>", text)
        if count != 1:
            raise ExportError(f"the recipe needs one line with '# measured: {name}', has {count}")
    return text
