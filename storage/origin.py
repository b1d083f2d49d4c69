"""The weights that training began with: digest, licence, and which patients of a split they have seen.

config.json, and so each checkpoint, names patients by digests only: folders may be named after people.
"""

from pathlib import Path
from typing import Any

from dataset.slices import Slices, fingerprint, name_digest
from dataset.split import SPLITS
from storage.checkpoints import NETWORK, describe_network, load_network
from unet import weights_digest
from utils import UserError, list_few

LICENCE = "CC BY-NC-SA 4.0"  # of the published images, and so of weights learned from them
OF_INPUT = ("normalisation", "neighbours", "crop", "threshold", "min_component")  # settings that go with weights


class StartingWeights:
    """The weights that training begins with, from a file of `load_network`."""

    def __init__(self, path: Path):
        self.path = path
        self.network, self.checkpoint = load_network(path)
        self.sha256 = weights_digest(self.network.state_dict(), {})  # which model cards show

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of network and input that go with the weights."""
        network, of_input = self.checkpoint["network"], self.checkpoint["input"]
        return {name: network[name] for name in NETWORK} | {name: of_input[name] for name in OF_INPUT}

    def refuse_other_network(self, settings: dict[str, Any]) -> None:
        """Raise UserError if settings describe another network than that of the weights."""
        if describe_network(settings) != self.checkpoint["network"]:
            network = ", ".join(f"{name} {value}" for name, value in self.checkpoint["network"].items())
            raise UserError(f"{self.path}: holds a network with {network}. Leave the options for another out.")


def describe_origin(weights: StartingWeights | None, slices: dict[str, Slices]) -> dict[str, Any]:
    """Return what config.json says about --weights, if there are any, and about the patients of this training.

    weights: file, sha256, licence, recorded (whether all patients that they were trained on are known);
        seen: of each split, the patients on whom they were trained, by name or by images.
    training_patients: {digest of the name: fingerprint of the images} of training and validation, and of the weights.
    """
    patients = {
        split: {patient: fingerprint(subset.images.numpy()[rows]) for patient, rows in subset.stacks().items()}
        for split, subset in slices.items()
    }
    own = {name_digest(name): images for split in SPLITS[:2] for name, images in patients[split].items()}
    if not weights:
        return {"training_patients": own}
    config, known = weights.checkpoint["config"], weights.checkpoint["training_patients"] or {}
    seen = {
        split: sorted(n for n, images in own.items() if {n, name_digest(n)} & known.keys() or images in known.values())
        for split, own in patients.items()
    }
    described = {
        "file": weights.path.name,
        "sha256": weights.sha256,
        "licence": licence(config),
        "recorded": bool(known) and is_recorded(config),
        "seen": seen,
    }
    return {"weights": described, "training_patients": known | own}


def is_recorded(config: dict[str, Any]) -> bool:
    """Return whether the weights that training began with, if there are any, say whom they were trained on."""
    return config.get("weights", {}).get("recorded", True)


def is_drawn(config: dict[str, Any]) -> bool:
    """Return whether a network has seen synthetic patients alone."""
    return config["synthetic"] and "weights" not in config


def licence(config: dict[str, Any]) -> str:
    """Return the licence of a network by its config."""
    if is_drawn(config) or config["published"]:
        return "MIT" if is_drawn(config) else LICENCE
    begun = config.get("weights", {}).get("licence")
    before = f", and by that of the weights it began with: {begun}" if begun else ""
    return f"decided by the images it was learned from{before}"


def origin_warning(config: dict[str, Any], split: str) -> str:
    """Return a warning if patients of a split were, or may have been, in the training of the weights; else ""."""
    weights = config.get("weights")
    if weights and (seen := weights["seen"].get(split)):
        whose = f"the weights that this one began with ({weights['file']}): {list_few(seen)}"
        text = f"{len(seen)} of the {config['patients'][split]} {split} patients were in the training of {whose}"
    elif not is_recorded(config):
        text = f"the weights that this one began with ({weights['file']}) do not say whom they were trained on"
    else:
        return ""
    return f"{text}. Scores of patients who were say nothing about new patients."
