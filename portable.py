"""Weights that travel: safetensors files, written and read without further packages.

The format: the length of the header as 8 bytes, little-endian; the header, JSON with type, shape and place of each
tensor and, under __metadata__, texts; the tensors, one behind the other. Nothing in such a file can run.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from utils import UserError

TYPES = {"I64": torch.int64, "F32": torch.float32, "F16": torch.float16}  # in this order, so that all lie aligned
NAMES = {kind: name for name, kind in TYPES.items()}
INPUT = ("size", "mean", "std", "threshold")  # of the metadata: how a slice is prepared, and judged


def write(weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a file."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, place = [], 0
    for name, tensor in sorted(weights.items(), key=lambda item: (list(TYPES).index(NAMES[item[1].dtype]), item[0])):
        part = tensor.detach().cpu().contiguous().numpy().tobytes()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + len(part)],
        }
        parts.append(part)
        place += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def read(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors by name, metadata) of a file. Raises: ValueError, KeyError or TypeError if it is no such file."""
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    metadata = header.pop("__metadata__")
    weights = {}
    for name, about in header.items():
        first, last = about["data_offsets"]
        part, kind, shape = content[begin + first : begin + last], TYPES[about["dtype"]], about["shape"]
        if len(part) != math.prod(shape) * kind.itemsize:
            raise ValueError(f"{name} is cut off")
        weights[name] = torch.frombuffer(bytearray(part), dtype=kind).view(shape)
    return weights, metadata


def halve(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The kernels of the convolutions in float16; norms and biases, which are few, stay as they are."""
    return {name: tensor.half() if tensor.ndim == 4 else tensor for name, tensor in weights.items()}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What checkpoints.read_checkpoint gives, less the figures, from a file of export_model.py; weights in float32.

    Raises: UserError when it is missing or no such file.
    """
    try:
        weights, metadata = read(path.read_bytes())
        about = {name: json.loads(metadata[name]) for name in ("network", "epoch", "synthetic", *INPUT)}
        about["published"] = json.loads(metadata.get("published", "false"))  # files from before it was noted
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Write it with export_model.py --formats safetensors.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: is damaged or no weights of this project ({error}). Restore it.") from None
    return {
        "epoch": about["epoch"],
        "network": about["network"],
        "input": {name: about[name] for name in INPUT},
        "config": {name: about[name] for name in ("synthetic", "published")},
        "weights": {name: part.float() if part.is_floating_point() else part for name, part in weights.items()},
    }
