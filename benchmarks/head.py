"""What is lost when the background, or skull and fat, are cut away: tumour pixels outside of what is kept.

    python -m benchmarks.head [--data lgg-mri-segmentation/kaggle_3m]

The head's windows of dataset/preprocess.py, and a brain mask by classical morphology: FLAIR above half of the head's
median in the slice, opened by a disc so that bridges through the skull break, the largest region, grown by the same
disc, holes filled.
"""

import argparse

import cv2
import numpy as np

from constants import FLAIR, IMAGE_SIZE
from dataset.folder import find_folder, find_slices
from dataset.preprocess import find_head, head_box, window
from dataset.slices import load_slices
from training.engine import WINDOW
from utils import parallel_map, run_script

BRIGHT = 0.5  # of the head's median
RADII = (3, 5, 8)  # of the disc, in pixels


def disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def find_brain(stack: np.ndarray, head: np.ndarray, radius: int) -> np.ndarray:
    """Return where the brain is by morphology: uint8 [S, H, W, 3] and the head in it -> bool [S, H, W]."""
    brain = np.zeros(head.shape, bool)
    for number, (plane, inside) in enumerate(zip(stack[..., FLAIR], head, strict=True)):
        if not inside.any():
            continue
        bright = ((plane > BRIGHT * np.median(plane[inside])) & inside).astype(np.uint8)
        opened = cv2.morphologyEx(bright, cv2.MORPH_OPEN, disc(radius))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
        if count > 1:
            largest = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
            outlines, _ = cv2.findContours(cv2.dilate(largest, disc(radius)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            brain[number] = cv2.drawContours(np.zeros_like(plane), outlines, -1, 1, cv2.FILLED) > 0
    return brain


def framed(rows: slice, columns: slice) -> np.ndarray:
    """Return a window of the frame: bool [H, W]."""
    kept = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    kept[rows, columns] = True
    return kept


def training_window(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    """Return the window of training around the middle of a head's box."""
    firsts = ((box[0] + box[1]) // 2 - WINDOW[0] // 2, (box[2] + box[3]) // 2 - WINDOW[1] // 2)
    return tuple(slice(max(first, 0), first + side) for first, side in zip(firsts, WINDOW, strict=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    args = parser.parse_args(argv)
    folder = find_folder(args.data)
    slices = load_slices(folder, {"all": find_slices(folder)})["all"]
    images, masks, patients = slices.images.numpy(), slices.masks.numpy() > 0, np.array(slices.patients)

    def look(patient: str) -> list[tuple[int, int]]:
        """Return tumour pixels lost and pixels kept by each way."""
        stack, tumour = images[patients == patient], masks[patients == patient]
        head = find_head(stack)
        box = head_box(head)
        kept = [framed(*window(box)), framed(*training_window(box)), head]
        kept += [find_brain(stack, head, radius) for radius in RADII]
        return [((tumour & ~each).sum(), np.broadcast_to(each, tumour.shape).sum()) for each in kept]

    lost, kept = np.moveaxis(np.array(parallel_map(look, np.unique(patients))), -1, 0)  # each [patients, ways]
    print(f"{len(lost)} patients, {masks.sum():,} tumour pixels in {len(masks):,} slices\n")
    print(
        "kept                              share of the frame   tumour pixels lost   in patients   most of one patient"
    )
    ways = ["window of testing", f"window of training, {WINDOW[0]} x {WINDOW[1]}", "head, not filled"]
    tumour = np.array([masks[patients == patient].sum() for patient in np.unique(patients)])
    for number, way in enumerate(ways + [f"brain, disc of {radius} px" for radius in RADII]):
        worst = (lost[:, number] / np.maximum(tumour, 1)).max()
        print(
            f"{way:<35}{kept[:, number].sum() / masks.size:>14.1%}{lost[:, number].sum():>22,}"
            f"{np.count_nonzero(lost[:, number]):>14}{worst:>19.1%}"
        )


if __name__ == "__main__":
    run_script(main)
