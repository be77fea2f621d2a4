"""The whole method as a graph of steps: what is done is skipped, what is not is done, each step in its own process."""
