"""Files of medical images, by SimpleITK: NIfTI, NRRD, MetaImage and DICOM series. Masks return to the grid of the file.

A volume is shown in axial slices as radiologists see them: columns run to the patient's left, rows to the back, slices
upwards.
"""

import gzip
import itertools
import math
import re
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from constants import CHANNELS
from scans.scan import NIFTI, check_voxels, file_ending

SAME_PLACE = 0.1  # of a voxel; scanners round their positions
GUESSED = (1, 0, 0, 0, -1, 0, 0, 0, 1)  # direction of a volume whose header has none, as nibabel guesses it
SHEARED = 0.01  # stretch of the axes' directions, 0 if they are at right angles
MILLIMETRES = {1: 1000.0, 3: 0.001}  # unit of a NIfTI header: metres, micrometres; others count as mm
CODES = slice(252, 256)  # bytes of qform_code and sform_code in a NIfTI header


class Grid(NamedTuple):
    """The place of a volume's slices in space and in its file."""

    affine: np.ndarray | None  # (column, row, slice, 1) as shown -> mm (left, back, up), float64 [4, 4], if known
    image: Any  # a SimpleITK image of these slices, all 0, for its geometry
    code: str  # orientation of the axes in the file, such as RAS

    def matches(self, other: "Grid | None") -> bool:
        """Return whether each voxel lies within SAME_PLACE voxels of its like in the other; True if one is unknown."""
        if self.affine is None or other is None or other.affine is None:
            return True
        corners = np.array(list(itertools.product(*((0, size - 1) for size in self.image.GetSize()), [1])))
        apart = np.abs(corners @ (self.affine - other.affine)[:3].T).max()
        return bool(apart <= SAME_PLACE * np.linalg.norm(self.affine[:3, :3], axis=0).min())


Volume = tuple[np.ndarray, tuple[float, float, float] | None, Grid | None]


def read_volume(path: Path, layers: bool = False) -> Volume:
    """Return the axial slices of a NIfTI, NRRD or MetaImage file, mm between rows, columns and slices, and the grid.

    The slices are [S, H, W] or [S, H, W, 3]. The spacing is None if the header does not say the place in space.

    layers: accept any number of volumes, such as the layers of a segmentation by 3D Slicer.
    Raises: ValueError for anything but one volume of one or three sequences, and for a damaged file.
    """
    reader = _open(path)
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    volumes = math.prod(size[3:]) * components
    if len(size) < 3 or (volumes not in (1, CHANNELS) and not layers):
        raise ValueError(
            f"has the shape {(*size, *[components] * (components > 1))}. Save one volume: FLAIR, or pre-contrast, "
            "FLAIR and post-contrast as a fourth axis; or name the other sequences with --pre and --post."
        )
    check_voxels(*size[:2], size[2] * volumes)
    _refuse_cut_off(path, reader)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(_describe(path.name, error)) from None
    while image.GetDimension() > 4:  # ITK leaves an axis of time before the sequences
        image = image[..., 0, :] if image.GetSize()[3] == 1 else image[..., 0]
    if image.GetDimension() == 4 and components == 1:
        image = sitk.Compose([image[..., n] for n in range(image.GetSize()[3])])
    return _as_shown(image, _correct_geometry(image, reader, path))


