"""Kinds of failure, each found by a stated rule, counted and listed with its worst examples; and sentences on what a
model does wrong as a whole."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from evaluation.intervals import AMOUNT, SHARE, estimate
from evaluation.lesions import COMPLEX, SMALL, SPECK
from evaluation.tables import AREAS, Tables

EXAMPLES = 5  # worst slices that are listed for each kind
LARGE = 2000  # pixels; a slice with more tumour is "large"
SIZE_OFF = 0.25  # of the reference area
SIMPLER = 0.75  # of the reference boundary complexity
TIMES_OFF = 3  # predicted to reference volume, or the reverse, from which the amount itself is wrong
SHIFT = 2  # pixels of displacement that are reported
FEWEST = 5  # slices that a sentence on the model as a whole must rest on
COMPONENTS = ("none of 10 px", "1", "2", "3 or more")
OUTLINES = ("smooth (<1.5)", f"between (1.5-{COMPLEX:g})", f"complex (>={COMPLEX:g})")  # boundary complexity
SHOWN = ("tumour_iou", "dice", "found", "hd95", "surface_dice_2")  # means over the tumour slices of a group


class Failure(NamedTuple):
    """A kind of failure. `among`, `failed` and `value` are expressions over the columns of the per-slice table."""

    kind: str
    rule: str  # its definition in words
    among: str  # which slices could fail in this way
    failed: str  # which of these do
    value: str  # how bad a failed slice is; the largest magnitude is the worst
    value_is: str  # the value in words
    smallest_is_worst: bool = False


FAILURES = (
    Failure(
        "small tumour missed",
        f"a slice with fewer than {SMALL} tumour pixels, none of which is predicted",
        f"0 < tumour_pixels < {SMALL}", "true_positive == 0",
        "tumour_pixels", "tumour pixels",
    ),
    Failure(
        "larger tumour missed",
        f"a slice with at least {SMALL} tumour pixels, none of which is predicted",
        f"tumour_pixels >= {SMALL}", "true_positive == 0",
        "tumour_pixels", "tumour pixels",
    ),
    Failure(
        "component of a tumour missed",
        f"a slice with several components of at least {SPECK} pixels, of which some are found and some are not",
        "lesions >= 2", "0 < lesions_found < lesions",
        "largest_missed", "pixels of the largest missed component",
    ),
    Failure(
        "complex boundary simplified",
        f"a tumour of at least {SMALL} pixels in one component with a boundary complexity of {COMPLEX:g} or more, "
        f"found, but with an outline less than {SIMPLER} times as complex",
        "kind == 'complex boundary'", f"true_positive > 0 and predicted_complexity < {SIMPLER} * boundary_complexity",
        "predicted_complexity / boundary_complexity", "predicted complexity as a share of the reference",
        smallest_is_worst=True,
    ),
    Failure(
        "size of a large tumour off",
        f"a slice with more than {LARGE} tumour pixels that is found, but whose predicted area differs by more than "
        f"{SIZE_OFF:.0%}",
        f"tumour_pixels > {LARGE} and true_positive > 0",
        f"abs(predicted_pixels - tumour_pixels) > {SIZE_OFF} * tumour_pixels",
        "(predicted_pixels - tumour_pixels) / tumour_pixels",
        "predicted area minus reference area, as a share of the reference area",
    ),
    Failure(
        "false positive in an empty slice",
        "a slice without tumour in which at least one pixel is predicted",
        "tumour_pixels == 0", "predicted_pixels > 0",
        "predicted_pixels", "predicted pixels",
    ),
    Failure(
        "false component beside a tumour",
        f"a slice with tumour and a predicted component of at least {SPECK} pixels that matches no tumour",
        "tumour_pixels > 0", "false_lesions > 0",
        "false_positive", "false positive pixels",
    ),
)  # fmt: skip


def find(tables: Tables) -> list[dict]:
    """Return one dict per kind: kind, rule, value_is, count, of (slices that could fail), patients, examples.

    The examples have patient, slice, image_path and value, the worst first.
    """
    return [_find(tables.slices, failure) for failure in FAILURES]


def _find(slices: pd.DataFrame, failure: Failure) -> dict:
    among = slices[slices.eval(failure.among, engine="python")]
    failed = among[among.eval(failure.failed, engine="python")]
    failed = failed.assign(value=failed.eval(failure.value, engine="python"))
    severity = failed["value"] if failure.smallest_is_worst else -failed["value"].abs()
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


def diagnose(tables: Tables) -> list[str]:
    """Return sentences on what the model does wrong as a whole; none if nothing stands out."""
    slices = tables.slices
    predicted, tumour = int(slices["predicted_pixels"].sum()), int(slices["tumour_pixels"].sum())
    if not predicted:
        return ["The model predicts nothing at all: its IoU over all slices comes from the slices without tumour."]
    found = [_wrong_amount(predicted, tumour), _not_above_empty(slices)]
    if predicted <= TIMES_OFF * tumour:  # otherwise the outlines mean nothing
        found += [_displaced(slices), _components_missed(slices)]
    return [sentence for sentence in found if sentence]


def _wrong_amount(predicted: int, tumour: int) -> str:
    if not tumour:
        return "The model predicts tumour, but no slice has any."
    if predicted > TIMES_OFF * tumour:
        return f"The model predicts far too much: {predicted / tumour:.0f} times as many pixels as are tumour."
    if predicted * TIMES_OFF < tumour:
        return f"The model predicts far too little: {predicted / tumour:.0%} of the number of tumour pixels."
    return ""


def _not_above_empty(slices: pd.DataFrame) -> str:
    mean, empty = slices["iou"].mean(), (slices["tumour_pixels"] == 0).mean()
    if mean > empty:
        return ""
    return f"The IoU over all slices ({mean:.3f}) is not above that of an empty prediction ({empty:.3f})."


def _displaced(slices: pd.DataFrame) -> str:
    """Return a sentence if most slices with one component that is found are displaced in the same direction."""
    one = slices[(slices["lesions"] == 1) & (slices["true_positive"] > 0) & (slices["false_lesions"] == 0)]
    if len(one) < FEWEST or one["patient"].nunique() < 2:  # in one patient the shape of the tumour may cause it
        return ""
    offsets = one[["offset_x", "offset_y"]]
    x, y = offsets.median()
    length = (x**2 + y**2) ** 0.5
    if length < SHIFT or (offsets - offsets.median()).abs().median().max() > length / 2:
        return ""
    ways = ((x, "right" if x > 0 else "left"), (y, "down" if y > 0 else "up"))
    shifts = " and ".join(f"{abs(pixels):.1f} px {way}" for pixels, way in ways if abs(pixels) >= 0.5)
    return f"The predictions are displaced by {length:.1f} px: {shifts} (median of {len(one)} slices)."


def _components_missed(slices: pd.DataFrame) -> str:
    several = slices[(slices["lesions"] >= 2) & (slices["lesions_found"] > 0)]
    missed = several["lesions_found"] < several["lesions"]
    if len(several) < FEWEST or missed.mean() <= 0.5:
        return ""
    only = "; it never predicts more than one in a slice" if slices["predicted_lesions"].max() <= 1 else ""
    often = f"in {missed.sum()} of {len(several)} slices"
    return f"Where a tumour has several components, the model usually misses one: {often}{only}."


# --- Subgroups of the tumour slices, by area, components, outline, institution and acquired sequences --------------


def subgroup_metrics(tables: Tables) -> list[dict]:
    """Return one dict per group that has a tumour slice: by, group, slices, patients, and its metrics.

    The metrics are the means of SHOWN, and patient_dice where groups consist of whole patients; each with the ends
    of its 95% confidence interval over patients, such as dice_low and dice_high. What is undefined is NaN.
    """
    slices, patients = tumour_slices(tables), tables.patients
    columns = slices.assign(tumour_iou=slices["iou"], found=(slices["true_positive"] > 0).astype(float))
    rows = []
    for by, (group_of, names) in groups(tables).items():
        for group in names:
            member = group_of == group
            if not member.any():
                continue
            in_group = slices.loc[member, "patient"].nunique()
            row = {"by": by, "group": group, "slices": int(member.sum()), "patients": in_group}
            means = {name: (slices["patient"], columns[name].where(member)) for name in SHOWN}
            if by in patients:
                means["patient_dice"] = patients["patient"], patients["dice"].where(patients[by] == group)
            for name, mean in means.items():
                found = estimate(*mean, scale=AMOUNT if name == "hd95" else SHARE)
                row |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
            rows.append(row)
    return rows


def groups(tables: Tables) -> dict[str, tuple[pd.Series, list[str]]]:
    """Return {by: (the group of each tumour slice, the names of the groups in their order)}."""
    slices = tumour_slices(tables)
    patients = tables.patients.set_index("patient")
    outline = np.digitize(slices["boundary_complexity"], [1.5, COMPLEX])
    by = {
        "area": (slices["area_stratum"], list(AREAS)),
        "components": (slices["lesions"].clip(upper=3).map(dict(enumerate(COMPONENTS))), list(COMPONENTS)),
        "boundary": (pd.Series(np.array(OUTLINES)[outline], slices.index), list(OUTLINES)),
    }
    for name in ("institution", "sequences"):
        by[name] = (slices["patient"].map(patients[name]), sorted(patients[name].unique()))
    return by


def tumour_slices(tables: Tables) -> pd.DataFrame:
    """Return the rows of the per-slice table that have tumour."""
    return tables.slices[tables.slices["tumour_pixels"] > 0]
