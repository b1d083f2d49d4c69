"""The network as a small ONNX graph for any size of window: kernels in float16, which the runtime widens at load."""

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from unet import Doubling, UNet

OPSET, IR_VERSION = 18, 9  # IR_VERSION: of files with this opset


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

    def store(self, values: torch.Tensor, half: bool = False) -> str:
        """Store weights, and return their name in float32; `half` stores them as float16."""
        array, name = values.detach().numpy(), f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float16) if half else array, name))
        return self.add("Cast", name, to=TensorProto.FLOAT) if half else name

    def apply(self, layer: nn.Module, value: str) -> str:
        """Add a layer of unet.py, or several; the runtime merges each norm with the convolution before it."""
        if isinstance(layer, nn.Sequential):
            for part in layer:
                value = self.apply(part, value)
            return value
        if isinstance(layer, nn.ReLU):
            return self.add("Relu", value)
        if isinstance(layer, nn.BatchNorm2d):
            norm = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
            return self.add("BatchNormalization", value, *map(self.store, norm), epsilon=layer.eps)
        if isinstance(layer, Doubling):
            scales = self.store(torch.tensor([1.0, 1, 2, 2]))
            return self.add("Resize", value, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
        weights = [self.store(layer.weight, half=True), *([] if layer.bias is None else [self.store(layer.bias)])]
        if isinstance(layer, nn.ConvTranspose2d):
            return self.add("ConvTranspose", value, *weights, strides=[2, 2])
        return self.add("Conv", value, *weights, pads=4 * [layer.padding[0]])


def to_graph(model: UNet) -> bytes:
    """Return the network as ONNX: slices, float32 [N, channels, H, W], to logits, float32 [N, 1, H, W].

    H and W have to be multiples of 16 x pixel_unshuffle: nothing is padded.
    """
    model, graph, fold = copy.deepcopy(model), Graph(), model.pixel_unshuffle
    first = model.encoders[0][0]  # ONNX folds pixels into channels in another order than PyTorch
    first.weight.data = first.weight.data.unflatten(1, (-1, fold**2)).transpose(1, 2).flatten(1, 2)

    value, skips = graph.add("SpaceToDepth", "slices", blocksize=fold), []
    for encoder in model.encoders:
        skips.append(graph.apply(encoder, value))
        value = graph.add("MaxPool", skips[-1], kernel_shape=[2, 2], strides=[2, 2])
    value = graph.apply(model.bottleneck, value)
    for decoder in model.decoders:
        value = graph.add("Concat", skips.pop(), graph.apply(decoder.upsample, value), axis=1)
        value = graph.apply(decoder.convolve, value)
    graph.add("DepthToSpace", graph.apply(model.head, value), blocksize=fold, mode="CRD")
    graph.nodes[-1].output[0] = "logits"

    shapes = {"slices": ["batch", first.in_channels // fold**2, "height", "width"],
              "logits": ["batch", 1, "height", "width"]}  # fmt: skip
    source, target = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "unet", [source], [target], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def largest_difference(graph: bytes, expected: torch.Tensor, **inputs: torch.Tensor) -> float:
    """Return the largest difference of an ONNX graph's logits from the expected ones, relative to the largest logit."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {name: values.numpy() for name, values in inputs.items()})[0]
    return float(np.abs(logits - expected.numpy()).max() / max(expected.abs().max().item(), 1e-6))