def _as_shown(image: Any, known: bool = True) -> Volume:
    """Return an image as axial slices, their spacing and their grid."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    image = sitk.DICOMOrient(image, "LPS")
    columns, rows, between = image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    empty = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    empty.CopyInformation(image)
    spacing, grid = ((rows, columns, between), affine) if known else (None, None)
    return sitk.GetArrayFromImage(image), spacing, Grid(grid, empty, code)


def resample(stack: np.ndarray, grid: Grid, onto: Grid, interpolator: int = sitk.sitkNearestNeighbor) -> np.ndarray:
    """Return slices ([S, H, W]) on another grid by both headers, as on the first one; what lies outside is 0."""
    image = sitk.GetImageFromArray(stack)
    image.CopyInformation(grid.image)
    return sitk.GetArrayFromImage(sitk.Resample(image, onto.image, sitk.Transform(), interpolator))


def outline(paths: Sequence[Path]) -> tuple[int, tuple[float, ...]]:
    """Return the slices of a volume or a DICOM series by headers, and mm between rows, columns and slices, if known.

    Raises: as `read_volume` and `read_series`.
    """
    if not file_ending(path := paths[0]):
        tags, step = _read_stack(paths)
        return len(tags), (*_numbers(tags[path]["PixelSpacing"]), step)
    reader = _open(path)
    size, axes = reader.GetSize(), reader.GetDimension()
    image = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    image.SetSpacing(reader.GetSpacing()[:3])
    image.SetDirection(np.reshape(reader.GetDirection(), (axes, axes))[:3, :3].ravel().tolist())
    _, spacing, grid = _as_shown(image, _correct_geometry(image, reader, path))
    return next(size[n] for n, letter in enumerate(grid.code) if letter in "SI"), spacing or ()


def encode(slices: np.ndarray, grid: Grid) -> bytes:
    """Return slices ([S, H, W], uint8 or float32) as the content of a .nii.gz file on the grid of the input."""
    image = sitk.GetImageFromArray(slices)
    image.CopyInformation(grid.image)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mask.nii")
        sitk.WriteImage(sitk.DICOMOrient(image, grid.code), str(path))
        content = bytearray(path.read_bytes())
    if grid.affine is None:  # neither does the mask say where it lies
        content[CODES] = bytes(4)
    return gzip.compress(content, compresslevel=6, mtime=0)


def _open(path: Path, kind: str = "") -> Any:
    """Return a SimpleITK reader that has read the header of a file; no pixel yet. kind: GDCMImageIO for DICOM."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path).encode().decode())  # bytes that are not UTF-8 would abort Python
        reader.SetImageIO("MetaImageIO" if file_ending(path) in (".mha", ".mhd") else kind)  # ITK knows no X.MHA
        reader.ReadImageInformation()
    except UnicodeError:
        raise ValueError("its path is not UTF-8. Rename it.") from None
    except RuntimeError as error:
        raise ValueError(_describe(path.name, error)) from None
    return reader


def _describe(name: str, error: RuntimeError) -> str:
    reason = str(error).strip().splitlines()[-1].removeprefix("ITK ERROR: ")[-200:].rstrip(".")
    if "orthonormal" in reason:
        return f"{name}: its axes are not at right angles. Resample it."
    return f"{name} is damaged, cut off or of another kind ({reason}). Restore it, or save it anew as NIfTI-1."


def _refuse_cut_off(path: Path, reader: Any) -> None:
    """Raise ValueError for a NIfTI file that is shorter than its header says: ITK would fill up the rest with zeros."""
    if file_ending(path) not in NIFTI:
        return
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            length = sum(map(len, iter(lambda: file.read(1 << 24), b"")))
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"is cut off or damaged ({error}). Restore it.") from None
    voxels = math.prod(int(reader.GetMetaData(f"dim[{axis}]")) for axis in range(1, 8))
    if length < float(reader.GetMetaData("vox_offset")) + voxels * int(reader.GetMetaData("bitpix")) // 8:
        raise ValueError("is cut off: its header says that it holds more voxels. Restore it.")


def _correct_geometry(image: Any, reader: Any, path: Path) -> bool:
    """Give an image the geometry that other programs see, and return whether the header says any.

    Of the two descriptions in a NIfTI header, ITK may take the quaternion where others take the matrix.
    Raises: ValueError if the matrix is sheared.
    """
    if file_ending(path) not in NIFTI:
        named = reader.HasMetaDataKey("NRRD_space") or not file_ending(path).startswith(".n")
        return named or image.GetDirection() != (1, 0, 0, 0, 1, 0, 0, 0, 1)
    if reader.GetMetaData("sform_code") == "0":
        known = reader.GetMetaData("qform_code") != "0"
        if not known:
            image.SetDirection(GUESSED)
        return known
    unit = MILLIMETRES.get(int(reader.GetMetaData("xyzt_units")) & 7, 1.0)
    matrix = np.array([reader.GetMetaData(f"srow_{axis}").split() for axis in "xyz"], float) * unit
    matrix[:2] *= -1  # from NIfTI's axes, right and front, to ITK's, left and back
    spacing = np.linalg.norm(matrix[:, :3], axis=0)
    if not np.isfinite(matrix).all() or not spacing.all():
        raise ValueError("its header does not say how it lies in space. Save it with an affine matrix.")
    left, stretch, right = np.linalg.svd(matrix[:, :3] / spacing)
    if np.abs(stretch - 1).max() > SHEARED:
        raise ValueError("its axes are not at right angles. Resample it.")
    itk = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    if not np.allclose(np.column_stack([itk, image.GetOrigin()]), matrix, rtol=1e-3, atol=1e-3 * spacing.min()):
        image.SetDirection((left @ right).ravel().tolist())
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(matrix[:, 3].tolist())
    return True


