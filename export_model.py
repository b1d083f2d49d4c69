"""Export the network as ONNX, torch.export and safetensors, each with its preparation inside, and a model card.

    python export_model.py --out export                            # the weights that come with the project
    python export_model.py --run runs/first                        # the chosen epoch, to runs/first/export
    python export_model.py --run runs/first --formats safetensors  # one of the formats
    python export_model.py --run runs/first --formats safetensors --half --out weights --name first

The last writes weights/first.safetensors with the kernels in float16, half of the bytes, and the card as
weights/first.md. ONNX needs the packages onnx, onnxruntime and onnxscript: pip install -r requirements-optional.txt.
Each file is read back and its logits are compared with the network's before anything is written. Test first
(test_model.py): that chooses the epoch, the threshold and the smallest component, and tells the card how good they are.
The card describes all files of its name: those of an earlier export of other weights, in formats not asked for now, are
removed. Files that this script did not write are never replaced or removed.

Research use only: not a medical device, not for diagnosis or treatment.
"""

import argparse
from pathlib import Path

from utils import parse_first

NAMES = ("onnx", "safetensors", "torch_export")  # of FORMATS


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=Path, metavar="DIR",
        help="folder of the run (this folder, if it is one; else the weights that come with the project)")  # fmt: skip
    add("--epoch", type=int, metavar="N", help="(the one that test_model.py chose)")
    add("--formats", nargs="+", choices=NAMES, default=NAMES, help="(all: %(choices)s)")
    add("--half", action="store_true", help="safetensors with kernels in float16; logits then differ by up to 1%%")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="(export in the folder of the run, or here; written anew in that of the run)",
    )
    add("--overwrite", action="store_true", help="replace files of the same names in --out, if exported before")
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


if __name__ == "__main__":
    parse_first(parse_arguments)


import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn

import constants
from evaluation.selection import Postprocessing, load_chosen
from reporting.model_card import WEIGHTS, describe_input, model_card
from storage import checkpoints
from storage.owned_folder import OwnedFolder
from storage.run_folder import RunFolder
from training.hardware import set_seeds
from unet import UNet, weights_digest
from utils import UserError, run_script

LARGEST_DIFFERENCE = 1e-3  # of two logits, relative to the largest one; a mask changes only where the logit is 0
LARGEST_HALVED = 1e-2  # the same with --half: kernels are rounded by up to 1/2048 of their values
BATCHES = (1, 3)  # sizes compared; the export is traced with another


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    for name in args.formats:
        require_packages(name)
    run = RunFolder(args.run or constants.RUN_DIR)
    if not args.run and not run.checkpoints():
        if args.epoch is not None:
            raise UserError("--epoch: this folder holds no run. Name one with --run.")
        run = None
    model, checkpoint, chosen = load(run, args.epoch)
    out = OwnedFolder(args.out or (run.path if run else Path()) / "export")
    every = {name: f"{args.name or 'unet'}.{form.ending}" for name, form in FORMATS.items()}
    files = {every[name]: FORMATS[name] for name in args.formats}
    card = f"{args.name}.md" if args.name else "MODEL_CARD.md"
    out.refuse_foreign(*files, card)
    if (args.out or not run) and not args.overwrite:
        refuse_existing([out.path / name for name in (*every.values(), card)])
    metadata = describe_input(checkpoint)
    exported = halve(model) if args.half else model
    largest = LARGEST_HALVED if args.half else LARGEST_DIFFERENCE

    if metadata["synthetic"]:
        print(constants.SYNTHETIC_NOTICE)
    print(chosen)
    contents = {}
    for name, form in files.items():
        content = contents[name] = form.write(exported, metadata)
        difference = compare(model, form.load(content, metadata), metadata)
        if not difference <= largest:
            raise UserError(f"{name}: its logits differ by {difference:.1e} from the network's. Nothing was written.")
        print(f"{name}: {len(content) / 1e6:.1f} MB, logits differ by at most {difference:.1e} of the largest")
    digest = weights_digest(checkpoint["weights"], {})
    described = (model_card(run, checkpoint, digest) if run else read_card(digest)).encode()

    out.remove_temporaries()  # of an export that was killed
    others = [name for name in every.values() if name not in files]
    outdated = [] if describes(out, card, digest) else [name for name in out.files() if name in others]
    for name in (card, *outdated):  # the card first, so that at no time it lies beside other weights
        (out.path / name).unlink(missing_ok=True)
    for name, content in contents.items():
        out.write(name, content)
    out.write(card, described)
    print(f"written to {out}: {', '.join(files)}; {card} (data, recipe, metrics, limits, licence)")
    if outdated:
        print(f"removed, since they held other weights: {', '.join(outdated)}")


