"""report.html of one's own scans: the table of the cohort, what to check first on top, and the viewer.

Each patient has a page beside its masks. report.html shows all of a small cohort, and is the index of a larger one.
"""

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from constants import FLAIR, RESEARCH_USE
from reporting.templates import render
from reporting.viewer import SEQUENCES, encode_labels, encode_pictures, show_frame
from scans.check import CORRECTED, RULE
from scans.items import Patient
from scans.scan import Scan
from scans.show import BRIGHTEST, stretch
from scans.table import shown_items
from scans.write import Result, Row, describe_cohort
from utils import counted, write_text

MOST_BYTES, MOST_PATIENTS = 16_000_000, 30  # that report.html shows itself
PICTURE_BYTES = 3_000_000  # of a patient's pictures, before base64 adds a third; of the probabilities a quarter of it
UNLIKE = "Size, shape or probabilities of this mask are beyond those of the patients by whom it is estimated."
IF_EMPTY = (
    "The expected Dice of an empty mask is the probability that it is right, if half of the patients have no tumour. "
    "Where all have one, it is wrong."
)
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)  # of a page


def make_page(patient: Patient, result: Result, facts: dict[str, str], synthetic_notice: str = "") -> str:
    """Return the page of a patient. facts, synthetic_notice: as of `write_report`."""
    stack = make_stack(result, scan_facts(result.scan, result.total, shown_items(patient)))
    return render_page(patient.name, [stack], [result.total], facts, synthetic_notice)


def write_report(
    out: Path, totals: list[Row], facts: dict[str, str], warnings: Sequence[str], synthetic_notice: str = ""
) -> Path:
    """Write report.html and return its path: with the viewer, or, once they are too many, with links to the pages.

    totals: rows of patients.csv. facts: about network and cohort, by name. warnings: about the whole cohort.
    synthetic_notice: empty, or says that the network knows nothing.
    """
    title = f"{out.resolve().name}: {counted(len(totals), 'scan')}"
    totals = sorted(totals, key=first_to_check)
    pages = [page_of(out, total["patient"]) for total in totals]
    few = len(pages) <= MOST_PATIENTS and sum(page.stat().st_size for page in pages) <= MOST_BYTES
    stacks = [read_stack(page) for page in pages] if few else []
    path = out / "report.html"
    write_text(path, render_page(title, stacks, totals, facts, synthetic_notice, warnings))
    return path


def read_stack(page: Path) -> dict[str, Any]:
    """Return the stack that the page of a patient shows."""
    return json.loads(DATA.search(page.read_text(encoding="utf-8"))[1])["patients"][0]


def render_page(
    title: str, stacks: list[dict[str, Any]], totals: list[Row], facts: dict[str, str], synthetic_notice: str,
    warnings: Sequence[str] | None = None,
) -> str:  # fmt: skip
    """Return a page: of the cohort, in the order of the totals, or, without warnings (None), of a patient."""
    own = warnings is not None
    page = {
        "title": title,
        "sections": ({"cohort": "Scans"} if own else {}) | ({"viewer": "Slice viewer"} if stacks else {}),
        "synthetic_notice": synthetic_notice,
        "research_use": RESEARCH_USE,
        "facts": facts | {"Written": f"{datetime.now(UTC):%Y-%m-%d}"},
        "images": len(stacks),
        "warnings": list(warnings or []),
        "table": cohort_table(totals) if own else None,
        "totals": describe_cohort(totals) if own else "",
        "links": {} if stacks else {t["patient"]: quote(page_of(Path(), t["patient"]).as_posix()) for t in totals},
        "rule": RULE,
        "expects": any("expected_dice" in total for total in totals),
        "if_empty": IF_EMPTY if any(map(knows_empty, totals)) else "",
        "brightest": BRIGHTEST,
        "viewer": {"patients": stacks},
    }
    return render(page, "scans.html.jinja")


def page_of(out: Path, patient: str) -> Path:
    return out / patient / f"{patient}_report.html"


def first_to_check(total: Row) -> tuple:
    """Return a sort key: first whom to check, of these the unknown, then empty masks, then the lowest expected Dice."""
    check, expected = total["check"] == "yes", total.get("expected_dice")
    unknown, empty = check and expected is None, check and not total["lesion_pixels"]
    known = 1.0 if expected is None else expected
    return not check, not unknown, not empty, known, -len(total["warnings"]), total["patient"]


def cohort_table(totals: Sequence[Row]) -> dict[str, Any]:
    """Return the table of the page: columns, those of numbers, and rows of text, in the order of the totals.

    Columns in which no patient has something special are left out.
    """
    rows = []
    for total in totals:
        volume = total.get("volume_ml")
        rows.append({
            "Patient": total["patient"],
            "Check": total["check"],
            "Expected Dice": describe_expected(total),
            "Volume": f"{total['lesion_pixels']:,} px" if volume is None else f"{volume:,.1f} ml",
            "Slices with lesion": f"{total['lesion_slices']} of {total['slices']}",
            "Dice": f"{total['dice']:.3f}" if "dice" in total else "",
            "Seen in training": "yes" if total.get("seen_in_training") == "yes" else "",
            "Mask": CORRECTED if total["origin"] == CORRECTED else "",
            "Warnings": total["warnings"][:1].upper() + total["warnings"][1:],
        })  # fmt: skip
    columns = [name for name in rows[0] if any(row[name] not in ("", "unknown") for row in rows)]
    return {"columns": columns, "numeric": ["Expected Dice", "Volume", "Slices with lesion", "Dice"], "rows": rows}


