"""Take the network elsewhere: ONNX, torch.export and safetensors, each with its preparation inside, and a model card.

    python export_model.py --run runs/first                        # the best epoch, to runs/first/export
    python export_model.py --run runs/first --formats safetensors  # one of them
    python export_model.py --run runs/first --formats safetensors --half --out weights --name first

The last writes weights/first.safetensors with the kernels in float16, half of the bytes, and the card as
weights/first.md. ONNX needs the packages onnx, onnxruntime and onnxscript: pip install -r requirements-optional.txt.
Each file is read back and its answers compared with the network's before it gets its name. Test first
(test_model.py), so that the card can say how good the network is.

Research use only: not a medical device, not for diagnosis or treatment.
"""

import argparse
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import portable
import runs
import torch
from torch import nn

import constants
from constants import SYNTHETIC_NOTICE
from reporting.model_card import model_card, preparation
from storage import checkpoints
from training.engine import prepare
from utils import UserError, atomic_write, run_script, set_seeds, write_text

LARGEST_DIFFERENCE = 1e-3  # of two logits, relative to the largest one; a mask changes only where the logit is 0
LARGEST_HALVED = 1e-2  # the same with --half: kernels are rounded by up to 1/2048 of their values
BATCHES = (1, 3)  # sizes compared; the export is traced with another


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=Path, default=Path(constants.RUN_DIR), metavar="DIR", help="folder of the run (%(default)s)")
    add("--epoch", type=int, metavar="N", help="(the one with the best validation IoU)")
    add("--formats", nargs="+", choices=sorted(FORMATS), default=sorted(FORMATS), help="(all: %(choices)s)")
    add("--half", action="store_true", help="safetensors with kernels in float16; logits then differ by up to 1%%")
    add("--out", type=Path, metavar="DIR", help="(export in the folder of the run, where it is written anew)")
    add("--overwrite", action="store_true", help="replace files of the same names in --out")
    add("--name", help="of the files, without ending, and of the model card (unet, and MODEL_CARD.md)")
    args = parser.parse_args()
    if args.half and args.formats != ["safetensors"]:
        parser.error("--half goes with --formats safetensors alone")
    return args


def main() -> None:
    args = parse_arguments()
    for name in args.formats:
        require(name)
    models = runs.models_folder(args.run)
    epoch = checkpoints.best_epoch(checkpoints.read_figures(models)) if args.epoch is None else args.epoch
    model, checkpoint = checkpoints.load_network(checkpoints.epoch_path(models, epoch))
    out = args.out or args.run / "export"
    targets = {name: out / f"{args.name or 'unet'}.{FORMATS[name].ending}" for name in args.formats}
    card = out / (f"{args.name}.md" if args.name else "MODEL_CARD.md")
    if args.out and not args.overwrite:
        refuse_existing([*targets.values(), card])
    metadata = preparation(checkpoint)
    largest = LARGEST_HALVED if args.half else LARGEST_DIFFERENCE

    if metadata["synthetic"]:
        print(SYNTHETIC_NOTICE)
    print(f"epoch {epoch} of {args.run}")
    for name, target in targets.items():
        content = write_halved(model, metadata) if args.half else FORMATS[name].write(model, metadata)
        difference = compare(model, FORMATS[name].answer(content, model), metadata["size"])
        if not difference <= largest:
            raise UserError(
                f"{target}: its logits differ by {difference:.1e} from the network's, so it was not written."
            )
        with atomic_write(target) as file:
            file.write(content)
        print(f"{target}: {len(content) / 1e6:.1f} MB, logits differ by at most {difference:.1e} of the largest")
    write_text(card, model_card(args.run, epoch, checkpoint))
    print(f"{card}: data, recipe, figures, limits, licence")


def refuse_existing(paths: list[Path]) -> None:
    """Raises: UserError if one is there: it may be another run's."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already. Name the files with --name, or replace them with --overwrite.")


def require(name: str) -> None:
    """Raises: UserError if a package that the format needs is missing."""
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(
                f"--formats {name} needs the package {package}. Run: pip install {' '.join(FORMATS[name].packages)}, "
                "or leave this format out."
            ) from None


Answer = Callable[[torch.Tensor], torch.Tensor]  # float32 [N, 3, H, W] -> logits [N, 1, H, W]


def compare(model: nn.Module, answer: Answer, size: int) -> float:
    """The largest difference of logits on random slices, relative to the largest logit, over batches of BATCHES."""
    set_seeds(0)
    worst = 0.0
    for batch in BATCHES:
        images = prepare(torch.randint(0, 256, (batch, size, size, constants.CHANNELS), dtype=torch.uint8))
        with torch.inference_mode():
            expected = model(images)
            found = answer(images)
        if found.shape != expected.shape:
            raise UserError(f"the exported network answers with the shape {list(found.shape)} to a batch of {batch}.")
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)))
    return worst


# --- Formats ---------------------------------------------------------------------------------------------------


def example(metadata: dict[str, Any]) -> torch.Tensor:
    """What the network is traced with. Two slices: 1 would be taken for a constant."""
    return torch.zeros(2, constants.CHANNELS, metadata["size"], metadata["size"])


def texts(metadata: dict[str, Any]) -> dict[str, str]:
    """Metadata as formats store it: text each."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}


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
    onnx.helper.set_model_props(proto, texts(metadata))
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def answer_onnx(content: bytes, model: nn.Module) -> Answer:
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


def answer_torch_export(content: bytes, model: nn.Module) -> Answer:
    return torch.export.load(io.BytesIO(content)).module()


def write_safetensors(model: nn.Module, metadata: dict[str, Any]) -> bytes:
    return portable.write(model.state_dict(), texts(metadata))


def write_halved(model: nn.Module, metadata: dict[str, Any]) -> bytes:
    return portable.write(portable.halve(model.state_dict()), texts(metadata))


def answer_safetensors(content: bytes, model: nn.Module) -> Answer:
    weights, metadata = portable.read(content)
    again = type(model)(**json.loads(metadata["network"]))
    again.load_state_dict(weights)  # copies float16 into float32
    return again.eval()


class Format:
    """How a format is written and asked, and what it needs."""

    def __init__(self, ending: str, write: Callable, answer: Callable, packages: tuple[str, ...] = ()):
        self.ending, self.write, self.answer, self.packages = ending, write, answer, packages


FORMATS = {
    "onnx": Format("onnx", write_onnx, answer_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch_export": Format("pt2", write_torch_export, answer_torch_export),
    "safetensors": Format("safetensors", write_safetensors, answer_safetensors),
}


if __name__ == "__main__":
    run_script(main)
