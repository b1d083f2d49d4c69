"""The U-Net's training pass on a CPU with half of the memory: the same numbers, other things remembered.

PyTorch keeps what each convolution, each norm and each ReLU was given until the backward pass. Here only the outputs of
the convolutions are kept; norm, ReLU, pooling and concatenation are cheap beside a convolution, and are done again when
the backward pass needs what they gave. Statistics of a batch are computed once and kept.

Activations travel as `Raw`: a convolution's output before its norm, and what that norm needs.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unet import LEVELS, UNet

aten = torch.ops.aten


class Raw(NamedTuple):
    """The output of a convolution before batch norm and ReLU, [N, C, H, W], and that norm; statistics are [C]."""

    y: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    eps: float

    @classmethod
    def after(cls, y: torch.Tensor, norm: nn.BatchNorm2d) -> "Raw":
        """Take the statistics of the batch, and update the running ones as the norm itself would."""
        with torch.no_grad():
            mean, variance = aten.batch_norm_update_stats(y, norm.running_mean, norm.running_var, norm.momentum)
            norm.num_batches_tracked += 1
        return cls(y, norm.weight, norm.bias, mean, variance, norm.eps)

    def activate(self) -> torch.Tensor:
        """relu(norm(y))."""
        y, weight, bias, mean, variance, eps = self
        return aten.native_batch_norm(y, weight, bias, mean, variance, False, 0.0, eps)[0].relu_()

    def backward(self, grad: torch.Tensor, activated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of y, weight and bias from that of `activated`, which is written over.

        The statistics depend on y, which is counted in.
        """
        aten.threshold_backward.grad_input(grad, activated, 0, grad_input=grad)
        inverse_std = (self.variance + self.eps).rsqrt()
        return aten.native_batch_norm_backward(
            grad, self.y, self.weight, None, None, self.mean, inverse_std, True, self.eps, [True, True, True]
        )


class ConvolveActivated(torch.autograd.Function):
    """A convolution of relu(norm(y)), which may first be pooled, or preceded by further channels.

    Arguments: the six fields of a Raw; `above` [N, C', H, W], appended behind the activated channels, or None; pool;
    the weight and bias of the convolution, its stride and whether it is transposed.
    """

    @staticmethod
    def forward(ctx, y, weight, bias, mean, variance, eps, above, pool, kernel, kernel_bias, stride, transposed):
        ctx.save_for_backward(y, weight, bias, mean, variance, above, kernel)
        ctx.eps, ctx.pool, ctx.has_bias = eps, pool, kernel_bias is not None
        padding = 0 if transposed or kernel.shape[-1] == 1 else kernel.shape[-1] // 2
        ctx.how = ([stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1)
        activated = Raw(y, weight, bias, mean, variance, eps).activate()
        given = ConvolveActivated.gather(activated, above, pool)
        kernel_bias = None if kernel_bias is None else kernel_bias.to(y.dtype)
        return aten.convolution(given, kernel.to(y.dtype), kernel_bias, *ctx.how)

    @staticmethod
    def gather(activated, above, pool):
        if pool:
            return pool_pairs(activated)
        return activated if above is None else torch.cat([activated, above], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        y, weight, bias, mean, variance, above, kernel = ctx.saved_tensors
        raw = Raw(y, weight, bias, mean, variance, ctx.eps)
        kernel_low = kernel.to(y.dtype)
        bias_sizes = [kernel.shape[1 if ctx.how[3] else 0]] if ctx.has_bias else None

        def of_convolution(given, part):
            return aten.convolution_backward(grad, given, part, bias_sizes, *ctx.how, [True, True, ctx.has_bias])

        grad_above = None
        if above is not None:  # the two halves one after the other, so that they need not be joined again
            split = y.shape[1]
            grad_above, kernel_above, _ = of_convolution(above, kernel_low[:, split:])
            activated = raw.activate()
            grad_activated, grad_kernel, grad_bias = of_convolution(activated, kernel_low[:, :split])
            grad_kernel = torch.cat([grad_kernel, kernel_above], dim=1)
        else:
            activated = raw.activate()
            given = ConvolveActivated.gather(activated, None, ctx.pool)
            grad_activated, grad_kernel, grad_bias = of_convolution(given, kernel_low)
            if ctx.pool:
                grad_activated = unpool(grad_activated, activated, given)
            del given
        grad_y, grad_weight, grad_bias_norm = raw.backward(grad_activated, activated)
        grad_kernel = grad_kernel.to(kernel.dtype)
        grad_bias = grad_bias.to(kernel.dtype) if ctx.has_bias else None
        return grad_y, grad_weight, grad_bias_norm, *[None] * 3, grad_above, None, grad_kernel, grad_bias, None, None


def pool_pairs(x: torch.Tensor) -> torch.Tensor:
    """2x2 max pooling, without the indices that PyTorch's writes beside it, eight bytes each."""
    height, width = (size // 2 * 2 for size in x.shape[2:])
    rows = torch.maximum(x[..., 0:height:2, :width], x[..., 1:height:2, :width])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def unpool(grad: torch.Tensor, x: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """The gradient of 2x2 max pooling of x: each goes to the first of the four pixels that holds the maximum."""
    result = torch.zeros_like(x)
    for row in (0, 1):
        for column in (0, 1):
            corner = (..., slice(row, 2 * pooled.shape[2], 2), slice(column, 2 * pooled.shape[3], 2))
            won = x[corner] == pooled
            torch.mul(grad, won, out=result[corner])
            grad = grad.masked_fill(won, 0)  # what has been handed out is gone
    return result


def convolve(x: Raw, layer: nn.Module, above: torch.Tensor | None = None, pool: bool = False) -> torch.Tensor:
    """Apply a convolution of the network to an activation."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    return ConvolveActivated.apply(*x, above, pool, layer.weight, layer.bias, layer.stride[0], transposed)


def training_pass(model: UNet, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `model(images)` gives in training mode, computed in `dtype`: logits [N, classes, H, W] in that type.

    images: float [N, channels, H, W].
    """
    height, width = images.shape[-2:]
    images = model.pad(images).to(dtype)

    skips: list[Raw] = []
    for level, (first, norm1, _, second, norm2, _) in enumerate(model.down):
        y = F.conv2d(images, first.weight.to(dtype), padding=1) if level == 0 else convolve(skips[-1], first, pool=True)
        skips.append(Raw.after(convolve(Raw.after(y, norm1), second), norm2))
    x = skips.pop()
    assert len(skips) == LEVELS

    for up in model.up:
        above = convolve(x, up.upsample) if isinstance(up.upsample, nn.ConvTranspose2d) else Upsample.apply(*x)
        first, norm1, _, second, norm2, _ = up.convolve
        y = convolve(skips.pop(), first, above=above)
        x = Raw.after(convolve(Raw.after(y, norm1), second), norm2)
    return convolve(x, model.head)[..., :height, :width]


class Upsample(torch.autograd.Function):
    """relu(norm(y)) at twice the height and width, interpolated bilinearly. Arguments: the six fields of a Raw."""

    @staticmethod
    def forward(ctx, y, weight, bias, mean, variance, eps):
        ctx.save_for_backward(y, weight, bias, mean, variance)
        ctx.eps = eps
        return F.interpolate(Raw(y, weight, bias, mean, variance, eps).activate(), scale_factor=2, mode="bilinear")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        raw = Raw(*ctx.saved_tensors, ctx.eps)
        size = raw.y.shape
        grad = aten.upsample_bilinear2d_backward(grad, [2 * size[2], 2 * size[3]], list(size), False, 2.0, 2.0)
        return *raw.backward(grad, raw.activate()), None, None, None
