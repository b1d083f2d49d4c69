"""The result of a test in one piece, metrics.json: figures with intervals, strata, failures, calibration, notes.

Made from tables alone, so that one run and a whole cross-validation give the same.
"""

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

import evaluation
import failures
import resampling
import runs
import strata
import surfaces
from evaluation import Tables
from utils import UserError, write_text

FILES = {"slices": "test_results.csv", "patients": "test_patients.csv", "lesions": "test_lesions.csv"}
SHOWN_PATIENTS = 12  # worst, that are printed


def make(tables: Tables, calibration: dict, about: dict, notes: list[str]) -> dict:
    """The content of metrics.json.

    Args:
        calibration: as of calibration.summarise.
        about: split, epoch, selected_by, synthetic, threshold, min_component, loss and what else is known of the run.
        notes: sentences that go before those found here.
    """
    intervals = evaluation.figures(tables)
    dice = intervals["patient_dice"]
    caveat = resampling.caveat(dice["n"], dice["low"], dice["high"])
    return {
        **about,
        "slices": len(tables.slices),
        "patients": len(tables.patients),
        **{name: figure["value"] for name, figure in intervals.items()},
        **{name: int(tables.patients[name].sum()) for name in ("lesions", "lesions_found", "false_lesions")},
        "ece": calibration["ece"],
        "intervals": intervals,
        "strata": strata.stratify(tables),
        "failures": failures.find(tables),
        "calibration": calibration,
        "notes": [*notes, *failures.diagnose(tables), *filter(None, [caveat])],
        "conventions": list(evaluation.CONVENTIONS),
    }


def write(run: Path, tables: Tables, card: dict) -> None:
    """test_results.csv, test_patients.csv, test_lesions.csv and metrics.json of a run."""
    for part, name in FILES.items():
        write_text(run / name, runs.to_csv(getattr(tables, part)))
    write_text(run / "metrics.json", runs.to_json(card))


def read_tables(run: Path) -> Tables:
    """The tables of a run. Raises: UserError when one is missing, or not such a table."""
    return Tables(**{part: _read(run / name, run) for part, name in FILES.items()})


def _read(path: Path, run: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Run test_model.py --run {run} first.")
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"patient": str, "institution": str})
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as CSV ({reason}). Run test_model.py --run {run} again.") from None
    if not {"patient", "dice"} <= set(table):
        raise UserError(f"{path}: has no columns patient and dice. Run test_model.py --run {run} again.")
    return table


# --- For people ------------------------------------------------------------------------------------------------


def describe(card: dict, patients: pd.DataFrame) -> str:
    """The result on one screen."""
    interval = card["intervals"]

    def line(label: str, name: str, form: str = ".3f", more: str = "") -> str:
        figure = interval[name]
        value, low, high = (show(figure[part], form) for part in ("value", "low", "high"))
        return f"  {label:<46}{value:>7}   {f'{low} to {high}':<16} {more}".rstrip()

    median = interval["patient_dice_median"]
    lines = [
        f"{'':47} value   95% interval over patients",
        line("volumetric Dice, mean over patients", "patient_dice", more=f"median {show(median['value'])}"),
        line("  sensitivity", "patient_sensitivity"),
        line("  precision", "patient_precision"),
        line("IoU over tumour slices", "tumour_iou"),
        line("  tumour slices missed altogether", "tumour_missed", ".1%"),
        line("empty slices with a false positive", "false_positive_share", ".1%", _area(interval)),
        line("lesions found, in 3D", "lesion_recall", ".1%", _lesions(card)),
        line("HD95, pixels", "hd95", ".1f", "slices with both masks only"),
        *(line(f"surface Dice at {t} px", f"surface_dice_{t}") for t in surfaces.TOLERANCES),
        line("IoU over all slices, empty against empty is 1", "iou"),
        line("  of which predicting nothing would score", "all_empty"),
        line("Brier score on head pixels", "brier", ".4f", f"ECE {show(card['calibration']['ece'], '.4f')}"),
        f"  {'test loss':<46}{show(card['loss'], '.4f'):>7}",
        *_describe_patients(patients),
        "  failures, slices:",
        *(f"    {row['kind']:<34} {row['count']:4d} of {row['of']}" for row in card["failures"]),
        *(textwrap.fill(note, 118, initial_indent="  ! ", subsequent_indent="    ") for note in card["notes"]),
    ]
    return "\n".join(lines)


def _describe_patients(patients: pd.DataFrame) -> list[str]:
    worst = patients.sort_values(["dice", "patient"]).head(SHOWN_PATIENTS)
    many = f", the worst {len(worst)} of {len(patients)}" if len(worst) < len(patients) else ""
    return [f"  volumetric Dice of each patient{many}:"] + [
        f"    {row.patient:<28} {row.dice:.3f}  (sensitivity {show(row.sensitivity)}, "
        f"precision {show(row.precision)}, {row.missed_slices} of {row.tumour_slices} tumour slices missed)"
        for row in worst.itertuples()
    ]


def _lesions(card: dict) -> str:
    return f"{card['lesions_found']} of {card['lesions']}, and {card['false_lesions']} false"


def _area(interval: dict) -> str:
    area = interval["false_positive_area"]["value"]
    return "" if np.isnan(area) else f"{area:.0f} px each"


def show(value: float, form: str = ".3f") -> str:
    """A figure as text; a dash where there is none."""
    return "-" if np.isnan(value) else format(value, form)
