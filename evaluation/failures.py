"""The known ways to fail, each found by a stated rule, counted and shown with its worst examples; and what a model does
wrong as a whole, in words."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from evaluation.lesions import COMPLEX, SMALL, SPECK
from evaluation.tables import Tables

EXAMPLES = 5  # worst slices that are named for each kind
LARGE = 2000  # pixels; a slice with more tumour is "large"
SIZE_OFF = 0.25  # of the true area
SIMPLER = 0.75  # of the true boundary complexity


@dataclass(frozen=True)
class Failure:
    """A kind of failure: which slices could have it (`among`), which have it (`failed`), how bad (larger is worse)."""

    kind: str
    rule: str
    value_is: str
    among: Callable[[pd.DataFrame], pd.Series]
    failed: Callable[[pd.DataFrame], pd.Series]
    value: Callable[[pd.DataFrame], pd.Series]
    worst_last: bool = False  # the smallest value is the worst


def size_error(s: pd.DataFrame) -> pd.Series:
    """Predicted area minus true area, as a share of the true one."""
    return (s["predicted_pixels"] - s["tumour_pixels"]) / s["tumour_pixels"].clip(lower=1)


def missed(kind: str, size: str, among: Callable[[pd.DataFrame], pd.Series]) -> Failure:
    """A tumour of some size of which nothing at all is found."""
    return Failure(
        kind,
        f"a slice with {size} tumour pixels, none of which is predicted",
        "tumour pixels",
        among,
        lambda s: s["true_positive"] == 0,
        lambda s: s["tumour_pixels"],
    )


KINDS = (
    missed("small tumour missed", f"fewer than {SMALL}", lambda s: s["tumour_pixels"].between(1, SMALL - 1)),
    missed("larger tumour missed", f"at least {SMALL}", lambda s: s["tumour_pixels"] >= SMALL),
    Failure(
        "part of a tumour missed",
        f"a slice with several parts of at least {SPECK} pixels, of which some are found and some are not",
        "pixels of the largest part that is missed",
        lambda s: s["lesions"] >= 2,
        lambda s: (s["lesions_found"] > 0) & (s["lesions_found"] < s["lesions"]),
        lambda s: s["largest_missed"],
    ),
    Failure(
        "complex boundary simplified",
        f"a tumour of at least {SMALL} pixels in one part with a boundary complexity of {COMPLEX:g} or more, found, "
        f"but with an outline less than {SIMPLER} times as complex",
        "predicted complexity as a share of the true one",
        lambda s: s["kind"] == "complex boundary",
        lambda s: (s["true_positive"] > 0) & (s["predicted_complexity"] < SIMPLER * s["boundary_complexity"]),
        lambda s: s["predicted_complexity"] / s["boundary_complexity"].clip(lower=1e-9),
        worst_last=True,
    ),
    Failure(
        "size of a large tumour off",
        f"a slice with more than {LARGE} tumour pixels, whose predicted area differs by more than {SIZE_OFF:.0%}",
        "predicted area minus true area, as a share of the true one",
        lambda s: s["tumour_pixels"] > LARGE,
        lambda s: size_error(s).abs() > SIZE_OFF,
        size_error,
    ),
    Failure(
        "false positive in an empty slice",
        "a slice without tumour, in which at least one pixel is predicted",
        "predicted pixels",
        lambda s: s["tumour_pixels"] == 0,
        lambda s: s["predicted_pixels"] > 0,
        lambda s: s["predicted_pixels"],
    ),
    Failure(
        "false part beside a tumour",
        f"a slice with tumour and a predicted part of at least {SPECK} pixels that matches none",
        "false positive pixels",
        lambda s: s["tumour_pixels"] > 0,
        lambda s: s["false_lesions"] > 0,
        lambda s: s["false_positive"],
    ),
)


def find(tables: Tables) -> list[dict]:
    """A row a kind: kind, rule, value_is, count, of (slices that could have it), patients, examples (worst first)."""
    return [_find(tables.slices, failure) for failure in KINDS]


def _find(slices: pd.DataFrame, failure: Failure) -> dict:
    among = slices[failure.among(slices)]
    failed = among[failure.failed(among)]
    failed = failed.assign(value=failure.value(failed))
    severity = failed["value"] if failure.worst_last else -failed["value"].abs()
    worst = failed.assign(severity=severity).sort_values(["severity", "patient", "slice"], kind="stable")
    return {
        "kind": failure.kind,
        "rule": failure.rule,
        "value_is": failure.value_is,
        "count": len(failed),
        "of": len(among),
        "patients": int(failed["patient"].nunique()),
        "examples": worst[["patient", "slice", "image_path", "value"]].head(EXAMPLES).to_dict("records"),
    }


# --- The model as a whole --------------------------------------------------------------------------------------

TIMES_OFF = 3  # predicted to true volume, or the reverse, from which the amount itself is wrong
SHIFT = 2  # pixels by which predictions have to be displaced to be called so
FEWEST = 5  # slices that a sentence about a habit of the model must rest on


def diagnose(tables: Tables) -> list[str]:
    """Sentences about what the model does wrong throughout; none if nothing stands out."""
    slices = tables.slices
    predicted, tumour = int(slices["predicted_pixels"].sum()), int(slices["tumour_pixels"].sum())
    if not predicted:
        return ["The model predicts nothing at all: its IoU over all slices is that of predicting nothing."]
    found = [_too_much_or_too_little(predicted, tumour), _no_better_than_nothing(slices)]
    if predicted <= TIMES_OFF * tumour:  # otherwise the outlines say nothing
        found += [_shifted(slices), _parts_missed(slices)]
    return [sentence for sentence in found if sentence]


def _too_much_or_too_little(predicted: int, tumour: int) -> str:
    if predicted > TIMES_OFF * tumour:
        times = (
            f"{predicted / tumour:.0f} times as many pixels as are tumour" if tumour else "tumour where there is none"
        )
        return f"The model predicts far too much: {times}."
    if predicted * TIMES_OFF < tumour:
        return f"The model predicts far too little: {predicted / tumour:.0%} of the pixels that are tumour."
    return ""


def _no_better_than_nothing(slices: pd.DataFrame) -> str:
    mean, all_empty = slices["iou"].mean(), (slices["tumour_pixels"] == 0).mean()
    if mean > all_empty:
        return ""
    return f"The IoU over all slices ({mean:.3f}) is not above that of predicting nothing ({all_empty:.3f})."


def _shifted(slices: pd.DataFrame) -> str:
    """Displaced throughout: the same way in most of the slices with one part that is found."""
    one = slices[(slices["lesions"] == 1) & (slices["true_positive"] > 0) & (slices["false_lesions"] == 0)]
    if len(one) < FEWEST or one["patient"].nunique() < 2:  # in one patient it is a matter of that tumour's shape
        return ""
    offsets = one[["offset_x", "offset_y"]]
    x, y = offsets.median()
    length = (x**2 + y**2) ** 0.5
    if length < SHIFT or (offsets - offsets.median()).abs().median().max() > length / 2:
        return ""
    parts = [
        f"{abs(d):.1f} px {names[d > 0]}" for d, names in ((x, ("left", "right")), (y, ("up", "down"))) if abs(d) >= 0.5
    ]
    return f"The predictions are displaced by {length:.1f} px: {' and '.join(parts)} (median of {len(one)} slices)."


def _parts_missed(slices: pd.DataFrame) -> str:
    several = slices[(slices["lesions"] >= 2) & (slices["lesions_found"] > 0)]
    missed = several["lesions_found"] < several["lesions"]
    if len(several) < FEWEST or missed.mean() <= 0.5:
        return ""
    only = "; it never predicts more than one part in a slice" if slices["predicted_lesions"].max() <= 1 else ""
    return (
        f"Of tumours in several parts the model usually misses one: in {missed.sum()} of {len(several)} slices{only}."
    )
