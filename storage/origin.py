"""The weights that training began with: digest, licence, and which patients of a split they have seen.

config.json, and so each checkpoint, names patients by digests only: folders may be named after people.
"""

from pathlib import Path
from typing import Any

from dataset.published import published_patients
from dataset.slices import Slices, fingerprint, name_digest
from dataset.split import SPLITS
from storage.checkpoints import NETWORK, describe_network, load_network
from unet import weights_digest
from utils import UserError, list_few

LICENCE = "CC BY-NC-SA 4.0"  # of the published images, and so of weights learned from them
Patients = dict[str, str]  # {name, or its digest: fingerprint of the images}


def needed_settings(path: Path | None) -> dict[str, Any]:
    """Return the settings of network and input that go with weights; {} without any."""
    if not path:
        return {}
    checkpoint = load_network(path)[1]
    of_input = ("normalisation", "neighbours", "crop", "threshold", "min_component")
    network = {name: checkpoint["network"][name] for name in NETWORK}
    return network | {name: checkpoint["input"][name] for name in of_input}


def trained_weights(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the weights in a file. Raises: UserError if they belong to another network than the settings describe."""
    network, checkpoint = load_network(path)
    actual, expected = checkpoint["network"], describe_network(settings)
    different = [f"{name} {actual[name]}, not {value}" for name, value in expected.items() if actual[name] != value]
    if different:
        raise UserError(f"{path}: holds a network with {'; '.join(different)}. Leave the options for that out.")
    return network.state_dict()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of the weights in a file, which model cards show."""
    return weights_digest(load_network(path)[0].state_dict(), {})


def describe_origin(path: Path | None, slices: dict[str, Slices]) -> dict[str, Any]:
    """Return what config.json says about the weights of --weights, if any, and the patients of this training.

    weights: file, sha256, licence, recorded (whether all patients that they were trained on are known); seen: of each
        split, the patients on whom they were trained; or, where suspected, those of the published set, if it was that.
    training_patients: of training and validation, and those of the weights.
    """
    split_patients = {split: fingerprints(subset) for split, subset in slices.items()}
    own = {name_digest(name): images for split in SPLITS[:2] for name, images in split_patients[split].items()}
    if not path:
        return {"training_patients": own}
    checkpoint = load_network(path)[1]
    config = checkpoint["config"]
    known: Patients = checkpoint["training_patients"] or {}
    recorded = bool(known) and config.get("weights", {}).get("recorded", True)
    suspected = published_patients().keys() if config["published"] and not recorded else ()

    def is_seen(name: str, images: str) -> bool:
        return bool({name, name_digest(name)} & known.keys()) or images in known.values() or name in suspected

    weights = {
        "file": path.name,
        "sha256": digest_of(path),
        "licence": licence(config),
        "recorded": recorded,
        "suspected": bool(suspected),
        "seen": {split: sorted(n for n, i in own.items() if is_seen(n, i)) for split, own in split_patients.items()},
    }
    return {"weights": weights, "training_patients": known | own}


def fingerprints(slices: Slices) -> Patients:
    """Return {name: fingerprint of the images} of each patient."""
    images = slices.images.numpy()
    return {patient: fingerprint(images[rows]) for patient, rows in slices.stacks().items()}


def licence(config: dict[str, Any]) -> str:
    """Return the licence of a network by its config."""
    if config["synthetic"] or config["published"]:
        return "MIT" if config["synthetic"] else LICENCE
    before = config.get("weights", {}).get("licence")
    before = f", and by that of the weights it began with: {before}" if before else ""
    return f"decided by the images it was learned from{before}"


def origin_warning(config: dict[str, Any], split: str) -> str:
    """Return a warning if patients of a split were, or may have been, in the training of the weights; else ""."""
    if not (weights := config.get("weights")):
        return ""
    seen, caution = weights["seen"].get(split, []), "Scores of patients who were say nothing about new patients."
    if seen:
        were = "were, or may have been," if weights["suspected"] else "were"
        return (
            f"{len(seen)} of the {config['patients'][split]} {split} patients {were} in the training of the weights "
            f"that this one began with ({weights['file']}): {list_few(seen)}. {caution}"
        )
    if weights["recorded"]:
        return ""
    return (
        f"{weights['file']}, which training began with, does not say whom it was trained on: perhaps on {split} "
        f"patients. {caution}"
    )
