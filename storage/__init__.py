"""The folder of a run and its checkpoints: the name, the reader and the writer of every file."""
