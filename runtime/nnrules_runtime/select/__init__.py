"""The empirical choice: the model or pair that cross-validation favours, and the postprocessing that helps it."""

from nnrules_runtime.select.best import find_best
from nnrules_runtime.select.cross_validation import write_cross_validation
from nnrules_runtime.select.empirical import Empirical

__all__ = ["Empirical", "find_best", "write_cross_validation"]
