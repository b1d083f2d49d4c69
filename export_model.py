"""Export the network as ONNX, torch.export and safetensors, each with its preprocessing as metadata, and a model card.

    python export_model.py --out export                            # the weights that come with the project
    python export_model.py --run runs/first                        # the chosen epoch, to runs/first/export
    python export_model.py --run runs/first --formats safetensors  # one of the formats
    python export_model.py --run runs/first --formats safetensors --half --out weights --name first
    python export_model.py --formats web --out web --name lgg_unet  # the page that segments in a browser; needs npm

The fourth writes weights/first.safetensors with the kernels in float16, half of the bytes, and the card as
weights/first.md. ONNX needs the packages onnx, onnxruntime and onnxscript: pip install -r requirements-optional.txt.
Each file is read back and its logits are compared with the network's before anything is written. Test first
(test_model.py): that chooses the epoch and the threshold, and gives the card its metrics. The card describes all files
of its name: --overwrite replaces all of them.

Research use only: not a medical device, not for diagnosis or treatment.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from utils import UserError, atomic_write, run_script

if TYPE_CHECKING:
    import torch
    from torch import nn

    from storage.run_folder import RunFolder
    from unet import UNet

    Network = Callable[[torch.Tensor], torch.Tensor]  # float32 [N, channels, H, W] -> logits [N, 1, H, W]

LARGEST_DIFFERENCE = 1e-3  # of two logits, relative to the largest one; a mask changes only where the logit is 0
LARGEST_HALVED = 1e-2  # the same with --half: kernels are rounded by up to 1/2048 of their values
BATCHES = (1, 3)  # sizes compared
TRACED = 2  # slices with which the network is traced: 1 would be taken for a constant


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=Path, metavar="DIR",
        help="folder of the run (this folder, if it is one; else the weights that come with the project)")  # fmt: skip
    add("--epoch", type=int, metavar="N", help="(the one that test_model.py chose)")
    add("--formats", nargs="+", choices=FORMATS, default=[name for name in FORMATS if name != "web"],
        help="(all but web: %(choices)s)")  # fmt: skip
    add("--half", action="store_true", help="safetensors with kernels in float16; logits then differ by up to 1%%")
    add("--out", type=Path, metavar="DIR", help="(export in the folder of the run, or here)")
    add("--overwrite", action="store_true", help="replace all files of the same name in --out")
    add("--name", type=plain_name, help="of the files, without ending, and of the model card (unet, and MODEL_CARD.md)")
    args = parser.parse_args(argv)
    if args.half and args.formats != ["safetensors"]:
        parser.error("--half goes with --formats safetensors alone")
    return args


def plain_name(text: str) -> str:
    """An argparse type: the name of a file, neither hidden nor in another folder."""
    if not text or text.startswith(".") or set(text) & set("/\\:\0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain name, such as first")
    return text


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    from reporting.model_card import describe_input, model_card
    from storage.run_folder import RunFolder
    from unet import weights_digest

    run = RunFolder(args.run or constants.RUN_DIR)
    if not args.run and not run.checkpoints():
        if args.epoch is not None:
            raise UserError("--epoch: this folder holds no run. Name one with --run.")
        run = None
    model, checkpoint, chosen = load(run, args.epoch)
    out = args.out or (run.path if run else Path()) / "export"
    files = {name: out / f"{args.name or 'unet'}.{ending}" for name, (ending, _) in FORMATS.items()}
    card = out / (f"{args.name}.md" if args.name else "MODEL_CARD.md")
    known = [card, *files.values()]
    if not args.overwrite and (existing := [path for path in known if path.exists()]):
        raise UserError(f"{existing[0]}: exists already. Name the files with --name, or replace them with --overwrite.")

    metadata = describe_input(checkpoint)
    if metadata["synthetic"]:
        print(constants.SYNTHETIC_NOTICE)
    print(chosen)
    exported, largest = (halve(model), LARGEST_HALVED) if args.half else (model, LARGEST_DIFFERENCE)
    contents = {}
    for name in [name for name in args.formats if name != "web"]:
        content, read_back = FORMATS[name][1](exported, metadata)
        contents[files[name]] = content
        difference = compare(model, read_back, metadata)
        if not difference <= largest:
            raise UserError(f"{name}: its logits differ by {difference:.1e} from the network's. Nothing was written.")
        print(f"{name}: {len(content) / 1e6:.1f} MB, logits differ by at most {difference:.1e} of the largest")
    if run:
        contents[card] = model_card(run, checkpoint, weights_digest(checkpoint["weights"], {})).encode()
    else:
        contents[card] = constants.WEIGHTS.with_suffix(".md").read_bytes()
    if "web" in args.formats:
        from web.build import build_page

        contents[files["web"]] = build_page(model, metadata, contents[card].decode())
        print(f"web: {len(contents[files['web']]) / 1e6:.1f} MB")

    for path in known:  # the card first: at no time it lies beside weights that it does not describe
        path.unlink(missing_ok=True)
    for path, content in contents.items():
        with atomic_write(path) as file:
            file.write(content)
    print(f"written to {out}: {', '.join(path.name for path in contents)} (data, recipe, metrics, limits, licence)")


def load(run: RunFolder | None, epoch: int | None) -> tuple[UNet, dict[str, Any], str]:
    """Return network, checkpoint and its description: of a run, or of the weights that come with the project."""
    from evaluation.selection import Postprocessing, load_chosen
    from storage import checkpoints

    if run is None:
        path, source = constants.WEIGHTS, f"weights {constants.WEIGHTS} (they come with the project)"
    elif epoch is None or (run.is_tested() and run.read_metrics()["epoch"] == epoch):
        return load_chosen(run)
    else:
        path, source = run.checkpoint(epoch), str(run)
    model, checkpoint = checkpoints.load_network(path)
    rules = Postprocessing.of(checkpoint["input"]).describe()
    return model, checkpoint, f"epoch {checkpoint['epoch']} of {source}; {rules}"


def halve(model: nn.Module) -> nn.Module:
    """Return a copy of the network with its kernels in float16; norms and biases, which are few, stay float32."""
    halved = copy.deepcopy(model)
    for weights in halved.parameters():
        if weights.ndim == 4:
            weights.data = weights.data.half()
    return halved


def compare(model: nn.Module, exported: Network, metadata: dict[str, Any]) -> float:
    """Return the largest difference of logits on random input, relative to the largest logit, over BATCHES."""
    import torch

    random = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in BATCHES:
        images = 2 * torch.rand(example_slices(metadata, batch).shape, generator=random) - 1
        with torch.inference_mode():
            expected, logits = model(images), exported(images)
        worst = max(worst, float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-6)))
    return worst


# --- Formats: each returns the content of its file, and the network that is read back from it ---------------------


def to_onnx(model: nn.Module, metadata: dict[str, Any]) -> tuple[bytes, Network]:
    import logging
    import warnings

    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401 - a missing package ends it here, before the slow export
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists operators of other packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            model, (example_slices(metadata),), input_names=["slices"], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False,
        )  # fmt: skip
    proto = program.model_proto
    onnx.helper.set_model_props(proto, as_text(metadata))
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: torch.from_numpy(session.run(["logits"], {"slices": images.numpy()})[0])


def to_torch_export(model: nn.Module, metadata: dict[str, Any]) -> tuple[bytes, Network]:
    import torch

    program = torch.export.export(
        model, (example_slices(metadata),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata, indent=2)})
    return file.getvalue(), torch.export.load(io.BytesIO(file.getvalue())).module()


def to_safetensors(model: nn.Module, metadata: dict[str, Any]) -> tuple[bytes, Network]:
    import safetensors.torch

    from unet import UNet, weights_digest

    weights, text = model.state_dict(), as_text(metadata)
    content = safetensors.torch.save(weights, text | {"sha256": weights_digest(weights, text)})
    read_back = UNet(**metadata["network"]).eval()
    read_back.load_state_dict(safetensors.torch.load(content))  # copies float16 into float32
    return content, read_back


def example_slices(metadata: dict[str, Any], number: int = TRACED) -> torch.Tensor:
    """Return empty slices: float32 [number, channels, H, W]."""
    import torch

    return torch.zeros(number, metadata["network"]["channels"], metadata["size"], metadata["size"])


def as_text(metadata: dict[str, Any]) -> dict[str, str]:
    """Return metadata as formats store it: text values, in JSON."""
    return {name: json.dumps(value) for name, value in metadata.items()}


FORMATS = {  # {name: (ending of its files, its function)}
    "onnx": ("onnx", to_onnx),
    "safetensors": ("safetensors", to_safetensors),
    "torch_export": ("pt2", to_torch_export),
    "web": ("html", None),  # the page, which holds the card, too: web/build.py
}


if __name__ == "__main__":
    run_script(main)
