"""Images that are not of the training set: pictures, NumPy arrays and NIfTI volumes of unknown origin.

Read as bytes that somebody else wrote: known formats only, a limit on the pixels, nothing unpickled, one ValueError a
file that says what is wrong. Whatever comes in leaves here as slices of three channels with 8 bits, and masks go back
to the size, the format and the orientation that came in.
"""

import gzip
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from constants import CHANNELS
from utils import atomic_write

FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}
ARRAYS = (".npy",)
VOLUMES = (".nii", ".nii.gz")
READABLE = ", ".join((*FORMATS, *ARRAYS, *VOLUMES))
MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F"}  # Pillow's names of pixel formats
OURS = re.compile(r".*_(mask|overlay)", re.IGNORECASE)  # masks of the data set, and what predict_model.py writes
MOST_PIXELS = 4096 * 4096  # of one slice; MR slices have at most a million
MOST_SAMPLES = 2**28  # of one scan, all slices and channels together
MOST_SLICES = 4096  # of one scan, and the longest side of a volume: each slice grows to the network's size
MOST_HEADER = 2**20  # bytes before the voxels of a NIfTI file
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # in the units of space that NIfTI knows; all others count as mm
PERCENTILES = (0.5, 99.5)  # become 0 and 255 where there are more than 8 bits
AXIAL = ("L", "P", "S")  # as radiologists look at it: columns run to the patient's left, rows to the back


@dataclass
class Scan:
    """One patient's slices, or files that lie together.

    Attributes:
        name: of the folder or file, unique among the inputs.
        slices: uint8 [H, W, 3] each, from bottom to top where that is known.
        names: one a slice.
        spacing: mm between rows, columns, slices; None where unknown.
        notes: what was done to the intensities or channels, for people.
        paths: the file of each slice, or the one file of all.
        grey: whether there was one sequence only, which now fills all three channels.
        volume: the NIfTI image that the slices are from.
    """

    name: str
    slices: list[np.ndarray]
    names: list[str]
    paths: list[Path]
    spacing: tuple[float, float, float] | None = None
    notes: list[str] = field(default_factory=list)
    grey: bool = False
    volume: Any = None


@dataclass(frozen=True)
class Source:
    """What one Scan is to be read from."""

    name: str
    paths: tuple[Path, ...]

    @property
    def is_volume(self) -> bool:
        return kind_of(self.paths[0]) not in FORMATS


# --- Find ------------------------------------------------------------------------------------------------------


def find_sources(inputs: Iterable[Path]) -> tuple[list[Source], list[str]]:
    """(what to read, problems). Pictures of one folder belong together; every other file stands for itself.

    A folder gives the pictures and volumes in it, and those of the folders in it (one a patient).
    """
    together: dict[Path, dict[Path, None]] = {}  # pictures by their folder, each once
    alone: dict[Path, None] = {}
    problems = []
    for given in inputs:
        files = [given] if given.is_file() else _files_below(given) if given.is_dir() else []
        if not given.exists():
            problems.append(f"{given}: no such file or folder.")
        elif not files:
            problems.append(f"{given}: holds nothing that can be read ({READABLE}).")
        for path in files:
            kind = kind_of(path)
            if kind in FORMATS:
                together.setdefault(path.parent, {})[path] = None
            elif kind:
                alone[path] = None
            else:
                problems.append(f"{path}: is none of the formats that are read ({READABLE}).")
    names: set[str] = set()
    sources = [
        Source(_unique(folder.resolve().name or "images", names), tuple(sorted(paths, key=natural_order)))
        for folder, paths in together.items()
    ]
    sources += [Source(_unique(stem(path), names), (path,)) for path in alone]
    return sources, problems


def kind_of(path: Path) -> str:
    """The ending that says how to read a file, such as .png or .nii.gz; empty for any other."""
    name = path.name.lower()
    return next((ending for ending in (*FORMATS, *ARRAYS, *VOLUMES) if name.endswith(ending)), "")


