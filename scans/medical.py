"""Files of medical images: NIfTI, which NumPy reads; NRRD, MetaImage and DICOM series, which SimpleITK reads.

A volume is shown in axial slices as radiologists see them. Its masks are NIfTI on the grid of its file.

SimpleITK (2.5) does not read NIfTI here: it accepts a volume that is cut off, prefers the quaternion to the matrix that
other programs go by, and knows neither NIfTI-2 nor a sheared matrix.
"""

import gzip
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from constants import CHANNELS
from scans.scan import NIFTI, check_voxels, count_voxels, file_ending

SAME_PLACE = 0.1  # of a voxel; scanners round what they write
UNKNOWN = np.diag([-1.0, 1, 1, 1])  # how a volume is taken to lie if its header does not say, as nibabel does
LPS = np.diag([-1.0, -1, 1, 1])  # from NIfTI's axes (right, front, up) to those of ITK and DICOM, and back
SHOWN = LPS.diagonal()[:3]  # columns run to the patient's left, rows to the back, slices upwards


class Grid(NamedTuple):
    """How the slices of a scan lie in its file and in space: where its mask belongs, and whether two scans match.

    Attributes:
        affine: from (column, row, slice) as shown to mm (right, front, up); None where the file does not say.
        axes: the axes of the file that are shown as columns, rows and slices.
        flips: whether each of these runs the other way in the file.
        header: the NIfTI header of what is written on this grid.
    """

    affine: np.ndarray | None
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    header: np.void

    def matches(self, other: "Grid", shape: Sequence[int]) -> bool:
        """Return whether each voxel lies within SAME_PLACE voxels of its like in the other, as far as both say where.

        shape: slices, rows, columns.
        """
        if self.affine is None or other.affine is None:
            return True
        corners = np.array(list(itertools.product(*((0, size - 1) for size in shape[::-1]), [1])))
        apart = np.abs(corners @ (self.affine - other.affine)[:3].T).max()
        return bool(apart <= SAME_PLACE * np.linalg.norm(self.affine[:3, :3], axis=0).min())


Volume = tuple[np.ndarray, tuple[float, float, float] | None, Grid]


def as_shown(
    voxels: np.ndarray, affine: np.ndarray, said: bool = True, header: np.void | None = None, unit: float = 1
) -> Volume:
    """Return voxels [X, Y, Z] or [X, Y, Z, 3] as axial slices [S, H, W] or [S, H, W, 3], their spacing and their grid.

    The spacing is mm between rows, columns and slices; their product is the volume of a voxel, also of a sheared one.

    Args:
        affine: from voxel to space (right, front, up), in units of `unit` mm.
        said: whether the file says so, or it is a guess; the spacing is None then.
        header: the NIfTI header of the file, if it has one.
    """
    header = new_header(affine, said) if header is None else header
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axes = max(itertools.permutations(range(3)), key=lambda axes: np.abs(cosines[range(3), axes]).sum())
    flips = tuple((cosines[range(3), axes] * SHOWN < 0).tolist())
    turned = voxels.transpose(*axes[::-1], *range(3, voxels.ndim))
    slices = np.flip(turned, [2 - n for n in range(3) if flips[n]])
    if not said:
        return slices, None, Grid(None, axes, flips, header)
    shown = np.eye(4)
    shown[:, :3] = affine[:, axes] * np.where(flips, -1, 1)
    shown[:, 3] = affine @ [*np.where(flips, np.array(voxels.shape)[list(axes)] - 1, 0)[np.argsort(axes)], 1]
    shown[:3] *= unit
    columns, rows = np.linalg.norm(shown[:3, :2], axis=0).tolist()
    between = abs(shown[:3, 2] @ np.cross(shown[:3, 0], shown[:3, 1])) / (rows * columns)
    return slices, (rows, columns, float(between)), Grid(shown, axes, flips, header)


