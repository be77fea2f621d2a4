"""One file that predicts anywhere: plan, networks, the empirical choice, a licence and a card. No code, no pickle."""

from nnrules_runtime.bundle.reading import Bundle, open_bundle
from nnrules_runtime.bundle.texts import read_licence
from nnrules_runtime.bundle.writing import write_bundle

__all__ = ["Bundle", "open_bundle", "read_licence", "write_bundle"]