# --- DICOM: only how the slices lie and what they show is taken over; nothing that says whose they are -----------

EVEN = 0.1  # of the distance of two slices, by which others may differ from it
ROUNDED = 1e-3  # of direction cosines and of mm between pixels
PLACE = {"Rows": "0028|0010", "Columns": "0028|0011", "PixelSpacing": "0028|0030",
         "ImageOrientationPatient": "0020|0037", "ImagePositionPatient": "0020|0032"}  # fmt: skip
TAGS = PLACE | {"SeriesInstanceUID": "0020|000e", "SeriesNumber": "0020|0011", "SeriesDescription": "0008|103e",
                "StudyInstanceUID": "0020|000d", "SliceThickness": "0018|0050", "NumberOfFrames": "0028|0008",
                "BitsAllocated": "0028|0100", "PhotometricInterpretation": "0028|0004",
                "PixelPaddingValue": "0028|0120", "RescaleSlope": "0028|1053",
                "RescaleIntercept": "0028|1052", "EchoTime": "0018|0081", "InversionTime": "0018|0082"}  # fmt: skip
# Of the first group of a file, which is always plain: the kinds without an image, such as reports; no compression
NO_IMAGE = re.compile(rb"\x02\0\x02\0UI..1\.2\.840\.10008\.(1\.3\.10|5\.1\.4\.1\.1\.(11|66|88|104|481))", re.DOTALL)
PLAIN = re.compile(rb"\x02\0\x10\0UI..1\.2\.840\.10008\.1\.2(\.[12])?\0", re.DOTALL)
Tags = dict[Path, dict[str, str]]  # of each file of a series, by the names of TAGS


