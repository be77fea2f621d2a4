"""Exchange with nnU-Net v2: reading its fingerprints, writing its plans."""
