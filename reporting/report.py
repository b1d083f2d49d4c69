"""report.html of a run: what test_model.py found, as one page that needs neither network nor other files.

Everything on it comes from the CSV and JSON files of the run folder, and from the slices and masks handed over. A
section whose file or column is absent is left out. The page itself (style, viewer) is report.html.jinja.
"""

import base64
import io
import itertools
import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from constants import FLAIR, IMAGE_SIZE, SYNTHETIC_NOTICE, THRESHOLD
from reporting import charts
from reporting.plots import bland_altman
from scans.display import BRIGHTEST, stretch
from storage.run_folder import RunFolder
from utils import UserError, write_text

TEMPLATE = Path(__file__).with_name("report.html.jinja")
IMAGE_BYTES = 6_000_000  # of all pictures together, before base64 adds a third; 404 real slices need 2.1 MB
QUALITIES = (80, 60, 40, 20, 5)  # of WebP; the first one that stays within IMAGE_BYTES
MASK, PREDICTION = 1, 2  # bits of a pixel's label in the page
CASES = 4  # examples shown of one kind of failure

# What a figure is called, and what it means. The first ones are the summary; the rest can be unfolded below it. Figures
# that are not named here are shown under their own name.
SUMMARY = {
    "patient_dice": (
        "Volumetric Dice, mean over patients",
        "All pixels of a patient's stack counted together, 2 TP / (2 TP + FP + FN), then the mean over patients.",
    ),
    "patient_dice_median": ("Volumetric Dice, median over patients", "Half of the patients are better, half worse."),
    "tumour_iou": (
        "IoU, mean over tumour slices",
        "Slices without tumour are left out, so that empty ones cannot help.",
    ),
    "tumour_found": (
        "Tumour slices found",
        "Share of the slices with tumour in which prediction and mask share at least one pixel.",
    ),
    "false_positive_share": (
        "Empty slices with a false alarm",
        "Share of the slices without tumour in which anything is predicted. 0 is best.",
    ),
    "lesion_recall": ("Lesions found", "Share of the parts of the masks, connected in the stack, that are found."),
    "surface_dice_2": ("Surface Dice at 2 px", "Share of both outlines that lies within 2 pixels of the other."),
    "hd95": (
        "HD95, pixels",
        "95th percentile of the distances between both outlines, where both exist: misses do not show in it.",
    ),
    "iou": (
        "IoU, mean over all slices",
        "The published metric. Empty against empty counts as 1, so that it cannot be read without the next line.",
    ),
    "empty_prediction": (
        "… of which predicting nothing scores",
        "The share of slices without tumour: what a model that never finds anything would get. The dashed line.",
    ),
    "loss": ("Loss, mean over slices", "What training minimised, on these slices."),
}
FURTHER = {
    "tumour_dice": ("Dice, mean over tumour slices", ""),
    "tumour_missed": ("Tumour slices missed", ""),
    "patient_iou": ("Volumetric IoU, mean over patients", ""),
    "patient_sensitivity": (
        "Sensitivity, mean over patients",
        "Share of a patient's tumour pixels that are predicted.",
    ),
    "patient_precision": ("Precision, mean over patients", "Share of a patient's predicted pixels that are tumour."),
    "surface_dice_1": ("Surface Dice at 1 px", ""),
    "surface_dice_3": ("Surface Dice at 3 px", ""),
    "brier": ("Brier score", "Mean squared difference of probability and mask over the pixels of the head."),
}
FIGURES = SUMMARY | FURTHER
NOT_SHARES = ("loss", "brier", "ece", "hd95", "false_positive_area")  # not drawn between 0 and 1

COLUMNS = {  # of the tables
    "patient": "Patient",
    "institution": "Institution",
    "sequences": "Sequences",
    "slices": "Slices",
    "tumour_slices": "Tumour slices",
    "tumour_pixels": "Tumour, px",
    "predicted_pixels": "Predicted, px",
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "missed_slices": "Missed slices",
    "false_positive_slices": "Slices with false alarm only",
    "hd95": "HD95, px",
    "surface_dice_1": "Surface Dice 1 px",
    "surface_dice_2": "Surface Dice 2 px",
    "surface_dice_3": "Surface Dice 3 px",
    "lesions": "Lesions",
    "lesions_found": "Lesions found",
    "false_lesions": "False lesions",
    "lesion": "Lesion",
    "first_slice": "First slice",
    "last_slice": "Last slice",
    "volume": "Volume, px",
    "overlap": "Overlap, px",
    "found": "Found",
}


