"""Tools for people who write rules: list, show, lint, test with coverage, lock."""
