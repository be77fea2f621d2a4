"""Training: patches, batches, loss, optimizer, the loop, checkpoints."""
