"""nnrules: from a dataset's fingerprint to an explained segmentation plan, by versioned rules."""