def encode(slices: np.ndarray, grid: Grid) -> bytes:
    """Return slices ([S, H, W], uint8 or float32, up to 1) as the content of a .nii.gz file that lies on the grid."""
    turned = np.flip(slices, [2 - n for n in range(3) if grid.flips[n]]).transpose(2, 1, 0)
    voxels = turned.transpose(np.argsort(grid.axes))
    header = np.zeros((), HEADERS[348])
    for name in GEOMETRY:
        header[name] = grid.header[name]
    header["sizeof_hdr"], header["magic"], header["vox_offset"], header["scl_slope"] = 348, b"n+1", 352, 1
    header["dim"], header["cal_max"] = (3, *voxels.shape, 1, 1, 1, 1), 1
    header["datatype"], header["bitpix"] = {"u1": (2, 8), "f4": (16, 32)}[voxels.dtype.str[1:]]
    return gzip.compress(header.tobytes() + bytes(4) + voxels.tobytes("F"), compresslevel=6, mtime=0)


def read_volume(path: Path, layers: bool = False) -> Volume:
    """Return the axial slices of a NIfTI, NRRD or MetaImage file, their spacing and their grid, as `as_shown` does.

    layers: whether it may hold any number of volumes, as segmentations of 3D Slicer do.
    Raises: ValueError for what is not one volume of one or three sequences; any error of a damaged file.
    """
    return (_read_nifti if file_ending(path) in NIFTI else _read_itk)(path, layers)


def _check(shape: Sequence[int], layers: bool) -> None:
    """Raise ValueError if the shape [X, Y, Z, ...] is not of one volume of one or three sequences, or too large."""
    if len(shape) < 3 or 0 in shape:
        raise ValueError(f"has the shape {shape}: no volume. Save a slice as a picture or .npy, or as [X, Y, 1].")
    if ((volumes := math.prod(shape[3:])) not in (1, CHANNELS) and not layers) or sorted(shape[3:])[:-1] not in (
        [],
        [1],
    ):
        raise ValueError(
            f"has the shape {shape}: {volumes} volumes. Save FLAIR as a file of its own, and name the other sequences "
            "with --pre and --post; or save pre-contrast, FLAIR and post-contrast as [X, Y, Z, 3]."
        )
    check_voxels(count_voxels(*shape[:2], math.prod(shape[2:])))


# --- NIfTI -----------------------------------------------------------------------------------------------------

GEOMETRY = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern", "qoffset", "srow")
OTHERS = ("sizeof_hdr", "magic", "dim", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", "cal_max")
HEADERS = {  # by their size in bytes: NIfTI-1 and NIfTI-2
    size: np.dtype({"names": GEOMETRY + OTHERS, "offsets": offsets, "formats": formats.split(), "itemsize": size})
    for size, offsets, formats in (
        (348, (76, 123, 252, 254, 256, 268, 280, 0, 344, 40, 70, 72, 108, 112, 116, 124),
         "<8f4 u1 <i2 <i2 <3f4 <3f4 (3,4)<f4 <i4 S4 <8i2 <i2 <i2 <f4 <f4 <f4 <f4"),
        (540, (104, 500, 344, 348, 352, 376, 400, 0, 4, 16, 12, 14, 168, 176, 184, 192),
         "<8f8 <i4 <i4 <i4 <3f8 <3f8 (3,4)<f8 <i4 S8 <8i8 <i2 <i2 <i8 <f8 <f8 <f8"),
    )
}  # fmt: skip
VALUES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
NOTHING = 3 * np.finfo(np.float32).eps  # what rounding leaves of the squares of a quaternion
MILLIMETRES = {1: 1000.0, 3: 0.001}  # by the unit of a header: metres and micrometres; any other counts as mm


def _read_nifti(path: Path, layers: bool) -> Volume:
    """Return the volume of a NIfTI-1 or NIfTI-2 file, packed by gzip or not, as `read_volume` does."""
    with open(path, "rb") as stored:
        packed = stored.read(2) == b"\x1f\x8b"
        stored.seek(0)
        with gzip.GzipFile(fileobj=stored) if packed else stored as file:
            header, order = _parse(file.read(max(HEADERS)))
            shape = tuple(header["dim"][1 : header["dim"][0] + 1].tolist())
            _check(shape, layers)
            if (kind := VALUES.get(int(header["datatype"]))) is None:
                raise ValueError("holds neither whole nor floating point numbers. Save it with such values.")
            size = math.prod(shape) * np.dtype(kind).itemsize
            file.seek(int(header["vox_offset"]))
            content = file.read(size)
            if len(content) < size:
                raise ValueError("is cut off: its header says that it holds more voxels. Restore it.")
            file.read(1)  # compares the checksum of a packed file
    voxels = np.frombuffer(content, order + kind).reshape(*shape[:3], *filter(lambda n: n > 1, shape[3:]), order="F")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope and math.isfinite(slope + intercept) and (slope, intercept) != (1, 0):
        voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    affine, unit = _affine(header), MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1)
    return as_shown(voxels, UNKNOWN if affine is None else affine, affine is not None, header, unit)


