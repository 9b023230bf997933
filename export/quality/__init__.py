"""How good a bundle's answers are on phantoms whose truth is known, and its model card.

Nothing here needs torch: the bundle is asked through the public interface of the runtime.
"""

from .card import model_card
from .evaluation import EvaluationOptions, evaluate
from .tables import table

__all__ = ["EvaluationOptions", "evaluate", "model_card", "table"]