def write_report(run: RunFolder, images: np.ndarray, masks: np.ndarray, predicted: np.ndarray) -> None:
    """Write report.html into the folder of a run whose test_*.csv and metrics.json are already there.

    Args:
        images: uint8 [N, H, W, 3], of which FLAIR is shown.
        masks, predicted: uint8 [N, H, W], 0 or 1.
        slices: N rows as in test_results.csv.

    Raises: UserError when metrics.json is missing or a file cannot be read.
    """
    slices = run.read_test_tables()["slices"]
    run = run.path
    metrics = read_json(run / "metrics.json")
    if metrics is None:
        raise UserError(f"{run / 'metrics.json'}: no such file. Run test_model.py --run {run} first.")
    patients = read_csv(run / "test_patients.csv")
    slices = with_slice_numbers(slices)
    epochs = read_csv(run / "epochs.csv")
    if epochs is None:
        epochs = read_csv(run / "results.csv")

    before = {
        "summary": ("Summary", summary_section(metrics, slices, patients)),
        "patients": ("Patients", patients_section(patients, metrics)),
    }
    after = {
        "failures": ("Failures", failures_section(metrics.get("failures"), slices)),
        "subgroups": ("Groups of slices", strata_section(metrics.get("subgroups"))),
        "volumes": ("Volume and size", volumes_section(slices, patients)),
        "lesions": ("Lesions", lesions_section(read_csv(run / "test_lesions.csv"))),
        "calibration": ("Calibration", calibration_section(metrics.get("calibration"))),
        "training": ("Training", training_section(epochs, metrics.get("epoch"))),
        "terms": ("Terms and files", terms_section(metrics)),
    }
    links = {**titles(before), "viewer": "Slice viewer", **titles(after)}
    synthetic = bool(metrics.get("synthetic"))
    page = {
        "title": escape(f"{str(metrics.get('split', 'test')).capitalize()} report: {run.resolve().name}"),
        "banner": f'<div class="banner" role="note">{escape(SYNTHETIC_NOTICE)}</div>' if synthetic else "",
        "facts": facts(metrics, slices, read_json(run / "config.json") or {}),
        "notice": "" if synthetic else patient_notice(slices["patient"].nunique()),
        "links": "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in links.items()),
        "before": sections(before),
        "after": sections(after),
        "brightness": escape(
            f"FLAIR; white is the {BRIGHTEST:g}th percentile of each patient's stack. Orientation as in the files."
        ),
        "footer": FOOTER,
        "data": embedded({"size": IMAGE_SIZE, "patients": viewer_data(images, masks, predicted, slices, patients)}),
    }
    write_text(run / "report.html", fill_template(TEMPLATE.read_text(encoding="utf-8"), page))


