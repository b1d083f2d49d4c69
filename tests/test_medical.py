"""Files of medical images: how volumes lie, what headers leave open, DICOM series, and masks on the input's grid."""

import gzip
import itertools
import locale
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_scans import read, refusal

from constants import FLAIR, POST, PRE
from scans import medical
from scans.cohort import find_patients
from scans.masks import mask_files, read_mask_stack
from scans.read import check_sequence, combine, read_patient
from scans.scan import Scan

KINDS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr")


def turned(voxels: np.ndarray, axes: tuple[int, ...], signs: tuple[int, ...], oblique: float = 0.0) -> sitk.Image:
    """Return voxels that run to the left, back and up, as an image whose axes are stored in another way.

    The i-th axis in the file runs along axis axes[i] of space, in the direction signs[i]. They are 0.5, 0.75 and 4 mm
    apart along left, back and up, and all turned by an angle.
    """
    size = np.array([0.5, 0.75, 4.0])
    turn = np.array([[np.cos(oblique), -np.sin(oblique), 0], [np.sin(oblique), np.cos(oblique), 0], [0, 0, 1]])
    direction = turn[:, axes] * signs
    stored = np.flip(voxels.transpose(axes), [i for i in range(3) if signs[i] < 0])
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.T))
    image.SetSpacing(size[list(axes)].tolist())
    image.SetDirection(direction.ravel().tolist())
    ends = np.where(np.array(signs) < 0, np.array(voxels.shape)[list(axes)] - 1, 0) * size[list(axes)]
    image.SetOrigin((np.array([-20.0, 10, 5]) - direction @ ends).tolist())
    return image


ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize(("axes", "signs"), [*ORDERS[::5], ((0, 1, 2), (-1, -1, 1))])
def test_every_order_of_axes_is_shown_alike_and_masks_return_to_it(tmp_path, axes, signs):
    voxels = np.random.default_rng(0).integers(1, 900, (10, 12, 3)).astype(np.int16)  # left, back, up
    for kind, oblique in zip(KINDS, (0, 0.3, 0, 0.3, 0, 0), strict=True):
        image = turned(voxels, axes, signs, oblique)
        sitk.WriteImage(image, str(tmp_path / f"x{kind}"))
        slices, spacing, grid = medical.read_volume(tmp_path / f"x{kind}")
        assert np.array_equal(slices, voxels.T) and spacing == pytest.approx((0.75, 0.5, 4), abs=1e-5)
        turn = complex(2 * 0.5, 3 * 0.75) * np.exp(1j * oblique)
        assert (grid.affine @ (2, 3, 1, 1))[:3] == pytest.approx([turn.real - 20, turn.imag + 10, 9], abs=1e-4)
        (tmp_path / "m.nii.gz").write_bytes(medical.encode((slices > 450).astype(np.uint8), grid))
        mask = sitk.ReadImage(str(tmp_path / "m.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(image) > 450)
        for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(mask, geometry)() == pytest.approx(getattr(image, geometry)(), abs=1e-4)


# --- NIfTI -----------------------------------------------------------------------------------------------------


HEADER = np.dtype({
    "names": ["sizeof_hdr", "dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter", "xyzt_units",
              "qform_code", "sform_code", "quatern", "qoffset", "srow", "magic"],
    "offsets": [0, 40, 70, 72, 76, 108, 112, 116, 123, 252, 254, 256, 268, 280, 344],
    "formats": ["<i4", "<8i2", "<i2", "<i2", "<8f4", "<f4", "<f4", "<f4", "u1", "<i2", "<i2", "<3f4", "<3f4", "(3,4)<f4",
                "S4"],
    "itemsize": 348,
})  # fmt: skip


def nifti(voxels: np.ndarray, **changes) -> bytes:
    """Return a NIfTI-1 file of voxels [X, Y, Z, ...] 2 x 2 x 5 mm, which run to the right, front and up."""
    header = np.zeros((), HEADER)
    codes = {"uint8": 2, "int16": 4, "float32": 16}
    values = {"sizeof_hdr": 348, "magic": b"n+1", "vox_offset": 352, "scl_slope": 1, "bitpix": voxels.dtype.itemsize * 8,
              "datatype": codes[voxels.dtype.name], "dim": (voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim)),
              "pixdim": (1, 2, 2, 5, 1, 1, 1, 1), "xyzt_units": 2, "sform_code": 1, "qform_code": 1,
              "srow": ((2, 0, 0, -3), (0, 2, 0, 7), (0, 0, 5, 1)), "qoffset": (-3, 7, 1)}  # fmt: skip
    for name, value in (values | changes).items():
        header[name] = value
    return header.tobytes() + bytes(4) + voxels.tobytes("F")


def test_values_are_scaled_as_the_header_says(tmp_path):
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x.nii").write_bytes(nifti(voxels, scl_slope=-2, scl_inter=5))
    slices, *_ = medical.read_volume(tmp_path / "x.nii")
    assert slices[0, -1, -1] == 5 and slices[-1, 0, 0] == -41


@pytest.mark.parametrize("packed", [False, True])
def test_a_nifti_file_as_it_is_shown_and_cut_off(tmp_path, packed):
    voxels = np.random.default_rng(0).integers(0, 999, (20, 30, 4)).astype(np.int16)
    path, content = tmp_path / ("x.nii.gz" if packed else "x.nii"), nifti(voxels)
    path.write_bytes(gzip.compress(content) if packed else content)
    slices, spacing, grid = medical.read_volume(path)
    assert np.array_equal(slices, voxels.T[:, ::-1, ::-1]) and spacing == (2, 2, 5)
    assert grid.affine.tolist() == [[2, 0, 0, -35], [0, 2, 0, -65], [0, 0, 5, 1], [0, 0, 0, 1]]
    for size in (100, 400, path.stat().st_size - 9):
        (tmp_path / f"cut_{path.name}").write_bytes(path.read_bytes()[:size])
        assert "cut off" in refusal(tmp_path / f"cut_{path.name}")


def mask_of(path: Path) -> sitk.Image:
    """Return the mask of values above 450 in a volume, as another program reads it."""
    slices, _, grid = medical.read_volume(path)
    (path.parent / "mask.nii.gz").write_bytes(medical.encode((slices > 450).astype(np.uint8), grid))
    return sitk.ReadImage(str(path.parent / "mask.nii.gz"))


def test_the_matrix_goes_before_the_quaternion_and_a_sheared_one_is_refused(tmp_path):
    """ITK would take the quaternion, a quarter turn, of this header."""
    voxels = np.random.default_rng(0).integers(0, 999, (4, 6, 2)).astype(np.int16)
    other = {"sform_code": 2, "quatern": (0, 0, np.sqrt(0.5)), "qoffset": (50, 60, 70)}
    (tmp_path / "x.nii").write_bytes(nifti(voxels, **other))
    slices, _, grid = medical.read_volume(tmp_path / "x.nii")
    assert np.array_equal(slices, voxels.T[:, ::-1, ::-1]) and grid.affine[:3, 3].tolist() == [-3, -17, 1]
    mask = mask_of(tmp_path / "x.nii")
    assert np.array_equal(sitk.GetArrayFromImage(mask).T, voxels > 450) and mask.GetOrigin() == (3, -7, 1)
    (tmp_path / "x.nii").write_bytes(nifti(voxels, **other | {"sform_code": 0}))
    assert np.array_equal(medical.read_volume(tmp_path / "x.nii")[0], voxels.transpose(2, 0, 1)[:, ::-1, :])
    for code in (0, 1):  # with and without a quaternion, which ITK would take
        (tmp_path / "x.nii").write_bytes(
            nifti(voxels, qform_code=code, srow=((2, 0, 0, 0), (0, 2, 1, 0), (0, 0, 5, 0)))
        )
        assert "its axes are not at right angles" in refusal(tmp_path / "x.nii")
    (tmp_path / "x.nii").write_bytes(nifti(voxels, srow=np.array(((2, 0, 0, -3), (0, 2, 0, 7), (0, 0, 5, 1))) * 1e3,
                                           pixdim=(1, 2e3, 2e3, 5e3, 1, 1, 1, 1), xyzt_units=3))  # fmt: skip
    assert medical.read_volume(tmp_path / "x.nii")[1] == pytest.approx((2, 2, 5))


def test_a_header_that_does_not_say_how_the_volume_lies_gives_no_spacing_and_so_does_the_mask(tmp_path):
    voxels = np.zeros((4, 6, 2), np.uint8)
    voxels[3, 0, 1] = 250
    (tmp_path / "x.nii").write_bytes(nifti(voxels, sform_code=0, qform_code=0))
    scan = read(tmp_path / "x.nii")
    assert scan.spacing is None and np.argwhere(np.array(scan.slices)[..., 0]).tolist() == [[1, 5, 3]]
    masks = [(plane[..., 1] == 250).astype(np.uint8) for plane in scan.slices]
    mask = gzip.decompress(mask_files(scan, masks)["scan_mask.nii.gz"]())
    assert mask[252:256] == bytes(4) and mask[352:] == (voxels // 250).tobytes("F")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 6), "has the shape (8, 6). Save one volume"),
        ((8, 6, 2, 4), "has the shape (8, 6, 2, 4). Save one volume: FLAIR, or pre-contrast, FLAIR and"),
        ((8, 6, 2, 1, 4), "Save one volume"),
        ((8, 6, 2, 3, 2), "Save one volume"),
    ],
)
def test_other_shapes_are_refused_with_what_to_do(tmp_path, shape, message):
    (tmp_path / "x.nii").write_bytes(nifti(np.zeros(shape, np.uint8)))
    assert message in refusal(tmp_path / "x.nii")


