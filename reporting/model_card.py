"""The model card of a run: the network, its data, training, test, limits and licence, as Markdown.

Made from config.json, metrics.json and the checkpoint alone; its sentences are in the template.
"""

from typing import Any

from constants import RESEARCH_USE, SYNTHETIC_NOTICE
from dataset.published import published_patients
from dataset.slices import name_digest
from dataset.split import SPLITS
from evaluation.intervals import FEWEST
from evaluation.selection import describe_small
from evaluation.summary import metric_rows
from reporting.templates import render
from storage.origin import is_drawn, origin_warning
from storage.run_folder import RunFolder

SHOWN = (
    "patient_dice", "patient_dice_tumour", "patient_dice_median", "tumour_iou", "tumour_found", "iou",
    "empty_prediction",
)  # fmt: skip
CLIPPED = "per patient and sequence clipped to the percentiles 0.5 and 99.5 within the head, divided by {}, air at 0"
NORMALISED = {  # see dataset/preprocess.py
    "plain": "(value / 255 - 0.5) / 0.5",
    "head": CLIPPED.format("their standard deviation"),
    "median": CLIPPED.format("half of their median"),
}


def describe_input(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of exported weights: how a slice is preprocessed, and how logits become a mask."""
    values, network = checkpoint["input"], checkpoint["network"]
    published = checkpoint["config"]["published"]
    names = {name_digest(name): name for name in published_patients()}  # which are public, unlike those of others
    known = {names.get(name, name): images for name, images in (checkpoint["training_patients"] or {}).items()}
    begun = {name: text for name, text in checkpoint["config"].get("weights", {}).items() if name != "seen"}  # patients
    about = {"quality": checkpoint["quality"], "training_patients": known, "weights": begun}
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
        "published": published,
        "use": RESEARCH_USE,
        **{name: value for name, value in about.items() if value},
    }


def describe_graph(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of ONNX, from slices to masks: its inputs and outputs instead of the network's."""
    window = "; only the rows and columns of the window around the head" if metadata["crop"] else ""
    small = f"; {describe_small(metadata['min_component'])} afterwards" if metadata["min_component"] else ""
    return {
        "slices": f"uint8 [N, H, W, 3]: all slices of one patient in their order, {metadata['size']} pixels square; "
        f"pre-contrast, FLAIR, post-contrast{window}; H and W are multiples of 32, at least 64",
        "levels": "float32 [3, 256]: the value of each intensity of each sequence, one table per patient: "
        f"{NORMALISED[metadata['normalisation']]}",
        "logits": "float32 [N, H, W]",
        "mask": f"uint8 [N, H, W]: 1 where sigmoid(logit) >= threshold{small}",
        "code": "head, window and levels: dataset/preprocess.py of the project; all of it: inference/segment.py",
        **{name: value for name, value in metadata.items() if name not in ("input", "output")},
    }


def model_card(run: RunFolder, checkpoint: dict[str, Any], digest: str, others: RunFolder | None = None) -> str:
    """Return the card as Markdown. It says so where the run was not tested.

    digest: unet.weights_digest of the exported weights in float32, without metadata: the same for every format.
    others: the cross-validation that was tested instead.
    Raises: UserError when a file of the run is missing or damaged.
    """
    tested, config = others or run, checkpoint["config"]
    metrics = tested.read_metrics() if tested.is_tested() else None
    about = describe_input(checkpoint)
    page = {
        **about,
        "drawn": is_drawn(config),
        "graph": describe_graph(about),
        "config": config,
        "seen": [text for split in SPLITS[1:] if config["patients"][split] and (text := origin_warning(config, split))],
        "parameters": sum(t.numel() for k, t in checkpoint["weights"].items() if "running_" not in k and t.ndim),
        "digest": digest,
        "run": run,
        "others": others,
        "metrics": metrics,
        "rows": metric_rows(metrics, SHOWN) if metrics else [],
        "fewest": FEWEST,
        "pairs": lambda values: ", ".join(f"{k} {v}" for k, v in values.items() if k != "platform"),
        "synthetic_notice": SYNTHETIC_NOTICE,
    }
    return render(page, "model_card.md.jinja") + "\n"
