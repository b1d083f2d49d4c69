"""Read a patient's files of any format as slices of three channels with 8 bits."""

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE

from constants import CHANNELS, FLAIR, POST, PRE
from dataset.folder import read_spacing
from dataset.preprocess import find_head
from scans import geometry, medical
from scans.check import file_warnings, is_stripped
from scans.names import SHOWN, volumes_of_set
from scans.scan import PICTURES, Scan, check_voxels, file_ending, pad, safe_name, stem

if TYPE_CHECKING:
    from scans.cohort import Patient

PERCENTILES = (0.5, 99.5)  # become 0 and 255 where there are more than 8 bits, the higher one without air
AIR = 0.1  # of the way from the lower to the higher percentile of all voxels, below which a voxel is air
FILLING = np.float32([-(2**15), -(2**31), np.finfo(np.float32).min])  # outside of the field of view
MOST_LABELS = 10  # a mask of labels has whole numbers up to this; grey levels of resizing go on to 255
MASK_VALUES = {*range(MOST_LABELS + 1), 255}  # labels, or 0 and 255
SAME_HEAD = 0.7  # Dice of the heads of two sequences of one space
GREYS = ("L", "I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes of one channel
COLOURS = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "LA": "L", "1": "L"}  # modes of 8 bits, and what they become


def read_patient(patient: "Patient", spacing: Sequence[float] | None = None) -> tuple[Scan | None, list[str]]:
    """Return the scan of a patient with all sequences, or None, and problems as text.

    A picture that cannot be read is left out of a scan of one sequence, and is a problem.
    spacing: mm between rows, columns and slices, if the files do not say it.
    """
    scan, problems = read_scan(patient.name, patient.items[FLAIR].paths)
    if scan is None:
        return None, problems
    scan.notes = [*patient.notes, *scan.notes]
    scan.warnings = file_warnings(scan, patient.items[FLAIR].paths[0])
    others = {}
    for channel in {PRE, POST} & patient.items.keys():
        others[channel], wrong = read_scan(patient.name, patient.items[channel].paths)
        if wrong := wrong or align(scan, others[channel]):  # never costs the FLAIR
            problems += wrong
            scan.notes.append(f"{SHOWN[channel]} is not used: {wrong[0]}")
            del others[channel]
    if others:
        combine(scan, others)
    if spacing and scan.spacing:
        scan.notes.append("--spacing is not used: the file says it")
    scan.spacing = scan.spacing or (tuple(spacing) if spacing else None)
    scan.notes += geometry.describe(scan)
    if is_stripped(scan):
        scan.notes.append("scalp and skull seem to be removed")
    return scan, problems


def read_scan(name: str, paths: Sequence[Path]) -> tuple[Scan | None, list[str]]:
    """Return one sequence, or None, and problems as text; paths: a file, pictures, or the files of a DICOM series."""
    problems: list[str] = []
    ending = file_ending(paths[0])
    try:
        scan = _read_pictures(name, paths, problems) if ending in PICTURES else _read_volume(name, paths)
        return (_finish(scan) if scan else None), problems
    except Exception as error:  # libraries raise many kinds for a damaged file
        return None, [*problems, _describe(error, paths[0] if ending and len(paths) == 1 else paths[0].parent)]


def scan_of_array(stack: np.ndarray) -> Scan:
    """Return the scan of an array in memory, as read_scan returns that of a .npy file. Raises: ValueError."""
    return _finish(Scan("stack", check_array(stack), [], []))


@np.errstate(over="ignore", invalid="ignore")  # of values beyond float32
def _finish(scan: Scan) -> Scan:
    """Return the scan with three channels of 8 bits. Raises: ValueError if it is a mask, or holds no finite value."""
    if is_mask(scan.slices):
        shown = ", ".join(f"{value:g}" for value in np.unique(scan.slices))
        raise ValueError(f"holds only {shown}: a mask, and no image. Name it like one (x_mask), or leave it out.")
    stack = scan.slices if scan.slices.ndim == 4 else scan.slices[..., None]
    if stack.dtype != np.uint8:
        stack = _to_eight_bits(stack, scan.notes)
    scan.grey = all((plane == plane[..., :1]).all() for plane in stack)
    scan.slices = np.broadcast_to(stack, (*stack.shape[:3], CHANNELS))
    return scan


def _describe(error: Exception, path: Path) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    remedy = "" if reason.endswith(".") else ". Restore it, or save it anew."  # errors of libraries have none
    return f"{path}: cannot be read: {reason}{remedy}"


# --- Pictures and volumes --------------------------------------------------------------------------------------