def fill_template(template: str, page: dict[str, str]) -> str:
    """Replace each {{name}}, in one pass, so that nothing inside a replacement is taken for a name."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: page[match[1]], template)


def embedded(value: Any) -> str:
    """JSON that can stand inside a <script> element: no character of it can close the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def read_csv(path: Path) -> pd.DataFrame | None:
    """A table, ids as text; None if there is no such file or it has no rows."""
    try:
        table = pd.read_csv(path, dtype={"patient": str, "institution": str, "sequences": str}, encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as CSV ({reason}). Remove it, or run its script again.") from None
    return None if table.empty else table


def read_json(path: Path) -> dict | None:
    """The content of a JSON file; None if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Remove it, or run its script again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no figures by name. Remove it, or run its script again.")
    return content


def with_slice_numbers(slices: pd.DataFrame) -> pd.DataFrame:
    """The table with a column slice: the number in the file's name, if there is no such column yet."""
    if "slice" in slices:
        return slices.reset_index(drop=True)
    numbers = slices["image_path"].str.extract(r"_(\d+)\.\w+$")[0].astype(int)
    return slices.reset_index(drop=True).assign(slice=numbers.to_numpy())


# --- What the viewer shows ---------------------------------------------------------------------------------------


def viewer_data(
    images: np.ndarray, masks: np.ndarray, predicted: np.ndarray, slices: pd.DataFrame, patients: pd.DataFrame | None
) -> list[dict]:
    """A patient each, in the order of the table, with its slices by number; see the head of the template's script."""
    of_patient = {patient: rows.index.to_numpy() for patient, rows in slices.sort_values("slice").groupby("patient")}
    flair = np.empty(images.shape[:3], np.uint8)
    for rows in of_patient.values():
        flair[rows] = stretch(images[rows, ..., FLAIR])
    pictures = encode_pictures(flair)
    dice = {} if patients is None else dict(zip(patients["patient"], patients["dice"], strict=True))
    shown = []
    for patient, rows in of_patient.items():
        figure = f", Dice {dice[patient]:.3f}" if patient in dice else ""
        view = head_view(flair[rows], (masks[rows] | predicted[rows]) > 0)
        of_slices = [slice_data(slices.loc[row], masks[row], predicted[row], pictures[row]) for row in rows]
        shown.append({"id": patient, "title": f"{patient}{figure}", "view": view, "slices": of_slices})
    return shown


def slice_data(row: pd.Series, mask: np.ndarray, predicted: np.ndarray, picture: bytes) -> dict:
    return {
        "number": int(row["slice"]),
        "tumour": int(row["tumour_pixels"]),
        "predicted": int(row["predicted_pixels"]),
        "hit": int(row["true_positive"]),
        "false": int(row["false_positive"]),
        "missed": int(row["false_negative"]),
        "dice": finite(row["dice"]),
        "iou": finite(row["iou"]),
        "kind": str(row.get("kind", "")),
        "runs": encode_labels(mask, predicted),
        "image": base64.b64encode(picture).decode(),
    }


def head_view(flair: np.ndarray, marked: np.ndarray) -> list[int]:
    """[left, top, side] of the smallest square that holds the head (the largest bright part) and all marks.

    Args:
        flair: uint8 [N, H, W] after `stretch`; darker than 30 is taken for air.
        marked: bool [N, H, W].
    """
    bright = ((flair >= 30).sum(0) >= 0.05 * len(flair)).astype(np.uint8)  # noise is in few slices at one place
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright)
    head = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if len(stats) > 1 else -1
    seen = (labels == head) | marked.any(0)
    size = seen.shape[0]
    if not seen.any():
        return [0, 0, size]
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    margin = 4
    side = min(size, max(int(np.ptp(rows)), int(np.ptp(columns))) + 1 + 2 * margin)
    top, left = (int(np.clip((line[0] + line[-1] + 1 - side) // 2, 0, size - side)) for line in (rows, columns))
    return [left, top, side]


def encode_pictures(flair: np.ndarray) -> list[bytes]:
    """WebP of each slice (uint8 [N, H, W]) in the best of QUALITIES that keeps all of them below IMAGE_BYTES."""

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow encodes outside of Python's lock
        for quality in QUALITIES:
            pictures = list(threads.map(encode_picture, flair, itertools.repeat(quality)))
            if sum(map(len, pictures)) <= IMAGE_BYTES:
                break
    return pictures


def encode_picture(flair: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(flair).save(file, "WEBP", quality=quality, method=3)
    return file.getvalue()


def encode_labels(mask: np.ndarray, predicted: np.ndarray) -> list[int]:
    """Runs of marked pixels, rows first: [pixels skipped since the last run, length, label, ...].

    The label is the sum of MASK and PREDICTION, as far as they apply; unmarked pixels are skipped.
    """
    labels = ((mask > 0) * MASK + (predicted > 0) * PREDICTION).ravel()
    borders = [*np.flatnonzero(np.diff(labels, prepend=0)).tolist(), labels.size]
    runs, done = [], 0
    for start, end in itertools.pairwise(borders):
        if labels[start]:
            runs += [start - done, end - start, int(labels[start])]
            done = end
    return runs


# --- Sections ----------------------------------------------------------------------------------------------------


def titles(parts: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: title for name, (title, content) in parts.items() if content}


def sections(parts: dict[str, tuple[str, str]]) -> str:
    return "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>{content}'
        "</section>"
        for name, (title, content) in parts.items()
        if content
    )


def facts(metrics: dict, slices: pd.DataFrame, config: dict) -> str:
    """What was tested, and with what."""
    tumour = int((slices["tumour_pixels"] > 0).sum())
    settings = config.get("settings") or {}
    threshold = metrics.get("threshold")
    known = {
        "Patients": slices["patient"].nunique(),
        "Slices": f"{len(slices):,}, of which {tumour:,} with tumour",
        "Epoch": metrics.get("epoch"),
        "Chosen by": f"validation {readable(str(by))}" if (by := metrics.get("selected_by")) else None,
        "Threshold": f"{THRESHOLD if threshold is None else threshold:g}",
        "Smallest part kept": f"{size} px" if (size := metrics.get("min_component")) else None,
        "Network": f"U-Net, width {settings['width']}" if "width" in settings else None,
        "Trained on": f"{trained} patients" if (trained := (config.get("patients") or {}).get("train")) else None,
    }
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in known.items() if value is not None
    )
    return f'<dl class="facts">{rows}</dl><p class="soft">For research. Not a medical device.</p>'


def patient_notice(patients: int) -> str:
    return (
        '<div class="notice" role="note"><p>'
        f"<strong>This file contains images of {count(patients, 'patient')}.</strong> "
        "Pass it on only as far as the licence of the data allows (the Kaggle LGG set: CC BY-NC-SA 4.0), and never "
        "try to find out who they are.</p></div>"
    )


def summary_section(metrics: dict, slices: pd.DataFrame, patients: pd.DataFrame | None) -> str:
    """What the model is worth in words, the figures with their intervals, and the notes."""
    sentences = "".join(f"<li>{escape(s)}</li>" for s in verdict(metrics, slices, patients))
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in metrics.get("notes") or [])
    notes = f'<div class="notice" role="note"><ul>{notes}</ul></div>' if notes else ""
    return f'<ul class="verdict">{sentences}</ul>{notes}{figures_table(metrics)}'


def verdict(metrics: dict, slices: pd.DataFrame, patients: pd.DataFrame | None) -> list[str]:
    """A few sentences that follow from the counts alone."""
    sentences = []
    tumour = slices[slices["tumour_pixels"] > 0]
    if len(tumour):
        found = int((tumour["true_positive"] > 0).sum())
        sentences.append(f"It finds {found} of {count(len(tumour), 'tumour slice')} ({found / len(tumour):.0%}).")
    if not slices["predicted_pixels"].any():
        sentences.append("It predicts nothing on any slice.")
    empty = slices[slices["tumour_pixels"] == 0]
    if len(empty):
        alarms = int((empty["predicted_pixels"] > 0).sum())
        sentences.append(
            f"It raises a false alarm on {alarms} of {count(len(empty), 'slice')} without tumour "
            f"({alarms / len(empty):.0%})."
        )
    if patients is not None:
        missed = int(((patients["dice"] == 0) & (patients["tumour_pixels"] > 0)).sum())
        least, most = patients["dice"].min(), patients["dice"].max()
        sentences.append(
            f"Volumetric Dice of the {count(len(patients), 'patient')} lies between {least:.3f} and {most:.3f}"
            + (f"; {missed} of them {'is' if missed == 1 else 'are'} missed altogether." if missed else ".")
        )
    iou, nothing = metrics.get("iou"), metrics.get("empty_prediction")
    if iou is not None and nothing is not None:
        gain = "no better than that" if iou <= nothing else f"{iou - nothing:.3f} more than that"
        sentences.append(
            f"Its IoU over all slices, {iou:.3f}, is to be held against the {nothing:.3f} that predicting nothing "
            f"at all scores on them: it is {gain}."
        )
    return sentences


def figures_table(metrics: dict) -> str:
    """A row a figure, with its interval drawn between 0 and 1; those of the summary, then all others folded away."""
    intervals = metrics.get("intervals") or {}
    names = [name for name in FIGURES if is_number(metrics.get(name)) or name in intervals]
    names += [name for name in intervals if name not in FIGURES]
    rows = {name: figure_row(name, intervals.get(name) or {}, metrics) for name in names}
    head = (
        '<table class="figures"><thead><tr><th scope="col">Figure</th><th scope="col" class="number">Value'
        f"{' (95% interval)' if intervals else ''}</th>"
        '<th scope="col">0 to 1</th></tr></thead><tbody>'
    )
    explained = (
        "The bars are 95% intervals: patients were drawn again and again with replacement, so that they say how far a "
        "figure would move with other patients of the same kind."
        if intervals
        else "No intervals were computed for this run."
    )
    summary, further = ("".join(rows[name] for name in names if (name in SUMMARY) == first) for first in (True, False))
    folded = f"<details><summary>Further figures</summary>{head}{further}</tbody></table></details>" if further else ""
    return f'{head}{summary}</tbody></table><p class="soft">{explained}</p>{folded}'


def figure_row(name: str, interval: dict, metrics: dict) -> str:
    title, meaning = FIGURES.get(name, (readable(name), ""))
    value, low, high = interval.get("value", metrics.get(name)), interval.get("low"), interval.get("high")
    has_range = is_number(low) and is_number(high)
    shown_range = f' <span class="range">{shown(low)} to {shown(high)}</span>' if has_range else ""
    empty = metrics.get("empty_prediction") if name in ("iou", "empty_prediction") else None
    graphic = "" if name in NOT_SHARES else interval_graphic(value, low, high, empty)
    small = f"<br><small>{escape(meaning)}</small>" if meaning else ""
    return (
        f'<tr data-figure="{escape(name, quote=True)}"><th scope="row">{escape(title)}{small}</th>'
        f'<td class="number"><span class="value">{cell(value)}</span>{shown_range}</td>'
        f'<td class="graphic">{graphic}</td></tr>'
    )


def interval_graphic(value: Any, low: Any, high: Any, empty: Any = None) -> str:
    """A mark between 0 and 1 on its interval; the numbers stand beside it. Nothing for a value that is no share."""
    if not is_share(value):
        return ""
    band = f'<i style="--low:{low:.4f};--high:{high:.4f}"></i>' if is_share(low) and is_share(high) else ""
    dashed = f'<u style="--empty:{empty:.4f}"></u>' if is_share(empty) else ""
    return f'<span class="interval" aria-hidden="true">{band}{dashed}<b style="--value:{value:.4f}"></b></span>'


def patients_section(patients: pd.DataFrame | None, metrics: dict) -> str:
    """Bars of the volumetric Dice, best first, and the whole table."""
    if patients is None:
        return ""
    ordered = patients.sort_values(["dice", "patient"], ascending=[False, True])
    rows = "".join(
        f'<tr data-row="{escape(row.patient, quote=True)}"><th scope="row">{viewer_link(row.patient)}</th>'
        f'<td class="graphic">{bar(row.dice)}</td><td class="number">{cell(row.dice)}</td></tr>'
        for row in ordered.itertuples()
    )
    mean = patients["dice"].mean()
    return (
        "<p>Volumetric Dice of each patient, best first. A name opens the patient in the viewer.</p>"
        '<table class="bars"><thead><tr><th scope="col">Patient</th><th scope="col">0 to 1</th>'
        f'<th scope="col" class="number">Dice</th></tr></thead><tbody>{rows}</tbody><tfoot><tr>'
        f'<th scope="row">Mean of {count(len(patients), "patient")}</th><td class="graphic">{bar(mean)}</td>'
        f'<td class="number">{cell(mean)}</td></tr></tfoot></table>'
        f"<details><summary>All figures of each patient</summary>{plain_table(ordered, 'All figures of each patient')}"
        "</details>"
    )


def failures_section(failures: list[dict] | None, slices: pd.DataFrame) -> str:
    """A row of pictures for each kind of failure that was found."""
    if not failures:
        return ""
    return KEY + "".join(failure(kind, slices) for kind in failures)


def failure(kind: dict, slices: pd.DataFrame) -> str:
    unit = kind.get("value_is")
    examples = [
        (row, f"{unit}: {shown(example['value'])}" if unit and is_number(example.get("value")) else "")
        for example in kind.get("examples") or []
        if (row := find_slice(example, slices)) is not None
    ]
    pictures = "".join(example_figure(row, said) for row, said in examples[:CASES])
    of = f" of {kind['of']:,}" if is_number(kind.get("of")) else ""
    return (
        f'<h3 data-failure="{escape(str(kind["kind"]), quote=True)}">{escape(sentence_case(str(kind["kind"])))}: '
        f"{kind['count']:,}{of}</h3>"
        f'<p class="soft">{escape(str(kind.get("rule", "")))}</p>'
        + (f'<div class="gallery">{pictures}</div>' if pictures else "")
    )


def find_slice(example: dict, slices: pd.DataFrame) -> pd.Series | None:
    """The row that a failure's example names, by the path of its image or by patient and slice."""
    same = slices["image_path"] == example.get("image_path")
    if not same.any():
        same = (slices["patient"] == str(example.get("patient"))) & (slices["slice"] == example.get("slice"))
    return slices[same].iloc[0] if same.any() else None


def example_figure(row: pd.Series, said: str) -> str:
    """A picture of a slice that links to the viewer; `said` is what the rule of the failure measured on it."""
    patient, number = escape(row["patient"], quote=True), int(row["slice"])
    return (
        f'<figure><div class="picture" data-of="{patient}" data-number="{number}"></div>'
        f"<figcaption>{viewer_link(row['patient'], number)}<br>Dice {row['dice']:.3f}<br>mask "
        f"{int(row['tumour_pixels']):,} px, predicted {int(row['predicted_pixels']):,} px"
        f"{f'<br>{escape(sentence_case(said))}' if said else ''}</figcaption></figure>"
    )


def strata_section(strata: list[dict] | None) -> str:
    """A small table for each way of grouping the slices."""
    if not strata:
        return ""
    groups: dict[str, list[dict]] = {}
    for row in strata:
        groups.setdefault(str(row.get("by", "")), []).append(row)
    tables = "".join(strata_table(name, rows) for name, rows in groups.items())
    return f'<p>Tumour IoU is the mean over the tumour slices of a group.</p><div class="subgroups">{tables}</div>'


def strata_table(name: str, rows: list[dict]) -> str:
    columns = {"slices": "Slices", "patients": "Patients", "dice": "Dice", "found": "Found", "tumour_iou": "Tumour IoU"}
    drawn = ("tumour_iou", "tumour_iou_low", "tumour_iou_high")
    used = {key: title for key, title in columns.items() if any(key in row for row in rows)}
    head = "".join(f'<th scope="col" class="number">{title}</th>' for title in used.values())
    body = "".join(
        f'<tr><th scope="row">{escape(str(row.get("group", "")))}</th>'
        + "".join(f'<td class="number">{cell(row.get(key))}</td>' for key in used)
        + f'<td class="graphic">{interval_graphic(*map(row.get, drawn))}</td></tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(readable(name), quote=True)}"><table>'
        f"<caption>{escape(readable(name))}</caption><thead><tr><th scope='col'>Group</th>{head}"
        f"<th scope='col' class='graphic'>0 to 1</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


def volumes_section(slices: pd.DataFrame, patients: pd.DataFrame | None) -> str:
    """Dice against the area of the tumour, and predicted against true volume."""
    tumour = slices[slices["tumour_pixels"] > 0]
    parts = []
    if len(tumour):
        parts.append(dice_chart(tumour).html())
    if patients is not None:
        parts.append(bland_altman_chart(patients).html())
    return f'<div class="charts">{"".join(parts)}</div>' if parts else ""


def dice_chart(tumour: pd.DataFrame) -> charts.Chart:
    missed = tumour["true_positive"] == 0
    halves = tumour["tumour_pixels"] < tumour["tumour_pixels"].median()
    chart = charts.Chart(
        "Dice against tumour area",
        f"A dot for each of {len(tumour)} tumour slices, of which {int(missed.sum())} are missed. Mean Dice is "
        f"{tumour.loc[~halves, 'dice'].mean():.2f} on the larger half of them"
        + (f" and {tumour.loc[halves, 'dice'].mean():.2f} on the smaller." if halves.any() else "."),
        charts.whole_range(tumour["tumour_pixels"], "tumour in the slice, px", log=True),
        charts.Axis("Dice", 0, 1),
    )
    hit = tumour[~missed]
    chart.points(hit["tumour_pixels"], hit["dice"], "", "tumour slice")
    chart.points(tumour.loc[missed, "tumour_pixels"], tumour.loc[missed, "dice"], "missed", "missed slice (Dice 0)")
    return chart


def bland_altman_chart(patients: pd.DataFrame) -> charts.Chart:
    mean, difference, bias, limits = bland_altman(patients)
    words = f"Mean difference {bias:,.0f} px" + (
        f", limits of agreement {limits[0]:,.0f} to {limits[1]:,.0f} px." if limits else "."
    )
    chart = charts.Chart(
        "Volume, predicted − mask (Bland–Altman)",
        f"A dot for each of {count(len(patients), 'patient')}. {words}",
        charts.whole_range([0, *mean], "mean of both volumes, px"),
        charts.whole_range([0, *difference, *(limits or ())], "difference, px"),
    )
    across = (chart.x.low, chart.x.high)
    chart.line(across, (0, 0), "zero")
    chart.line(across, (bias, bias), "validation", f"mean difference, {bias:,.0f} px")
    for n, limit in enumerate(limits or ()):
        chart.line(across, (limit, limit), "limit", "" if n else "limits of agreement, ± 1.96 SD")
    chart.points(mean, difference, "", "patient", radius=4.5)
    return chart


def lesions_section(lesions: pd.DataFrame | None) -> str:
    """How many lesions were found, and a row each."""
    if lesions is None:
        return ""
    found = int(lesions["found"].astype(int).sum())
    shown = lesions.sort_values("volume", ascending=False).assign(found=lesions["found"].map({0: "no", 1: "yes"}))
    return (
        f"<p>{found} of {count(len(lesions), 'lesion')} found (parts of the mask that are connected in the stack), "
        f"largest first.</p>{plain_table(shown, 'Lesions', tall=True)}"
    )


def calibration_section(calibration: dict | None) -> str:
    """The reliability curve, with how many pixels stand behind each of its points."""
    bins = [b for b in (calibration or {}).get("bins") or [] if is_number(b.get("pixels")) and b["pixels"] > 0]
    if not bins:
        return ""
    brier, ece = calibration.get("brier"), calibration.get("ece")
    total = sum(b["pixels"] for b in bins)
    reliability = charts.Chart(
        "Reliability",
        f"Share of tumour among pixels of the same predicted probability. Brier score {shown(brier)}, expected "
        f"calibration error {shown(ece)}.",
        charts.Axis("predicted probability", 0, 1),
        charts.Axis("share of tumour pixels", 0, 1),
    )
    reliability.line((0, 1), (0, 1), "limit", "perfect")
    x = [float_or_nan(b["mean_probability"]) for b in bins]
    y = [float_or_nan(b["tumour_share"]) for b in bins]
    reliability.line(x, y, "validation")
    reliability.points(x, y, "", "this model")
    shares = [b["pixels"] / total for b in bins]
    pixels = charts.Chart(
        "Pixels behind each point",
        f"{max(shares):.1%} of the {total:,} pixels are in the fullest of {len(bins)} classes.",
        charts.Axis("predicted probability", 0, 1),
        charts.whole_range([b["pixels"] for b in bins], "pixels", log=True),
    )
    pixels.columns(
        [b["low"] for b in bins], [b["high"] for b in bins], [b["pixels"] for b in bins], "", "pixels (log scale)"
    )
    return (
        f'<p>Brier score <strong data-figure="brier">{cell(brier)}</strong>, expected calibration error '
        f'<strong data-figure="ece">{cell(ece)}</strong>. A point below the diagonal: the model is too sure of tumour '
        f'there.</p><div class="charts">{reliability.html()}{pixels.html()}</div>'
    )


def training_section(epochs: pd.DataFrame | None, chosen: int | None) -> str:
    """Loss and IoU against the epoch."""
    if epochs is None:
        return ""
    return f'<div class="charts">{loss_chart(epochs, chosen).html()}{iou_chart(epochs, chosen).html()}</div>'


def loss_chart(epochs: pd.DataFrame, chosen: int | None) -> charts.Chart:
    x = epochs["epoch"]
    both = [*epochs["training_loss"], *epochs["validation_loss"]]
    last = epochs.iloc[-1]
    chart = charts.Chart(
        "Loss against epoch",
        f"{len(epochs)} epochs; in the last, training {last['training_loss']:.3g} and validation "
        f"{last['validation_loss']:.3g}.",
        epoch_axis(x),
        charts.whole_range(both, "loss (log scale)", log=True),
    )
    chart.line(x, epochs["training_loss"], "training", "training")
    chart.line(x, epochs["validation_loss"], "validation", "validation")
    mark_epoch(chart, epochs, chosen, "validation_loss")
    return chart


def iou_chart(epochs: pd.DataFrame, chosen: int | None) -> charts.Chart:
    x, best = epochs["epoch"], epochs["validation_iou"].max()
    chart = charts.Chart(
        "IoU against epoch",
        f"Mean over slices, empty against empty is 1. The highest validation IoU is {best:.3f}.",
        epoch_axis(x),
        charts.Axis("IoU", 0, 1),
    )
    chart.line(x, epochs["training_iou"], "training", "training, all slices")
    chart.line(x, epochs["validation_iou"], "validation", "validation, all slices")
    if "validation_tumour_iou" in epochs:
        chart.line(x, epochs["validation_tumour_iou"], "tumour", "validation, tumour slices only")
    if "validation_empty_prediction" in epochs:
        chart.line(x, epochs["validation_empty_prediction"], "baseline", "validation, predicting nothing")
    mark_epoch(chart, epochs, chosen, "validation_iou")
    return chart


def epoch_axis(epochs: pd.Series) -> charts.Axis:
    return charts.Axis("epoch", min(0, int(epochs.min())), max(int(epochs.max()), 1))


def mark_epoch(chart: charts.Chart, epochs: pd.DataFrame, chosen: int | None, column: str) -> None:
    """A line and a dot where the tested epoch is."""
    value = epochs.loc[epochs["epoch"] == chosen, column]
    if len(value):
        chart.line((chosen, chosen), (chart.y.low, chart.y.high), "chosen")
        chart.points([chosen], [value.iloc[0]], "chosen", f"epoch {chosen}, the one tested", radius=4.5)


def terms_section(metrics: dict) -> str:
    """Definitions that the tables do not carry, the conventions of this evaluation, and where the numbers are."""
    terms = {
        "TP, FP, FN": "Pixels of both masks; of the prediction only (false alarm); of the reference only (missed).",
        "Dice and IoU": "2 TP / (2 TP + FP + FN) and TP / (TP + FP + FN). Empty against empty is 1.",
        "Sensitivity, precision": "TP / (TP + FN) and TP / (TP + FP).",
        "Tumour": "The FLAIR abnormality as it was outlined by hand for this data set.",
        "px": "Pixels of 256 × 256 slices. The files carry no spacing, so that there are no millimetres and no cm³.",
    }
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    conventions = "".join(f"<li>{escape(str(text))}</li>" for text in metrics.get("conventions") or [])
    conventions = f"<h3>Conventions of this evaluation</h3><ul>{conventions}</ul>" if conventions else ""
    return f'<dl class="terms">{listed}</dl>{conventions}{FILES}'


# --- Pieces ------------------------------------------------------------------------------------------------------

FILES = (
    "<p>All numbers of this page are in the same folder as this file: <code>metrics.json</code>, "
    "<code>test_patients.csv</code>, <code>test_results.csv</code> (a row a slice), <code>test_lesions.csv</code> "
    "where lesions were counted, and <code>epochs.csv</code>.</p>"
)
FOOTER = "<p>For research only. This is not a medical device, and nothing on this page is a diagnosis.</p>"
KEY = (
    '<p class="key"><span><svg width="40" height="12" aria-hidden="true"><path class="outline mask" d="M2 6H38"/></svg>'
    'reference mask, solid</span><span><svg width="40" height="12" aria-hidden="true"><path class="outline prediction" '
    'd="M2 6H38"/></svg>prediction, dashed</span></p>'
)


def viewer_link(patient: str, number: int | None = None) -> str:
    """A button that opens the viewer."""
    slice_ = "" if number is None else f' data-slice="{number}"'
    text = escape(patient) + ("" if number is None else f", slice {number}")
    return f'<button type="button" class="link" data-patient="{escape(patient, quote=True)}"{slice_}>{text}</button>'


def bar(value: Any) -> str:
    """A bar from 0 to 1; nothing for another value. The number itself stands beside it."""
    if not is_share(value):
        return ""
    return f'<span class="bar" aria-hidden="true"><i style="--value:{value:.4f}"></i></span>'


def cell(value: Any) -> str:
    """A value for people, which carries its full precision for programs."""
    if not is_number(value):
        return "–" if value is None or isinstance(value, float) else escape(str(value))
    return f'<data value="{value}">{shown(value)}</data>'


def shown(value: float | None) -> str:
    if not is_number(value):
        return "–"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.4f}" if 0 < abs(value) < 0.01 else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def plain_table(table: pd.DataFrame, label: str, tall: bool = False) -> str:
    """The columns that have a title, as they are."""
    used = [name for name in table if name in COLUMNS]
    head = "".join(f'<th scope="col"{numeric(table[name])}>{escape(COLUMNS[name])}</th>' for name in used)
    body = []
    for _, row in table.iterrows():
        first = int(row["first_slice"]) if "first_slice" in table else None
        cells = "".join(
            f'<td data-column="{name}"{numeric(table[name])}>{cell(row[name])}</td>'
            for name in used
            if name != "patient"
        )
        body.append(
            f'<tr data-row="{escape(row["patient"], quote=True)}"><th scope="row">'
            f"{viewer_link(row['patient'], first)}</th>{cells}</tr>"
        )
    return (
        f'<div class="scroll{" tall" if tall else ""}" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def numeric(column: pd.Series) -> str:
    return ' class="number"' if pd.api.types.is_numeric_dtype(column) else ""


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def readable(name: str) -> str:
    """slice_lesion_dice -> Slice lesion Dice"""
    words = {"iou": "IoU", "dice": "Dice", "ece": "ECE", "hd95": "HD95"}
    return sentence_case(" ".join(words.get(word, word) for word in name.split("_")))


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def float_or_nan(value: Any) -> float:
    return float(value) if is_number(value) else math.nan
