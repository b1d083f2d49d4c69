"""What is chosen on validation patients, never on test patients: the epoch, the threshold, the smallest component.

Components are connected through the slices of a patient, corners included. One is small if its largest section has too
few pixels, or, in a stack of several slices, if it lies in a single slice: a tumour goes on in the next one. The thin
ends of a large component stay. The rule of two slices was found on the cross-validated predictions of the 99 patients
on which it is scored: expect a smaller gain on others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

import constants
from constants import CRITERIA, THRESHOLD
from dataset.slices import Slices
from evaluation import metrics
from evaluation.lesions import CONNECTED, bounding_box
from storage import checkpoints
from storage.run_folder import RunFolder
from unet import UNet
from utils import UserError, parallel_map

CLEARLY = 0.05  # tumour-slice IoU by which another epoch has to be better to be named in a warning
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # 0.05 to 0.95
SMALLEST = (0, 10, 50, 100, 200, 300)  # pixels of the largest section; 0 keeps everything
FEWEST_SLICES = 2  # of a component, unless its stack is a single slice
NO_TUMOUR = (
    "warning: no validation slice has tumour: nothing can be chosen on them, and --tune changes nothing. Train with "
    "validation patients who have tumour (--split, --fold), or take the lowest loss (test_model.py --select-by loss)."
)


# --- The epoch -------------------------------------------------------------------------------------------------


def best_epoch(epochs: pd.DataFrame, by: str | None = None) -> int:
    """Return the epoch with the best validation metric, the earliest of equals. The published rule uses the IoU.

    epochs: one row per epoch, as in epochs.csv; without `saved`, where there is such a column, it is not chosen.
    by: of CRITERIA; the usual one if None.
    Raises: UserError when no epoch has the metric.
    """
    by = by or usual_criterion(epochs)
    epochs = epochs[epochs["saved"]] if "saved" in epochs else epochs
    if by == "last":
        return int(epochs["epoch"].max())
    values = epochs[f"validation_{by}"]
    if values.isna().all():
        raise UserError(f"--select-by {by}: undefined for every epoch on these validation slices. Choose another.")
    return int(epochs.loc[values.idxmin() if by == "loss" else values.idxmax(), "epoch"])


def has_validation(epochs: pd.DataFrame) -> bool:
    """Return whether there were validation patients."""
    return bool(epochs.filter(like="validation_").notna().any(axis=None))


def usual_criterion(epochs: pd.DataFrame) -> str:
    """Return the one of CRITERIA that chooses the epoch unless another is asked for."""
    return "iou" if has_validation(epochs) else "last"


def best_epochs(epochs: pd.DataFrame, count: int) -> set[int]:
    """Return the `count` best epochs by each criterion, from which any criterion can choose later."""
    best = set()
    for by in CRITERIA.keys() - {"last"} if has_validation(epochs) else ():
        ranked = epochs.sort_values([f"validation_{by}", "epoch"], ascending=[by == "loss", True])
        best |= set(ranked["epoch"].head(count).astype(int))
    return best


def selection_warning(epochs: pd.DataFrame, chosen: int) -> str:
    """Return a warning if the chosen epoch is a poor choice, else an empty text.

    It is poor if fewer than half of the validation tumour slices are found, or if the tumour-slice IoU of another epoch
    is higher by more than CLEARLY; without such slices, nothing can be said.
    """
    if not has_validation(epochs):
        return ""
    if epochs["validation_tumour_found"].isna().all():
        return NO_TUMOUR
    found, iou = (epochs.set_index("epoch")[f"validation_tumour_{name}"] for name in ("found", "iou"))
    best = int(iou.idxmax())
    if found[chosen] >= 0.5 and iou[best] <= iou[chosen] + CLEARLY:
        return ""
    other = f"; the best on them is epoch {best} with {found[best]:.0%} and {iou[best]:.3f} (--select-by tumour_iou)"
    return (
        f"warning: epoch {chosen} finds {found[chosen]:.0%} of the validation tumour slices, with an IoU of "
        f"{iou[chosen]:.3f}{other if best != chosen else ''}. If that is too little, train for longer, or with "
        "--recipe tuned."
    )


# --- Postprocessing: from probabilities to masks ---------------------------------------------------------------


class Postprocessing(NamedTuple):
    """Pixels from probability `threshold` on are tumour; small components are removed if `min_component` is not 0."""

    threshold: float = THRESHOLD
    min_component: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Postprocessing":
        """Return the rules that a checkpoint's input, or metrics.json, records."""
        return cls(settings["threshold"], settings["min_component"])

    def describe(self, tuned: dict | None = None) -> str:
        """Return the rules in words; tuned: as `tune` returns it."""
        small = f", {describe_small(self.min_component)}" if self.min_component else ""
        origin = f" (tuned on {tuned['patients']} validation patients)" if tuned else ""
        return f"threshold {self.threshold:g}{small}{origin}"


def describe_small(min_component: int) -> str:
    """Return in words which components are removed."""
    return f"components below {min_component} px, or in one slice alone, removed"


