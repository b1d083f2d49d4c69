"""The network as an ONNX graph, for any window whose height and width are multiples of 32: nothing is padded."""

import copy
import functools
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from constants import CHANNELS, FLAIR
from unet import Doubling, UNet

OPSET, IR_VERSION = 18, 9  # IR_VERSION: of files with this opset
KINDS = {np.float32: onnx.TensorProto.FLOAT, np.uint8: onnx.TensorProto.UINT8, np.int64: onnx.TensorProto.INT64}


class Graph:
    """Nodes and weights of a graph that is written from its first layer to its last.

    half: kernels are stored as float16, which the runtime widens when it loads them.
    """

    def __init__(self, half: bool):
        self.half = half
        self.nodes: list[Any] = []
        self.stored: dict[Any, Any] = {}  # by what tells numbers and weights apart

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def cast(self, value: str, kind: type, name: str = "") -> str:
        return self.add("Cast", value, to=KINDS[kind], name=name)

    def number(self, value: float | list, kind: type = np.float32) -> str:
        """Store a number, or several, and return their name."""
        return self._store((str(value), kind), np.array(value, kind))

    def weights(self, values: torch.Tensor) -> str:
        """Store weights of the network, once, and return their name."""
        array = values.detach().numpy()
        if self.half and array.ndim == 4:
            return self.cast(self._store(id(values), array.astype(np.float16)), np.float32)
        return self._store(id(values), array)

    def _store(self, key: Any, array: np.ndarray) -> str:
        self.stored.setdefault(key, numpy_helper.from_array(array, f"w{len(self.stored)}"))
        return self.stored[key].name

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
            return self.add("BatchNormalization", value, *map(self.weights, norm), epsilon=layer.eps)
        if isinstance(layer, Doubling):
            places = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            return self.add("Resize", value, "", self.number([1, 1, 2, 2]), **places)
        weights = [self.weights(values) for values in (layer.weight, layer.bias) if values is not None]
        if isinstance(layer, nn.ConvTranspose2d):
            return self.add("ConvTranspose", value, *weights, strides=[2, 2])
        return self.add("Conv", value, *weights, pads=4 * [layer.padding[0]])

    def write(self, inputs: dict[str, tuple], outputs: dict[str, tuple], texts: dict[str, str]) -> bytes:
        """Return the file. inputs, outputs: the type and the sides of each, by name. texts: its metadata."""
        described = [
            [helper.make_tensor_value_info(name, KINDS[kind], sides) for name, (kind, sides) in values.items()]
            for values in (inputs, outputs)
        ]
        proto = helper.make_model(
            helper.make_graph(self.nodes, "unet", *described, [*self.stored.values()]),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        helper.set_model_props(proto, texts)
        onnx.checker.check_model(proto)
        return proto.SerializeToString()


def network_graph(model: UNet, channels: int) -> bytes:
    """Return the network, kernels in float16: slices, float32 [N, channels, H, W] -> logits, float32 [N, 1, H, W]."""
    graph = Graph(half=True)
    add_network(graph, as_onnx_folds(model), "slices")
    graph.nodes[-1].output[0] = "logits"
    sides = ["N", channels, "H", "W"]
    return graph.write({"slices": (np.float32, sides)}, {"logits": (np.float32, ["N", 1, "H", "W"])}, {})


def slices_graph(model: UNet, neighbours: int, tta_flip: bool, threshold: float, texts: dict[str, str]) -> bytes:
    """Return the graph from the slices of one patient to their mask.

    Args:
        neighbours: slices on each side of one, whose FLAIR the network sees; at the ends the last one is repeated.
        tta_flip: average the logits of the slice and of its mirror image.
        threshold: probability from which a pixel is tumour.
        texts: metadata of the file.

    Shapes:
        slices: uint8 [N, H, W, 3]: consecutive slices, pre-contrast, FLAIR, post-contrast.
        levels: float32 [3, 256]: the value of each intensity of each sequence.
        Returns: logits, float32 [N, H, W]; mask, uint8 [N, H, W], 0 or 1.
    """
    graph, model = Graph(half=False), as_onnx_folds(model)
    add, index = graph.add, functools.partial(graph.number, kind=np.int64)
    planes = []
    for sequence in map(index, range(CHANNELS)):
        intensities = graph.cast(add("Gather", "slices", sequence, axis=3), np.int64)
        planes.append(add("Gather", add("Gather", "levels", sequence), intensities))
    count = add("Gather", add("Shape", "slices"), index(0))
    rows, last = add("Range", index(0), count, index(1)), add("Sub", count, index(1))
    for distance in range(1, neighbours + 1):
        for step in (-distance, distance):
            near = add("Min", add("Max", add("Add", rows, index(step)), index(0)), last)
            planes.append(add("Gather", planes[FLAIR], near))
    images = add("Concat", *(add("Unsqueeze", plane, index([1])) for plane in planes), axis=1)
    logits = add_network(graph, model, images)
    if tta_flip:
        mirror = [index([value]) for value in (-1, np.iinfo(np.int64).min, 3, -1)]  # first, end, axis, step
        mirrored = add("Slice", add_network(graph, model, add("Slice", images, *mirror)), *mirror)
        logits = add("Mul", add("Add", logits, mirrored), graph.number(0.5))
    add("Squeeze", logits, index([1]), name="logits")
    graph.cast(add("GreaterOrEqual", add("Sigmoid", "logits"), graph.number(threshold)), np.uint8, name="mask")
    inputs = {"slices": (np.uint8, ["N", "H", "W", CHANNELS]), "levels": (np.float32, [CHANNELS, 256])}
    outputs = {"logits": (np.float32, ["N", "H", "W"]), "mask": (np.uint8, ["N", "H", "W"])}
    return graph.write(inputs, outputs, texts)


def as_onnx_folds(model: UNet) -> UNet:
    """Return a copy whose first kernels fit the order in which ONNX folds pixels into channels; PyTorch has another."""
    model = copy.deepcopy(model)
    first = model.encoders[0][0]
    first.weight.data = first.weight.data.unflatten(1, (-1, model.pixel_unshuffle**2)).transpose(1, 2).flatten(1, 2)
    return model


def add_network(graph: Graph, model: UNet, images: str) -> str:
    """Add the network: images, float32 [N, channels, H, W] -> logits, float32 [N, 1, H, W]."""
    value, skips = graph.add("SpaceToDepth", images, blocksize=model.pixel_unshuffle), []
    for encoder in model.encoders:
        skips.append(graph.apply(encoder, value))
        value = graph.add("MaxPool", skips[-1], kernel_shape=[2, 2], strides=[2, 2])
    value = graph.apply(model.bottleneck, value)
    for decoder in model.decoders:
        value = graph.add("Concat", skips.pop(), graph.apply(decoder.upsample, value), axis=1)
        value = graph.apply(decoder.convolve, value)
    return graph.add("DepthToSpace", graph.apply(model.head, value), blocksize=model.pixel_unshuffle, mode="CRD")
