"""The empirical choice: the model or pair that cross-validation favours, and the postprocessing that helps it."""

from nnrules_runtime.select.best import find_best
from nnrules_runtime.select.cross_validation import write_cross_validation
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.select.rules import ChoiceRules
from nnrules_runtime.select.stated import configurations_for_few, stated_choice, stated_configuration

__all__ = [
    "ChoiceRules",
    "Empirical",
    "configurations_for_few",
    "find_best",
    "stated_choice",
    "stated_configuration",
    "write_cross_validation",
]
