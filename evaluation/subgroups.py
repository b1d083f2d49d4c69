"""Figures of groups of tumour slices: by area, parts, outline, institution and the sequences that a patient has."""

import numpy as np
import pandas as pd

from evaluation.bootstrap import Mean, estimate
from evaluation.lesions import COMPLEX
from evaluation.tables import AREAS, Tables

COMPONENTS = ("none of 10 px", "1", "2", "3 or more")
OUTLINES = ("smooth (<1.5)", f"between (1.5-{COMPLEX:g})", f"complex (>={COMPLEX:g})")  # boundary complexity
SHOWN = ("tumour_iou", "dice", "found", "hd95", "surface_dice_2")  # means over the tumour slices of a group


def groups(tables: Tables) -> dict[str, tuple[pd.Series, list[str]]]:
    """{by: (the group of each tumour slice, the groups in their order)}."""
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
    return tables.slices[tables.slices["tumour_pixels"] > 0]


def stratify(tables: Tables) -> list[dict]:
    """A row a group: by, group, slices, patients, the means of SHOWN, and low and high of each (95%, over patients).

    Groups without a tumour slice are left out. patient_dice is there where groups are of whole patients.
    """
    slices, patients = tumour_slices(tables), tables.patients
    columns = {
        "tumour_iou": slices["iou"],
        "dice": slices["dice"],
        "found": (slices["true_positive"] > 0).astype(float),
        "hd95": slices["hd95"],
        "surface_dice_2": slices["surface_dice_2"],
    }
    rows, means = [], {}
    for by, (group_of, names) in groups(tables).items():
        for group in names:
            member = group_of == group
            if not member.any():
                continue
            rows.append({"by": by, "group": group, "slices": int(member.sum())})
            rows[-1]["patients"] = slices.loc[member, "patient"].nunique()
            for figure, values in columns.items():
                means[by, group, figure] = Mean(slices["patient"], values.where(member))
            if by in patients:
                means[by, group, "patient_dice"] = Mean(
                    patients["patient"], patients["dice"].where(patients[by] == group)
                )
    estimates = estimate(means)
    for row in rows:
        for figure in (*SHOWN, "patient_dice"):
            found = estimates.get((row["by"], row["group"], figure), {})
            row |= {figure: found.get("value", np.nan)}
            row |= {f"{figure}_{end}": found.get(end, np.nan) for end in ("low", "high")}
    return rows
