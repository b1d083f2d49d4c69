"""The whole judgement of predicted masks, whoever made them: tables, and the content of metrics.json."""

from dataclasses import replace

import numpy as np

from dataset.slices import Slices
from evaluation import calibration, summary
from evaluation.tables import Tables, make_tables


def judge(
    slices: Slices, predicted: np.ndarray, counts: np.ndarray, about: dict, notes: list[str]
) -> tuple[Tables, dict]:
    """Compare predicted masks with the reference masks of the slices; return the tables and the metrics.

    Args:
        predicted: uint8 0 or 1, [N, H, W].
        counts: of probabilities, as of calibration.count, or calibration.uncounted.
        about, notes: as of summary.summarise.
    """
    tables = make_tables(slices, predicted)
    tables = replace(tables, patients=tables.patients.merge(calibration.per_patient(counts, slices.patients)))
    return tables, summary.summarise(tables, calibration.summarise(counts), about, notes)
