"""The model card of a run: what the network is, how it was trained and tested, how well it did, and its limits.

Made from config.json, test_patients.csv, metrics.json and the checkpoint alone; nothing in it is written by hand.
"""

from typing import Any, NamedTuple

from constants import RESEARCH_USE, SYNTHETIC_NOTICE
from evaluation.intervals import FEWEST, show_interval
from evaluation.selection import describe_small
from evaluation.summary import METRICS
from storage.run_folder import RunFolder
from utils import show_number

SHOWN = ("patient_dice", "patient_dice_median", "tumour_iou", "tumour_found", "iou", "empty_prediction")
SLICE_BY_SLICE = (
    "Slices are judged in two dimensions at 256x256, and areas are in pixels, since the data set carries no spacing."
)
UNSEEN = "Other patients, diseases, scanners and sequences than those of the data above were never seen."
WEIGHTS = "SHA-256 of the weights as trained:"
LICENCE = "CC BY-NC-SA 4.0"


HEADER = """---
license: {}
library_name: pytorch
pipeline_tag: image-segmentation
tags: [unet, glioma, mri, medical]
---

"""  # which the Hugging Face hub reads


class Origin(NamedTuple):
    """What a card says about the patients behind the weights, the limits that follow, and the licence."""

    data: str
    limits: tuple[str, ...]
    identifier: str  # of the licence of weights, as the Hugging Face hub names it
    licence: str = ""


SYNTHETIC = Origin(
    "Synthetic patients drawn by this project (make_phantoms.py), labelled SYNTH.",
    ("The network has never seen a real image. Its masks of real images mean nothing.",),
    "mit",
)
PUBLISHED = Origin(
    "[LGG MRI segmentation](https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation) (Buda, Saha, Mazurowski "
    "2019): lower-grade gliomas of TCGA-LGG, slices of pre-contrast, FLAIR and post-contrast MR with masks of the "
    f"FLAIR abnormality. {LICENCE}.",
    (
        "The 110 patients of the data set come from five institutions; this network saw those counted above. Others "
        "were never seen.",
        "It marks FLAIR abnormality: oedema and infiltration as well as tumour. It was trained on gliomas only; how it "
        "behaves on other diseases, healthy brains or scans after treatment is unknown.",
        SLICE_BY_SLICE,
        "Two thirds of the slices have no tumour, so that an empty prediction scores high in the IoU over all slices. "
        "Judge by the Dice of the patients and the IoU over tumour slices.",
    ),
    "cc-by-nc-sa-4.0",
    f" The weights were learned from images under {LICENCE}: not for commercial use, share alike.",
)
OWN = Origin(
    "Patients some or all of whom are the user's own, not from the data set that this project was made for.",
    (UNSEEN, SLICE_BY_SLICE),
    "other",
    " Whether the weights may be passed on depends on the images they were learned from; those of the Kaggle set, if "
    f"any were among them, are under {LICENCE}.",
)


NORMALISED = {  # dataset/preprocess.py
    "plain": "(value / 255 - 0.5) / 0.5",
    "head": "per patient and sequence clipped to the percentiles 0.5 and 99.5 within the head, divided by their "
    "standard deviation, air at 0",
    "published": "per patient levels below 10% of the maximum set to 0, clipped to the percentiles 10 and 99, then "
    "mean 0 and standard deviation 1 per sequence",
}


