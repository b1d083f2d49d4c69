"""DICOM: series of any order and transfer syntax, trees of studies, and what is no even stack."""

import locale
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from constants import FLAIR, POST, PRE
from scans import medical
from scans.cohort import find_patients
from scans.read import read_patient
from scans.scan import Scan
from scans.write import encode_stack


def stack() -> np.ndarray:
    """Return three slices, uint16 [3, 4, 6], the lowest first."""
    return np.arange(72, dtype=np.uint16).reshape(3, 4, 6) * 10


def write_slice(path: Path, pixels: np.ndarray, position: tuple, compressor: str = "", **changes: str) -> None:
    """Write a slice (uint16 [H, W]) of an axial MR series whose first pixel is at `position` (mm); changes by TAGS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(pixels)
    about = {"SeriesInstanceUID": "1.2.3", "SeriesNumber": "7", "SeriesDescription": "AX FLAIR", "SliceThickness": "4"}
    about |= {"ImageOrientationPatient": r"1\0\0\0\1\0", "ImagePositionPatient": "\\".join(map(str, position))}
    tags = {medical.TAGS[name]: value for name, value in (about | changes).items() if name in medical.TAGS}
    tags |= {"0008|0060": "MR", "0010|0010": "Doe^Jane", "0010|0020": "MRN-42", "0020|000d": "1.2"}
    image.SetSpacing([0.5, 2] if "size" not in changes else [float(changes["size"])] * 2)
    for tag, value in tags.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(bool(compressor))
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path.with_suffix(".dcm")))
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves another, in which Python reads ASCII
    path.with_suffix(".dcm").rename(path)


def write_series(folder: Path, pixels: np.ndarray | None = None, compressor: str = "", **changes: str) -> Path:
    """Write slices 5 mm apart; their names are in another order than their places."""
    for number, plane in enumerate(stack() if pixels is None else pixels):
        write_slice(folder / f"IM{'CAB'[number % 3]}", plane, (-1, -2, 3 + 5 * number), compressor, **changes)
    return folder


def read_dicom(folder: Path) -> Scan:
    (patient,), problems, _ = find_patients([folder])
    scan, more = read_patient(patient)
    assert problems + more == []
    return scan


def refused(folder: Path) -> str:
    (patient,), problems, _ = find_patients([folder])
    scan, more = read_patient(patient)
    assert scan is None and problems == [] and len(more) == 1 and more[0].startswith(f"{folder}: cannot be read: ")
    return more[0]


@pytest.mark.parametrize("compressor", ["", "JPEG", "JPEG2000"])
def test_slices_are_sorted_by_place_in_every_transfer_syntax(tmp_path, compressor):
    pixels = np.arange(3 * 64 * 48, dtype=np.uint16).reshape(3, 64, 48)
    scan = read_dicom(write_series(tmp_path / "P1", pixels, compressor))
    assert np.array_equal(medical.read_series(sorted((tmp_path / "P1").iterdir()))[0], pixels)
    assert scan.name == "P1" and scan.spacing == (2, 0.5, 5) and scan.paths == [tmp_path / "P1"]


def test_masks_are_nifti_on_the_grid_of_the_series_and_name_nobody(tmp_path):
    scan = read_dicom(write_series(tmp_path / "P1"))
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[2, 0, 5] = 1  # the highest slice, its first row, its last column
    ((name, content),) = encode_stack(scan, masks, "mask").items()
    (tmp_path / name).write_bytes(content)
    mask = sitk.ReadImage(str(tmp_path / "P1_mask.nii.gz"))
    (index,) = np.argwhere(sitk.GetArrayFromImage(mask).T).tolist()
    assert mask.TransformIndexToPhysicalPoint(index) == (-1 + 0.5 * 5, -2, 3 + 5 * 2)
    assert mask.GetSpacing() == (0.5, 2, 5) and not any(word in content for word in (b"Doe", b"MRN", b"FLAIR"))


def test_several_series_are_told_apart_by_description_or_one_is_asked_for(tmp_path):
    folder = write_series(tmp_path / "P1")
    other = {"SeriesInstanceUID": "1.2.4", "SeriesNumber": "8", "SeriesDescription": "AX T1 POST"}
    write_slice(folder / "X", stack()[0], (0, 0, 0), **other)
    (patient,), problems, _ = find_patients([folder])
    assert problems == [] and {kind: len(item.paths) for kind, item in patient.items.items()} == {FLAIR: 3, POST: 1}
    for series in ("7", "ax flair", "1.2.3"):
        assert len(find_patients([folder], series=series).patients[0].items[FLAIR].paths) == 3
    write_slice(folder / "X", stack()[0], (0, 0, 0), **other | {"SeriesDescription": "AX FLAIR FS"})
    for series, wrong in (("", ""), ("T2", "--series T2 names none of them. ")):
        (patient,), (problem,), _ = find_patients([folder], series=series)
        listed = "7 AX FLAIR, 3 files; 8 AX FLAIR FS, 1 file"
        assert f"P1: holds 2 series. {wrong}Name FLAIR with --series: {listed}" in problem and not patient.items
        assert [item.reason for item in patient.unused] == ["not chosen as FLAIR"] * 2


def test_a_tilted_stack_has_the_real_distance_of_its_slices_and_a_uid_may_be_of_one_slice(tmp_path):
    turn = np.radians(30)
    rows = rf"1\0\0\0\{np.cos(turn):.9f}\{np.sin(turn):.9f}"  # tilted about the left-right axis
    for number, plane in enumerate(stack()):  # 5 mm apart along the body, 5 cos 30 along their normal
        changes = {"ImageOrientationPatient": rows, "SeriesInstanceUID": f"1.2.{number}"}
        write_slice(tmp_path / "P1" / f"{number}", plane, (0, 0, 5 * number), **changes)
    scan = read_dicom(tmp_path / "P1")
    assert len(scan.slices) == 3 and scan.spacing == pytest.approx((2, 0.5, 5 * np.cos(turn)), abs=1e-4)


def test_padding_of_a_series_is_air(tmp_path):
    pixels = np.arange(72, dtype=np.int16).reshape(3, 4, 6)
    plain = read_dicom(write_series(tmp_path / "P1", pixels))
    padded = np.pad(pixels, ((0, 0), (2, 2), (0, 0)), constant_values=-2000)
    scan = read_dicom(write_series(tmp_path / "P2", padded, PixelPaddingValue="-2000"))
    assert np.array_equal(np.array(scan.slices)[:, 2:-2], plain.slices) and not np.array(scan.slices)[:, :2].any()


def test_a_tree_with_a_folder_for_each_series_is_one_patient_by_descriptions(tmp_path):
    """As TCIA names folders; and a PACS, by numbers alone."""
    for n, description in enumerate(("AX FLAIR", "AX T1", "AX T1 POST GD", "AX T2", "LOCALIZER")):
        about = {"SeriesInstanceUID": f"1.2.{n}", "SeriesNumber": str(n), "SeriesDescription": description}
        for patient, study, folder in (("TCGA-CS-4941", "09-09-1996-NA-MRI-12345", f"{n}.000000-{description}-12345"),
                                       ("P2", "study", f"S{n}")):  # fmt: skip
            about["StudyInstanceUID"] = f"1.3.{len(patient)}"
            write_series(tmp_path / "coh" / patient / study / folder, **about)
    for series in ("a", "b"):  # one series of each of two patients, all of one study: anonymised
        write_series(tmp_path / "other" / series)
    patients, problems, _ = find_patients([tmp_path / "coh"])
    assert problems == []
    assert [patient.name for patient in patients] == ["P2_study", "TCGA-CS-4941_09-09-1996-NA-MRI-12345"]
    for patient in patients:
        assert {kind: item.series.label for kind, item in patient.items.items()} == {
            FLAIR: "0 AX FLAIR", PRE: "1 AX T1", POST: "2 AX T1 POST GD"}  # fmt: skip
        assert [item.series.description for item in patient.unused] == ["AX T2", "LOCALIZER"]
    assert [patient.name for patient in find_patients([tmp_path / "other"]).patients] == ["a", "b"]


@pytest.mark.parametrize(("times", "expected"), [
    ({}, ""), ({"EchoTime": "120", "InversionTime": "2500"}, ""), ({"EchoTime": "\\90", "InversionTime": "x"}, ""),
    ({"EchoTime": "12"}, "the echo time of the series AX FLAIR taken for FLAIR is 12 ms"),
    ({"EchoTime": "90", "InversionTime": "160"}, "the inversion time of"),
])  # fmt: skip
def test_a_series_with_the_times_of_another_sequence_is_doubted(tmp_path, times, expected):
    warnings = read_dicom(write_series(tmp_path / "P1", **times)).warnings
    assert [text.startswith(expected) for text in warnings] == [True] * bool(expected)


def test_a_dead_link_among_the_slices_of_a_series_refuses_it_alone(tmp_path):
    for patient in ("P1", "P2"):
        write_series(tmp_path / patient)
    (tmp_path / "P1" / "IMZ.dcm").symlink_to(tmp_path / "never fetched")
    patients, problems, _ = find_patients([tmp_path])
    (scan, more), (other, none) = map(read_patient, patients)
    assert problems == [] and scan is None and "IMZ.dcm" in more[0] and len(other.slices) == 3 and not none


@pytest.mark.parametrize(("position", "changes", "message"), [
    ((-1, -2, 8), {}, "lie at one position"),
    ((-1, -2, 33), {}, "its slices are 5 mm apart, but 20 mm between IMB and X. Restore the slices"),
    ((-1, -2, 18), {"size": "0.6"}, "differ in PixelSpacing"),
    ((-1, -2, 18), {"ImageOrientationPatient": r"0\1\0\1\0\0"}, "differ in ImageOrientationPatient"),
])  # fmt: skip
def test_what_is_no_even_stack_is_refused(tmp_path, position, changes, message):
    folder = write_series(tmp_path / "P1")
    write_slice(folder / "X", stack()[0], position, **changes)
    assert message in refused(folder)


@pytest.mark.parametrize(("before", "after", "message"), [
    (b"MONOCHROME2 ", b"MONOCHROME1 ", "IMA is not one grey slice"),
    (b"\x28\x00\x10\x00\x02\x00\x00\x00\x04\x00", b"\x28\x00\x10\x00\x02\x00\x00\x00\xff\x00", "IMA is cut off"),
    (b"\x20\x00\x32\x00", b"\x20\x00\x33\x00", "IMA is not one grey slice"),
])  # fmt: skip
def test_what_is_no_whole_grey_slice_with_a_place_is_refused(tmp_path, before, after, message):
    folder = write_series(tmp_path / "P1")
    content = (folder / "IMA").read_bytes()
    assert before in content
    (folder / "IMA").write_bytes(content.replace(before, after))
    assert message in refused(folder)


def test_a_file_cut_short_or_without_its_beginning_is_one_error_and_a_report_is_left_out(tmp_path):
    for compressor in ("", "JPEG"):
        folder = write_series(tmp_path / "P1", compressor=compressor)
        whole = (folder / "IMA").read_bytes()
        for size in (132, 200, 420, 600, len(whole) - 9):
            (folder / "IMA").write_bytes(whole[:size])
            assert "IMA is damaged, cut off or of another kind" in refused(folder)
        (folder / "IMA").write_bytes(whole)
        for content in (b"", whole[132:]):  # as before DICOM had a preamble
            (folder / "Z.DCM").write_bytes(content)
            assert "Z.DCM does not begin as DICOM does. Restore it, or save it as NIfTI" in refused(folder)
        kind = b"1.2.840.10008.5.1.4.1.1.88.11\0"
        (folder / "Z.DCM").write_bytes(bytes(128) + b"DICM\2\0\2\0UI" + struct.pack("<H", len(kind)) + kind)
        assert len(read_dicom(folder).slices) == 3
