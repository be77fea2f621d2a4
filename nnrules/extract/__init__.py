"""Extraction of a fingerprint from images."""

from nnrules.extract.extractors import CaseExtractor
from nnrules.extract.pipeline import extract_fingerprint

__all__ = ["CaseExtractor", "extract_fingerprint"]
