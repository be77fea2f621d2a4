"""``python -m nnrules``."""

from nnrules.cli import main

main()
