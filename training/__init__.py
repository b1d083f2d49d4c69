"""The loops over batches, and what they call: recipes, augmentation, losses, optimisation, hardware."""
