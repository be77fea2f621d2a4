"""Resampling between grids: exact against scikit-image's ``resize``, at a few passes over memory.

It needs NumPy alone, so that worker processes start fast.
"""

from nnrules_runtime.resampling.interpolate import zoom
from nnrules_runtime.resampling.labels import LabelRule, zoom_labels
from nnrules_runtime.resampling.operators import AxisOperator, axis_operator, nearest_index
from nnrules_runtime.resampling.resampler import Resampler, SeparateAxis, new_shape

__all__ = [
    "AxisOperator",
    "LabelRule",
    "Resampler",
    "SeparateAxis",
    "axis_operator",
    "nearest_index",
    "new_shape",
    "zoom",
    "zoom_labels",
]