def _parse(content: bytes) -> tuple[np.void, str]:
    """Return the header of a NIfTI file, and the byte order of its values, < or >. Raises: ValueError if it is none."""
    for order in "<>":
        kind = HEADERS.get(int(np.frombuffer(content[:4].ljust(4), order + "i4")[0]))
        if kind is not None and len(content) >= kind.itemsize:
            header = np.frombuffer(content, kind.newbyteorder(order), count=1)[0]
            if header["magic"][:3] in (b"n+1", b"n+2") and 0 <= header["dim"][0] <= 7:
                return header, order
    raise ValueError("neither a NIfTI-1 nor a NIfTI-2 header. Restore it, or save it anew.")


def _affine(header: np.void) -> np.ndarray | None:
    """Return the affine matrix of a NIfTI header as nibabel takes it, float64 [4, 4]; None where it does not say."""
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = header["srow"]
    elif header["qform_code"] > 0:
        from scipy.spatial.transform import Rotation

        quatern = header["quatern"].astype(float)
        rest = 1 - quatern @ quatern
        turn = Rotation.from_quat([*quatern, math.sqrt(rest) if rest > NOTHING else 0]).as_matrix()
        affine[:3, :3] = turn * header["pixdim"][1:4] * (1, 1, -1 if header["pixdim"][0] < 0 else 1)
        affine[:3, 3] = header["qoffset"]
    else:
        return None
    return affine if np.isfinite(affine).all() and np.linalg.det(affine) else None


def new_header(affine: np.ndarray, said: bool = True) -> np.void:
    """Return a NIfTI header that says how voxels lie, in mm; or nothing of it."""
    header = np.zeros((), HEADERS[348])
    header["sform_code"], header["srow"], header["xyzt_units"] = said, affine[:3], 2 * said
    header["pixdim"] = 1, *np.linalg.norm(affine[:3, :3], axis=0), 1, 1, 1, 1
    return header


# --- SimpleITK -------------------------------------------------------------------------------------------------


