"""The network as a small ONNX graph for any size of window: kernels in float16, which the runtime widens at load."""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from unet import UNet

OPSET = 18
IR_VERSION = 9  # of files with this opset


class Graph:
    """Nodes and weights of a graph that is written from its first layer to its last."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def store(self, values: torch.Tensor | np.ndarray, half: bool = False) -> str:
        """Store weights, and return their name in float32; `half` stores them as float16."""
        values, name = np.asarray(values), f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float16) if half else values, name))
        return self.add("Cast", name, to=TensorProto.FLOAT) if half else name


def to_graph(model: UNet) -> bytes:
    """Return the network as ONNX: slices, float32 [N, channels, H, W], to logits, float32 [N, 1, H, W].

    H and W have to be multiples of 16 x pixel_unshuffle: nothing is padded.
    """
    graph, fold = Graph(), model.pixel_unshuffle
    value, skips = "slices", []
    if fold > 1:
        value = graph.add("SpaceToDepth", value, blocksize=fold)
    for number, encoder in enumerate(model.encoders):
        value = convolve(graph, encoder, value, fold if number == 0 else 1)
        skips.append(value)
        value = graph.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = convolve(graph, model.bottleneck, value)
    for decoder in model.decoders:
        if isinstance(decoder.upsample, nn.ConvTranspose2d):
            weights = graph.store(decoder.upsample.weight.detach(), half=True)
            bias = graph.store(decoder.upsample.bias.detach())
            value = graph.add("ConvTranspose", value, weights, bias, strides=[2, 2])
        else:
            scales = graph.store(np.float32([1, 1, 2, 2]))
            value = graph.add(
                "Resize", value, "", scales, mode="linear", coordinate_transformation_mode="half_pixel"
            )  # fmt: skip
        value = convolve(graph, decoder.convolve, graph.add("Concat", skips.pop(), value, axis=1))
    kernel, bias = graph.store(model.head.weight.detach(), half=True), graph.store(model.head.bias.detach())
    value = graph.add("Conv", value, kernel, bias)
    if fold > 1:
        value = graph.add("DepthToSpace", value, blocksize=fold, mode="CRD")
    graph.nodes[-1].output[0] = "logits"

    channels = model.encoders[0][0].in_channels // fold**2
    shapes = {"slices": ["batch", channels, "height", "width"], "logits": ["batch", 1, "height", "width"]}
    source, target = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "unet", [source], [target], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def convolve(graph: Graph, layers: nn.Sequential, value: str, fold: int = 1) -> str:
    """Add the layers of unet.double_conv; the runtime merges each norm with the convolution before it.

    fold: of the pixels of the input, which ONNX folds into the channels in another order than PyTorch.
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            kernel = layer.weight.detach()
            if fold > 1 and layer is layers[0]:
                kernel = kernel.unflatten(1, (-1, fold**2)).transpose(1, 2).flatten(1, 2)
            value = graph.add("Conv", value, graph.store(kernel, half=True), pads=[1, 1, 1, 1])
        elif isinstance(layer, nn.BatchNorm2d):
            norm = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
            names = [graph.store(values.detach()) for values in norm]
            value = graph.add("BatchNormalization", value, *names, epsilon=layer.eps)
        else:
            value = graph.add("Relu", value)
    return value
