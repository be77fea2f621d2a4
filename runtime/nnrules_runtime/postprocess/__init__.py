"""Postprocessing of segmentations: what is not of the largest component is removed."""

from nnrules_runtime.postprocess.components import Components
from nnrules_runtime.postprocess.steps import BYTES_PER_VOXEL, Postprocessing, Step

__all__ = ["BYTES_PER_VOXEL", "Components", "Postprocessing", "Step"]