def _open(path: Path, kind: str = "") -> Any:
    """Return a SimpleITK reader that has read the header of a file; nothing is decoded.

    kind: GDCMImageIO for DICOM. Raises: ValueError if it cannot be read, such as one that is cut off.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path).encode().decode())  # bytes that are not UTF-8 would abort Python
        reader.SetImageIO(kind)
        reader.ReadImageInformation()
    except UnicodeError:
        raise ValueError("its path is not UTF-8. Rename it.") from None
    except RuntimeError as error:
        raise ValueError(_damaged(path.name, error)) from None
    return reader


def _damaged(name: str, error: RuntimeError) -> str:
    return f"{name} is damaged, cut off or of another kind ({str(error).strip().splitlines()[-1][-200:]}). Restore it."


def _read_itk(path: Path, layers: bool) -> Volume:
    """Return the volume of an NRRD or MetaImage file, as `read_volume` does."""
    import SimpleITK as sitk

    reader = _open(path)
    components, dimensions = reader.GetNumberOfComponents(), reader.GetDimension()
    _check((*reader.GetSize(), *([components] if components > 1 else [])), layers)
    try:
        voxels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise ValueError(_damaged(path.name, error)) from None
    if voxels.dtype.kind not in "uif":
        raise ValueError("holds neither whole nor floating point numbers. Save it with such values.")
    sizes = [size for size in (*reader.GetSize()[3:], components) if size > 1]
    voxels = voxels.reshape(-1, *reader.GetSize()[2::-1]) if components == 1 else np.moveaxis(voxels, -1, 0)
    voxels = voxels.T if sizes else voxels[0].T
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    said = "NRRD_space" in reader.GetMetaDataKeys() or not np.array_equal(affine, np.eye(4))
    return as_shown(voxels, LPS @ affine, said or not file_ending(path).startswith(".n"))


# --- DICOM: only how the slices lie and what they show is taken over; nothing that says whose they are -----------

EVEN = 0.1  # of the distance of two slices, by which others may differ from it
ROUNDED = 1e-3  # of direction cosines and of mm between pixels
PLACE = {"Rows": "0028|0010", "Columns": "0028|0011", "PixelSpacing": "0028|0030",
         "ImageOrientationPatient": "0020|0037", "ImagePositionPatient": "0020|0032"}  # fmt: skip
TAGS = PLACE | {"SeriesInstanceUID": "0020|000e", "SeriesNumber": "0020|0011", "SeriesDescription": "0008|103e",
                "SliceThickness": "0018|0050", "NumberOfFrames": "0028|0008", "BitsAllocated": "0028|0100",
                "PhotometricInterpretation": "0028|0004"}  # fmt: skip
ROOT = "1.2.840.10008."  # of DICOM's own UIDs
NO_IMAGES = tuple(f"{ROOT}{kind}" for kind in ("1.3.10", *(f"5.1.4.1.1.{n}" for n in (11, 66, 88, 104, 481))))
PLAIN = (f"{ROOT}1.2", f"{ROOT}1.2.1", f"{ROOT}1.2.2")  # transfer syntaxes without compression
Tags = dict[Path, dict[str, str]]  # of each file of a series, by the names of TAGS


def is_dicom(path: Path) -> bool:
    """Return whether a file says that it is DICOM, by its ending or, since many have none, by its bytes 128 to 131."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):  # a damaged one must not be left out without a word
        return True
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # of another user, beside the images
        return False


def read_series(paths: Sequence[Path], series: str = "") -> Volume:
    """Return the axial slices of a DICOM series, float32 [S, H, W], their spacing and their grid.

    Args:
        paths: its files in any order, perhaps with others of the same folder.
        series: its number, description or UID, where the files are of several.
    Raises: ValueError for what is not one even stack of grey slices.
    """
    import SimpleITK as sitk

    tags = choose_series({path: found for path in paths if (found := _read_tags(path))}, series)
    first = next(iter(tags.values()))
    check_voxels(count_voxels(int(first["Rows"]), int(first["Columns"]), len(tags)))
    ordered, step = _sort(tags)
    try:
        image = sitk.ReadImage([str(path) for path in ordered], sitk.sitkFloat32, "GDCMImageIO")
    except RuntimeError as error:
        raise ValueError(_damaged("one of its slices", error)) from None
    across, down = _numbers(first["ImageOrientationPatient"]).reshape(2, 3)
    rows, columns = _numbers(first["PixelSpacing"])
    affine = np.eye(4)
    origin = _numbers(tags[ordered[0]]["ImagePositionPatient"])
    affine[:3] = np.stack([across * columns, down * rows, step, origin], axis=1)
    return as_shown(sitk.GetArrayFromImage(image).T, LPS @ affine)


def _read_tags(path: Path) -> dict[str, str]:
    """Return what the header of a file says, by the names of TAGS; nothing for what is no image, such as a report.

    Raises: ValueError for a file that is damaged: it would be a slice less.
    """
    with open(path, "rb") as file:
        start = file.read(2048)
    if start[128:132] != b"DICM":
        raise ValueError(f"{path.name} does not begin as DICOM does. Restore it, or save it as NIfTI (dcm2niix).")
    if _uid(start, b"\2\0\2\0").startswith(NO_IMAGES):
        return {}
    reader = _open(path, "GDCMImageIO")
    tags = {name: reader.GetMetaData(tag).strip(" \0") for name, tag in TAGS.items() if reader.HasMetaDataKey(tag)}
    size = int(tags["Rows"]) * int(tags["Columns"]) * int(tags["BitsAllocated"]) // 8
    if _uid(start, b"\2\0\x10\0") in PLAIN and path.stat().st_size < size:  # GDCM would fill it up with anything
        raise ValueError(f"{path.name} is cut off. Restore it.")
    return tags


