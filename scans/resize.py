"""A slice at the size of the network's input, and the way back."""

import cv2
import numpy as np


def fit(plane: np.ndarray, size: int) -> np.ndarray:
    """Return a slice, padded with black to a square and resized: uint8 [H, W, 3] -> [size, size, 3]."""
    height, width = plane.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    plane = np.pad(plane, ((top, side - height - top), (left, side - width - left), (0, 0)))
    return cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def unfit(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return logits at the size of the slice, without the padding: float32 [size, size] -> [height, width]."""
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    logits = cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR)
    return logits[top : top + height, left : left + width]
