"""nnrules: from a dataset's fingerprint to an explained segmentation plan, by versioned rules."""

__version__ = "0.1.0"
