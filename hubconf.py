"""For torch.hub: the network by its name, from GitHub without cloning (README) or from a clone:

    model = torch.hub.load(".", "unet", source="local")

It takes slices prepared as engine.prepare does and returns logits. Research use only: not a medical device.
"""

from pathlib import Path

import checkpoints
from constants import WIDTH
from unet import UNet

dependencies = ["torch", "numpy", "pandas"]
PRETRAINED = Path(__file__).parent / "weights" / "full_bilinear.safetensors"  # made from real patients alone


def unet(pretrained: bool = False, width: int = WIDTH, bilinear: bool = False) -> UNet:
    """A U-Net of this project in evaluation mode; see unet.py.

    Args:
        pretrained: with the weights that come with the repository, whose width and way up they are then.
        width, bilinear: as of UNet, for a network that is still to be trained.

    Raises: RuntimeError when there are no pretrained weights, or they are not from real patients.
    """
    if not pretrained:
        return UNet(width=width, bilinear=bilinear).eval()
    if not PRETRAINED.is_file():
        raise RuntimeError(
            f"{PRETRAINED}: this version comes without pretrained weights. Train with train_model.py, then use "
            "predict_model.py --checkpoint, or call unet(pretrained=False)."
        )
    model, checkpoint = checkpoints.load_network(PRETRAINED)
    if checkpoint["config"].get("synthetic", True):
        raise RuntimeError(f"{PRETRAINED}: was trained on synthetic patients, which is never offered as pretrained.")
    return model
