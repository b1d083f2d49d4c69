"""The U-Net of Ronneberger, Fischer and Brox (2015, arXiv:1505.04597), with padded convolutions and batch norm."""

import torch
from torch import nn
from torch.nn import functional as F

from constants import CHANNELS, CLASSES, WIDTH

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


class Up(nn.Module):
    """One step of the expansive path: double the resolution, append the skip connection, convolve twice.

    The resolution is doubled by a 2x2 up-convolution that halves the channels, or, with `bilinear`, by
    interpolation, which has no weights; the first of the two convolutions then does the reduction.
    """

    def __init__(self, below: int, skip: int, outputs: int, bilinear: bool):
        super().__init__()
        if bilinear:
            self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.convolve = double_conv(below + skip, outputs, middle=(below + skip) // 2)
        else:
            self.upsample = nn.ConvTranspose2d(below, below // 2, kernel_size=2, stride=2)
            self.convolve = double_conv(below // 2 + skip, outputs)

    def forward(self, below: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.convolve(torch.cat([skip, self.upsample(below)], dim=1))


class UNet(nn.Module):
    """A slice in, one logit a pixel out.

    Args:
        channels: channels of the input.
        classes: channels of the output.
        width: channels of the first level; each level down doubles them, to 16 x width (1024 for 64).
        bilinear: interpolate on the way up instead of up-convolutions, with half as many channels in the
            lowest level: 17.26 million parameters instead of 31.04 million (width 64).

    Shapes:
        float [N, channels, H, W], any H and W from 1 -> float [N, classes, H, W], logits without bounds.
        Sizes that are no multiple of 16 are padded by repeating the edge, and the output is cropped back.
    """

    def __init__(self, channels: int = CHANNELS, classes: int = CLASSES, width: int = WIDTH, bilinear: bool = False):
        super().__init__()
        c = [width * 2**level for level in range(LEVELS + 1)]  # 64, 128, 256, 512, 1024
        if bilinear:
            c[-1] //= 2
            ups = [c[2], c[1], c[0], c[0]]  # what each step hands up: already the channels of the next skip
            below = [c[4], *ups[:3]]
        else:
            ups = [c[3], c[2], c[1], c[0]]
            below = [c[4], *ups[:3]]
        self.down = nn.ModuleList(double_conv(i, o) for i, o in zip([channels, *c[:-1]], c, strict=True))
        self.up = nn.ModuleList(
            Up(b, skip, outputs, bilinear) for b, skip, outputs in zip(below, c[-2::-1], ups, strict=True)
        )
        self.head = nn.Conv2d(c[0], classes, kernel_size=1)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat the last row and column until height and width are multiples of 16."""
        right, below = (-size % 2**LEVELS for size in (x.shape[-1], x.shape[-2]))
        return F.pad(x, (0, right, 0, below), mode="replicate") if right or below else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        x = self.pad(x)
        skips = []
        for level, convolve in enumerate(self.down):
            x = convolve(x if level == 0 else F.max_pool2d(x, kernel_size=2))
            skips.append(x)
        skips.pop()  # the lowest level is x itself
        for up in self.up:
            x = up(x, skips.pop())
        return self.head(x)[..., :height, :width]