def _read_pictures(name: str, paths: Sequence[Path], problems: list[str]) -> Scan | None:
    """Return the slices that can be read, if any, as they are; adds what is wrong with the others to the problems."""
    slices, voxels = {}, 0
    for path in paths:
        try:
            slices[path] = read_picture(path)
        except Exception as error:
            problems.append(_describe(error, path))
        else:
            voxels = check_voxels(*slices[path].shape[:2], before=voxels)
    if not slices:
        return None
    names = [safe_name(stem(path)) for path in slices]
    if len({name.lower() for name in names}) < len(names):  # such as 1.png beside 1.tif
        names = [safe_name(path.name) for path in slices]
    planes, sizes = list(slices.values()), [plane.shape[:2] for plane in slices.values()]
    if len({plane.dtype == np.uint8 for plane in planes}) > 1:
        raise ValueError("holds pictures of 8 bits and of more, whose intensities do not compare. Save them alike.")
    if len({plane.ndim for plane in planes}) > 1:  # grey among colours
        planes = [plane if plane.ndim == 3 else np.repeat(plane[..., None], CHANNELS, 2) for plane in planes]
    check_voxels(*np.max(sizes, axis=0), len(sizes))  # filled up, as they are held
    scan = Scan(name, pad(planes), names, list(slices), read_spacing(paths[0].parent))
    scan.sizes = sizes if len(set(sizes)) > 1 else []
    return scan


def read_picture(path: Path) -> np.ndarray:
    """Return one picture: [H, W] of uint8, uint16, int32 or float32, or uint8 [H, W, 3]. Raises: as `open_picture`."""
    picture = open_picture(path)
    mode = COLOURS.get(picture.mode, picture.mode)
    return np.asarray(picture if picture.mode == mode else picture.convert(mode))


def open_picture(path: Path) -> Image.Image:
    """Return a picture, checked before it is decoded, and turned as its EXIF orientation says and viewers show it.

    Raises: ValueError for what is not one slice; any of Pillow's errors.
    """
    with (
        warnings.catch_warnings(action="ignore"),
        open(path, "rb") as file,  # by its path, Pillow 13 would garble a TIFF that is turned
        Image.open(file, formats=[*PICTURES.values()]) as picture,
    ):
        check_voxels(picture.height, picture.width)
        if getattr(picture, "is_animated", False):
            raise ValueError("has more than one page. Save one slice per file, or the stack as .npy or NIfTI.")
        if picture.mode not in (*GREYS, *COLOURS):
            raise ValueError(f"has the pixel format {picture.mode}. Save it as grey or as RGB.")
        # Pillow cuts colours of 16 bits to 8 without a warning; it reads a PNG of such colours as RGB;16B
        bits = picture.tag_v2.get(BITSPERSAMPLE, (1,)) if picture.format == "TIFF" else (1,)
        if picture.mode in COLOURS and (max(bits) > 8 or ";16" in str(picture.tile)):
            raise ValueError("has colours, or transparency, of more than 8 bits. Save the sequences as .npy or NIfTI.")
        picture.load()  # which turns TIFF
        return ImageOps.exif_transpose(picture)


def _read_volume(name: str, paths: Sequence[Path]) -> Scan:
    volumes = volumes_of_set(paths[0])
    stack, spacing, grid = read_stack(paths, layers=bool(volumes))
    if stack.ndim == 4 and volumes:
        stack = stack[..., volumes]
    digits = len(str(len(stack)))
    names = [f"{name}_{number:0{digits}d}" for number in range(1, len(stack) + 1)]
    place = paths[0] if file_ending(paths[0]) else paths[0].parent
    return Scan(name, stack, names, [place], spacing, grid=grid)


def read_stack(paths: Sequence[Path], layers: bool = False) -> medical.Volume:
    """Return the slices of an array, a volume or a DICOM series, mm between rows, columns and slices, and the grid.

    layers: as of `medical.read_volume`. Raises: as of `open_array`, `medical.read_volume` and `medical.read_series`.
    """
    ending = file_ending(paths[0])
    if ending == ".npy":
        return np.array(open_array(paths[0])), None, None
    return medical.read_volume(paths[0], layers) if ending else medical.read_series(paths)


def open_array(path: Path) -> np.ndarray:
    """Return the slices of a .npy file, not read yet. Raises: as `check_array`; any error of NumPy if it is damaged."""
    return check_array(np.lib.format.open_memmap(path, mode="r"))  # not read yet, and never unpickled


def check_array(array: np.ndarray) -> np.ndarray:
    """Return an array as slices: [S, H, W], or [S, H, W, C] with 1 or 3 channels.

    Raises: ValueError for any other shape or a larger one, and for what are no numbers.
    """
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == CHANNELS):
        array = array[None]
    shape = array.shape
    if len(shape) < 3 or shape[3:] not in ((), (1,), (CHANNELS,)) or 0 in shape:
        raise ValueError(f"has the shape {shape}. Save it as slices, rows, columns, and perhaps 3 sequences.")
    if array.dtype.kind not in "buif":
        raise ValueError(f"holds values of the type {array.dtype}. Save it as numbers.")
    check_voxels(*shape[1:3], shape[0] * math.prod(shape[3:]))
    return array