def make_stack(result: Result, facts: Sequence[str]) -> dict[str, Any]:
    """Return a patient as the viewer shows it, see viewer.js. facts: sentences about the scan."""
    scan, head, masks, references, probabilities, rows, total = result
    references = masks * 0 if references is None else references
    flair = scan.slices[..., FLAIR]
    shown = [
        n for n in SEQUENCES.values() if n == FLAIR or not (scan.grey or np.array_equal(scan.slices[..., n], flair))
    ]
    pictures = encode_pictures(np.stack([stretch(scan.slices[..., n]) for n in shown]), PICTURE_BYTES)
    shades = [[None]] * len(rows)
    if probabilities is not None:
        grey = (probabilities * 255).round().astype(np.uint8)
        shades = encode_pictures(grey[None], PICTURE_BYTES // 4)
    unit, area = ("mm²", "lesion_mm2") if scan.spacing else ("px", "lesion_pixels")
    pixel = math.prod(scan.spacing[:2]) if scan.spacing else 1
    slices = []
    for n, row in enumerate(rows):
        own = {"number": n + 1, "predicted": round(row[area], 1), "images": pictures[n], "probability": shades[n][0]}
        own["words"] = f"{row['slice']}: {'lesion' if row['lesion_pixels'] else 'no lesion'}."
        own["values"] = {f"area, {unit}": f"{row[area]:,.0f}"}
        if probabilities is not None:
            own["values"]["highest probability"] = f"{probabilities[n].max():.2f}"
        if "dice" in row:
            own["reference"] = round(row["reference_pixels"] * pixel, 1)
            own["wrong"] = row["lesion_pixels"] + row["reference_pixels"] - 2 * row["true_positive"]
            own["values"] |= {f"reference, {unit}": f"{own['reference']:,.0f}", "Dice": f"{row['dice']:.3f}"}
        slices.append(own | {"runs": encode_labels(references[n], masks[n])})
    return {
        **show_frame(head | (masks > 0) | (references > 0), scan.spacing),
        "id": scan.name,
        "title": title_of(total),
        "sides": ["R", "L"] if scan.grid and scan.grid.affine is not None else None,  # shown as radiologists do
        "layers": [name for name, n in SEQUENCES.items() if n in shown][: len(pictures[0])],
        "facts": list(facts),
        "notes": scan.notes,
        "hasReference": "dice" in total,
        "maskName": "corrected mask" if total["origin"] == CORRECTED else "prediction",
        "unit": unit,
        "slices": slices,
    }


def title_of(total: Row) -> str:
    """Return the patient with volume, and Dice or the expected Dice of a lesion as far as known."""
    volume = f", {total['volume_ml']:,.1f} ml" if "volume_ml" in total else ""
    if "dice" in total:
        return f"{total['patient']}{volume}, Dice {total['dice']:.3f}"
    known = total.get("low") is not None
    return f"{total['patient']}{volume}" + (f", expected Dice {total['expected_dice']:.2f}" if known else "")


def scan_facts(scan: Scan, total: Row, taken: str) -> list[str]:
    """Return sentences about a scan for the viewer; taken: its files by sequence."""
    warnings = total.get("warnings") and f"Warning: {total['warnings']}"
    expected = "expected_dice" in total and f"Expected Dice {describe_expected(total)}."
    if expected and total["low"] is None and not warnings:  # which would be the reason
        expected += f" {IF_EMPTY if knows_empty(total) else UNLIKE}"
    seen = "Seen in training: the network learned from this patient." if total.get("seen_in_training") == "yes" else ""
    spacing = " × ".join(f"{size:.3g}" for size in scan.spacing or ())
    size = f"Voxels of {spacing} mm (rows, columns, slices)." if spacing else "No spacing known: areas are in pixels."
    return [text for text in (warnings, expected, seen, f"{taken}. {size}") if text]


def describe_expected(total: Row) -> str:
    """Return the expected Dice with its interval: 0.87 (0.76 to 0.98); what it is of an empty mask; or unknown."""
    expected = total.get("expected_dice")
    if expected is None:
        return "unknown"
    between = "no lesion" if knows_empty(total) else f"{total['low']:.2f} to {total['high']:.2f}"
    return f"{expected:.2f} ({between})"


def knows_empty(total: Row) -> bool:
    """Return whether the expected Dice is the probability that an empty mask is right."""
    return total.get("expected_dice") is not None and total["low"] is None
