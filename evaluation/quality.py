"""Expected Dice of a predicted mask without a reference: ridge regression on what probabilities and mask look like.

The 90% interval is conformal: as wide as the errors on patients that the regression did not see. Nothing is said about
a patient with a feature beyond those of the patients it was fitted to, except where the network is surer than of all of
these: then the surest of them stands in. An empty mask has a Dice of 1 if it is right and of 0 if not: its expected
Dice is the probability that it is right.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage, special
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from constants import BAD_DICE
from dataset.split import person_of
from evaluation.genomics import auc
from evaluation.intervals import SEED
from evaluation.lesions import CONNECTED

FEATURES = ("log_volume", "log_components", "largest_share", "neighbour_dice", "threshold_dice", "entropy")
THRESHOLDS = 0.3, 0.7  # of the two masks whose Dice says how steep the probabilities are
SUREST = {"threshold_dice": "high", "entropy": "low"}  # the end of its range at which the network is surest
LEVEL = 0.9  # of the interval
FEWEST = 30  # persons
FOLDS = 10  # of the nested cross-validation
PENALTIES = np.logspace(-2, 3, 16)
WORST = 10, 20  # patients with the lowest expected Dice
PRIOR = 0.5  # share of patients without tumour that the probability of an empty mask presumes
UNKNOWN = dict.fromkeys(("expected_dice", "low", "high"))


def features(probabilities: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return FEATURES of one patient; None for what is undefined without a mask.

    probabilities: float32 [S, 256, 256]; mask: uint8 0 or 1, [S, 256, 256]. Both are on the grid of the network.
    """
    volume = int(mask.sum())
    if not volume:
        return dict.fromkeys(FEATURES)
    labels, count = ndimage.label(mask, CONNECTED)
    low, high = (probabilities >= threshold for threshold in THRESHOLDS)
    entropy = special.entr(probabilities).sum() + special.entr(1 - probabilities).sum()
    return {
        "log_volume": math.log10(volume),
        "log_components": math.log10(count),
        "largest_share": float(np.bincount(labels.ravel())[1:].max() / volume),
        "neighbour_dice": dice(mask[1:], mask[:-1]),
        "threshold_dice": dice(low, high),
        "entropy": float(entropy / math.log(2) / volume),
    }


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice of two masks (bool, or uint8 0 or 1); 0 if both are empty."""
    pixels = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / pixels if pixels else 0.0


def fit(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the regression of the Dice of patients, at least two, on their FEATURES as plain values, for JSON.

    rows: patient, dice and FEATURES of each, all defined. Returned: for each feature its coefficient, and the lowest
    and highest value; the intercept; the half width of the interval; the number of patients.
    """
    x, y = rows[list(FEATURES)].to_numpy(float), rows["dice"].to_numpy(float)
    pipeline = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    persons = rows["patient"].map(person_of)
    errors = np.sort(np.abs(cross_val_predict(pipeline, x, y, cv=LeaveOneGroupOut(), groups=persons) - y))
    rank = math.ceil(LEVEL * (len(y) + 1))  # of the error that so many new patients stay within
    scaler, ridge = (step for _, step in pipeline.fit(x, y).steps)
    coefficients = ridge.coef_ / scaler.scale_
    return {
        "features": {
            name: {"coefficient": float(c), "low": float(column.min()), "high": float(column.max())}
            for name, c, column in zip(FEATURES, coefficients, x.T, strict=True)
        },
        "intercept": float(ridge.intercept_ - scaler.mean_ @ coefficients),
        "half_width": float(errors[rank - 1]) if rank <= len(y) else 1.0,
        "patients": len(y),
    }


def predict(model: dict[str, Any], row: dict[str, float | None]) -> dict[str, float | None]:
    """Return expected_dice, low and high of its 90% interval, in 0..1; UNKNOWN beyond the range of a feature.

    An empty mask has no interval, and is unknown by a model that was stored without `empty`.
    """
    if pd.isna(row[FEATURES[0]]):
        return UNKNOWN | {"expected_dice": model.get("empty")}
    expected = model["intercept"]
    for name, feature in model["features"].items():
        value = np.clip(row[name], feature["low"], feature["high"])
        if value != row[name] and value != feature.get(SUREST.get(name)):
            return UNKNOWN
        expected += feature["coefficient"] * value
    values = np.clip([expected, expected - model["half_width"], expected + model["half_width"]], 0, 1)
    return dict(zip(UNKNOWN, values.tolist(), strict=True))


