"""From predicted masks to metrics: per slice, per patient and per lesion, with confidence intervals."""
