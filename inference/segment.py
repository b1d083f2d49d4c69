"""From a scan or an array to masks, with a network of a run, of weights, or of an ONNX file."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import constants
from dataset.preprocess import PreprocessedSlices, Preprocessing, preprocess
from dataset.slices import without_masks
from evaluation import quality
from evaluation.selection import Postprocessing, postprocess_stack
from scans.geometry import from_network, masks_to_network, network_pixel, to_network
from scans.read import scan_of_array
from scans.scan import Scan
from storage.checkpoints import INPUT, load_network
from training import engine
from training.hardware import Hardware, choose_hardware, repeat_exactly
from unet import UNet
from utils import UserError

Compute = Callable[[PreprocessedSlices], np.ndarray]  # slices -> logits, float32 [N, 256, 256]


def computation(model: UNet, tta_flip: bool, batch_size: int, hardware: Hardware) -> Compute:
    """Return the function that computes logits with a network of PyTorch, exactly the same in each run."""
    repeat_exactly(True, hardware.device)
    model = model.to(hardware.device, memory_format=hardware.memory_format)
    return lambda slices: engine.predict(model, slices.to(hardware.device), batch_size, hardware, tta_flip).numpy()


def predict(compute: Compute, scan: Scan, preprocessing: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of tumour of each pixel of the scan, and of each on the grid of the network.

    preprocessing: `input` of the checkpoint. The scan is one stack, whose intensities are scaled together.

    Returns: float32 [S, H, W] and float32 [N, 256, 256].
    """
    slices = preprocess(without_masks(to_network(scan), scan.name), Preprocessing.of(preprocessing))
    logits = compute(slices)
    own = torch.from_numpy(from_network(logits, scan)).sigmoid()
    return own.numpy(), torch.from_numpy(logits).sigmoid().numpy()


def to_masks(probabilities: np.ndarray, postprocessing: Postprocessing, scan: Scan) -> np.ndarray:
    """Return the masks of probabilities ([S, H, W]), uint8, 0 or 1.

    The smallest component is counted at the network's size, and through the slices unless these differ in size.
    """

    def process(stack: np.ndarray, size: Sequence[int]) -> np.ndarray:
        smallest = round(postprocessing.min_component * network_pixel(size, scan.spacing))
        return postprocess_stack(stack, postprocessing._replace(min_component=smallest))

    if scan.sizes:
        own = zip(probabilities, scan.sizes, strict=True)
        return np.concatenate([process(plane[None], size) for plane, size in own])
    return process(probabilities, probabilities.shape[1:])


def expect(
    model: dict[str, Any] | None, probabilities: np.ndarray, masks: np.ndarray, scan: Scan, doubtful: bool
) -> dict[str, Any]:
    """Return what quality.predict does, and UNKNOWN for a mask that the network's grid loses; nothing without a model.

    probabilities: on the grid of the network, as those of the patients that the model knows.
    doubtful: whether there is a warning about the scan, unlike about any of these patients: UNKNOWN, too.
    """
    if not model:
        return {}
    small = masks_to_network(masks, scan)
    lost = masks.any() and not small.any()
    return quality.UNKNOWN if doubtful or lost else quality.predict(model, quality.features(probabilities, small))


# --- From Python: segment(stack) -------------------------------------------------------------------------------


def segment(
    stack: np.ndarray, weights: str | Path = constants.WEIGHTS, spacing: tuple[float, float, float] | None = None
) -> np.ndarray:
    """Return the mask that predict_model.py writes for the slices of one patient: uint8 [N, H, W], 0 or 1.

    Args:
        stack: all slices in their order, [N, H, W, 3]: pre-contrast, FLAIR, post-contrast; or [N, H, W], FLAIR alone.
            uint8 is taken as it is; other numbers are scaled to 8 bits by the percentiles of the stack.
        weights: .safetensors or .onnx of export_model.py, or models/epoch_N.pt of a run.
        spacing: mm between rows, columns and slices, which thin slices and pixels that are no squares need.

    Raises: ValueError for a stack of another shape or type, or without an image; UserError for damaged weights.
    """
    compute, input = load_computation(Path(weights))
    scan = scan_of_array(np.asarray(stack))
    scan.spacing = spacing
    probabilities, _ = predict(compute, scan, input)
    return to_masks(probabilities, Postprocessing.of(input), scan)


@functools.cache
def load_computation(weights: Path) -> tuple[Compute, dict[str, Any]]:
    """Return the function that computes logits with these weights, and how slices become masks."""
    if weights.suffix == ".onnx":
        return load_onnx(weights)
    model, checkpoint = load_network(weights)
    hardware = choose_hardware("auto", "fp32")
    return computation(model, checkpoint["input"]["tta_flip"], constants.BATCH_SIZE, hardware), checkpoint["input"]


def load_onnx(path: Path) -> tuple[Compute, dict[str, Any]]:
    """Return the same of an ONNX file, which one patient at a time goes through."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Write it with export_model.py.")
    compute, metadata = onnx_computation(path.read_bytes())
    if not {"slices", "levels", *INPUT} <= metadata.keys():
        raise UserError(f"{path}: no network of this version. Write it anew with export_model.py.")
    return compute, {name: json.loads(metadata[name]) for name in INPUT}


def onnx_computation(graph: bytes) -> tuple[Compute, dict[str, str]]:
    """Return the function that computes logits with a graph of storage.onnx_graph.slices_graph, and its metadata."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def compute(slices: PreprocessedSlices) -> np.ndarray:
        images = slices.images.numpy()
        logits = np.full(images.shape[:3], engine.OUTSIDE, np.float32)
        ((_, window),) = slices.batches(len(images))
        feed = {"slices": images[:, *window], "levels": slices.levels.view(constants.CHANNELS, 256).numpy()}
        logits[:, *window] = session.run(["logits"], feed)[0]
        return logits

    return compute, session.get_modelmeta().custom_metadata_map
