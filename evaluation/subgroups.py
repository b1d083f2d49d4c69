"""Metrics of subgroups of the tumour slices: by area, components, outline, institution and acquired sequences."""

import numpy as np
import pandas as pd

from evaluation.intervals import AMOUNT, SHARE, estimate
from evaluation.lesions import COMPLEX
from evaluation.tables import AREAS, Tables

COMPONENTS = ("none of 10 px", "1", "2", "3 or more")
OUTLINES = ("smooth (<1.5)", f"between (1.5-{COMPLEX:g})", f"complex (>={COMPLEX:g})")  # boundary complexity
SHOWN = ("tumour_iou", "dice", "found", "hd95", "surface_dice_2")  # means over the tumour slices of a group


def summarise(tables: Tables) -> list[dict]:
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
