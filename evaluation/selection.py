"""Which network of a run is used: the criteria, the rule, the choice that all scripts take, and whether it is poor."""

from typing import Any

import pandas as pd

from evaluation.names import CRITERIA
from evaluation.postprocess import Choice
from storage import checkpoints
from storage.run_folder import RunFolder
from unet import UNet
from utils import UserError

CLEARLY = 0.05  # tumour-slice IoU by which another epoch has to be better to be named in a warning


def best_epoch(epochs: pd.DataFrame, by: str = "iou") -> int:
    """Return the epoch with the best validation metric, the earliest of equals. The published rule uses the IoU.

    epochs: one row per epoch, as in epochs.csv.
    Raises: UserError when no epoch has the metric.
    """
    values = epochs[f"validation_{by}"]
    if values.isna().all():
        raise UserError(f"--select-by {by}: undefined for every epoch on these validation slices. Choose another.")
    return int(epochs.loc[values.idxmin() if by == "loss" else values.idxmax(), "epoch"])


def best_epochs(epochs: pd.DataFrame, count: int) -> set[int]:
    """Return the `count` best epochs by each criterion, so that any of them can be chosen later."""
    best = set()
    for by in CRITERIA:
        ranked = epochs.sort_values([f"validation_{by}", "epoch"], ascending=[by == "loss", True])
        best |= set(ranked["epoch"].head(count).astype(int))
    return best


NO_TUMOUR = (
    "warning: no validation slice has tumour, so that nothing can be chosen there: an empty prediction is the best, an "
    "epoch chosen by its IoU is the first of equals, and --tune changes nothing. Train with validation patients who "
    "have tumour (--split, --fold), or take the epoch with the lowest loss (test_model.py --select-by loss)."
)


def selection_warning(epochs: pd.DataFrame, chosen: int) -> str:
    """Return a warning if the chosen epoch is a poor choice, else an empty text.

    It is poor if it finds fewer than half of the validation tumour slices, or if the tumour-slice IoU of another epoch
    is higher by more than CLEARLY; and nothing says how good it is if there are no such slices.
    """
    if epochs["validation_tumour_found"].isna().all():
        return NO_TUMOUR
    row = epochs.loc[epochs["epoch"] == chosen].iloc[0]
    reasons = []
    if row["validation_tumour_found"] < 0.5:
        found, most = row["validation_tumour_found"], epochs["validation_tumour_found"].max()
        reasons.append(
            f"epoch {chosen} finds only {found:.0%} of the validation tumour slices, the best epoch {most:.0%}. "
            "Train for longer, or with --recipe tuned."
        )
        if most > found:
            reasons.append(
                "The mean over all slices rewards an empty prediction: choose by another metric (test_model.py "
                "--select-by patient_dice)."
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


def load_chosen(run: RunFolder) -> tuple[UNet, dict[str, Any], str]:
    """Load the network that test_model.py chose, with its threshold and smallest component.

    Of a run that was not tested: the epoch with the best validation IoU at the usual threshold.

    Returns: network and checkpoint as of checkpoints.load_network, these rules in its `input`; and what was chosen and
        why, in one line, with a second one that warns where the choice is poor.
    """
    epochs = checkpoints.read_epochs(run)
    if run.is_tested():
        metrics = run.read_metrics()
        epoch, by, tuned = metrics["epoch"], metrics["selected_by"], metrics["tuned"]
        choice, how = Choice.of(metrics), "as tested"
    else:
        epoch, by, tuned, choice, how = best_epoch(epochs), "iou", None, Choice(), "not tested"
    model, checkpoint = checkpoints.load_network(run.checkpoint(epoch))
    checkpoint["input"] |= choice._asdict()
    line = f"epoch {epoch} of {run} ({how}), {CRITERIA[by]}; {choice.describe(tuned)}"
    return model, checkpoint, "\n".join(filter(None, [line, selection_warning(epochs, epoch)]))