def _uid(start: bytes, tag: bytes) -> str:
    """Return a UID of the first group of a DICOM file, which is always plain; empty where it is missing."""
    place = start.find(tag + b"UI") + 8
    return start[place : place + start[place - 2]].decode("ascii", "replace").strip("\0 ") if place > 7 else ""


def choose_series(tags: Tags, series: str) -> Tags:
    """Return the files of one series. Raises: ValueError that names all series if none, or more than one, is meant."""
    files: dict[str, Tags] = {}
    names: dict[str, list[str]] = {}
    for path, found in tags.items():
        uid = found.get("SeriesInstanceUID", "")
        files.setdefault(uid, {})[path] = found
        names[uid] = [*filter(None, map(found.get, ("SeriesNumber", "SeriesDescription"))), uid]
    meant = [uid for uid in files if not series or series.lower() in map(str.lower, names[uid])]
    if len(meant) == 1:
        return files[meant[0]]
    if not files:
        raise ValueError("holds no DICOM image.")
    labels = {uid: " ".join(names[uid][:-1]) for uid in files}
    labels = labels if len(set(labels.values())) == len(labels) else {uid: " ".join(names[uid]) for uid in files}
    listed = "; ".join(f"{labels[uid]}, {len(own)} files" for uid, own in files.items())
    wrong = f"--series {series} names {len(meant) or 'none'} of them. " if series else ""
    raise ValueError(
        f"holds {len(files)} series. {wrong}Say which one is FLAIR: --series with its number, description or UID. The "
        f"series of --pre or --post needs a folder of its own. They are {listed}."
    )


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split("\\"), float)


def _sort(tags: Tags) -> tuple[list[Path], np.ndarray]:
    """Return the files in the order of their positions, and the step from one slice to the next in mm.

    Raises: ValueError if they are not one stack of grey slices at even distances.
    """
    first = next(iter(tags.values()))
    for path, found in tags.items():
        if missing := [name for name in PLACE if not found.get(name)]:
            raise ValueError(f"{path.name} does not say its {missing[0]}. Save the series as NIfTI (dcm2niix).")
        if int(found.get("NumberOfFrames") or 1) > 1:
            raise ValueError(f"{path.name} holds several slices. Save the series as NIfTI (dcm2niix).")
        if found.get("PhotometricInterpretation") != "MONOCHROME2":
            raise ValueError(f"{path.name} is not grey with black as 0. Save the series as NIfTI (dcm2niix).")
        for name in list(PLACE)[:-1]:
            if not np.allclose(_numbers(found[name]), _numbers(first[name]), atol=ROUNDED):
                raise ValueError(f"its slices differ in {name} ({path.name}). Leave those of another stack out.")
    upwards = np.cross(*_numbers(first["ImageOrientationPatient"]).reshape(2, 3))
    places = {path: _numbers(found["ImagePositionPatient"]) for path, found in tags.items()}
    ordered = sorted(tags, key=lambda path: (float(places[path] @ upwards), path))
    if len(ordered) == 1:
        return ordered, upwards * float(first.get("SliceThickness") or 1)
    gaps = np.diff([places[path] @ upwards for path in ordered])
    typical = np.median(gaps)
    if gaps.min() <= ROUNDED:
        raise ValueError("several of its slices lie at one place. Leave one time point or echo in the folder.")
    if np.abs(gaps - typical).max() > EVEN * typical:
        n = int(np.abs(gaps - typical).argmax())
        raise ValueError(
            f"its slices are {typical:.4g} mm apart, but {gaps[n]:.4g} mm between {ordered[n].name} and "
            f"{ordered[n + 1].name}. Restore the slices that are missing there."
        )
    return ordered, (places[ordered[-1]] - places[ordered[0]]) / (len(ordered) - 1)
