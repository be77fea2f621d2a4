"""From an image and trained networks to a segmentation on the image's own grid."""
