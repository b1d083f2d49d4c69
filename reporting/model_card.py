"""The model card of a run: what the network is, what it was trained and tested on, how well it did, and its limits.

Made from config.json, test_patients.csv, metrics.json and the checkpoint alone; nothing in it is written by hand.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import runs

from constants import MEAN, STD, SYNTHETIC_NOTICE, THRESHOLD
from utils import UserError

RESEARCH_USE = "Research use only: not a medical device, not for diagnosis or treatment."
FIGURES = {  # in metrics.json: what it is called in the card
    "patient_dice": "volumetric Dice, mean over patients",
    "tumour_iou": "IoU, mean over tumour slices only",
    "tumour_found": "share of tumour slices found",
    "iou": "IoU, mean over all slices, empty against empty is 1",
    "all_empty": "what predicting nothing at all would score in that IoU",
}
DATA = (
    "[LGG MRI segmentation](https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation) (Buda, Saha, "
    "Mazurowski 2019): lower-grade gliomas of TCGA-LGG, slices of pre-contrast, FLAIR and post-contrast MR with masks "
    "of the FLAIR abnormality. CC BY-NC-SA 4.0."
)
LIMITS = (
    "The data set's 110 patients were scanned at five institutions from 1983 to 2004; this network saw those counted "
    "above. Other scanners and sequences were never seen.",
    "It marks FLAIR abnormality, oedema and infiltration as well as tumour, and it was shown gliomas only: what it "
    "makes of other diseases, of healthy brains or of scans after treatment is unknown.",
    "Slices are judged one by one at 256x256; neighbouring slices are not looked at, and areas are pixels, since the "
    "data set carries no spacing.",
    "Two thirds of the slices have no tumour, so that predicting nothing scores high in the IoU over all slices. Judge "
    "by the Dice of patients and the IoU over tumour slices.",
)
LIMITS_OWN = "Other patients, diseases, scanners and sequences than those of the data above were never seen."
LIMITS_SYNTHETIC = ("It has never seen a real image. Its masks of real images mean nothing.",)


class Origin(NamedTuple):
    """What a card says of the patients behind the weights, of the limits that follow, and of the weights' licence."""

    data: str
    limits: tuple[str, ...]
    licence: str = ""


SYNTHETIC = Origin("Synthetic patients drawn by this project (phantom.py), labelled SYNTH.", LIMITS_SYNTHETIC)
PUBLISHED = Origin(
    DATA, LIMITS, " The weights were learned from images under CC BY-NC-SA 4.0: not for commercial use, share alike."
)
OWN = Origin(
    "Patients of whom some or all are the user's own, not of the data set that this project was made for.",
    (LIMITS_OWN, LIMITS[2]),
    " Whether the weights may be passed on depends on whose images they were learned from; those of the Kaggle set, if "
    "any were among them, are under CC BY-NC-SA 4.0.",
)


def model_card(run: Path, epoch: int, checkpoint: dict[str, Any]) -> str:
    """The card as Markdown. Says so where the run was not tested, or another epoch was.

    Raises: UserError when a file of the run is missing or damaged.
    """
    config = runs.read_config(run)
    synthetic = bool(config.get("synthetic"))
    origin = SYNTHETIC if synthetic else PUBLISHED if is_published(config) else OWN
    sections = [
        "# Model card: U-Net for lower-grade glioma in MR slices",
        f"**{RESEARCH_USE}**",
        *([f"**{SYNTHETIC_NOTICE}. Never offer these weights as pretrained.**"] if synthetic else []),
        "## Network\n\n" + _network(checkpoint, epoch),
        "## Data\n\n" + _data(config, origin),
        "## Training\n\n" + _training(config),
        "## Test\n\n"
        + (
            _test(run, epoch, preparation(checkpoint)["threshold"])
            if config["patients"].get("test")
            else _validation(checkpoint)
        ),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in origin.limits),
        "## Licence\n\n" + "The code is under the MIT licence." + origin.licence,
    ]
    return "\n\n".join(sections) + "\n"