def stem(path: Path) -> str:
    """The name of a file without the ending that says how to read it."""
    return path.name[: len(path.name) - len(kind_of(path))] or path.name


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key: slice_2 before slice_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stem(path).lower())]


def _files_below(folder: Path) -> list[Path]:
    """The readable files in a folder and in the folders in it; neither masks nor hidden files."""

    def readable(inside: Path) -> list[Path]:
        found = (entry for entry in inside.iterdir() if entry.is_file() and not entry.name.startswith("."))
        return sorted(path for path in found if kind_of(path) and not OURS.fullmatch(stem(path)))

    inner = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return readable(folder) + [path for entry in sorted(inner) for path in readable(entry)]


def _unique(name: str, taken: set[str]) -> str:
    """`name`, numbered if it is taken; file systems that ignore case are kept in mind."""
    number, unique = 2, name
    while unique.lower() in taken:
        unique, number = f"{name}_{number}", number + 1
    taken.add(unique.lower())
    return unique


# --- Read ------------------------------------------------------------------------------------------------------


def read_scan(source: Source) -> tuple[Scan | None, list[str]]:
    """(the scan or None, problems): a picture that cannot be read does not keep the others from being read."""
    problems, pictures, paths = [], [], []
    try:
        if source.is_volume:
            read = _read_array if kind_of(source.paths[0]) in ARRAYS else _read_nifti
            pictures, spacing, volume = read(source.paths[0])
            digits = len(str(len(pictures)))
            names = [f"{source.name}_{number:0{digits}d}" for number in range(1, len(pictures) + 1)]
            scan = Scan(source.name, pictures, names, [source.paths[0]], spacing, volume=volume)
        else:
            for path in source.paths:
                try:
                    pictures.append(read_picture(path))
                    paths.append(path)
                except ValueError as error:
                    problems.append(f"{path}: {error}")
            if not pictures:
                return None, problems
            stems, taken = Counter(stem(path).lower() for path in paths), set()
            names = [stem(path) if stems[stem(path).lower()] == 1 else path.name for path in paths]
            scan = Scan(source.name, pictures, [_unique(name, taken) for name in names], paths)
        if sum(picture.size for picture in pictures) > MOST_SAMPLES:
            raise ValueError(f"more than {MOST_SAMPLES:,} values together. Split it into smaller parts.")
        if len(pictures) > MOST_SLICES:
            raise ValueError(f"more than {MOST_SLICES:,} slices together. Split them into folders, one a patient.")
        scan.slices = _to_eight_bits(scan)
        scan.slices = _to_three_channels(scan)
    except ValueError as error:
        where = source.paths[0] if source.is_volume else source.paths[0].parent
        return None, [*problems, f"{where}: {error}"]
    return scan, problems


