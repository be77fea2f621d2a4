"""The demo: the paper's nineteen datasets planned again, every pack scored, and phantoms from images to plan."""
