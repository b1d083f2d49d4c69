"""The loops over batches, and what they call: losses, the lean training pass, several processes."""
