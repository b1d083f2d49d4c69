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


def best_epoch(epochs: pd.DataFrame, by: str = "iou") -> int:
    """Return the epoch with the best validation metric, the earliest of equals. The published rule uses the IoU.

    epochs: one row per epoch, as in epochs.csv; without `saved`, where there is such a column, it is not chosen.
    by: of CRITERIA; for "last", and without validation patients, it is the last epoch.
    Raises: UserError when no epoch has the metric.
    """
    epochs = epochs[epochs["saved"]] if "saved" in epochs else epochs
    if by == "last" or not has_validation(epochs):
        return int(epochs["epoch"].max())
    values = epochs[f"validation_{by}"]
    if values.isna().all():
        raise UserError(f"--select-by {by}: undefined for every epoch on these validation slices. Choose another.")
    return int(epochs.loc[values.idxmin() if by == "loss" else values.idxmax(), "epoch"])


def has_validation(epochs: pd.DataFrame) -> bool:
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
    row = epochs.loc[epochs["epoch"] == chosen].iloc[0]
    reasons = []
    if row["validation_tumour_found"] < 0.5:
        share, most = row["validation_tumour_found"], epochs["validation_tumour_found"].max()
        reasons.append(
            f"epoch {chosen} finds only {share:.0%} of the validation tumour slices, the best epoch {most:.0%}. Train "
            "for longer, or with --recipe tuned, or try test_model.py --select-by patient_dice."
        )
    tumour_iou = epochs["validation_tumour_iou"]
    if (tumour_iou > row["validation_tumour_iou"] + CLEARLY).any():
        other = epochs.loc[tumour_iou.idxmax()]
        reasons.append(
            f"epoch {other['epoch']:.0f} is better on the validation tumour slices: IoU "
            f"{other['validation_tumour_iou']:.3f}, epoch {chosen} has {row['validation_tumour_iou']:.3f} "
            "(test_model.py --select-by tumour_iou)."
        )
    return f"warning: {' '.join(reasons)}" if reasons else ""


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


def postprocess(probabilities: np.ndarray, rules: Postprocessing, patients: Sequence[str]) -> np.ndarray:
    """Return the masks of probabilities (float32 [N, H, W]): uint8 0 or 1, [N, H, W].

    patients: of each slice; those of a patient stand in their order.
    """
    masks = np.empty(probabilities.shape, np.uint8)
    for rows in metrics.rows_of_patients(patients).values():
        masks[rows] = postprocess_stack(probabilities[rows], rules)
    return masks


def postprocess_stack(probabilities: np.ndarray, rules: Postprocessing) -> np.ndarray:
    """Return the masks of one patient's slices, in their order, as `postprocess` does."""
    return remove_small_components((probabilities >= rules.threshold).view(np.uint8), rules.min_component)


def remove_small_components(masks: np.ndarray, smallest: int) -> np.ndarray:
    """Return the masks of a stack (uint8 0 or 1, [S, H, W]) without components below `smallest` pixels; 0 keeps all."""
    box = bounding_box(masks)
    if smallest == 0 or box is None:
        return masks
    labels, large = label_components(masks[box], (smallest,), len(masks))[:2]
    cleaned = np.zeros_like(masks)
    cleaned[box] = large[0][labels]
    return cleaned


def label_components(stack: np.ndarray, sizes: Sequence[int], slices: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the components of a stack [S, H, W] and which of them are not small, for each of `sizes`.

    slices: of the stack from which this one is cropped.

    Returns: the label of each pixel, int32 [S, H, W], 0 for the background; uint8 0 or 1 [sizes, 1 + components], 0 for
        the background; the pixels of each, int64 [1 + components].
    """
    labels, components = ndimage.label(stack, CONNECTED)
    sections = np.stack([np.bincount(plane.ravel(), minlength=components + 1) for plane in labels])
    sections[:, 0] = 0
    several = (sections > 0).sum(0) >= min(FEWEST_SLICES, slices)
    large = [(sections.max(0) >= size) & several if size else np.arange(components + 1) > 0 for size in sizes]
    return labels, np.array(large, np.uint8), sections.sum(0)


def tune(
    slices: Slices, probabilities: np.ndarray, default: Postprocessing
) -> tuple[Postprocessing, dict[str, Any] | None]:
    """Return the rules with the highest mean volumetric Dice over the patients of `slices`, the validation patients.

    Of equals, the nearest to threshold 0.5, then the one that removes least. Where no slice has tumour, the highest
    Dice would be that of a network which predicts nothing: `default` is kept.

    Returns: the rules, and what metrics.json records about their choice; None where nothing could be chosen.
    """
    if not slices.masks.any():
        return default, None
    dice = mean_dice(slices, probabilities)
    best = dice.max()
    choices = [Postprocessing(t, size) for t in THRESHOLDS for size in SMALLEST]
    equals = [choice for choice, value in zip(choices, dice.ravel(), strict=True) if value >= best - 1e-9]
    chosen = min(equals, key=lambda choice: (abs(choice.threshold - THRESHOLD), choice.min_component))
    return chosen, {
        "split": "validation",
        "patients": len(set(slices.patients)),
        "criterion": "mean over patients of the volumetric Dice",
        "untuned": float(dice[THRESHOLDS.index(THRESHOLD), SMALLEST.index(0)]),
        "tuned": float(best),
    }


def mean_dice(slices: Slices, probabilities: np.ndarray) -> np.ndarray:
    """Return the mean volumetric Dice over patients for each of THRESHOLDS and SMALLEST: float64 [T, S]."""
    masks = slices.masks.numpy()
    stacks = list(slices.stacks().values())
    counts = np.stack(parallel_map(lambda rows: _count(masks[rows], probabilities[rows]), stacks))
    target = np.array([masks[rows].sum(dtype=np.int64) for rows in stacks])[:, None, None]
    hits, predicted = counts[:, 0], counts[:, 1]
    return metrics.dice(metrics.Counts(hits, predicted - hits, target - hits)).mean(0)


def _count(mask: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the true positive and the predicted pixels of a stack for each choice: int64 [2, T, S]."""
    counts = np.zeros((2, len(THRESHOLDS), len(SMALLEST)), np.int64)
    for t, threshold in enumerate(THRESHOLDS):
        foreground = (probabilities >= threshold).view(np.uint8)
        box = bounding_box(foreground)
        if box is None:
            break  # nor is anything above a higher threshold
        labels, large, pixels = label_components(foreground[box], SMALLEST, len(mask))
        counts[:, t] = large @ np.bincount(labels[mask[box] > 0], minlength=len(pixels)), large @ pixels
    return counts


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
    origin = " (they come with the project)" if path == constants.WEIGHTS else ""
    rules = Postprocessing.of(checkpoint["input"]).describe()
    return model, checkpoint, f"weights {path}{origin}: epoch {checkpoint['epoch']}; {rules}"