def read_picture(path: Path) -> np.ndarray:
    """One picture: [H, W] or [H, W, 3] of uint8, uint16, int32 or float32. Raises: ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=sorted(set(FORMATS.values()))) as picture:
                _check_picture(picture)
                if picture.mode in ("LA", "1"):
                    picture = picture.convert("L")
                elif picture.mode in ("RGBA", "P"):
                    picture = picture.convert("RGB")
                pixels = np.asarray(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(_too_large()) from None
    except UnidentifiedImageError:
        raise ValueError(f"is no {', '.join(sorted(set(FORMATS.values())))} file, whatever its name says.") from None
    except _Refused:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"cannot be read, it is damaged ({type(error).__name__}: {reason}).") from None
    return pixels


class _Refused(ValueError):
    """A file that could be read, but must not be."""


def _check_picture(picture: Image.Image) -> None:
    """Look at the header before anything is decoded."""
    if picture.width * picture.height > MOST_PIXELS:
        raise _Refused(_too_large())
    if (pages := getattr(picture, "n_frames", 1)) != 1:
        raise _Refused(f"has {pages} pages. Save one slice a file, or the stack as .npy or NIfTI.")
    if picture.mode not in MODES:
        raise _Refused(f"has the pixel format {picture.mode}. Save it as grey or as RGB.")
    if picture.mode in ("RGB", "RGBA", "LA") and _bits(picture) > 8:
        raise _Refused(
            "has colours of more than 8 bits (or grey with transparency), which would be cut off. "
            "Save the sequences as .npy or NIfTI."
        )


def _bits(picture: Image.Image) -> int:
    """Bits of one channel as the file has them; Pillow cuts colours to 8 without a word."""
    if picture.format == "PNG":
        with open(picture.filename, "rb") as file:
            return file.read(25)[24]  # signature, then the header chunk: length, name, width, height, bits
    if picture.format == "TIFF":
        return max(picture.tag_v2.get(258, (8,)))  # BitsPerSample
    return 8


def _too_large() -> str:
    return f"has more than {MOST_PIXELS:,} pixels, which no MR slice has."


def _read_array(path: Path) -> tuple[list[np.ndarray], None, None]:
    """The slices of a .npy file: [H, W], [H, W, 3], [S, H, W] or [S, H, W, 3]. Raises: ValueError."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # seen before it is read; nothing is unpickled
    except Exception as error:  # its header is parsed as Python, with as many kinds of errors
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"cannot be read as a NumPy array ({reason}).") from None
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == CHANNELS):
        array = array[None]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != CHANNELS) or 0 in array.shape:
        raise ValueError(
            f"has the shape {array.shape}. Expected slices, rows, columns and, for three sequences, channels last: "
            "[S, H, W] or [S, H, W, 3]; one slice is [H, W] or [H, W, 3]."
        )
    _check_volume(array.shape, array.dtype)
    return [np.array(plane) for plane in array], None, None


def _read_nifti(path: Path) -> tuple[list[np.ndarray], tuple[float, float, float], Any]:
    """The axial slices of a NIfTI volume [X, Y, Z] or [X, Y, Z, 3], from bottom to top. Raises: ValueError."""
    try:
        import nibabel
    except ImportError:
        raise ValueError("NIfTI needs the package nibabel: pip install nibabel.") from None
    try:
        _check_header(path)
        volume = nibabel.load(path)
        shape = volume.shape
        if len(shape) == 4 and shape[3] == 1:
            volume = volume.slicer[..., 0]
            shape = volume.shape
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != CHANNELS) or 0 in shape:
            raise _Refused(f"has the shape {shape}. Expected [X, Y, Z], or [X, Y, Z, 3] with three sequences.")
        _check_volume(shape, volume.get_data_dtype())
        voxels = np.asanyarray(volume.dataobj)
        turned = nibabel.orientations.apply_orientation(voxels, _orientation(volume))
        size = nibabel.affines.voxel_sizes(volume.affine) * MILLIMETRES.get(volume.header.get_xyzt_units()[0], 1.0)
        columns, rows, slices = (float(size[int(axis)]) for axis in np.argsort(_orientation(volume)[:, 0]))
    except _Refused:
        raise
    except Exception as error:  # nibabel raises many kinds for damaged files
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"cannot be read as NIfTI ({type(error).__name__}: {reason}).") from None
    planes = np.moveaxis(turned, (0, 1, 2), (2, 1, 0))  # [S, H, W] or [S, H, W, 3]
    return list(planes), (rows, columns, slices), volume


