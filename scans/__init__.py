"""Images that are not of the training set: read, resize, display, and write their masks."""
