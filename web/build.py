"""Build the page of a network: one HTML file that segments in a browser, without a request to anywhere.

Every constant of preprocessing, postprocessing and warnings is taken from the weights' metadata or from the module that
owns it. What the page cannot do with these weights is refused here. Needs node and npm, and the package onnx.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

import constants
from constants import FLAIR, IMAGE_SIZE, POST, PRE, SYNTHETIC_SEED
from dataset import preprocess, synthetic
from dataset.labels import normalise_id
from evaluation import quality, selection
from scans import check, geometry, names, read, scan, show
from training import engine
from unet import UNet
from utils import UserError

HERE = Path(__file__).parent
ROLES = {PRE: "pre", FLAIR: "flair", POST: "post", names.MASK: "mask", names.OTHER: "other"}  # the page's names
SAMPLE, SAMPLE_SLICES, SAMPLE_QUALITY = 6, 12, 60  # number of the synthetic patient, its slices, quality of WebP
LARGEST = 1e-2  # difference of logits: kernels are rounded by up to 1/2048 of their values
# Of the metadata, what says nothing of the preprocessing
ABOUT = {"input", "output", "network", "epoch", "synthetic", "published", "use", "quality", "training_patients",
         "weights"}  # fmt: skip
CHECKS = (
    "CORNER UNEVEN BRIGHT TOO_MUCH LEAST CUT ENDS FEWEST CORTEX CORTEX_SLICES STRIPPED STRIPPED_SLICES AIR LIKE_T1 "
    "MISPLACED AT_END"
)


def build_page(model: UNet, metadata: dict[str, Any], card: str) -> bytes:
    """Return the page as HTML. metadata: as reporting.model_card.describe_input returns it. card: Markdown.

    Raises: UserError if npm is missing, or if the page cannot do what the metadata asks for.
    """
    install()
    import onnxruntime

    from storage.onnx_graph import network_graph

    channels = metadata["network"]["channels"]
    graph = network_graph(model, channels)
    slices = 2 * torch.rand(2, channels, 64, 96, generator=torch.Generator().manual_seed(0)) - 1
    with torch.inference_mode():
        expected = model(slices).numpy()
    logits = onnxruntime.InferenceSession(graph).run(["logits"], {"slices": slices.numpy()})[0]
    difference = abs(logits - expected).max() / abs(expected).max()
    if not difference <= LARGEST:
        raise UserError(f"web: its logits differ by {difference:.1e} from the network's. Nothing was written.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(page_config(metadata)), encoding="utf-8")
        (folder / "weights.onnx").write_bytes(graph)
        (folder / "card.md").write_text(card, encoding="utf-8")
        write_sample(folder / "sample.webp")
        run("node", str(HERE / "build.mjs"), name)
        return (folder / "page.html").read_bytes()


def page_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what the scripts of the page read: constants of the modules by their names, and what the weights say."""

    def take(module: Any, listed: str) -> dict[str, Any]:
        return {name: getattr(module, name) for name in listed.split()}

    spacing = (1.0, 1.0, round(synthetic.HEIGHT * 0.88 / SAMPLE_SLICES, 1))
    regression = metadata.get("quality")  # of the expected Dice
    trained = metadata.get("training_patients", {})
    return {
        "input": {name: value for name, value in metadata.items() if name not in ABOUT},
        "network": metadata["network"],
        "synthetic": metadata["synthetic"],
        "trained": trained | {normalise_id(name): images for name, images in trained.items()},
        "confidence": regression
        and {**regression, "thresholds": quality.THRESHOLDS, "surest": quality.SUREST, "bad": constants.BAD_DICE},
        "shown": {ROLES[kind]: names.SHOWN[kind] for kind in (PRE, FLAIR, POST)},
        "words": {ROLES[kind]: words.pattern for kind, words in names.KINDS.items()},
        "names": {name: getattr(names, name).pattern for name in ("ONTO", "CAMEL", "AGENT")},
        "check": take(check, CHECKS),
        "sample": {"size": IMAGE_SIZE, "slices": SAMPLE_SLICES, "spacing": spacing},
        "FILLING": read.FILLING.tolist(),
        **take(constants, "FLAIR MEAN STD RESEARCH_USE SYNTHETIC_NOTICE"),
        **take(check, "ONE_SEQUENCE SHORT_ECHO SHORT_INVERSION"),
        **take(engine, "OUTSIDE"),
        **take(geometry, "APART THIN UNEQUAL LARGEST"),
        **take(preprocess, "MULTIPLE"),
        **take(read, "AIR PERCENTILES SAME_HEAD"),
        **take(scan, "MOST_VOXELS"),
        **take(selection, "FEWEST_SLICES"),
        **take(show, "BRIGHTEST"),
    }


def write_sample(path: Path) -> None:
    """Write the slices of a synthetic patient below each other as one WebP picture, sequences as colours."""
    images, _ = synthetic.make_patient(SYNTHETIC_SEED, SAMPLE, SAMPLE_SLICES)
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 0.6) for image in images])  # noise does not compress
    Image.fromarray(smooth.reshape(-1, *images.shape[2:])).save(path, "WEBP", quality=SAMPLE_QUALITY, method=6)


def install() -> None:
    """Install the packages of the lock file beside the sources, unless they are there."""
    command = f"npm ci --prefix {HERE}"
    if not shutil.which("npm"):
        raise UserError(f"web: npm is missing, which builds the page. Install Node.js 20 or newer, then: {command}")
    installed, locked = HERE / "node_modules" / ".package-lock.json", HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        run("npm", "ci", "--prefix", str(HERE), "--no-audit", "--no-fund", "--ignore-scripts")


def run(*command: str) -> None:
    """Run a program. Raises: UserError with what it wrote to its output for errors if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("npm warn")]
        raise UserError(f"web: {command[0]} failed: {' '.join(lines[-5:]) or result.returncode}. Nothing was written.")