def _check_header(path: Path) -> None:
    """Look at what comes before the voxels, which nibabel reads whole. Raises: ValueError, struct.error, OSError."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
        head = file.read(MOST_HEADER)
    order = "<" if head[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    (length,) = struct.unpack_from(order + "i", head)  # 348: NIfTI-1, 540: NIfTI-2
    (voxels,) = (
        struct.unpack_from(order + "q", head, 168) if length == 540 else struct.unpack_from(order + "f", head, 108)
    )
    if not voxels <= MOST_HEADER:
        raise _Refused(f"has {voxels:,.0f} bytes before its voxels; at most {MOST_HEADER:,} are read.")
    at = length + 4
    while head[length : length + 1] > b"\0" and at + 16 <= voxels:  # extensions
        (size,) = struct.unpack_from(order + "i", head, at)
        if not 16 <= size <= voxels - at:
            raise _Refused("has an extension of its header that is damaged. Save it without.")
        at += size


def _orientation(volume: Any) -> np.ndarray:
    """What turns the axes of a NIfTI image to AXIAL, as nibabel.orientations has it: float [3, 2]."""
    import nibabel

    return nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(volume.affine), nibabel.orientations.axcodes2ornt(AXIAL)
    )


def _check_volume(shape: Sequence[int], kind: np.dtype) -> None:
    if kind.kind not in "buif":
        raise _Refused(f"holds values of the kind {kind}. Save it with whole or floating point numbers.")
    if np.prod(shape, dtype=float) > MOST_SAMPLES:
        raise _Refused(f"has {np.prod(shape, dtype=float):,.0f} values; at most {MOST_SAMPLES:,} are read.")
    if np.prod(sorted(shape[:3])[1:], dtype=float) > MOST_PIXELS:
        raise _Refused(_too_large())
    if max(shape[:3]) > MOST_SLICES:
        raise _Refused(f"has {max(shape[:3]):,} slices, rows or columns; at most {MOST_SLICES:,} are read.")


def _to_eight_bits(scan: Scan) -> list[np.ndarray]:
    """Slices of 8 bits stay as they are; the others are scaled together, each channel by its percentiles."""
    deep = [n for n, plane in enumerate(scan.slices) if plane.dtype != np.uint8]
    if not deep:
        return scan.slices
    if len({scan.slices[n].ndim for n in deep}) > 1:
        one, three = (next(scan.names[n] for n in deep if scan.slices[n].ndim == ndim) for ndim in (2, 3))
        raise ValueError(
            f"more than 8 bits in pictures of one channel ({one}) and of three ({three}). Keep them apart."
        )
    planes = {n: np.asarray(scan.slices[n], dtype=np.float32) for n in deep}
    broken = sum(int((~np.isfinite(plane)).sum()) for plane in planes.values())
    if broken == sum(plane.size for plane in planes.values()):
        raise ValueError("holds no finite value. Restore it.")
    if broken:
        planes = {n: np.nan_to_num(plane, nan=0, posinf=0, neginf=0) for n, plane in planes.items()}
        scan.notes.append(f"{broken:,} values that are not finite count as 0")
    values = np.concatenate([plane.reshape(-1, *plane.shape[2:]) for plane in planes.values()])
    low, high = np.percentile(values, PERCENTILES, axis=0)  # of each channel
    if (flat := high <= low).any():  # hardly anything but background
        low, high = np.where(flat, values.min(0), low), np.where(flat, values.max(0), high)
    scan.notes.append(
        f"intensities scaled to 8 bits: {_numbers(low)} becomes 0 and {_numbers(high)} becomes 255 "
        f"(percentiles {PERCENTILES[0]} and {PERCENTILES[1]} of all slices)"
    )
    span = np.where(high > low, high - low, 1)
    scaled = {n: np.clip((plane - low) / span * 255, 0, 255).round().astype(np.uint8) for n, plane in planes.items()}
    return [scaled.get(n, plane) for n, plane in enumerate(scan.slices)]


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in np.atleast_1d(values))


def _to_three_channels(scan: Scan) -> list[np.ndarray]:
    """One channel stands in for all three, as it does in the data set where a sequence is missing."""
    one = [plane.ndim == 2 or bool((plane == plane[..., :1]).all()) for plane in scan.slices]
    scan.grey = all(one)
    alone = sum(each and bool(np.ptp(plane)) for each, plane in zip(one, scan.slices, strict=True))  # blank ones apart
    if alone and not scan.grey:
        scan.notes.append(f"{alone} of {len(one)} slices hold one sequence only, used for all three channels")
    return [np.repeat(plane[..., None], CHANNELS, axis=2) if plane.ndim == 2 else plane for plane in scan.slices]


def combine(flair: Scan, pre: Scan | None, post: Scan | None) -> Scan:
    """Three scans of one sequence each as one; FLAIR stands in for one that is None. Raises: ValueError."""
    others = [scan for scan in (pre, post) if scan is not None]
    for scan in (flair, *others):
        if not scan.grey:
            raise ValueError(f"{scan.paths[0]}: holds more than one sequence already. Leave out --pre and --post.")
    for scan in others:
        if [plane.shape for plane in scan.slices] != [plane.shape for plane in flair.slices]:
            raise ValueError(
                f"{scan.paths[0]}: {_size(scan)}, but {flair.paths[0]} has {_size(flair)}. "
                "Resample the sequences onto FLAIR first."
            )
        volumes = flair.volume is not None and scan.volume is not None
        if volumes and not np.allclose(scan.volume.affine, flair.volume.affine, atol=1e-2):
            raise ValueError(
                f"{scan.paths[0]}: lies elsewhere in space than {flair.paths[0]}. Register it to FLAIR first."
            )
    parts = zip((pre or flair).slices, flair.slices, (post or flair).slices, strict=True)
    flair.slices = [np.stack([plane[..., 0] for plane in planes], axis=2) for planes in parts]
    flair.notes += [f"{scan.name}: {note}" for scan in others for note in scan.notes]
    flair.grey = False
    return flair


def _size(scan: Scan) -> str:
    height, width = scan.slices[0].shape[:2]
    return f"{len(scan.slices)} slices of {width}x{height}"


# --- The network's size and back -------------------------------------------------------------------------------


def fit(plane: np.ndarray, size: int) -> np.ndarray:
    """A slice as the network takes it: uint8 [H, W, 3] -> [size, size, 3]. Padded to a square with black, resized."""
    height, width = plane.shape[:2]
    side = max(height, width)
    if height != width:
        top, left = (side - height) // 2, (side - width) // 2
        plane = cv2.copyMakeBorder(
            plane, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
    if side == size:
        return plane
    return cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def unfit(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """The way back: float32 [size, size] -> [height, width] of the slice; what was padded is cut off."""
    side = max(height, width)
    if logits.shape != (side, side):
        logits = cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR)
    top, left = (side - height) // 2, (side - width) // 2
    return logits[top : top + height, left : left + width]


# --- Write -----------------------------------------------------------------------------------------------------


def write_masks(scan: Scan, masks: list[np.ndarray], folder: Path) -> list[Path]:
    """Masks (uint8 0 or 1, [H, W]) in the format, size and orientation of the input; returns the files.

    Pictures: one file a slice, 0 and 255. Arrays and NIfTI: one file, 0 and 1.
    """
    if scan.volume is not None:
        return [_write_nifti(scan, np.stack(masks), folder)]
    if kind_of(scan.paths[0]) in ARRAYS:
        path = folder / f"{scan.name}_mask.npy"
        with atomic_write(path) as file:
            np.save(file, np.stack(masks))
        return [path]
    written = []
    for name, source, mask in zip(scan.names, scan.paths, masks, strict=True):
        ending = ".tif" if FORMATS[kind_of(source)] == "TIFF" else ".png"  # JPEG would smear the edges
        written.append(folder / f"{name}_mask{ending}")
        with atomic_write(written[-1]) as file:
            Image.fromarray(mask * 255).save(file, format="TIFF" if ending == ".tif" else "PNG")
    return written


def _write_nifti(scan: Scan, masks: np.ndarray, folder: Path) -> Path:
    """[S, H, W] -> the axes and the affine of the volume it came from."""
    import nibabel

    turned = masks.transpose(2, 1, 0)
    back = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(AXIAL), nibabel.orientations.io_orientation(scan.volume.affine)
    )
    voxels = np.ascontiguousarray(nibabel.orientations.apply_orientation(turned, back))
    header = scan.volume.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 1
    mask = type(scan.volume)(voxels, scan.volume.affine, header)
    path = folder / f"{scan.name}_mask.nii.gz"
    with atomic_write(path) as file:
        file.write(gzip.compress(mask.to_bytes(), mtime=0))
    return path