def load(run: RunFolder | None, epoch: int | None) -> tuple[UNet, dict[str, Any], str]:
    """Return what is exported, as of load_chosen: of a run, or the weights that come with the project."""
    if run is None:
        path, text = constants.WEIGHTS, f"weights {constants.WEIGHTS} (they come with the project)"
    elif epoch is None or (run.is_tested() and run.read_metrics()["epoch"] == epoch):
        return load_chosen(run)
    else:
        path, text = run.checkpoint(epoch), str(run)
    model, checkpoint = checkpoints.load_network(path)
    return (
        model,
        checkpoint,
        f"epoch {checkpoint['epoch']} of {text}; {Postprocessing.of(checkpoint['input']).describe()}",
    )


def read_card(digest: str) -> str:
    """Return the card of the weights that come with the project, with the digest of the weights as they are read."""
    text = constants.WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    before, _, after = text.partition(WEIGHTS)
    return f"{before}{WEIGHTS} {digest}\n{after.partition(chr(10))[2]}"


def refuse_existing(paths: list[Path]) -> None:
    """Raise UserError if one of the files exists: it may be another run's."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already. Name the files with --name, or replace them with --overwrite.")


def describes(out: OwnedFolder, card: str, digest: str) -> bool:
    """Return whether there is a card of these very weights."""
    return (out.path / card).exists() and f"{WEIGHTS} {digest}" in out.read(card, "").decode()


def require_packages(name: str) -> None:
    """Raise UserError if a package that the format needs is missing."""
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(
                f"--formats {name} needs the package {package}. Run: pip install {' '.join(FORMATS[name].packages)}, "
                "or leave this format out."
            ) from None


def halve(model: nn.Module) -> nn.Module:
    """Return a copy of the network with its kernels in float16; norms and biases, which are few, stay float32."""
    halved = copy.deepcopy(model)
    for weights in halved.parameters():
        if weights.ndim == 4:
            weights.data = weights.data.half()
    return halved


Network = Callable[[torch.Tensor], torch.Tensor]  # float32 [N, channels, H, W] -> logits [N, 1, H, W]


def compare(model: nn.Module, exported: Network, metadata: dict[str, Any]) -> float:
    """Return the largest difference of logits on random input, relative to the largest logit, over BATCHES."""
    set_seeds(0)
    worst = 0.0
    for batch in BATCHES:
        images = 2 * torch.rand(batch, *example(metadata).shape[1:]) - 1
        with torch.inference_mode():
            expected = model(images)
            found = exported(images)
        if found.shape != expected.shape:
            raise UserError(f"the exported network answers with the shape {list(found.shape)} to a batch of {batch}.")
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)))
    return worst


# --- Formats ---------------------------------------------------------------------------------------------------


def example(metadata: dict[str, Any]) -> torch.Tensor:
    """Return the input with which the network is traced: two slices, because 1 would be taken for a constant."""
    return torch.zeros(2, metadata["network"]["channels"], metadata["size"], metadata["size"])


def as_text(metadata: dict[str, Any]) -> dict[str, str]:
    """Return metadata as formats store it: text values, in JSON."""
    return {name: json.dumps(value) for name, value in metadata.items()}


def write_onnx(model: nn.Module, metadata: dict[str, Any]) -> bytes:
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists operators of packages that nobody asked for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            model,
            (example(metadata),),
            input_names=["slices"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto
    onnx.helper.set_model_props(proto, as_text(metadata))
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def load_onnx(content: bytes, metadata: dict[str, Any]) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"slices": images.numpy()})[0])


def write_torch_export(model: nn.Module, metadata: dict[str, Any]) -> bytes:
    program = torch.export.export(
        model, (example(metadata),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    with io.BytesIO() as file:
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata, indent=2)})
        return file.getvalue()


def load_torch_export(content: bytes, metadata: dict[str, Any]) -> Network:
    return torch.export.load(io.BytesIO(content)).module()


def write_safetensors(model: nn.Module, metadata: dict[str, Any]) -> bytes:
    weights, text = model.state_dict(), as_text(metadata)
    return safetensors.torch.save(weights, text | {"sha256": weights_digest(weights, text)})


def load_safetensors(content: bytes, metadata: dict[str, Any]) -> Network:
    model = UNet(**metadata["network"])
    model.load_state_dict(safetensors.torch.load(content))  # copies float16 into float32
    return model.eval()


class Format(NamedTuple):
    """How a format is written and loaded again, and which packages it needs."""

    ending: str
    write: Callable[[nn.Module, dict[str, Any]], bytes]
    load: Callable[[bytes, dict[str, Any]], Network]
    packages: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format("onnx", write_onnx, load_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "safetensors": Format("safetensors", write_safetensors, load_safetensors),
    "torch_export": Format("pt2", write_torch_export, load_torch_export),
}


if __name__ == "__main__":
    run_script(main)
