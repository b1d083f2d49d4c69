"""What each metric is called and means: one table for the printed result, the report, the model card, the notebooks."""

from typing import NamedTuple

CRITERIA = {  # validation metric: how the choice is described
    "iou": "the best validation IoU",
    "tumour_iou": "the best validation IoU over tumour slices",
    "patient_dice": "the best volumetric Dice of the validation patients",
    "loss": "the lowest validation loss",
}


class Metric(NamedTuple):
    """How a metric is shown."""

    label: str  # its name, which stands alone
    meaning: str  # its definition, one sentence
    form: str = ".3f"  # format of its value
    is_share: bool = True  # whether it lies between 0 and 1 by definition, and 1 is best or worst


METRICS = {  # every metric of metrics.json; in epochs.csv, training_ or validation_ precedes the name
    "patient_dice": Metric(
        "Volumetric Dice, mean over patients",
        "All pixels of a patient's stack counted together, 2 TP / (2 TP + FP + FN), then the mean over patients.",
    ),
    "patient_iou": Metric(
        "Volumetric IoU, mean over patients", "TP / (TP + FP + FN) of a patient's stack, then the mean over patients."
    ),
    "patient_sensitivity": Metric(
        "Sensitivity, mean over patients", "Share of a patient's tumour pixels that are predicted, TP / (TP + FN)."
    ),
    "patient_precision": Metric(
        "Precision, mean over patients", "Share of a patient's predicted pixels that are tumour, TP / (TP + FP)."
    ),
    "tumour_iou": Metric("IoU, mean over tumour slices", "TP / (TP + FP + FN), without the slices without tumour."),
    "tumour_dice": Metric("Dice, mean over tumour slices", "2 TP / (2 TP + FP + FN) of each slice with tumour."),
    "tumour_found": Metric(
        "Tumour slices found", "Share of the slices with tumour in which both masks share at least one pixel.", ".1%"
    ),
    "tumour_missed": Metric("Tumour slices missed", "Share of the slices with tumour that are not found.", ".1%"),
    "false_positive_share": Metric(
        "Empty slices with a false positive", "Share of the slices without tumour with any predicted pixel.", ".1%"
    ),
    "false_positive_area": Metric(
        "False positive area, pixels", "Mean predicted pixels of the empty slices with a false positive.", ".0f", False
    ),
    "lesion_recall": Metric(
        "Lesions found, in 3D", "Share of the connected components of the reference masks in 3D that are found.", ".1%"
    ),
    "lesion_precision": Metric(
        "Predicted lesions that match, in 3D", "Share of the predicted components in 3D that match tumour.", ".1%"
    ),
    "lesion_dice": Metric("Dice, mean over lesions in 3D", "Of a lesion and all predicted components that touch it."),
    "slice_lesion_recall": Metric(
        "Lesions found, in slices", "Share of the connected components of each slice that are found.", ".1%"
    ),
    "slice_lesion_precision": Metric(
        "Predicted lesions that match, in slices", "Share of the predicted components that match tumour.", ".1%"
    ),
    "slice_lesion_dice": Metric("Dice, mean over lesions in slices", "As in 3D, of the components of each slice."),
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
        "The published metric: empty against empty counts as 1. Read it beside the IoU of an empty prediction.",
    ),
    "empty_prediction": Metric(
        "IoU of an empty prediction",
        "What the IoU over all slices is if nothing is predicted anywhere: the share of slices without tumour.",
    ),
    "brier": Metric(
        "Brier score on head pixels", "Mean squared difference of probability and reference mask.", ".4f", False
    ),
    "ece": Metric(
        "Expected calibration error",
        "Mean over head pixels of |mean probability - share of tumour| in their bin of probability.",
        ".4f",
        is_share=False,
    ),
    "loss": Metric(
        "Loss, mean over batches",
        "What training minimised. A Dice loss is that of a whole batch: compare it between equal batch sizes only.",
        ".4f",
        is_share=False,
    ),
}
METRICS |= {
    f"{name}_median": METRICS[name]._replace(
        label=METRICS[name].label.replace("mean", "median"), meaning="Half of the patients have more, half less."
    )
    for name in ("patient_dice", "patient_iou", "patient_sensitivity", "patient_precision")
}
