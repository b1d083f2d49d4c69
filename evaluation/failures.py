"""Where a model fails: kinds of failure, each defined by a rule, with its worst examples; and metrics of subgroups."""

import numpy as np
import pandas as pd

from evaluation.intervals import estimate
from evaluation.tables import Tables

EXAMPLES = 4  # worst slices of each kind that are listed, and shown in the report
SHOWN_OF_SLICES = ["patient", "slice", "image_path", "dice", "tumour_pixels", "predicted_pixels"]
SMALL = 500  # pixels; a slice with less tumour is "small"
LARGE = 2000  # pixels; a slice with more tumour is "large"
SIZE_OFF = 0.25  # of the reference area
AREAS = {"<200": 200, "200-500": 500, "500-1k": 1000, "1k-2k": 2000, ">2k": np.inf}  # upper end in pixels, excluded
SHOWN = ("tumour_iou", "dice", "found")  # means over the tumour slices of a subgroup


def list_failures(slices: pd.DataFrame) -> list[dict]:
    """Return one dict per kind: kind, rule, count, of (slices that could fail), patients, examples, worst first."""
    tumour, predicted, hit = slices["tumour_pixels"], slices["predicted_pixels"], slices["true_positive"] > 0
    size_off = ((predicted - tumour) / tumour).abs()
    kinds = [  # kind, rule in words, slices that could fail in this way, those that do if so, severity
        (
            "small tumour missed", f"a slice with fewer than {SMALL} tumour pixels, none of which is predicted",
            tumour.between(1, SMALL - 1), ~hit, tumour,
        ),
        (
            "larger tumour missed", f"a slice with at least {SMALL} tumour pixels, none of which is predicted",
            tumour >= SMALL, ~hit, tumour,
        ),
        (
            "size of a large tumour off",
            f"a slice with more than {LARGE} tumour pixels that is found, but whose predicted area differs by more "
            f"than {SIZE_OFF:.0%}",
            (tumour > LARGE) & hit, size_off > SIZE_OFF, size_off,
        ),
        (
            "false positive in an empty slice", "a slice without tumour in which at least one pixel is predicted",
            tumour == 0, predicted > 0, predicted,
        ),
    ]  # fmt: skip
    rows = []
    for kind, rule, possible, failed, severity in kinds:
        cases = slices.assign(severity=-severity)[possible & failed]
        worst = cases.sort_values(["severity", "patient", "slice"], kind="stable").head(EXAMPLES)
        counts = {"count": len(cases), "of": int(possible.sum()), "patients": int(cases["patient"].nunique())}
        rows.append({"kind": kind, "rule": rule, **counts, "examples": worst[SHOWN_OF_SLICES].to_dict("records")})
    return rows


def subgroup_metrics(tables: Tables) -> list[dict]:
    """Return one dict per subgroup that has a tumour slice: by, group, slices, patients, and its metrics.

    Subgroups are by tumour area of the slice, and by institution and sequences of the patient. The metrics are the
    means of SHOWN over these slices, each with the ends of its 95% confidence interval over patients, such as dice_low
    and dice_high, NaN where undefined.
    """
    slices = tables["slices"][tables["slices"]["tumour_pixels"] > 0]
    slices = slices.assign(
        tumour_iou=slices["iou"],
        found=(slices["true_positive"] > 0).astype(float),
        area=pd.cut(slices["tumour_pixels"], [0, *AREAS.values()], right=False, labels=list(AREAS)),
    ).merge(tables["patients"][["patient", "institution", "sequences"]], on="patient")
    rows = []
    for by in ("area", "institution", "sequences"):
        for group, own in slices.groupby(by, observed=True):
            row = {"by": by, "group": group, "slices": len(own), "patients": own["patient"].nunique()}
            for metric in SHOWN:
                interval = estimate(own["patient"], own[metric])
                row |= {metric: interval["value"], f"{metric}_low": interval["low"], f"{metric}_high": interval["high"]}
            rows.append(row)
    return rows