def encode_mask(scan: Scan) -> bytes:
    ((_, encode),) = mask_files(scan, [plane[..., 0] // 255 for plane in scan.slices]).items()
    return encode()


def test_three_sequences_in_one_file(tmp_path):
    voxels = np.random.default_rng(3).integers(0, 255, (8, 6, 2, 3), dtype=np.uint8)
    left_back = ((-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0))
    (tmp_path / "plain.nii").write_bytes(nifti(voxels, srow=left_back))
    (tmp_path / "itk.nii").write_bytes(nifti(voxels[:, :, :, None], srow=left_back))
    vector = sitk.GetImageFromArray(voxels.swapaxes(0, 2), isVector=True)
    stack = sitk.JoinSeries([sitk.VectorIndexSelectionCast(vector, n) for n in range(3)])
    for name, image in (("vector.nrrd", vector), ("vector.mha", vector), ("stack.mha", stack), ("stack.nrrd", stack)):
        sitk.WriteImage(image, str(tmp_path / name))
    for path in tmp_path.iterdir():
        scan = read(path)
        assert np.array_equal(scan.slices, voxels.swapaxes(0, 2)) and not scan.grey, path
        assert struct.unpack_from("<8h", gzip.decompress(encode_mask(scan)), 40) == (3, 8, 6, 2, 1, 1, 1, 1)
    sitk.WriteImage(sitk.GetImageFromArray(voxels[..., :2].swapaxes(0, 2), isVector=True), str(tmp_path / "two.nrrd"))
    assert "(8, 6, 2, 2). Save one volume" in refusal(tmp_path / "two.nrrd")


# --- NRRD and MetaImage ----------------------------------------------------------------------------------------


def test_a_segmentation_of_slicer_with_several_layers_is_a_mask(tmp_path):
    layers = np.zeros((2, 6, 8, 2), np.uint8)
    layers[0, 1, 2, 0], layers[1, 3, 4, 1] = 3, 1
    sitk.WriteImage(sitk.GetImageFromArray(layers, isVector=True), str(tmp_path / "Segmentation.seg.nrrd"), True)
    assert np.argwhere(read_mask_stack(tmp_path / "Segmentation.seg.nrrd").masks).tolist() == [[0, 1, 2], [1, 3, 4]]


def test_nrrd_that_does_not_say_how_it_lies_has_no_spacing(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)), str(tmp_path / "x.nrrd"))
    assert read(tmp_path / "x.nrrd").spacing == (1, 1, 1)
    header, content = (tmp_path / "x.nrrd").read_bytes().split(b"\n\n", 1)
    lines = [line for line in header.split(b"\n") if not line.startswith(b"space")]
    (tmp_path / "x.nrrd").write_bytes(b"\n".join(lines) + b"\n\n" + content)
    scan = read(tmp_path / "x.nrrd")
    assert scan.spacing is None and np.array_equal(np.array(scan.slices)[..., 0].argsort(None), np.arange(24))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_files_cut_short_are_one_error(tmp_path, ending, capfd):
    sitk.WriteImage(turned(np.ones((9, 9, 9), np.int16), (0, 1, 2), (1, 1, 1)), str(tmp_path / f"x{ending}"))
    whole = (tmp_path / f"x{ending}").read_bytes()
    for size in (0, 20, 100, len(whole) // 2, len(whole) - 9):
        (tmp_path / f"x{ending}").write_bytes(whole[:size])
        assert "is damaged, cut off or of another kind" in refusal(tmp_path / f"x{ending}")


def test_a_path_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.nrrd")
    path.touch()
    assert "its path is not UTF-8. Rename it." in refusal(path)


# --- Sequences of several files --------------------------------------------------------------------------------


def test_sequences_are_combined_only_on_one_grid(tmp_path):
    voxels = np.random.default_rng(3).integers(1, 90, (3, 8, 6, 4), dtype=np.uint8)

    def scan(channel: int, axes=(0, 1, 2), signs=(1, 1, 1), shift: float = 0, size: float = 1, slices: int = 4) -> Scan:
        image = turned(voxels[channel, :, :, :slices], axes, signs)
        image.SetOrigin((image.GetOrigin()[0] + shift, *image.GetOrigin()[1:]))
        image.SetSpacing((np.array(image.GetSpacing()) * size).tolist())
        sitk.WriteImage(image, str(tmp_path / "x.nrrd"))
        return read(tmp_path / "x.nrrd")

    for axes, signs in (((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))):
        for shift in (0, 0.04, -0.049):  # mm; a tenth of a voxel is 0.05
            combine(whole := scan(1), scan(0, axes, signs, shift), scan(2))
            assert np.array_equal(whole.slices, np.moveaxis(voxels, 0, 3).swapaxes(0, 2)) and not whole.grey
    combine(without := scan(1), None, scan(2))
    assert np.array_equal(without.slices, np.array(whole.slices)[..., [1, 1, 2]])
    for pre, message in (
        (scan(0, size=2), "lies elsewhere in space"),
        (scan(0, (2, 0, 1), (-1, 1, -1), shift=0.06), "lies elsewhere in space"),
        (scan(2, slices=3), "has 3 slices of 8x6, but .* has 4 slices of 8x6"),
        (whole, "more than one sequence"),
    ):
        (problem,) = check_sequence(scan(1), pre)
        assert re.search(message, problem)


# --- DICOM -----------------------------------------------------------------------------------------------------


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
    low, high = np.percentile(pixels, (0.5, 99.5)).astype(np.float32)
    assert np.array_equal(np.array(scan.slices)[..., 1], ((pixels - low) / (high - low) * 255).clip(0, 255).round())
    assert scan.name == "P1" and scan.spacing == (2, 0.5, 5) and scan.paths == [tmp_path / "P1"]


def test_values_are_rescaled_slice_by_slice(tmp_path):
    for number, slope in enumerate((b"1 ", b"0.37", b"4 ")):
        path = tmp_path / str(number)
        write_slice(path, np.full((2, 2), 60, np.uint16), (0, 0, number))
        texts = ((0x1052, b"-%d" % number), (0x1053, slope))  # intercept and slope, before the pixels
        added = b"".join(struct.pack("<HHI", 0x28, tag, len(text)) + text for tag, text in texts)
        content = re.sub(rb"\x28\0\x52\x10.*(?=\xe0\x7f\x10\0)", b"", path.read_bytes(), flags=re.DOTALL)  # GDCM's own
        path.write_bytes(content.replace(b"\xe0\x7f\x10\0", added + b"\xe0\x7f\x10\0"))
    pixels, *_ = medical.read_series(sorted(tmp_path.iterdir()))
    assert pixels.dtype == np.float32 and pixels[:, 0, 0] == pytest.approx([60, 60 * 0.37 - 1, 238])


def test_masks_are_nifti_on_the_grid_of_the_series_and_name_nobody(tmp_path):
    scan = read_dicom(write_series(tmp_path / "P1"))
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[2, 0, 5] = 1  # the highest slice, its first row, its last column
    ((name, encode),) = mask_files(scan, list(masks)).items()
    (tmp_path / name).write_bytes(encode())
    mask = sitk.ReadImage(str(tmp_path / "P1_mask.nii.gz"))
    (index,) = np.argwhere(sitk.GetArrayFromImage(mask).T).tolist()
    assert mask.TransformIndexToPhysicalPoint(index) == (-1 + 0.5 * 5, -2, 3 + 5 * 2)
    assert mask.GetSpacing() == (0.5, 2, 5) and not any(word in encode() for word in (b"Doe", b"MRN", b"FLAIR"))


def test_a_sagittal_series_is_shown_in_axial_slices(tmp_path):
    for number in range(2):  # from right to left; rows run down, columns to the back
        plane = np.zeros((3, 4), np.uint16)
        plane[0, 3] = 900 * number  # left, at the top, at the back
        write_slice(tmp_path / "P1" / str(number), plane, (5.0 * number, 0, 0), ImageOrientationPatient=r"0\1\0\0\0\-1")
    scan = read_dicom(tmp_path / "P1")
    shown = np.array(scan.slices)[..., 1]
    assert shown.shape == (3, 4, 2) and np.argwhere(shown).tolist() == [[2, 3, 1]] and scan.spacing == (0.5, 5, 2)


def test_several_series_are_told_apart_by_description_or_one_is_asked_for(tmp_path):
    folder = write_series(tmp_path / "P1")
    other = {"SeriesInstanceUID": "1.2.4", "SeriesNumber": "8", "SeriesDescription": "AX T1 POST"}
    write_slice(folder / "X", stack()[0], (0, 0, 0), **other)
    (patient,), problems, _ = find_patients([folder])
    assert problems == [] and {kind: len(paths) for kind, paths in patient.files.items()} == {FLAIR: 3, POST: 1}
    for series in ("7", "ax flair", "1.2.3"):
        assert len(find_patients([folder], series=series).patients[0].files[FLAIR]) == 3
    write_slice(folder / "X", stack()[0], (0, 0, 0), **other | {"SeriesDescription": "AX FLAIR FS"})
    for series, wrong in (("", ""), ("T2", "--series T2 names none of them. ")):
        (patient,), (problem,), _ = find_patients([folder], series=series)
        assert f"P1: holds 2 series. {wrong}Say which one is FLAIR: --series" in problem and not patient.items
        assert "7 AX FLAIR, 3 files; 8 AX FLAIR FS, 1 files" in problem
        assert [reason for _, reason in patient.unused] == ["not chosen as FLAIR"] * 2


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
        assert [item.series.description for item, _ in patient.unused] == ["AX T2", "LOCALIZER"]
    assert [patient.name for patient in find_patients([tmp_path / "other"]).patients] == ["a", "b"]


def test_a_dead_link_among_the_slices_of_a_series_refuses_it_alone(tmp_path):
    for patient in ("P1", "P2"):
        write_series(tmp_path / patient)
    (tmp_path / "P1" / "IMZ.dcm").symlink_to(tmp_path / "never fetched")
    patients, problems, _ = find_patients([tmp_path])
    (scan, more), (other, none) = map(read_patient, patients)
    assert problems == [] and scan is None and "IMZ.dcm" in more[0] and len(other.slices) == 3 and not none


@pytest.mark.parametrize(
    ("position", "changes", "message"),
    [
        ((-1, -2, 8), {}, "lie at one position"),
        ((-1, -2, 33), {}, "its slices are 5 mm apart, but 20 mm between IMB and X. Restore the slices"),
        ((-1, -2, 18), {"size": "0.6"}, "differ in PixelSpacing"),
        ((-1, -2, 18), {"ImageOrientationPatient": r"0\1\0\1\0\0"}, "differ in ImageOrientationPatient"),
    ],
)
def test_what_is_no_even_stack_is_refused(tmp_path, position, changes, message):
    folder = write_series(tmp_path / "P1")
    write_slice(folder / "X", stack()[0], position, **changes)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b"MONOCHROME2 ", b"MONOCHROME1 ", "is not grey with black as 0"),
        (b"\x28\x00\x10\x00\x02\x00\x00\x00\x04\x00", b"\x28\x00\x10\x00\x02\x00\x00\x00\xff\x00", "IMA is cut off"),
        (b"\x20\x00\x32\x00", b"\x20\x00\x33\x00", "does not say its ImagePositionPatient"),
    ],
)
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
