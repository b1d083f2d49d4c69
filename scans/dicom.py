"""A DICOM series, the slices of one acquisition in a file each, through the optional package pydicom.

Only how the slices lie and what they show is taken over; nothing that says whose they are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scans.scan import check_side, check_total
from scans.volumes import Grid, as_shown, need_nibabel, new_header, nibabel

try:
    import pydicom
except ImportError:
    pydicom = None

PREAMBLE = 128  # bytes before the letters DICM
ENDINGS = (".dcm", ".dicom", ".ima")
EVEN = 0.1  # of the distance of two slices, by which others may differ from it
SAME = 1e-3  # of direction cosines and of mm between pixels, which files round
SERIES = "SeriesInstanceUID"
SAME_IN_ALL = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient")  # slices of a series
READ = (SERIES, "SeriesNumber", "SeriesDescription", "ImagePositionPatient", "SliceThickness", "NumberOfFrames",
        "PhotometricInterpretation", *SAME_IN_ALL)  # fmt: skip
TO_RAS = np.diag([-1.0, -1, 1, 1])  # DICOM's axes run to the patient's left and back, NIfTI's to the right and front


def is_dicom(path: Path) -> bool:
    """Return whether a file says that it is DICOM, by its ending or, since many have none, its first bytes."""
    if path.suffix.lower() in ENDINGS:  # a damaged one must not be left out of its series without a word
        return True
    try:
        with open(path, "rb") as file:
            return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"
    except OSError:  # of another user, beside the images
        return False


def read_series(paths: Sequence[Path], series: str = "") -> tuple[np.ndarray, tuple[float, ...], Grid]:
    """Return the axial slices of a series: float32 [S, H, W], mm between rows, columns, slices, and its grid.

    Args:
        paths: its files in any order, perhaps with others of the same folder.
        series: its number, description or UID, where the files are of several.
    Raises: ValueError for what is not one even stack of grey slices; any error of pydicom for a damaged file.
    """
    if pydicom is None:
        raise ValueError("DICOM needs the packages pydicom and nibabel: pip install pydicom nibabel.")
    need_nibabel()
    headers = choose_series({path: _read_header(path) for path in paths}, series)
    first = next(iter(headers.values()))
    rows, columns = int(first.Rows), int(first.Columns)
    check_side(rows, columns)
    check_total(len(headers), len(headers) * max(rows, columns) ** 2, len(headers) * rows * columns * 4)
    ordered, step = _sort(headers)
    stack = np.empty((len(ordered), rows, columns), np.float32)
    for plane, path in zip(stack, ordered, strict=True):
        image = pydicom.dcmread(path)
        plane[:] = pydicom.pixels.apply_rescale(image.pixel_array, image)
    across, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, first.PixelSpacing)
    affine = np.eye(4)
    affine[:3] = np.stack([across * between_columns, down * between_rows, step, _position(headers[ordered[0]])], axis=1)
    affine = TO_RAS @ affine
    header = new_header(stack.shape[::-1], affine)
    return as_shown(stack.swapaxes(0, 2), nibabel.Nifti1Image, header, affine)


def _read_header(path: Path) -> Any:
    """Return what a file says about its slice; no pixels.

    Raises: ValueError for a file that expands without bound, or that is damaged: it would be a slice less.
    """
    try:
        about = pydicom.filereader.read_file_meta_info(path)
    except pydicom.errors.InvalidDicomError:
        raise ValueError(
            f"{path.name} does not begin as DICOM does. Restore it, or save the series as NIfTI (dcm2niix)."
        ) from None
    if about.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
        raise ValueError(f"{path.name} is packed as a whole. Save the series uncompressed.")
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(READ))
    kind = about.get("MediaStorageSOPClassUID")
    if kind is None or ("Image Storage" in kind.name and "Rows" not in header):
        raise ValueError(f"{path.name} is cut off. Restore it.")
    return header


def choose_series(headers: dict[Path, Any], series: str) -> dict[Path, Any]:
    """Return the files of one series, those without an image left out.

    Raises: ValueError that names all series if none, or more than one, is meant.
    """
    by_series: dict[str, dict[Path, Any]] = {}
    for path, header in headers.items():
        if "Rows" in header:  # not a list of files, a report or a presentation state
            by_series.setdefault(str(header.get(SERIES, "")), {})[path] = header
    names = {uid: _names(uid, next(iter(files.values()))) for uid, files in by_series.items()}
    meant = [uid for uid in by_series if not series or series.lower() in map(str.lower, names[uid])]
    if len(meant) == 1:
        return by_series[meant[0]]
    if not by_series:
        raise ValueError("holds no DICOM image.")
    labels = [" ".join(names[uid][:-1]) for uid in by_series]
    labels = labels if len(set(labels)) == len(labels) else [" ".join(names[uid]) for uid in by_series]
    listed = "; ".join(f"{label}, {len(by_series[uid])} files" for label, uid in zip(labels, by_series, strict=True))
    wrong = f"--series {series} names {len(meant) or 'none'} of them. " if series else ""
    asked = (
        "Say which one is FLAIR: --series with its number, description or UID. The series of --pre or --post needs a "
        "folder of its own."
    )
    raise ValueError(f"holds {len(by_series)} series. {wrong}{asked} They are {listed}.")


def _names(uid: str, header: Any) -> list[str]:
    """Return what a user may call a series: its number, its description, its UID."""
    given = (str(header.get(name, "") or "").strip() for name in ("SeriesNumber", "SeriesDescription"))
    return [*filter(None, given), uid]


def _position(header: Any) -> np.ndarray:
    return np.array(header.ImagePositionPatient, float)


def _sort(headers: dict[Path, Any]) -> tuple[list[Path], np.ndarray]:
    """Return the files in the order of their positions, and the step from one slice to the next in mm.

    Raises: ValueError if they are not one stack of grey slices at even distances.
    """
    first = next(iter(headers.values()))
    for path, header in headers.items():
        if missing := [name for name in (*SAME_IN_ALL, "ImagePositionPatient") if name not in header]:
            raise ValueError(f"{path.name} does not say its {missing[0]}. Save the series as NIfTI (dcm2niix).")
        if int(header.get("NumberOfFrames", 1) or 1) > 1:
            raise ValueError(f"{path.name} holds several slices. Save the series as NIfTI (dcm2niix).")
        if header.get("PhotometricInterpretation") != "MONOCHROME2":
            raise ValueError(f"{path.name} is not grey with black as 0. Save the series as NIfTI (dcm2niix).")
        for name in SAME_IN_ALL:
            if not np.allclose(np.array(header[name].value, float), np.array(first[name].value, float), atol=SAME):
                raise ValueError(f"its slices differ in {name} ({path.name}). Leave those of another stack out.")
    across, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    upwards = np.cross(across, down)
    heights = {path: float(_position(header) @ upwards) for path, header in headers.items()}
    ordered = sorted(headers, key=lambda path: (heights[path], path))
    if len(ordered) == 1:
        return ordered, upwards * float(first.get("SliceThickness", 0) or 1)
    gaps = np.diff([heights[path] for path in ordered])
    typical = np.median(gaps)
    if gaps.min() <= SAME:
        raise ValueError("several of its slices lie at one place. Leave one time point or echo in the folder.")
    if np.abs(gaps - typical).max() > EVEN * typical:
        place = int(np.abs(gaps - typical).argmax())
        raise ValueError(
            f"its slices are {typical:.4g} mm apart, but {gaps[place]:.4g} mm between {ordered[place].name} and "
            f"{ordered[place + 1].name}. Restore the slices that are missing there."
        )
    steps = _position(headers[ordered[-1]]) - _position(headers[ordered[0]])
    return ordered, steps / (len(ordered) - 1)
