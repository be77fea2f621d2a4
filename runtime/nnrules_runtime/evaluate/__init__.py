"""Scores of predictions: overlap, surfaces and volumes, by case, class and region."""

from nnrules_runtime.evaluate.case import EvaluationCase
from nnrules_runtime.evaluate.conventions import EvaluatedClass, Evaluation
from nnrules_runtime.evaluate.pairs import find_pairs
from nnrules_runtime.evaluate.run import evaluate_cases
from nnrules_runtime.evaluate.summary import Summary

__all__ = ["EvaluatedClass", "Evaluation", "EvaluationCase", "Summary", "evaluate_cases", "find_pairs"]
