"""Damage files that are read back: each reader must refuse them, or return exactly the same content.

Part of faults.py.
"""

import functools
import gzip
import os
import random
import resource
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dataset.split import SPLITS
from scans.read import read_scan
from scans.scan import Source, file_ending
from scans.volumes import nibabel
from storage import checkpoints
from storage.run_folder import TEST_TABLES, RunFolder
from training.optimisation import Optimisation
from training.recipes import REFERENCE
from unet import UNet
from utils import UserError

MEMORY = 4 * 2**30  # bytes that reading one scan may take beyond what this process has


def plain(value: Any) -> Any:
    """Return nested content with its arrays, tensors and tables as text."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.asarray(value)
        return f"{array.dtype} {array.shape} {array.tobytes().hex()}"
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value.to_csv() if hasattr(value, "to_csv") else value


# --- Files of a run --------------------------------------------------------------------------------------------


def load_network(path: Path) -> Any:
    model, about = checkpoints.load_network(path)
    return model.state_dict(), about


def restore(run: RunFolder) -> Any:
    model = UNet(width=1)
    optimiser = Optimisation(model, REFERENCE, steps=1)
    return checkpoints.restore(run, model, optimiser), model.state_dict(), optimiser.state_dict()


def read_all(run: RunFolder) -> list[bytes]:
    """Return the files that the manifest of a run vouches for; the others have checksums of their own."""
    names = ("config.json", *(f"{split}.csv" for split in SPLITS), "epochs.csv", *TEST_TABLES.values(), "metrics.json")
    return [run.read(name, "") for name in names]


READERS: dict[str, Callable[[RunFolder], Any]] = {
    "models/epoch_1.pt": lambda run: load_network(run.checkpoint(1)),
    "models/epoch_2.pt": checkpoints.read_epochs,
    "models/resume.pt": restore,
    "export/unet.safetensors": lambda run: load_network(run.path / "export" / "unet.safetensors"),
    "config.json": RunFolder.read_config,
    "manifest.json": read_all,
    **{f"{split}.csv": functools.partial(RunFolder.read_split_table, split=split) for split in SPLITS},
    "epochs.csv": lambda run: run.read("epochs.csv", ""),
    **dict.fromkeys(TEST_TABLES.values(), RunFolder.read_test_tables),
    "metrics.json": RunFolder.read_metrics,
    "test_predictions.npz": RunFolder.read_predictions,
}


def damage(run: Path, name: str, count: int, seed: int) -> Counter:
    """Cut a file of a run at random places and flip random bits, and read it each time."""
    copy = RunFolder(run.with_name(f"run {name.replace('/', ' ')}"))  # others are damaged at the same time
    shutil.copytree(run, copy.path)
    chance, counts, path = random.Random(f"{seed} {name}"), Counter(), copy.path / name
    content, good = path.read_bytes(), plain(READERS[name](copy))
    for number in range(count):
        broken = bytearray(content)
        if number % 2:
            broken[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        else:
            del broken[chance.randrange(len(content)) :]
        path.write_bytes(broken)
        counts["faults"] += 1
        try:
            found = plain(READERS[name](copy))
            counts["went on" if found == good else "accepted wrongly"] += 1
        except UserError:
            counts["one message"] += 1
        except Exception as error:
            counts["tracebacks"] += 1
            print(f"{name}, damage {number}: {type(error).__name__}: {error}")
    return counts


# --- Scans of anyone -------------------------------------------------------------------------------------------


def write_scans(folder: Path) -> list[Path]:
    """Write small scans of the formats and pixel types that are read. Returns their files."""
    folder.mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (40, 32), dtype=np.uint8)
    colour = np.stack([grey, grey[::-1], 255 - grey], axis=2)
    deep = grey.astype(np.uint16) * 200
    pixels = {"grey": grey, "colour": colour}
    for ending in (".png", ".tif", ".jpg", ".bmp"):
        for name, each in (pixels | ({"deep": deep} if ending in (".png", ".tif") else {})).items():
            Image.fromarray(each).save(folder / f"{name}{ending}")
    Image.fromarray(colour).quantize(16).save(folder / "palette.png")
    Image.fromarray(grey.astype(np.float32)).save(folder / "real.tif")
    Image.fromarray(colour).save(folder / "packed.tif", compression="tiff_lzw")
    np.save(folder / "grey.npy", np.stack([grey] * 3))
    np.save(folder / "colour.npy", np.stack([colour] * 3).astype(np.float32))
    if nibabel:
        for ending in (".nii", ".nii.gz"):
            for name, kind in (("whole", np.int16), ("real", np.float32)):
                volume = np.stack([grey] * 3, axis=2).astype(kind)
                nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 5, 1])), folder / f"{name}{ending}")
    return sorted(folder.iterdir())


def with_checksums(content: bytes) -> bytes:
    """Return a PNG file with the checksum of each chunk put right, so that a change in it reaches the decoder."""
    at, fixed = 8, content[:8]
    while at + 12 <= len(content):
        end = min(at + 8 + int.from_bytes(content[at : at + 4]), len(content))
        fixed += content[at:end] + zlib.crc32(content[at + 4 : end]).to_bytes(4)
        at = end + 4
    return fixed


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Cut a file, or change, repeat or remove some of its bytes, more often near its beginning."""
    broken = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(min(len(broken), chance.choice((100, 400, len(broken))))) if broken else 0
        kind = chance.randrange(5)
        if kind == 0:
            del broken[at:]
        elif kind == 1:
            del broken[at : at + chance.randrange(1, 20)]
        elif kind == 2:
            broken[at:at] = broken[at : at + chance.randrange(1, 200)]
        else:  # a bit, or a number as large or as small as they come
            value = chance.choice(
                (b"\xff", b"\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80", chance.randbytes(2))
            )
            broken[at : at + len(value)] = value
    return bytes(broken)


def read_mutated(scans: list[Path], ending: str, count: int, seed: int) -> Counter:
    """Read mutated scans of a format with bounded memory: each must be refused with a message, or be a valid scan."""
    chance, counts = random.Random(f"{seed} {ending}"), Counter()
    originals = [path.read_bytes() for path in scans if file_ending(path) == ending]
    path = scans[0].parent / f"mutated {os.getpid()}{ending}"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        content = chance.choice(originals)
        if number % 2 and ending == ".nii.gz":
            content = gzip.compress(mutate(gzip.decompress(content), chance))
        else:
            content = mutate(content, chance)
        path.write_bytes(with_checksums(content) if number % 2 and ending == ".png" else content)
        counts["faults"] += 1
        scan, problems = read_scan(Source("scan", [path]))
        memory = [text for text in problems if "MemoryError" in text or "allocate" in text]
        valid = scan is not None and all(
            each.dtype == np.uint8 and each.ndim == 3 and each.shape[2] == 3 and each.size for each in scan.slices
        )
        if memory or (scan is not None and not valid) or (scan is None and not problems):
            counts["accepted wrongly"] += 1
            print(f"scan {number}{ending}: {problems}")
        else:
            counts["went on" if valid else "one message"] += 1
    path.unlink()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{count} mutated {ending}: at most {most / 1024:,.0f} MiB of memory more than before")
    return counts