# --- Intensities and channels ----------------------------------------------------------------------------------


def holds_mask(paths: Sequence[Path], any_two: bool = False) -> bool:
    """Return whether a volume, an array or pictures hold the values of a mask alone; or a picture any two values."""
    try:
        if any_two:
            return len(np.unique(read_picture(paths[0]))) <= 2
        pictured = file_ending(paths[0]) in PICTURES
        return is_mask(map(read_picture, paths) if pictured else read_stack(paths, layers=True)[0])
    except Exception:  # a damaged file, which is named when it is read
        return False


def is_mask(planes: Iterable[np.ndarray]) -> bool:
    """Return whether planes hold only 0 and 255, or labels."""
    values: set[float] = set()
    for plane in planes:
        values.update(np.unique(plane).tolist())
        if not values <= MASK_VALUES:
            return False
    return len(values) > 1 and (values == {0, 255} or 255 not in values)


def _to_eight_bits(stack: np.ndarray, notes: list[str]) -> np.ndarray:
    """Scale slices ([S, H, W, C]) together, each channel by its percentiles, so that dark ones stay dark; adds notes.

    Air is 40% to 90% of all voxels, and would decide how much of a lesion is white.
    A value that is not finite is no value: it is black, and no percentile counts it. Some programs set NaN outside of
    the brain, or the lowest value that fits (FILLING).
    """
    stack = stack.astype(np.float32)
    stack[np.isin(stack, FILLING) | np.isinf(stack)] = np.nan
    black = np.count_nonzero(np.isnan(stack))
    if black == stack.size:
        raise ValueError("holds no finite value. Restore it.")
    with warnings.catch_warnings(action="ignore"):  # of one channel without a value
        low, high = np.nan_to_num(np.nanpercentile(stack, PERCENTILES, axis=(0, 1, 2)).astype(np.float32))
        tissue = np.where(stack < low + AIR * (high - low), np.nan, stack)
        high = np.nan_to_num(np.nanpercentile(tissue, PERCENTILES[1], axis=(0, 1, 2)).astype(np.float32))
        most = np.nan_to_num(np.nanmax(tissue, axis=(0, 1, 2)))
    high = np.where(high > low, high, most)  # hardly anything but background
    if black:
        notes.append(f"{black:,} values that are not finite, or padding, are black")
    first, last = (", ".join(f"{float(f'{value:.4g}'):.15g}" for value in values) for values in (low, high))  # 15120
    notes.append(
        f"intensities scaled to 8 bits: {first} becomes 0 and {last} becomes 255 "
        f"(percentiles {PERCENTILES[0]} of all slices and {PERCENTILES[1]} of what is not air)"
    )
    scaled = (stack - low) / np.where(high > low, high - low, 1) * 255
    return np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)


def align(flair: Scan, other: Scan) -> list[str]:
    """Put another sequence onto the grid of FLAIR by their headers, or return why not, as a list of one problem."""
    own = other.paths[0]
    if not (flair.grey and other.grey):
        holder = own if flair.grey else flair.paths[0]
        return [f"{holder}: holds more than one sequence already. Leave out --pre and --post."]
    if flair.slices.shape == other.slices.shape and (not flair.grid or flair.grid.matches(other.grid)):
        return []
    if not all(scan.grid and scan.grid.affine is not None for scan in (flair, other)):
        return [f"{own}: is on another grid than FLAIR, and headers do not say where. Resample it onto FLAIR first."]
    moved = medical.resample(other.slices[..., 0], other.grid, flair.grid, medical.sitk.sitkLinear)
    other.slices = np.broadcast_to(moved[..., None], flair.slices.shape)
    heads = [find_head(scan.slices, filled=True) for scan in (other, flair)]
    overlap = 2 * (heads[0] & heads[1]).sum() / max(1, heads[0].sum() + heads[1].sum())  # Dice
    if overlap < SAME_HEAD:
        return [f"{own}: its head and that of FLAIR overlap by {overlap:.0%} only. Register it to FLAIR first."]
    other.notes.append("resampled onto the grid of FLAIR by the headers")
    return []


def combine(flair: Scan, others: dict[int, Scan]) -> None:
    """Put other sequences, by channel, into the channels of FLAIR, which stands in for a missing one."""
    for channel in (PRE, POST):
        if channel in others:
            flair.notes += [f"{SHOWN[channel]}: {note}" for note in others[channel].notes]
        else:
            flair.notes.append(f"FLAIR stands in for {SHOWN[channel]}")
    flair.slices = np.stack([others.get(channel, flair).slices[..., 0] for channel in range(CHANNELS)], axis=3)
    flair.grey = False