def preparation(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What goes with the weights wherever they travel: how a slice is prepared, and how logits become a mask."""
    prepared = checkpoint["input"]
    return {
        "input": "float32 [batch, 3, H, W]: pre-contrast, FLAIR, post-contrast; (value / 255 - mean) / std",
        "output": "logits, float32 [batch, 1, H, W]; lesion where sigmoid(logit) >= threshold",
        "size": prepared.get("size"),
        "mean": prepared.get("mean", list(MEAN)),
        "std": prepared.get("std", list(STD)),
        "threshold": prepared.get("threshold", THRESHOLD),
        "network": checkpoint["network"],
        "epoch": checkpoint["epoch"],
        "synthetic": bool(checkpoint["config"].get("synthetic")),
        "published": is_published(checkpoint["config"]),
        "use": RESEARCH_USE,
    }


def is_published(config: dict[str, Any]) -> bool:
    """Whether all patients of a run are of the published data set; runs from before this was noted count as such."""
    return not config.get("synthetic") and config.get("published", True)


def _network(checkpoint: dict[str, Any], epoch: int) -> str:
    network, prepared = checkpoint["network"], preparation(checkpoint)
    weights = sum(t.numel() for name, t in checkpoint["weights"].items() if "running_" not in name and t.ndim)
    return "\n".join(
        (
            f"- U-Net, {network['width']} to {16 * network['width']} channels, {weights / 1e6:.2f} million parameters, "
            f"{'bilinear interpolation' if network['bilinear'] else 'up-convolutions'}; weights of epoch {epoch}",
            f"- input: {prepared['input']}; mean {prepared['mean']}, std {prepared['std']}, "
            f"{prepared['size']} pixels square",
            f"- output: {prepared['output']}; threshold {prepared['threshold']}",
        )
    )


def _data(config: dict[str, Any], origin: Origin) -> str:
    parts = ", ".join(
        f"{config['patients'][split]} patients with {config['slices'][split]} slices for {split}"
        for split in config["patients"]
    )
    return f"{origin.data}\n\nSplit by patient: {parts}."


def _training(config: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in config["settings"].items())
    versions = ", ".join(f"{name} {value}" for name, value in config["versions"].items())
    return f"Adam. Settings: {settings}.\n\nOn {config['hardware']}; {versions}."


def _test(run: Path, epoch: int, threshold: float) -> str:
    path = run / "metrics.json"
    if not path.is_file():
        return f"Not tested yet: run test_model.py --run {run}, then write this card again."
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        patients = pd.read_csv(run / "test_patients.csv")
        rows = [_row(metrics, name, label) for name, label in FIGURES.items() if name in metrics]
        tested, used = metrics["epoch"], (metrics["threshold"], metrics["min_component"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Run test_model.py --run {run} again.") from None
    if tested != epoch:
        return (
            f"Epoch {tested} was tested, not epoch {epoch}: run test_model.py --run {run}, then write this card again."
        )
    dice = patients["dice"]
    lines = [
        f"{len(patients)} patients, {metrics['slices']} slices that were in neither training nor validation.",
        "",
        "| figure | value | 95% interval over patients |",
        "| --- | --- | --- |",
        *rows,
        "",
        f"Dice of the single patients: {dice.min():.3f} to {dice.max():.3f}, median {dice.median():.3f}.",
    ]
    if not metrics.get("intervals"):
        lines.append("No intervals were computed for this run.")
    if used != (threshold, 0):
        lines += [
            "",
            f"**Measured at threshold {used[0]}, parts below {used[1]} px removed**, as was chosen on the validation "
            f"patients. The weights carry threshold {threshold}, and nothing is removed: expect other figures.",
        ]
    return "\n".join([*lines, *(f"\n{note}" for note in metrics.get("notes", []))])


def _validation(checkpoint: dict[str, Any]) -> str:
    """What is known of a network that was trained without anybody to test it on."""
    rows = [_row({name: checkpoint.get(f"validation_{name}")}, name, label) for name, label in FIGURES.items()]
    lines = [
        "Nobody was left to test on. These are figures of the validation patients, on whom the epoch was chosen:",
        "expect less on others.",
        "",
        "| figure | value | |",
        "| --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines)


def _row(metrics: dict[str, Any], name: str, label: str) -> str:
    interval = metrics.get("intervals", {}).get(name, {})
    low, high = interval.get("low"), interval.get("high")
    shown = "" if low is None or high is None or name == "all_empty" else f"{low:.3f} to {high:.3f}"
    value = metrics[name]
    return f"| {label} | {'undefined' if value is None else format(value, '.3f')} | {shown} |"