def postprocess(probabilities: np.ndarray, rules: Postprocessing, stacks: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Return the masks of probabilities (float32 [N, H, W]): uint8 0 or 1, [N, H, W]; stacks: as of Slices.stacks."""
    masks = np.empty(probabilities.shape, np.uint8)
    for rows in stacks.values():
        masks[rows] = postprocess_stack(probabilities[rows], rules)
    return masks


def postprocess_stack(probabilities: np.ndarray, rules: Postprocessing) -> np.ndarray:
    """Return the masks of one patient's slices, in their order, as `postprocess` does."""
    foreground = (probabilities >= rules.threshold).view(np.uint8)
    box = bounding_box(foreground)
    labels, sections = label_components(foreground[box])
    masks = np.zeros_like(foreground)
    masks[box] = is_kept(sections, rules.min_component, len(masks))[labels]
    return masks


def label_components(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the component of each pixel of a stack, int32 [S, H, W], from 1, and the pixels of its sections.

    Pixels: int64 [S, 1 + components], of each component in each slice; the background has none.
    """
    labels, components = ndimage.label(stack, CONNECTED)
    sections = np.stack([np.bincount(plane.ravel(), minlength=components + 1) for plane in labels])
    sections[:, 0] = 0
    return labels, sections


def is_kept(sections: np.ndarray, smallest: int, slices: int) -> np.ndarray:
    """Return which components are not small, bool [1 + components]; slices: of the whole stack."""
    if smallest == 0:
        return sections.any(0)
    return (sections.max(0) >= smallest) & ((sections > 0).sum(0) >= min(FEWEST_SLICES, slices))


def tune(
    slices: Slices, probabilities: np.ndarray, default: Postprocessing
) -> tuple[Postprocessing, dict[str, Any] | None]:
    """Return the rules with the highest mean volumetric Dice over the patients of `slices`, the validation patients.

    Of equals, the nearest to threshold 0.5, then the one that removes least. Where no slice has tumour, the highest
    Dice would be that of a network which predicts nothing: `default` is kept.

    Returns: the rules, and for metrics.json the number of patients and their mean Dice by the usual rules and by these;
        None where nothing could be chosen.
    """
    if not slices.masks.any():
        return default, None
    dice = mean_dice(slices, probabilities)
    equals = [Postprocessing(THRESHOLDS[t], SMALLEST[s]) for t, s in np.argwhere(dice >= dice.max() - 1e-9)]
    chosen = min(equals, key=lambda choice: (abs(choice.threshold - THRESHOLD), choice.min_component))
    return chosen, {
        "patients": len(set(slices.patients)),
        "untuned": float(dice[THRESHOLDS.index(THRESHOLD), SMALLEST.index(0)]),
        "tuned": float(dice.max()),
    }


def mean_dice(slices: Slices, probabilities: np.ndarray) -> np.ndarray:
    """Return the mean volumetric Dice over patients for each of THRESHOLDS and SMALLEST: float64 [T, S]."""
    masks = slices.masks.numpy()

    def count(rows: np.ndarray) -> metrics.Counts:
        mask = masks[rows]
        hits, predicted = np.zeros((2, len(THRESHOLDS), len(SMALLEST)), np.int64)
        for t, threshold in enumerate(THRESHOLDS):
            foreground = (probabilities[rows] >= threshold).view(np.uint8)
            box = bounding_box(foreground)
            labels, sections = label_components(foreground[box])
            inside = np.bincount(labels[mask[box] > 0], minlength=sections.shape[1])
            for s, smallest in enumerate(SMALLEST):
                kept = is_kept(sections, smallest, len(rows))
                hits[t, s], predicted[t, s] = inside[kept].sum(), sections[:, kept].sum()
        return metrics.Counts(hits, predicted - hits, mask.sum(dtype=np.int64) - hits)

    return np.mean([metrics.dice(counts) for counts in parallel_map(count, slices.stacks().values())], axis=0)


# --- Both, for scripts that use a run ---------------------------------------------------------------------------


def load_chosen(run: RunFolder) -> tuple[UNet, dict[str, Any], str]:
    """Load the network that test_model.py chose, with its threshold and smallest component.

    Of a run that was not tested: the epoch with the best validation IoU at the usual threshold.

    Returns: network and checkpoint as checkpoints.load_network returns them, with these rules in its `input`; and the
        choice and its reason in one line, with a second one that warns where the choice is poor.
    """
    epochs = checkpoints.read_epochs(run)
    result, origin, stale = {"selected_by": usual_criterion(epochs)}, "not tested", ""
    if run.is_tested():
        result, origin = run.read_metrics(), "as tested"
        last, newest = result["epochs"], epochs["epoch"].max()
        if newest > last:
            stale = f"warning: it was chosen when epoch {last} was the last; now it is {newest}. Test again."
    epoch = result.get("epoch") or best_epoch(epochs)
    model, checkpoint = checkpoints.load_network(run.checkpoint(epoch))
    rules = Postprocessing.of(checkpoint["input"] | result)
    checkpoint["input"] |= rules._asdict()
    checkpoint["quality"] = result.get("quality", {}).get("model")
    masks_by = rules.describe(result.get("tuned"))
    line = f"epoch {epoch} of {run} ({origin}), {CRITERIA[result['selected_by']]}; {masks_by}"
    return model, checkpoint, "\n".join(filter(None, [line, stale, selection_warning(epochs, epoch)]))


def load_weights(path: Path) -> tuple[UNet, dict[str, Any], str]:
    """Load the network of a file, and describe it in one line, as `load_chosen` that of a run."""
    model, checkpoint = checkpoints.load_network(path)
    name = f"{path.name} (they come with the project)" if path == constants.WEIGHTS else path
    rules = Postprocessing.of(checkpoint["input"]).describe()
    return model, checkpoint, f"weights {name}: epoch {checkpoint['epoch']}; {rules}"
