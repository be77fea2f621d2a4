"""From images to cases that a network can be trained on: crop, transpose, normalise, resample, store."""
