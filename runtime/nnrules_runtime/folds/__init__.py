"""Which cases train and which validate: the plan's policy, or a file of the user's own."""

from nnrules_runtime.folds.division import Division
from nnrules_runtime.folds.policy import ALL, Fold, FoldPolicy, Groups, split_folds

__all__ = ["ALL", "Division", "Fold", "FoldPolicy", "Groups", "split_folds"]
