"""Where a model fails: kinds of failure, each defined by a rule, with its worst examples; and metrics of subgroups."""

import numpy as np
import pandas as pd

from evaluation.intervals import estimate
from evaluation.lesions import COMPLEX, SMALL, SPECK
from evaluation.tables import AREAS, Tables

EXAMPLES = 4  # worst slices of each kind that are listed, and shown in the report
SHOWN_OF_SLICES = ["patient", "slice", "image_path", "dice", "tumour_pixels", "predicted_pixels"]
LARGE = 2000  # pixels; a slice with more tumour is "large"
SIZE_OFF = 0.25  # of the reference area
SIMPLER = 0.25  # of the reference boundary complexity
COMPONENTS = ("none of 10 px", "1", "2", "3 or more")
OUTLINES = ("smooth (<1.5)", f"between (1.5-{COMPLEX:g})", f"complex (>={COMPLEX:g})")  # boundary complexity
OF_PATIENTS = ("institution", "sequences")  # columns of the per-patient table
SHOWN = ("tumour_iou", "dice", "found")  # means over the tumour slices of a subgroup


def kinds_of_failure(slices: pd.DataFrame) -> dict[str, tuple[str, pd.Series, pd.Series, pd.Series]]:
    """Return {kind: (rule in words, possible, failed, severity)} for a per-slice table.

    possible, failed: bool, slices that could fail in this way, and those that do, if possible; severity: the larger,
    the worse.
    """
    tumour, predicted = slices["tumour_pixels"], slices["predicted_pixels"]
    hit = slices["true_positive"] > 0
    lesions, lesions_found = slices["lesions"], slices["lesions_found"]
    size_off = ((predicted - tumour) / tumour).abs()
    lost = 1 - slices["predicted_complexity"] / slices["boundary_complexity"]
    return {
        "small tumour missed": (
            f"a slice with fewer than {SMALL} tumour pixels, none of which is predicted",
            tumour.between(1, SMALL - 1), ~hit, tumour,
        ),
        "larger tumour missed": (
            f"a slice with at least {SMALL} tumour pixels, none of which is predicted",
            tumour >= SMALL, ~hit, tumour,
        ),
        "component of a tumour missed": (
            f"a slice with several components of at least {SPECK} pixels, some of which are found and some are not",
            lesions >= 2, (lesions_found > 0) & (lesions_found < lesions), slices["largest_missed"],
        ),
        "complex boundary simplified": (
            f"a tumour of at least {SMALL} pixels in one component with a boundary complexity of {COMPLEX:g} or more, "
            f"found, but with a predicted outline that is more than {SIMPLER:.0%} less complex",
            slices["kind"] == "complex boundary", hit & (lost > SIMPLER), lost,
        ),
        "size of a large tumour off": (
            f"a slice with more than {LARGE} tumour pixels that is found, but whose predicted area differs by more "
            f"than {SIZE_OFF:.0%}",
            (tumour > LARGE) & hit, size_off > SIZE_OFF, size_off,
        ),
        "false positive in an empty slice": (
            "a slice without tumour in which at least one pixel is predicted",
            tumour == 0, predicted > 0, predicted,
        ),
        "false component beside a tumour": (
            f"a slice with tumour and a predicted component of at least {SPECK} pixels that matches no tumour",
            tumour > 0, slices["false_lesions"] > 0, slices["false_positive"],
        ),
    }  # fmt: skip


def list_failures(slices: pd.DataFrame) -> list[dict]:
    """Return one dict per kind: kind, rule, count, of (slices that could fail), patients, examples, worst first."""
    rows = []
    for kind, (rule, possible, failed, severity) in kinds_of_failure(slices).items():
        cases = slices.assign(severity=-severity)[possible & failed]
        worst = cases.sort_values(["severity", "patient", "slice"], kind="stable").head(EXAMPLES)
        counts = {"count": len(cases), "of": int(possible.sum()), "patients": int(cases["patient"].nunique())}
        rows.append({"kind": kind, "rule": rule, **counts, "examples": worst[SHOWN_OF_SLICES].to_dict("records")})
    return rows


# --- Subgroups of the tumour slices: by area, components, outline, institution and sequences --------------------


def subgroup_metrics(tables: Tables) -> list[dict]:
    """Return one dict per subgroup that has a tumour slice: by, group, slices, patients, and its metrics.

    The metrics are the means of SHOWN over these slices, each with the ends of its 95% confidence interval over
    patients, such as dice_low and dice_high, NaN where undefined.
    """
    slices = tables.slices[tables.slices["tumour_pixels"] > 0]
    slices = slices.assign(tumour_iou=slices["iou"], found=(slices["true_positive"] > 0).astype(float))
    of_patients = tables.patients.set_index("patient")[list(OF_PATIENTS)]
    by = {  # the subgroup of each slice, in their order
        "area": pd.Categorical(slices["area_stratum"], AREAS),
        "components": pd.Categorical.from_codes(slices["lesions"].clip(upper=3), COMPONENTS),
        "boundary": pd.cut(slices["boundary_complexity"], (0, 1.5, COMPLEX, np.inf), right=False, labels=OUTLINES),
        **{name: slices["patient"].map(of_patients[name]) for name in OF_PATIENTS},
    }
    rows = []
    for name, group_of in by.items():
        for group, own in slices.groupby(group_of, observed=True):
            row = {"by": name, "group": group, "slices": len(own), "patients": own["patient"].nunique()}
            for metric in SHOWN:
                interval = estimate(own["patient"], own[metric])
                row |= {metric: interval["value"], f"{metric}_low": interval["low"], f"{metric}_high": interval["high"]}
            rows.append(row)
    return rows