def empty_is_right(patients: pd.DataFrame) -> float:
    """Return the probability that an empty mask is right, by Bayes' rule, if PRIOR of the patients have no tumour.

    A patient with tumour is missed if no pixel of it is found, whether the mask is empty or not. How often a mask is
    empty without tumour is how often nothing false is marked apart from one. Each rate is (k + 1) / (n + 2).

    patients: tumour_pixels, dice and false_lesions of each, as in test_patients.csv.
    """
    with_tumour = patients[patients["tumour_pixels"] > 0]
    missed = ((with_tumour["dice"] == 0).sum() + 1) / (len(with_tumour) + 2)
    clean = ((patients["false_lesions"] == 0).sum() + 1) / (len(patients) + 2)
    return float(PRIOR * clean / (PRIOR * clean + (1 - PRIOR) * missed))


def study(rows: Sequence[dict[str, Any]], patients: pd.DataFrame) -> dict[str, Any]:
    """Return the regression of a run's scored patients and what it is worth, for metrics.json.

    rows: patient, dice and FEATURES of each. patients: of test_patients.csv. Returned: `patients` (the rows, with
    expected_dice, low and high as predicted by the others), `model`, with `empty` for an empty mask, and `nested`; the
    last two are None with masks of fewer than FEWEST persons.
    """
    table = to_table(rows)
    defined = table.dropna()
    if defined["patient"].map(person_of).nunique() < FEWEST:
        return {"patients": table.to_dict("records"), "model": None, "nested": None}
    shown = predict_held_out(table, table)
    model = fit(defined) | {"empty": empty_is_right(patients)}
    return {"patients": shown.to_dict("records"), "model": model, "nested": judge(shown)}


def to_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return patient, dice and FEATURES of patients as a table, NaN where undefined."""
    return pd.DataFrame(rows, columns=["patient", "dice", *FEATURES]).astype(dict.fromkeys(("dice", *FEATURES), float))


def predict_held_out(rows: pd.DataFrame, shown: pd.DataFrame, groups: dict[str, Any] | None = None) -> pd.DataFrame:
    """Return rows with expected_dice, low and high as regressions on other patients predict them; NaN if unknown.

    rows: patient, dice and FEATURES of those that are fitted to; shown: those that are predicted, for whom whoever is
    in their group is left out; groups: of each patient; FOLDS groups drawn at random if None.
    """
    defined = rows.dropna(subset=list(FEATURES))
    if groups is None:
        persons = defined["patient"].map(person_of)
        folds = KFold(FOLDS, shuffle=True, random_state=SEED).split(different := persons.unique())
        of_person = {person: k for k, (_, fold) in enumerate(folds) for person in different[fold]}
        groups = dict(zip(defined["patient"], persons.map(of_person), strict=True))
    of_row = defined["patient"].map(groups)
    models = {group: fit(defined[of_row != group]) for group in of_row.unique()}
    predicted = []
    for row in shown.to_dict("records"):
        model = models.get(groups.get(row["patient"]))
        predicted.append(predict(model, row) if model else UNKNOWN)
    return shown.assign(**pd.DataFrame(predicted, shown.index, columns=list(UNKNOWN), dtype=float))


def judge(rows: pd.DataFrame) -> dict[str, float]:
    """Return what expected values are worth; rows: dice, expected_dice, low and high, NaN where unknown.

    Mean absolute error, correlation and coverage of the interval are of the known ones. In the area under the ROC curve
    of a Dice below BAD_DICE, and among the worst 10 and 20, unknown ones stand first, as in the table to check;
    kept_dice is the mean without the worst tenth, dice_all that of all. NaN where undefined.
    """
    known = rows.dropna(subset=["expected_dice"])
    scores = rows["expected_dice"].fillna(-1)
    worst_first = rows["dice"].loc[scores.sort_values(kind="stable").index]
    return {
        "patients": len(rows),
        "unknown": len(rows) - len(known),
        "mean_error": (known["expected_dice"] - known["dice"]).abs().mean(),
        "r": known["expected_dice"].corr(known["dice"], min_periods=2),
        "coverage": known["dice"].between(known["low"], known["high"]).mean(),
        "dice_all": worst_first.mean(),
        "kept_dice": worst_first[math.ceil(len(rows) / 10) :].mean(),
        "bad": int((rows["dice"] < BAD_DICE).sum()),
        "auc": float(auc(-scores.to_numpy(), rows["dice"].to_numpy() < BAD_DICE)),
        **{f"bad_in_worst_{n}": int((worst_first[:n] < BAD_DICE).sum()) for n in WORST},
    }
