"""What each metric is called and means: one table for the printed result, the report, the model card, the notebooks."""

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric is shown.

    Attributes:
        label: its name, for a line of a table.
        meaning: its definition, one sentence.
        form: format of its value.
        is_share: whether it lies between 0 and 1 by definition, and 1 is best or worst.
    """

    label: str
    meaning: str
    form: str = ".3f"
    is_share: bool = True


METRICS = {
    "patient_dice": Metric(
        "Volumetric Dice, mean over patients",
        "All pixels of a patient's stack counted together, 2 TP / (2 TP + FP + FN), then the mean over patients.",
    ),
    "patient_dice_median": Metric(
        "Volumetric Dice, median over patients", "Half of the patients are better, half worse."
    ),
    "patient_sensitivity": Metric(
        "Sensitivity, mean over patients", "Share of a patient's tumour pixels that are predicted, TP / (TP + FN)."
    ),
    "patient_precision": Metric(
        "Precision, mean over patients", "Share of a patient's predicted pixels that are tumour, TP / (TP + FP)."
    ),
    "tumour_iou": Metric(
        "IoU, mean over tumour slices",
        "TP / (TP + FP + FN) of each slice with tumour; slices without tumour are left out.",
    ),
    "tumour_found": Metric(
        "Tumour slices found",
        "Share of the slices with tumour in which prediction and reference mask share at least one pixel.",
        ".1%",
    ),
    "tumour_missed": Metric("Tumour slices missed", "Share of the slices with tumour that are not found.", ".1%"),
    "false_positive_share": Metric(
        "Empty slices with a false positive",
        "Share of the slices without tumour in which anything is predicted.",
        ".1%",
    ),
    "lesion_recall": Metric(
        "Lesions found, in 3D", "Share of the connected components of the reference masks in 3D that are found.", ".1%"
    ),
    "hd95": Metric(
        "HD95, pixels",
        "95th percentile of the distances between both outlines, in slices where both masks exist: missed slices do "
        "not show in it.",
        ".1f",
        is_share=False,
    ),
    "surface_dice_1": Metric("Surface Dice at 1 px", "Share of both outlines within 1 pixel of the other."),
    "surface_dice_2": Metric("Surface Dice at 2 px", "Share of both outlines within 2 pixels of the other."),
    "surface_dice_3": Metric("Surface Dice at 3 px", "Share of both outlines within 3 pixels of the other."),
    "iou": Metric(
        "IoU, mean over all slices",
        "The published metric: empty against empty counts as 1. Read it beside the empty prediction.",
    ),
    "empty_prediction": Metric(
        "  of an empty prediction",
        "What the IoU over all slices is if nothing is predicted anywhere: the share of slices without tumour.",
    ),
    "brier": Metric(
        "Brier score on head pixels",
        "Mean squared difference of probability and reference mask over the pixels of the head.",
        ".4f",
        is_share=False,
    ),
    "ece": Metric(
        "Expected calibration error",
        "Mean over head pixels of |mean probability - tumour share| of their class of probability.",
        ".4f",
        is_share=False,
    ),
    "loss": Metric("Loss, mean over slices", "What training minimised, on these slices.", ".4f", is_share=False),
    "tumour_dice": Metric("Dice, mean over tumour slices", "2 TP / (2 TP + FP + FN) of each slice with tumour."),
    "patient_iou": Metric("Volumetric IoU, mean over patients", "TP / (TP + FP + FN) of a patient's whole stack."),
}