def describe_input(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what accompanies exported weights: how a slice is prepared, and how logits become a mask."""
    about, network = checkpoint["input"], checkpoint["network"]
    share = f"; computed at {about['resolution']:.0%} of the resolution" if about["resolution"] < 1 else ""
    near = f", FLAIR of {about['neighbours']} slice(s) before and after" if about["neighbours"] else ""
    small = f"; {describe_small(about['min_component'])}" if about["min_component"] else ""
    flips = "; averaged over the slice and its mirror image" if about["flips"] else ""
    return {
        "input": f"float32 [batch, {network['channels']}, H, W]: pre-contrast, FLAIR, post-contrast{near}; "
        + NORMALISED[about["normalisation"]]
        + share,
        "output": f"logits, float32 [batch, 1, H, W]{flips}; foreground where sigmoid(logit) >= threshold{small}",
        **about,
        "network": network,
        "epoch": checkpoint["epoch"],
        "synthetic": checkpoint["config"]["synthetic"],
        "published": checkpoint["config"]["published"],
        "use": RESEARCH_USE,
    }


def model_card(run: RunFolder, checkpoint: dict[str, Any], digest: str) -> str:
    """Return the card as Markdown. It says so where the run was not tested, or another epoch was.

    digest: of the checkpoint's weights.
    Raises: UserError when a file of the run is missing or damaged.
    """
    config = checkpoint["config"]
    origin = SYNTHETIC if config["synthetic"] else PUBLISHED if config["published"] else OWN
    sections = [
        HEADER.format(origin.identifier) + "# Model card: U-Net for lower-grade glioma in MR slices",
        f"**{RESEARCH_USE}**",
        *([f"**{SYNTHETIC_NOTICE}. Never offer these weights as pretrained.**"] if config["synthetic"] else []),
        "## Network\n\n" + _network(checkpoint) + f"\n- {WEIGHTS} {digest}",
        "## Data\n\n" + _data(config, origin),
        "## Training\n\n" + _training(config),
        f"## {'Test' if config['patients']['test'] else 'Validation'}\n\n" + _test(run, checkpoint),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in origin.limits),
        "## Licence\n\n" + "The code is under the MIT licence." + origin.licence,
    ]
    return "\n\n".join(sections) + "\n"


def _network(checkpoint: dict[str, Any]) -> str:
    network, about = checkpoint["network"], describe_input(checkpoint)
    weights = sum(t.numel() for name, t in checkpoint["weights"].items() if "running_" not in name and t.ndim)
    upsampling = "bilinear interpolation" if network["bilinear"] else "up-convolutions"
    upsampling += "; computes at half of the resolution (pixel unshuffle)" if network["stem"] == 2 else ""
    return (
        f"- U-Net, {network['width']} to {16 * network['width']} channels, {weights / 1e6:.2f} million parameters, "
        f"{upsampling}; weights of epoch {checkpoint['epoch']}\n"
        f"- input: {about['input']}; {about['size']} pixels square\n"
        f"- output: {about['output']}; threshold {about['threshold']}"
    )


def _data(config: dict[str, Any], origin: Origin) -> str:
    parts = ", ".join(
        f"{config['patients'][split]} patients with {config['slices'][split]} slices for {split}"
        for split in config["patients"]
    )
    return f"{origin.data}\n\nSplit by patient: {parts}."


def _training(config: dict[str, Any]) -> str:
    settings, versions = (
        ", ".join(f"{name} {value}" for name, value in config[part].items() if name != "platform")
        for part in ("settings", "versions")
    )
    return f"Settings: {settings}.\n\nOn {config['hardware']}; {versions}."


def _test(run: RunFolder, checkpoint: dict[str, Any]) -> str:
    again = f"run test_model.py --run {run}, then write this card again."
    if not run.is_tested():
        return f"Not tested yet: {again}"
    metrics, dice = run.read_metrics(), run.read_test_tables()["patients"]["dice"]
    if metrics["epoch"] != checkpoint["epoch"]:
        return f"Epoch {metrics['epoch']} was tested, not epoch {checkpoint['epoch']}: {again}"
    who = "that were in neither training nor validation" if metrics["split"] == "test" else "of the validation"
    lines = [
        f"{len(dice)} patients, {metrics['slices']} slices {who}.",
        "",
        _table({name: metrics["intervals"][name] for name in SHOWN}),
        "",
        f"Dice of the single patients: {dice.min():.3f} to {dice.max():.3f}.",
    ]
    return "\n".join([*lines, *(f"\n{note}" for note in metrics["notes"])])


def _table(estimates: dict[str, dict[str, Any]]) -> str:
    interval = f"95% confidence interval over patients; below {FEWEST}, their values"
    rows = [f"| metric | value | {interval} |", "| --- | --- | --- |"]
    for name, estimate in estimates.items():
        label, _, form, _ = METRICS[name]
        rows.append(f"| {label} | {show_number(estimate['value'], form)} | {show_interval(estimate, form)} |")
    return "\n".join(rows)