def is_dicom(path: Path) -> bool:
    """Return whether a file says that it is DICOM, by its ending or, since many have none, by its bytes 128 to 131."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):  # a damaged one must not be left out without a word
        return True
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_series(paths: Sequence[Path]) -> Volume:
    """Return the axial slices of a DICOM series, float32 [S, H, W], their spacing and their grid.

    paths: its files in any order. Padding outside of the field of view is NaN.
    Raises: ValueError for what is not one even stack of grey slices.
    """
    tags, step = _read_stack(paths)
    first = next(iter(tags.values()))
    check_voxels(int(first["Rows"]), int(first["Columns"]), len(tags))
    try:
        series = sitk.ReadImage([str(path) for path in tags], sitk.sitkFloat32, "GDCMImageIO")
    except RuntimeError as error:
        raise ValueError(_describe("one of its slices", error)) from None
    slices = sitk.GetArrayFromImage(series)
    for plane, own in zip(slices, tags.values(), strict=True):
        if padding := own.get("PixelPaddingValue"):
            scale, shift = (float(own.get(f"Rescale{n}") or d) for n, d in (("Slope", 1), ("Intercept", 0)))
            plane[np.isclose(plane, float(padding) * scale + shift)] = np.nan
    image = sitk.GetImageFromArray(slices)
    image.CopyInformation(series)
    image.SetSpacing((*series.GetSpacing()[:2], step))  # ITK has another distance where the stack is tilted
    return _as_shown(image)


def read_tags(path: Path) -> dict[str, str]:
    """Return what the header of a file says, by the names of TAGS; nothing for what is no image, such as a report.

    Raises: ValueError for a file that is damaged: it would be a slice less.
    """
    with open(path, "rb") as file:
        start = file.read(2048)
    if start[128:132] != b"DICM":
        raise ValueError(f"{path.name} does not begin as DICOM does. Restore it, or save it as NIfTI (dcm2niix).")
    if NO_IMAGE.search(start):
        return {}
    reader = _open(path, "GDCMImageIO")
    tags = {name: reader.GetMetaData(tag).strip(" \0") for name, tag in TAGS.items() if reader.HasMetaDataKey(tag)}
    size = int(tags["Rows"]) * int(tags["Columns"]) * int(tags["BitsAllocated"]) // 8
    if PLAIN.search(start) and path.stat().st_size < size:  # GDCM would fill it up with anything
        raise ValueError(f"{path.name} is cut off. Restore it.")
    return tags


class Series(NamedTuple):
    """The files of one DICOM series."""

    label: str  # number and description, which tell it from the others of its folder; empty if it is damaged
    paths: list[Path]
    description: str = ""
    names: tuple[str, ...] = ()  # by which a user may name it, in lower case
    study: str = ""  # UID, the same for all series of one examination


def find_series(paths: Sequence[Path]) -> tuple[list[Series], list[Path]]:
    """Return the series of the DICOM files of a folder, and the files that hold no image, such as reports.

    A damaged file is of every series: reading each of them says so.
    """
    tags: Tags = {}
    damaged = []
    for path in paths:
        try:
            tags[path] = read_tags(path)
        except (ValueError, LookupError, OSError):
            damaged.append(path)
    sizes = Counter(own.get("SeriesInstanceUID") for own in tags.values())
    files: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path, own in tags.items():
        if own:
            number, about, uid = (own.get(f"Series{name}", "") for name in ("Number", "Description", "InstanceUID"))
            files[number, about, "" if sizes[uid] == 1 else uid].append(path)  # some vendors give each slice a UID
    labels = Counter(key[:2] for key in files)
    series = []
    for key, own in files.items():
        label = " ".join(filter(None, key[:2] if labels[key[:2]] == 1 and any(key[:2]) else key))
        names = tuple(text.lower() for text in (label, *key) if text)
        series.append(Series(label, [*own, *damaged], key[1], names, tags[own[0]].get("StudyInstanceUID", "")))
    reports = [path for path, own in tags.items() if not own]
    return series or ([Series("", damaged)] if damaged else []), reports


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split("\\"), float)


def _read_stack(paths: Sequence[Path]) -> tuple[Tags, float]:
    """Return what headers say in the order of positions, and the distance of two slices in mm, also of a tilted stack.

    Raises: ValueError if they are not one stack of grey slices at even distances.
    """
    tags = {path: read_tags(path) for path in paths}
    first = tags[paths[0]]
    for path, own in tags.items():
        grey = own.get("PhotometricInterpretation") == "MONOCHROME2" and int(own.get("NumberOfFrames") or 1) == 1
        if not grey or not all(own.get(name) for name in PLACE):
            raise ValueError(
                f"{path.name} is not one grey slice with black as 0, a position and a spacing. Save the series as "
                "NIfTI (dcm2niix)."
            )
        for name in list(PLACE)[:-1]:
            if not np.allclose(_numbers(own[name]), _numbers(first[name]), atol=ROUNDED):
                raise ValueError(f"its slices differ in {name} ({path.name}). Leave those of another stack out.")
    upwards = np.cross(*_numbers(first["ImageOrientationPatient"]).reshape(2, 3))
    heights = {path: float(_numbers(own["ImagePositionPatient"]) @ upwards) for path, own in tags.items()}
    ordered = sorted(tags, key=lambda path: (heights[path], path))
    gaps = np.diff([heights[path] for path in ordered])
    if not len(gaps):
        return tags, float(first.get("SliceThickness") or 1)
    if gaps.min() <= ROUNDED:
        raise ValueError("several of its slices lie at one position. Leave one time point or echo in the folder.")
    typical = np.median(gaps)
    n = int(np.abs(gaps - typical).argmax())
    if abs(gaps[n] - typical) > EVEN * typical:
        raise ValueError(
            f"its slices are {typical:.4g} mm apart, but {gaps[n]:.4g} mm between {ordered[n].name} and "
            f"{ordered[n + 1].name}. Restore the slices that are missing there."
        )
    return {path: tags[path] for path in ordered}, float(gaps.mean())
