"""For torch.hub: the network by its name, from GitHub without cloning, or from a clone:

    model = torch.hub.load(".", "unet", source="local")

It takes float32 [N, 3, 256, 256], scaled to [-1, 1] as (value / 255 - 0.5) / 0.5, in the order pre-contrast, FLAIR,
post-contrast, and returns logits [N, 1, 256, 256]. With pretrained=True it takes what its attribute `input` says: FLAIR
of the neighbouring slices as further channels, and intensities that are scaled per patient. Research use only: not a
medical device.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

INPUT = ("size", "normalisation", "neighbours", "crop", "resolution", "flips", "threshold", "min_component")
dependencies = ["torch"]  # and safetensors, for pretrained weights
HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights" / "lgg_unet.safetensors"


def _load_unet() -> ModuleType:
    """Import unet.py of this folder under a name of its own.

    The caller, or another repository of torch.hub, may have a module `unet` too: neither is to replace the other.
    """
    name = f"unet_of_{HERE}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / "unet.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def unet(pretrained: bool = False, width: int = 64, bilinear: bool = False, stem: int = 1):
    """Return a U-Net of this project in evaluation mode; see unet.py.

    Args:
        pretrained: with the weights that come with the repository, whose network is then built. It has 3 channels and
            2 for each of `neighbours`; its attribute `input` says how they are prepared, in the terms of
            dataset/preprocess.py.
        width, bilinear, stem: as of UNet, for a network that is still to be trained.

    Raises: RuntimeError when there are no pretrained weights, or they cannot be read.
    """
    module = _load_unet()
    if not pretrained:
        return module.UNet(width=width, bilinear=bilinear, stem=stem).eval()
    if not WEIGHTS.is_file():
        raise RuntimeError(
            f"{WEIGHTS}: this version comes without pretrained weights. Train with train_model.py, then use "
            "predict_model.py --checkpoint, or call unet(pretrained=False)."
        )
    try:
        model, metadata = module.load_weights(str(WEIGHTS))
        metadata = {"resolution": "1.0"} | metadata  # which earlier files do not name
        about = {name: json.loads(metadata[name]) for name in ("network", "published", *INPUT)}
    except ImportError:
        raise RuntimeError("the weights need the package safetensors. Run: pip install safetensors") from None
    except Exception as error:  # safetensors has kinds of its own
        raise RuntimeError(f"{WEIGHTS}: {str(error)[:200]}. Restore the file.") from None
    network = about["network"]
    if about["size"] != 256 or (network["channels"], network["classes"]) != (3 + 2 * about["neighbours"], 1):
        raise RuntimeError(f"{WEIGHTS}: is not for slices of three sequences, 256 pixels square. Restore the file.")
    if about["published"] is not True:
        raise RuntimeError(f"{WEIGHTS}: was not trained on the published data set, and is not offered as pretrained.")
    model.input = {name: about[name] for name in INPUT}
    return model
