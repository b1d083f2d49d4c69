"""The training set on disk: find it, check it, split it by patient, decode it; and synthetic patients in its place."""
