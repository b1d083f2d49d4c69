"""DICOM series, small ones that are written here."""

from pathlib import Path

import numpy as np
import pytest

from scans import dicom
from scans.cohort import find_sources
from scans.read import read_scan
from scans.scan import Scan
from scans.volumes import mask_files

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

PERSON = "Doe^Jane"


def write_slice(path: Path, pixels: np.ndarray, position: tuple[float, float, float], **changes) -> None:
    """Write one slice (uint16 [H, W]) of an axial MR series whose first pixel is at `position`, in mm."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.PatientName, data.PatientID = PERSON, "MRN-42"
    about = {
        "SeriesInstanceUID": "1.2.3", "SeriesNumber": 7, "SeriesDescription": "AX FLAIR", "SliceThickness": 4,
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "PixelSpacing": [2, 0.5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": list(position),
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0,
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "RescaleSlope": 1, "RescaleIntercept": 0,
    }  # fmt: skip
    for name, value in (about | changes).items():
        setattr(data, name, value)
    data.PixelData = pixels.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def stack() -> np.ndarray:
    """Return three slices, uint16 [3, 4, 6], the lowest first."""
    return np.arange(72, dtype=np.uint16).reshape(3, 4, 6) * 10


def write_series(folder: Path, pixels: np.ndarray | None = None, **changes) -> Path:
    """Write slices 5 mm apart; their names are in another order than their places."""
    for number, plane in enumerate(stack() if pixels is None else pixels):
        write_slice(folder / f"IM{'CAB'[number % 3]}{number // 3}", plane, (-1, -2, 3 + 5 * number), **changes)
    return folder


def read(folder: Path, **options) -> Scan:
    (source,), problems = find_sources([folder], **options)
    scan, more = read_scan(source)
    assert problems + more == []
    return scan


def refusal(folder: Path, **options) -> str:
    (source,), problems = find_sources([folder], **options)
    scan, more = read_scan(source)
    assert scan is None and problems == [] and len(more) == 1
    return more[0]


def test_slices_are_sorted_by_place_and_shown_as_they_lie(tmp_path):
    scan = read(write_series(tmp_path / "P1"))
    low, high = np.percentile(stack(), (0.5, 99.5))
    expected = ((stack() - low) / (high - low) * 255).clip(0, 255).round()
    assert np.array_equal(np.array(scan.slices)[..., 1], expected)
    assert scan.name == "P1" and scan.spacing == (2, 0.5, 5) and scan.paths == [tmp_path / "P1"]


def test_values_are_rescaled_slice_by_slice(tmp_path):
    for number, slope in enumerate((1, 2, 4)):
        write_slice(tmp_path / "P1" / str(number), np.full((2, 2), 60 // slope), (0, 0, number), RescaleSlope=slope,
                    RescaleIntercept=-number)  # fmt: skip
    pixels, *_ = dicom.read_series(sorted((tmp_path / "P1").iterdir()))
    assert pixels.dtype == np.float32 and pixels[:, 0, 0].tolist() == [60, 59, 58]


def test_masks_are_nifti_on_the_grid_of_the_series_and_name_nobody(tmp_path):
    scan = read(write_series(tmp_path / "P1"))
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[2, 0, 5] = 1  # the highest slice, its first row, its last column
    ((name, encode),) = mask_files(scan, list(masks)).items()
    content = encode()
    (tmp_path / name).write_bytes(content)
    mask = nibabel.load(tmp_path / "P1_mask.nii.gz")
    (place,) = np.argwhere(np.asarray(mask.dataobj))
    left, back, up = -1 + 0.5 * 5, -2 + 2 * 0, 3 + 5 * 2  # DICOM counts to the left and back, NIfTI the other way
    assert nibabel.affines.apply_affine(mask.affine, place).tolist() == [-left, -back, up]
    assert mask.header.get_zooms() == (0.5, 2, 5) and mask.header.get_xyzt_units()[0] == "mm"
    raw = mask.to_bytes()
    assert b"Doe" not in raw and b"MRN" not in raw and b"FLAIR" not in raw


def test_a_sagittal_series_is_shown_in_axial_slices(tmp_path):
    for number in range(2):  # from right to left; rows run down, columns to the back
        plane = np.zeros((3, 4), np.uint16)
        plane[0, 3] = 900 * number  # left, at the top, at the back
        write_slice(tmp_path / "P1" / str(number), plane, (5.0 * number, 0, 0),
                    ImageOrientationPatient=[0, 1, 0, 0, 0, -1], PixelSpacing=[2, 1])  # fmt: skip
    scan = read(tmp_path / "P1")
    shown = np.array(scan.slices)[..., 1]
    assert shown.shape == (3, 4, 2) and np.argwhere(shown).tolist() == [[2, 3, 1]] and scan.spacing == (1, 5, 2)


def test_several_series_are_named_and_one_is_asked_for(tmp_path):
    folder = write_series(tmp_path / "P1")
    write_slice(
        folder / "X", stack()[0], (0, 0, 0), SeriesInstanceUID="1.2.4", SeriesNumber=8, SeriesDescription="AX T1"
    )
    problem = refusal(folder)
    assert f"{folder}: cannot be read: holds 2 series. Say which one is FLAIR: --series" in problem
    assert "7 AX FLAIR, 3 files" in problem and "8 AX T1, 1 files" in problem
    assert "--series T2 names none of them" in refusal(folder, series="T2")
    for series in ("7", "ax flair", "1.2.3"):
        assert len(read(folder, series=series).slices) == 3


def test_folders_of_series_are_the_sequences_of_a_patient(tmp_path):
    for kind, number in (("FLAIR", 1), ("T1", 2), ("T1_post", 3)):
        write_series(tmp_path / "coh" / "P1" / kind, SeriesInstanceUID=f"1.{number}")
    (source,), problems = find_sources([tmp_path / "coh"])
    assert source.name == "P1" and sorted(source.others) == [0, 2] and problems == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImagePositionPatient": [-1, -2, 8]}, "lie at one place"),
        ({"ImagePositionPatient": [-1, -2, 33]}, "its slices are 5 mm apart, but 20 mm between IMB0 and X"),
        ({"PixelSpacing": [2, 0.6]}, "differ in PixelSpacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "differ in ImageOrientationPatient"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "is not grey with black as 0"),
        ({"NumberOfFrames": 2}, "holds several slices. Save the series as NIfTI"),
    ],
)
def test_what_is_no_even_stack_of_grey_slices_is_refused(tmp_path, changes, message):
    folder = write_series(tmp_path / "P1")
    write_slice(folder / "X", stack()[0], (-1, -2, 18), **changes)
    assert message in refusal(folder)


def test_without_the_package(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "P1")
    monkeypatch.setattr(dicom, "pydicom", None)
    assert "DICOM needs the packages pydicom and nibabel: pip install pydicom nibabel" in refusal(folder)


def test_a_file_cut_short_is_one_error(tmp_path):
    folder = write_series(tmp_path / "P1")
    whole = (folder / "IMA0").read_bytes()
    for size in (132, 200, 420, 600, len(whole) - 9):
        (folder / "IMA0").write_bytes(whole[:size])
        assert refusal(folder).startswith(f"{folder}: cannot be read: ")


def test_a_file_called_dcm_that_does_not_begin_as_one_is_not_left_out_of_its_series(tmp_path):
    folder = write_series(tmp_path / "P1")
    whole = (folder / "IMA0").read_bytes()
    for content in (b"", whole[132:]):  # cut off, and as before DICOM had a preamble
        (folder / "Z.DCM").write_bytes(content)
        assert "Z.DCM does not begin as DICOM does. Restore it, or save the series as NIfTI" in refusal(folder)
