"""The demo: the paper's datasets planned again, every pack scored, and phantoms from images to plan."""
