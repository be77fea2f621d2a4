"""The builtins of the rule language, by name.

``has(name)`` and ``updated(record, field=value, …)`` belong to the language itself and are compiled directly.
"""

from nnrules.functions import collections, numbers, vectors
from nnrules.functions.catalog import BUILTINS, Builtin, TypingError

__all__ = ["BUILTINS", "Builtin", "TypingError", "collections", "numbers", "vectors"]
