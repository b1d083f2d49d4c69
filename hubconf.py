"""For torch.hub: masks, or the network by its name, from GitHub without cloning, or from a clone:

    mask = torch.hub.load(".", "segment", stack, source="local")
    model = torch.hub.load(".", "unet", source="local")

The first needs the packages of requirements.txt, the second torch and safetensors alone. The network takes float32
[N, 3, 256, 256], scaled to [-1, 1] as (value / 255 - 0.5) / 0.5, in the order pre-contrast, FLAIR, post-contrast, and
returns logits [N, 1, 256, 256]. With pretrained=True, its attribute `input` describes the input: FLAIR of the
neighbouring slices as further channels, and intensities that are scaled per patient. Research use only: not a medical
device.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

INPUT = ("size", "normalisation", "neighbours", "crop", "resolution", "tta_flip", "threshold", "min_component")
dependencies = ["torch"]  # and safetensors, for pretrained weights
HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights" / "lgg_unet.safetensors"


@contextlib.contextmanager
def _own_modules() -> Iterator[None]:
    """Let imports find the modules of this folder; those of the caller with the same names stand aside meanwhile."""
    names = {path.stem for path in HERE.glob("*.py")} | {path.parent.name for path in HERE.glob("*/__init__.py")}

    def take() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] in names}

    others = take()
    sys.path.insert(0, str(HERE))
    try:
        yield
    finally:
        sys.path.remove(str(HERE))
        take()
        sys.modules.update(others)


def segment(stack, *weights, **spacing):
    """Return the mask of one patient's slices: [N, H, W, 3] -> uint8 [N, H, W]; see inference/segment.py."""
    with _own_modules():
        from inference.segment import segment

        return segment(stack, *weights, **spacing)


def unet(pretrained: bool = False, **network):
    """Return a U-Net of this project in evaluation mode; see unet.py.

    Args:
        pretrained: with the weights that come with the repository, whose network is then built. It has 3 channels and
            2 for each of `neighbours`; its attribute `input` has the settings of dataset/preprocess.py and of the
            postprocessing.
        network: arguments of UNet, such as width; for a network without weights.

    Raises: the error of unet.load_weights when the weights are missing or damaged.
    """
    with _own_modules():
        from unet import UNet, load_weights

    if not pretrained:
        return UNet(**network).eval()
    model, metadata = load_weights(str(WEIGHTS))
    model.input = {name: json.loads(metadata[name]) for name in INPUT}
    return model
