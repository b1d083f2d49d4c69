"""The U-Net's training pass on a CPU in half of the memory: the same numbers, fewer stored activations.

PyTorch stores the input of every convolution, norm and ReLU until the backward pass. Here only the outputs of the
convolutions are stored; norm, ReLU, pooling and concatenation are cheap beside a convolution, and are recomputed in the
backward pass. Batch statistics are computed once and stored.

Activations travel as `Raw`: a convolution's output before its norm, and what that norm needs.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from training.hardware import Hardware
from unet import UNet

FROM_WIDTH = 32  # channels of the first level: narrower networks need little memory and lose time here
aten = torch.ops.aten


class Raw(NamedTuple):
    """The output of a convolution before batch norm and ReLU, [N, C, H, W], and that norm; statistics are [C].

    `scratch` is one buffer shared by all activations; none outlives the convolution that it is for. Allocated one by
    one, they would leave gaps between the stored tensors.
    """

    y: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    eps: float
    scratch: torch.Tensor

    @classmethod
    def after(cls, y: torch.Tensor, norm: nn.BatchNorm2d, scratch: torch.Tensor) -> "Raw":
        """Compute the batch statistics, and update the running ones as the norm itself would."""
        with torch.no_grad():
            mean, variance = aten.batch_norm_update_stats(y, norm.running_mean, norm.running_var, norm.momentum)
            norm.num_batches_tracked += 1
        return cls(y, norm.weight, norm.bias, mean, variance, norm.eps, scratch)

    def activate(self) -> torch.Tensor:
        """Return relu(norm(y)) in the scratch memory; the next call overwrites it."""
        y, weight, bias, mean, variance, eps, scratch = self
        out, unused = scratch.as_strided(y.shape, y.stride()), mean.new_empty(0)
        aten.native_batch_norm.out(
            y, weight, bias, mean, variance, False, 0.0, eps, out=out, save_mean=unused, save_invstd=unused
        )
        return out.relu_()

    def backward(self, grad: torch.Tensor, activated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of y, weight and bias from that of `activated`, which is overwritten.

        The gradient through the batch statistics, which depend on y, is included.
        """
        aten.threshold_backward.grad_input(grad, activated, 0, grad_input=grad)
        inverse_std = (self.variance + self.eps).rsqrt()
        return aten.native_batch_norm_backward(
            grad, self.y, self.weight, None, None, self.mean, inverse_std, True, self.eps, [True, True, True]
        )


