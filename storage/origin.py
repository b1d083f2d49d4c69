"""The weights that a network learned from: digest, licence, and which patients of a split they have seen.

config.json, and so each checkpoint, names patients by digests only: folders may be named after people.
"""

from pathlib import Path
from typing import Any

from dataset.preprocess import Preprocessing
from dataset.slices import Slices, fingerprint, name_digest
from dataset.split import SPLITS
from storage.checkpoints import NETWORK, describe_network, load_network
from unet import weights_digest
from utils import UserError, list_few

LICENCE = "CC BY-NC-SA 4.0"  # of the published images, and so of weights learned from them
OF_INPUT = ("normalisation", "neighbours", "crop", "threshold", "min_component")  # settings that go with weights


class TrainedWeights:
    """The weights that training begins with, or those of a teacher, from a file of `load_network`."""

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

    def refuse_other_input(self, settings: dict[str, Any]) -> None:
        """Raise UserError if settings prepare slices in another way than the network needs."""
        needed = Preprocessing.of(self.checkpoint["input"])
        if Preprocessing.of(settings) != needed:
            values = ", ".join(f"{name} {value}" for name, value in needed._asdict().items())
            raise UserError(f"{self.path}: a teacher needs the same input as the network that learns: {values}.")
        if settings["progressive_resolution"]:
            raise UserError(f"{self.path}: a teacher needs slices at full resolution. Add --no-progressive-resolution.")


def describe_origin(
    weights: TrainedWeights | None, teachers: list[TrainedWeights], slices: dict[str, Slices]
) -> dict[str, Any]:
    """Return what config.json says about --weights and --teachers, if any, and the patients of this training.

    weights, teachers: file, sha256, licence, recorded (whether all patients that they were trained on are known);
        seen: of each split, the patients on whom they were trained, by name or by images.
    training_patients: {digest of the name: fingerprint of the images} of training and validation, and of the weights.
    """
    patients = {
        split: {patient: fingerprint(subset.images.numpy()[rows]) for patient, rows in subset.stacks().items()}
        for split, subset in slices.items()
    }
    own = {name_digest(name): images for split in SPLITS[:2] for name, images in patients[split].items()}

    def describe(weights: TrainedWeights) -> dict[str, Any]:
        config, known = weights.checkpoint["config"], weights.checkpoint["training_patients"] or {}
        own.update({name: images for name, images in known.items() if name not in own})

        def seen(split: str) -> list[str]:
            by_name = {name for name in patients[split] if {name, name_digest(name)} & known.keys()}
            return sorted(by_name | {name for name, images in patients[split].items() if images in known.values()})

        return {
            "file": weights.path.name,
            "sha256": weights.sha256,
            "licence": licence(config),
            "recorded": bool(known) and is_recorded(config),
            "seen": {split: seen(split) for split in patients},
        }

    described = {"weights": describe(weights)} if weights else {}
    if teachers:
        described["teachers"] = [describe(teacher) for teacher in teachers]
    return described | {"training_patients": own}


def sources(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return how a network came from each of the weights in its config, and the description of these."""
    begun = [("began with", config["weights"])] if "weights" in config else []
    return begun + [("learned from", teacher) for teacher in config.get("teachers", [])]


def is_recorded(config: dict[str, Any]) -> bool:
    """Return whether all of the weights that a network came from say whom they were trained on."""
    return all(source["recorded"] for _, source in sources(config))


def is_drawn(config: dict[str, Any]) -> bool:
    """Return whether a network has seen synthetic patients alone."""
    return config["synthetic"] and not sources(config)


def licence(config: dict[str, Any]) -> str:
    """Return the licence of a network by its config."""
    if is_drawn(config) or config["published"]:
        return "MIT" if is_drawn(config) else LICENCE
    others = "; ".join(dict.fromkeys(source["licence"] for _, source in sources(config)))
    before = f", and by that of the weights it came from: {others}" if others else ""
    return f"decided by the images it was learned from{before}"


def origin_warning(config: dict[str, Any], split: str) -> str:
    """Return a warning if patients of a split were, or may have been, in the training of the weights; else ""."""
    weights = [source for _, source in sources(config)]
    files = list_few(list(dict.fromkeys(source["file"] for source in weights)))
    if seen := sorted({patient for source in weights for patient in source["seen"].get(split, [])}):
        whose = f"the weights that this one came from ({files}): {list_few(seen)}"
        text = f"{len(seen)} of the {config['patients'][split]} {split} patients were in the training of {whose}"
    elif not is_recorded(config):
        text = f"the weights that this one came from ({files}) do not all say whom they were trained on"
    else:
        return ""
    return f"{text}. Scores of patients who were say nothing about new patients."
