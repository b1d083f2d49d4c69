"""The U-Net of Ronneberger, Fischer and Brox (2015, arXiv:1505.04597), with padded convolutions and batch norm.

This file imports nothing of the project: it can be copied into another one as it is.
"""

import functools
import hashlib
import json

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = 4  # times that the contracting path halves the resolution


def double_conv(inputs: int, outputs: int, middle: int | None = None) -> nn.Sequential:
    """(3x3 convolution, batch norm, ReLU) twice; height and width stay. The norm makes a bias needless."""
    middle = middle or outputs
    return nn.Sequential(
        nn.Conv2d(inputs, middle, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Doubling(nn.Module):
    """Bilinear interpolation to twice the height and width: float [N, C, H, W] -> [N, C, 2H, 2W]. Has no weights.

    On CUDA as two matrix products, one along each side, whose backward pass is two more. PyTorch's own adds up
    gradients there in an order that changes from run to run, and slowly.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return double_by_products(x) if x.is_cuda else F.interpolate(x, scale_factor=2, mode="bilinear")


def double_by_products(x: torch.Tensor) -> torch.Tensor:
    """Interpolate to twice the height and width by two matrix products: float [N, C, H, W] -> [N, C, 2H, 2W]."""
    n, channels, height, width = x.shape
    rows, columns = (doubling_matrix(side, x.dtype, x.device) for side in (height, width))
    lines = x.permute(0, 2, 3, 1).reshape(n, height, width * channels)
    lines = torch.bmm(rows.expand(n, -1, -1), lines).view(n * 2 * height, width, channels)
    pixels = torch.bmm(columns.expand(len(lines), -1, -1), lines)
    return pixels.view(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


@functools.cache
def doubling_matrix(side: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the matrix that interpolates `side` values to twice as many: [2 side, side]."""
    with torch.inference_mode(False):  # else training could not use one that validation made
        return F.interpolate(torch.eye(side)[None], scale_factor=2, mode="linear")[0].T.to(device, dtype)


class Decoder(nn.Module):
    """One step of the expansive path: double the resolution, append the skip connection, convolve twice.

    The resolution is doubled by a 2x2 up-convolution that halves the channels, or, with `bilinear`, by
    interpolation, which has no weights; the first of the two convolutions then reduces the channels.
    deep, skip, outputs: channels of the input, the skip connection and the output.
    """

    def __init__(self, deep: int, skip: int, outputs: int, bilinear: bool):
        super().__init__()
        if bilinear:
            self.upsample = Doubling()
            self.convolve = double_conv(deep + skip, outputs, middle=(deep + skip) // 2)
        else:
            self.upsample = nn.ConvTranspose2d(deep, deep // 2, kernel_size=2, stride=2)
            self.convolve = double_conv(deep // 2 + skip, outputs)

    def forward(self, deep: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.convolve(torch.cat([skip, self.upsample(deep)], dim=1))


class UNet(nn.Module):
    """Maps a slice to one logit per pixel.

    Args:
        channels: channels of the input.
        classes: channels of the output.
        width: channels of the first level; each level down doubles them, to 16 x width (1024 for 64).
        bilinear: interpolate on the way up instead of up-convolutions, with half as many channels in the
            lowest level: 17.26 million parameters instead of 31.04 million (width 64).
        pixel_unshuffle: 2 folds each 2x2 pixels into the channels and unfolds the logits at the end: the network
            computes at half of the resolution and answers at full resolution. 1 does not fold.

    Shapes:
        float [N, channels, H, W], any H and W from 1 -> float [N, classes, H, W], logits without bounds.
        Sizes that are no multiple of 16 x pixel_unshuffle are padded by repeating the edge; the output is cropped.
    """

    def __init__(
        self, channels: int = 3, classes: int = 1, width: int = 64, bilinear: bool = False, pixel_unshuffle: int = 1
    ):
        super().__init__()
        self.pixel_unshuffle = pixel_unshuffle
        halved = 2 if bilinear else 1  # bilinear steps hand up the channels of the next skip connection
        self.encoders = nn.ModuleList(
            [
                double_conv(channels * pixel_unshuffle**2, width),  # 256 x 256, for such a slice without folding
                double_conv(width, 2 * width),  # 128 x 128
                double_conv(2 * width, 4 * width),  # 64 x 64
                double_conv(4 * width, 8 * width),  # 32 x 32
            ]
        )
        self.bottleneck = double_conv(8 * width, 16 * width // halved)  # 16 x 16
        self.decoders = nn.ModuleList(
            [
                Decoder(16 * width // halved, 8 * width, 8 * width // halved, bilinear),  # 32 x 32
                Decoder(8 * width // halved, 4 * width, 4 * width // halved, bilinear),  # 64 x 64
                Decoder(4 * width // halved, 2 * width, 2 * width // halved, bilinear),  # 128 x 128
                Decoder(2 * width // halved, width, width, bilinear),  # 256 x 256
            ]
        )
        self.head = nn.Conv2d(width, classes * pixel_unshuffle**2, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        right, bottom = (-size % (self.pixel_unshuffle * 2**LEVELS) for size in (width, height))
        if right or bottom:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        if self.pixel_unshuffle > 1:
            x = F.pixel_unshuffle(x, self.pixel_unshuffle)
        skips = []
        for encode in self.encoders:
            skips.append(encode(x))
            x = F.max_pool2d(skips[-1], kernel_size=2)
        x = self.bottleneck(x)
        for decode in self.decoders:
            x = decode(x, skips.pop())
        logits = self.head(x)
        if self.pixel_unshuffle > 1:
            logits = F.pixel_shuffle(logits, self.pixel_unshuffle)
        return logits[..., :height, :width]


def weights_digest(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Return the SHA-256 of weights and metadata; safetensors has no checksum of its own."""
    about = {name: text for name, text in metadata.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(path: str) -> tuple[UNet, dict[str, str]]:
    """Build the network of a safetensors file written by export_model.py; needs the package safetensors.

    Returns: the network in evaluation mode, float32, on the CPU; and the file's metadata.
    Raises: OSError, ValueError or safetensors' own error when the file is missing, damaged, or of another program.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    if metadata.get("sha256") != weights_digest(tensors, metadata):
        raise ValueError("its checksum does not fit its content")
    with torch.device("meta"):  # no memory yet
        model = UNet(**json.loads(metadata["network"]))
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval(), metadata
