"""For torch.hub: the network by its name, from GitHub without cloning (README) or from a clone:

    model = torch.hub.load(".", "unet", source="local")

It takes slices prepared as engine.prepare does and returns logits. Research use only: not a medical device.
"""

from pathlib import Path

from constants import WIDTH
from unet import UNet

dependencies = ["torch"]  # for the weights also what is in requirements.txt
PRETRAINED = Path(__file__).parent / "weights" / "full_bilinear.safetensors"  # made from real patients alone


def unet(pretrained: bool = False, width: int = WIDTH, bilinear: bool = False) -> UNet:
    """A U-Net of this project in evaluation mode; see unet.py.

    Args:
        pretrained: with the weights that come with the repository, whose width and way up they are then.
        width, bilinear: as of UNet, for a network that is still to be trained.

    Raises: RuntimeError when there are no pretrained weights, or they are not from the published patients.
    """
    if not pretrained:
        return UNet(width=width, bilinear=bilinear).eval()
    if not PRETRAINED.is_file():
        raise RuntimeError(
            f"{PRETRAINED}: this version comes without pretrained weights. Train with train_model.py, then use "
            "predict_model.py --checkpoint, or call unet(pretrained=False)."
        )
    try:
        import checkpoints  # only here: the network alone needs nothing but PyTorch
    except ImportError as error:
        raise RuntimeError(
            f"the weights need the packages of requirements.txt, and no other module named as one of this project's "
            f"({error}). Use predict_model.py in a clone, or call unet(pretrained=False)."
        ) from error
    model, checkpoint = checkpoints.load_network(PRETRAINED)
    if not checkpoint["config"].get("published", False):
        raise RuntimeError(
            f"{PRETRAINED}: was not trained on the published data set, and is not offered as pretrained."
        )
    return model
