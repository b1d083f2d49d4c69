"""The model card of a run: the network, its data, training, test, limits and licence, as Markdown.

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
LICENCE = "CC BY-NC-SA 4.0"
CARD = """---
license: {origin.licence_id}
library_name: pytorch
pipeline_tag: image-segmentation
tags: [unet, glioma, mri, medical]
---

# Model card: U-Net for lower-grade glioma in MR slices

**{notice}**

For axial slices of the brain in three MR sequences, the network marks the abnormality that FLAIR shows.

## Network

- U-Net, {network[width]} to {widest} channels, {parameters:.2f} million parameters, {upsampling}
- input: {input}; {size} pixels square
- output: {output}; threshold {threshold}
- weights of epoch {epoch}
- SHA-256 of the weights as trained: {digest}

## Data

{origin.data}

Split by patient: {split}.

## Training

Settings: {settings}.

On {hardware}; {versions}.

## {tested_on}

{test}

## Limits

{origin.limits}

## Licence

The code is under the MIT licence.{origin.licence}
"""  # the Hugging Face hub reads its first lines


class Origin(NamedTuple):
    """Sentences about the patients of the training, the limits that follow, and the licence."""

    data: str
    limits: str  # as a list in Markdown
    licence_id: str  # as the Hugging Face hub names it
    licence: str = ""


IN_SLICES = "- Slices are evaluated at 256x256, and areas are in pixels: the data set carries no spacing."
SYNTHETIC = Origin(
    "Synthetic patients drawn by this project (python -m dataset.synthetic), labelled SYNTH.",
    "- The network has never seen a real image. Its masks of real images mean nothing.",
    "mit",
)
PUBLISHED = Origin(
    "[LGG MRI segmentation](https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation) (Buda, Saha, Mazurowski "
    "2019): lower-grade gliomas of TCGA-LGG, slices of pre-contrast, FLAIR and post-contrast MR with masks of the "
    f"FLAIR abnormality. {LICENCE}.",
    "- It marks FLAIR abnormality: oedema and infiltration as well as tumour. It was trained on gliomas of five "
    "institutions; other diseases, healthy brains and scans after treatment were not tested.\n"
    f"{IN_SLICES}\n"
    "- Two thirds of the slices have no tumour: an empty prediction scores high in the IoU over all slices.",
    "cc-by-nc-sa-4.0",
    f" The weights were learned from images under {LICENCE}: not for commercial use, share alike.",
)
OWN = Origin(
    "Patients some or all of whom are the user's own, not from the data set that this project was made for.",
    f"- Other patients, diseases, scanners and sequences than those of the data above were not tested.\n{IN_SLICES}",
    "other",
    " Whether the weights may be passed on depends on the images they were learned from; those of the Kaggle set, if "
    f"any were among them, are under {LICENCE}.",
)
NORMALISED = {  # see dataset/preprocess.py
    "plain": "(value / 255 - 0.5) / 0.5",
    "head": "per patient and sequence clipped to the percentiles 0.5 and 99.5 within the head, divided by their "
    "standard deviation, air at 0",
}


def describe_input(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of exported weights: how a slice is preprocessed, and how logits become a mask."""
    values, network = checkpoint["input"], checkpoint["network"]
    share = f"; computed at {values['resolution']:.0%} of the resolution" if values["resolution"] < 1 else ""
    near = f", FLAIR of {values['neighbours']} slice(s) before and after" if values["neighbours"] else ""
    small = f"; {describe_small(values['min_component'])}" if values["min_component"] else ""
    flip = "; averaged over the slice and its mirror image" if values["tta_flip"] else ""
    return {
        "input": f"float32 [batch, {network['channels']}, H, W]: pre-contrast, FLAIR, post-contrast{near}; "
        + NORMALISED[values["normalisation"]]
        + share,
        "output": f"logits, float32 [batch, 1, H, W]{flip}; foreground where sigmoid(logit) >= threshold{small}",
        **values,
        "network": network,
        "epoch": checkpoint["epoch"],
        "synthetic": checkpoint["config"]["synthetic"],
        "published": checkpoint["config"]["published"],
        "use": RESEARCH_USE,
    }


def model_card(run: RunFolder, checkpoint: dict[str, Any], digest: str) -> str:
    """Return the card as Markdown. It says so where the run was not tested, or another epoch was.

    digest: of the checkpoint's weights, see unet.weights_digest.
    Raises: UserError when a file of the run is missing or damaged.
    """
    config, network = checkpoint["config"], checkpoint["network"]
    origin = SYNTHETIC if config["synthetic"] else PUBLISHED if config["published"] else OWN
    weights = sum(t.numel() for name, t in checkpoint["weights"].items() if "running_" not in name and t.ndim)
    return CARD.format(
        **describe_input(checkpoint),
        origin=origin,
        notice=RESEARCH_USE
        + (f" {SYNTHETIC_NOTICE}. Never offer these weights as pretrained." if config["synthetic"] else ""),
        widest=16 * network["width"],
        parameters=weights / 1e6,
        upsampling=("bilinear interpolation" if network["bilinear"] else "up-convolutions")
        + ("; computes at half of the resolution (pixel unshuffle)" if network["pixel_unshuffle"] == 2 else ""),
        digest=digest,
        split=", ".join(
            f"{config['patients'][split]} patients with {config['slices'][split]} slices for {split}"
            for split in config["patients"]
        ),
        settings=_pairs(config["settings"]),
        hardware=config["hardware"],
        versions=_pairs(config["versions"]),
        tested_on="Test" if config["patients"]["test"] else "Validation",
        test=_test(run, checkpoint),
    )


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if name != "platform")


def _test(run: RunFolder, checkpoint: dict[str, Any]) -> str:
    again = f"run test_model.py --run {run}, then write this card again."
    if not run.is_tested():
        return f"Not tested yet: {again}"
    metrics, dice = run.read_metrics(), run.read_test_tables()["patients"]["dice"]
    if metrics["epoch"] != checkpoint["epoch"]:
        return f"Epoch {metrics['epoch']} was tested, not epoch {checkpoint['epoch']}: {again}"
    who = "that were in neither training nor validation" if metrics["split"] == "test" else "of the validation"
    text = f"{len(dice)} patients, {metrics['slices']} slices {who}.\n\n"
    text += f"| metric | value | 95% confidence interval over patients; below {FEWEST}, their values |\n"
    text += "| --- | --- | --- |\n"
    for name in SHOWN:
        estimate, (label, _, form, _) = metrics["intervals"][name], METRICS[name]
        text += f"| {label} | {show_number(estimate['value'], form)} | {show_interval(estimate, form)} |\n"
    return "\n\n".join(
        [text.strip(), f"Dice of the single patients: {dice.min():.3f} to {dice.max():.3f}.", *metrics["notes"]]
    )
