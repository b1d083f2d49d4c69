"""Export the network as safetensors, and as ONNX from slices to masks; and write a model card.

    python export_model.py --out export                            # the weights that come with the project
    python export_model.py --run runs/first                        # the chosen epoch, to runs/first/export
    python export_model.py --run runs/first --formats safetensors  # one of the formats
    python export_model.py --run runs/first --formats safetensors --half --out weights --name first

The last writes weights/first.safetensors with the kernels in float16, half of the bytes, and the card as
weights/first.md. ONNX needs the packages onnx and onnxruntime: pip install -r requirements-optional.txt.
The logits of ONNX are compared with the network's before anything is written. Test first (test_model.py): that chooses
the epoch and the threshold, and gives the card its metrics. The card describes all files of its name: --overwrite
replaces all of them.

The page that segments in a browser is built on request; it needs npm (Node.js 20 or newer) and the package onnx:

    python export_model.py --formats web --out page --name lgg_unet      # page/lgg_unet.html

Research use only: not a medical device, not for diagnosis or treatment.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from utils import UserError, atomic_write, existing, run_script

if TYPE_CHECKING:
    from torch import nn

    from unet import UNet

FORMATS = {"onnx": "onnx", "safetensors": "safetensors", "web": "html"}  # and the ending of their files
LARGEST_DIFFERENCE = 1e-3  # of two logits, relative to the largest one; a mask changes only where the logit is 0


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=existing, metavar="DIR",
        help="folder of the run (this folder, if it is one; else the weights that come with the project)")  # fmt: skip
    add("--metrics-of", type=Path, metavar="DIR",
        help="a cross-validation of the same recipe, for the card and expected Dice (the run's own test)")  # fmt: skip
    add("--formats", nargs="+", choices=FORMATS, default=[name for name in FORMATS if name != "web"],
        help="(all but web: %(choices)s)")  # fmt: skip
    add("--half", action="store_true", help="safetensors with kernels in float16; logits then differ by up to 1%%")
    add("--out", type=Path, metavar="DIR", help="(export in the folder of the run, or here)")
    add("--overwrite", action="store_true", help="replace all files of the same name in --out")
    add("--name", help="of the files, without ending, and of the model card (unet, and MODEL_CARD.md)")
    args = parser.parse_args(argv)
    if args.metrics_of and not args.run:
        parser.error("--metrics-of goes with --run")
    if args.half and args.formats != ["safetensors"]:
        parser.error("--half goes with --formats safetensors alone")
    from evaluation.selection import load_chosen, load_weights
    from reporting.model_card import describe_input, model_card
    from storage.run_folder import RunFolder
    from unet import weights_digest

    run = RunFolder(args.run or constants.RUN_DIR)
    if not args.run and not run.checkpoints():
        run = None
    model, checkpoint, chosen = load_chosen(run) if run else load_weights(constants.WEIGHTS)
    if args.metrics_of:
        checkpoint["quality"] = metrics_of(args.metrics_of, checkpoint)
    out = args.out or (run.path if run else Path()) / "export"
    files = {name: out / f"{args.name or 'unet'}.{ending}" for name, ending in FORMATS.items()}
    card = out / (f"{args.name}.md" if args.name else "MODEL_CARD.md")
    known = [card, *files.values()]
    if not args.overwrite and (there := [path for path in known if path.exists()]):
        raise UserError(f"{there[0]}: exists already. Name the files with --name, or replace them with --overwrite.")

    metadata = describe_input(checkpoint)
    if metadata["synthetic"]:
        print(constants.SYNTHETIC_NOTICE)
    print(chosen)
    exported = halve(model) if args.half else model
    contents = {}
    if "onnx" in args.formats:
        contents[files["onnx"]] = to_onnx(model, metadata)
    if "safetensors" in args.formats:
        contents[files["safetensors"]] = to_safetensors(exported, metadata)
    if run:
        digest = weights_digest(copy.deepcopy(exported).float().state_dict(), {})
        contents[card] = model_card(run, checkpoint, digest, args.metrics_of and RunFolder(args.metrics_of)).encode()
    else:
        contents[card] = constants.WEIGHTS.with_suffix(".md").read_bytes()
    if "web" in args.formats:
        from web.build import build_page

        contents[files["web"]] = build_page(model, metadata, contents[card].decode())

    for path in known:  # the card first: at no time it lies beside weights that it does not describe
        path.unlink(missing_ok=True)
    for path, content in contents.items():
        with atomic_write(path) as file:
            file.write(content)
        print(f"written: {path}, {len(content) / 1e6:.2f} MB")


def metrics_of(folder: Path, checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """Return the model of expected Dice of a cross-validation. Raises: UserError if its recipe or choices differ."""
    from storage.run_folder import RunFolder
    from training.recipe import Recipe

    recipe, pooled = Recipe.of(checkpoint["config"]["settings"]), RunFolder(folder)
    for run in [pooled] if pooled.exists() else pooled.tested_runs():  # studies.reproduce copies no folds
        if Recipe.of(run.read_config()["settings"]) != recipe:
            raise UserError(f"{run}: was trained by another recipe ({run.read_config()['recipe']}), not {recipe}.")
    metrics, used = pooled.read_metrics(), checkpoint["input"]
    rules = {"selected_by": "last", "threshold": used["threshold"], "min_component": used["min_component"]}
    for fold in metrics.get("folds", ()):
        if other := [name for name, value in rules.items() if fold[name] != value]:
            raise UserError(
                f"{folder}: its folds have another {other[0]} than the weights. Cross-validate with --no-validation."
            )
    return metrics.get("quality", {}).get("model")


def halve(model: nn.Module) -> nn.Module:
    """Return a copy of the network with its kernels in float16; norms and biases, which are few, stay float32."""
    halved = copy.deepcopy(model)
    for weights in halved.parameters():
        if weights.ndim == 4:
            weights.data = weights.data.half()
    return halved


# --- Formats: each returns the content of its file -------------------------------------------------------------


def to_safetensors(model: nn.Module, metadata: dict[str, Any]) -> bytes:
    import safetensors.torch

    from unet import weights_digest

    weights, text = model.state_dict(), as_text(metadata)
    return safetensors.torch.save(weights, text | {"sha256": weights_digest(weights, text)})


def to_onnx(model: UNet, metadata: dict[str, Any]) -> bytes:
    """Return the graph from slices to masks, for any height and width that are multiples of 32.

    Raises: UserError if its logits are not those of the network.
    """
    import numpy as np
    import onnxruntime  # noqa: F401 - a missing package ends it here

    from dataset.preprocess import Preprocessing, preprocess
    from dataset.slices import without_masks
    from inference.segment import computation, onnx_computation
    from reporting.model_card import describe_graph
    from storage.onnx_graph import slices_graph
    from training.hardware import choose_hardware

    if metadata["resolution"] < 1:
        raise UserError(
            f"epoch {metadata['epoch']} computes at {metadata['resolution']:.0%} of the resolution, which ONNX does "
            "not hold here. Choose a later one (test_model.py --select-by last), or --formats safetensors."
        )
    rules = {name: metadata[name] for name in ("neighbours", "tta_flip", "threshold")}
    content = slices_graph(model, **rules, texts=as_text(describe_graph(metadata)))
    noise = np.random.default_rng(0).integers(0, 256, (3, metadata["size"], metadata["size"], 3), np.uint8)
    slices = preprocess(without_masks(noise, "noise"), Preprocessing.of(metadata))
    hardware = choose_hardware("cpu", "fp32")
    expected = computation(copy.deepcopy(model), metadata["tta_flip"], len(noise), hardware)(slices)
    difference = abs(onnx_computation(content)[0](slices) - expected).max() / abs(expected).max()
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(f"onnx: its logits differ by {difference:.1e} from the network's. Nothing was written.")
    print(f"onnx: logits differ by at most {difference:.1e} of the largest")
    return content


def as_text(metadata: dict[str, Any]) -> dict[str, str]:
    """Return metadata as formats store it: text values, in JSON."""
    return {name: json.dumps(value) for name, value in metadata.items()}


if __name__ == "__main__":
    run_script(main)