class ConvolveActivated(torch.autograd.Function):
    """A convolution of relu(norm(y)), which may first be pooled, or followed by further channels.

    Arguments: the seven fields of a Raw; `above` [N, C', H, W], the channels behind the activated ones, or None; pool;
    the weight and bias of the convolution, its stride and whether it is transposed.
    """

    @staticmethod
    def forward(
        ctx, y, weight, bias, mean, variance, eps, scratch, above, pool, kernel, kernel_bias, stride, transposed
    ):
        ctx.save_for_backward(y, weight, bias, mean, variance, above, kernel)
        ctx.eps, ctx.pool, ctx.has_bias, ctx.scratch = eps, pool, kernel_bias is not None, scratch
        padding = 0 if transposed or kernel.shape[-1] == 1 else kernel.shape[-1] // 2
        ctx.how = ([stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1)
        kernel = kernel.to(y.dtype)
        kernel_bias = None if kernel_bias is None else kernel_bias.to(y.dtype)
        given = Raw(y, weight, bias, mean, variance, eps, scratch).activate()
        if pool:
            given = pool_pairs(given)
        if above is None:
            return aten.convolution(given, kernel, kernel_bias, *ctx.how)
        split = y.shape[1]  # a convolution of joined channels is the sum of those of its parts
        result = aten.convolution(given, kernel[:, :split], kernel_bias, *ctx.how)
        return result.add_(aten.convolution(above, kernel[:, split:], None, *ctx.how))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        y, weight, bias, mean, variance, above, kernel = ctx.saved_tensors
        raw = Raw(y, weight, bias, mean, variance, ctx.eps, ctx.scratch)
        low = kernel.to(y.dtype)

        def of_convolution(given, part):
            if ctx.how[3]:
                return upconvolution_backward(grad, given, part)
            sizes = [len(part)] if ctx.has_bias else None
            return aten.convolution_backward(grad, given, part, sizes, *ctx.how, [True, True, ctx.has_bias])

        activated = raw.activate()
        if ctx.pool:
            pooled, indices = aten.max_pool2d_with_indices(activated, [2, 2], [2, 2])
            grad_pooled, grad_kernel, grad_bias = of_convolution(pooled, low)
            grad_activated = aten.max_pool2d_with_indices_backward(
                grad_pooled, activated, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
            )
        else:
            grad_activated, grad_kernel, grad_bias = of_convolution(activated, low[:, : y.shape[1]])
        grad_y, grad_weight, grad_bias_norm = raw.backward(grad_activated, activated)
        grad_above = None
        if above is not None:
            del grad_activated  # room for its counterpart
            grad_above, kernel_above, _ = of_convolution(above, low[:, y.shape[1] :])
            grad_kernel = torch.cat([grad_kernel, kernel_above], dim=1)
        grad_kernel = grad_kernel.to(kernel.dtype)
        grad_bias = grad_bias.to(kernel.dtype) if ctx.has_bias else None
        return grad_y, grad_weight, grad_bias_norm, *[None] * 4, grad_above, None, grad_kernel, grad_bias, None, None


def pool_pairs(x: torch.Tensor) -> torch.Tensor:
    """2x2 max pooling without the indices that PyTorch's own writes as well, eight bytes each."""
    rows = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def upconvolution_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of input, kernel and bias of a 2x2 up-convolution with stride 2, as two matrix products.

    Its windows do not overlap, so that it is one product per pixel; four times as fast as PyTorch's on a CPU.

    grad: [N, C', 2H, 2W]; x: [N, C, H, W]; kernel: [C, C', 2, 2].
    """
    n, c, h, w = x.shape
    grad_pixels = grad.unflatten(2, (h, 2)).unflatten(4, (w, 2)).permute(0, 2, 4, 3, 5, 1).reshape(n * h * w, -1)
    x_pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
    grad_x = (grad_pixels @ kernel.permute(0, 2, 3, 1).reshape(c, -1).T).view(n, h, w, c).permute(0, 3, 1, 2)
    grad_kernel = (x_pixels.T @ grad_pixels).view(c, 2, 2, -1).permute(0, 3, 1, 2)
    return grad_x.contiguous(memory_format=memory_format_of(x)), grad_kernel, grad.sum((0, 2, 3))


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def convolve(x: Raw, layer: nn.Module, above: torch.Tensor | None = None, pool: bool = False) -> torch.Tensor:
    """Apply a convolution of the network to an activation."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    return ConvolveActivated.apply(*x, above, pool, layer.weight, layer.bias, layer.stride[0], transposed)


def applies(model: nn.Module, hardware: Hardware) -> bool:
    """Return whether a training step takes this pass: for a wide U-Net, on a CPU, in one process."""
    return (
        hardware.device.type == "cpu"
        and type(model) is UNet  # neither compiled nor wrapped for several processes
        and model.head.in_channels >= FROM_WIDTH
    )


def training_pass(model: UNet, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what `model(images)` gives in training mode, computed in `dtype`: logits [N, classes, H, W] in that type.

    images: float [N, channels, H, W].
    """
    height, width = images.shape[-2:]
    images = model.enter(images).to(dtype)
    scratch = images.new_empty(images[:, 0].numel() * model.head.in_channels)

    skips: list[Raw] = []
    for level, (first, norm1, _, second, norm2, _) in enumerate([*model.encoders, model.bottleneck]):
        y = F.conv2d(images, first.weight.to(dtype), padding=1) if level == 0 else convolve(skips[-1], first, pool=True)
        y = convolve(Raw.after(y, norm1, scratch), second)
        skips.append(Raw.after(y, norm2, scratch))
    x = skips.pop()

    for decoder in model.decoders:
        up = decoder.upsample
        above = convolve(x, up) if isinstance(up, nn.ConvTranspose2d) else Upsample.apply(*x)
        first, norm1, _, second, norm2, _ = decoder.convolve
        y = convolve(skips.pop(), first, above=above)
        y = convolve(Raw.after(y, norm1, scratch), second)
        x = Raw.after(y, norm2, scratch)
    return model.leave(convolve(x, model.head), height, width)


class Upsample(torch.autograd.Function):
    """relu(norm(y)) at twice the height and width, interpolated bilinearly. Arguments: the seven fields of a Raw."""

    @staticmethod
    def forward(ctx, y, weight, bias, mean, variance, eps, scratch):
        ctx.save_for_backward(y, weight, bias, mean, variance)
        ctx.eps, ctx.scratch = eps, scratch
        activated = Raw(y, weight, bias, mean, variance, eps, scratch).activate()
        return F.interpolate(activated, scale_factor=2, mode="bilinear")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        raw = Raw(*ctx.saved_tensors, ctx.eps, ctx.scratch)
        size = raw.y.shape
        grad = aten.upsample_bilinear2d_backward(grad, [2 * size[2], 2 * size[3]], list(size), False, 2.0, 2.0)
        return *raw.backward(grad, raw.activate()), *[None] * 4
