"""Files of medical images: how volumes lie, what headers leave open, DICOM series, and masks on the input's grid."""

import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_scans import read, refusal

from scans import medical
from scans.masks import read_masks
from scans.write import encode_stack

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
        assert medical.outline([tmp_path / f"x{kind}"]) == (3, pytest.approx(spacing, abs=1e-5))
        turn = complex(2 * 0.5, 3 * 0.75) * np.exp(1j * oblique)
        assert (grid.affine @ (2, 3, 1, 1))[:3] == pytest.approx([turn.real - 20, turn.imag + 10, 9], abs=1e-4)
        (tmp_path / "m.nii.gz").write_bytes(medical.encode((slices > 450).astype(np.uint8), grid))
        mask = sitk.ReadImage(str(tmp_path / "m.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(image) > 450)
        for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(mask, geometry)() == pytest.approx(getattr(image, geometry)(), abs=1e-4)


# --- NIfTI -----------------------------------------------------------------------------------------------------


FIELDS = {"pixdim": (76, "<8f"), "xyzt_units": (123, "<B"), "qform_code": (252, "<h"), "sform_code": (254, "<h"),
          "quatern": (256, "<3f"), "qoffset": (268, "<3f"), "srow": (280, "<12f")}  # fmt: skip
MATRIX = np.array(((2, 0, 0, -3), (0, 2, 0, 7), (0, 0, 5, 1)))


def nifti(path: Path, voxels: np.ndarray, **changes) -> Path:
    """Write voxels [X, Y, Z, ...] of 2 x 2 x 5 mm, which run to the right, front and up, with changes of the header."""
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(voxels.T), isVector=False), str(path))
    content = bytearray(path.read_bytes())
    fields = {"pixdim": (1, 2, 2, 5, 1, 1, 1, 1), "qform_code": 1, "sform_code": 1, "quatern": (0, 0, 0)}
    for name, value in (fields | {"qoffset": (-3, 7, 1), "srow": MATRIX} | changes).items():
        offset, form = FIELDS[name]
        struct.pack_into(form, content, offset, *np.ravel(value).tolist())
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_nifti_file_as_it_is_shown_and_cut_off(tmp_path, packed):
    voxels = np.random.default_rng(0).integers(0, 999, (20, 30, 4)).astype(np.int16)
    path = nifti(tmp_path / "x.nii", voxels)
    if packed:
        path = path.with_suffix(".nii.gz")
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    slices, spacing, grid = medical.read_volume(path)
    assert np.array_equal(slices, voxels.T[:, ::-1, ::-1]) and spacing == (2, 2, 5)
    assert grid.affine.tolist() == [[2, 0, 0, -35], [0, 2, 0, -65], [0, 0, 5, 1], [0, 0, 0, 1]]
    for size in (100, 400, path.stat().st_size - 9):
        (tmp_path / f"cut_{path.name}").write_bytes(path.read_bytes()[:size])
        assert "cut off" in refusal(tmp_path / f"cut_{path.name}")
    if packed:
        path.write_bytes(path.read_bytes()[:-8] + bytes(8))  # another checksum
        assert "damaged" in refusal(path)


def test_the_matrix_goes_before_the_quaternion_and_a_sheared_one_is_refused(tmp_path):
    """ITK would take the quaternion, a quarter turn, of this header."""
    voxels = np.random.default_rng(0).integers(0, 999, (4, 6, 2)).astype(np.int16)
    other = {"sform_code": 2, "quatern": (0, 0, np.sqrt(0.5)), "qoffset": (50, 60, 70)}
    path = nifti(tmp_path / "x.nii", voxels, **other)
    slices, _, grid = medical.read_volume(path)
    assert np.array_equal(slices, voxels.T[:, ::-1, ::-1]) and grid.affine[:3, 3].tolist() == [-3, -17, 1]
    (tmp_path / "mask.nii.gz").write_bytes(medical.encode((slices > 450).astype(np.uint8), grid))
    mask = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mask).T, voxels > 450) and mask.GetOrigin() == (3, -7, 1)
    nifti(path, voxels, **other | {"sform_code": 0})
    assert np.array_equal(medical.read_volume(path)[0], voxels.transpose(2, 0, 1)[:, ::-1, :])
    for code in (0, 1):  # with and without a quaternion, which ITK would take
        sheared = nifti(path, voxels, qform_code=code, srow=((2, 0, 0, 0), (0, 2, 1, 0), (0, 0, 5, 0)))
        assert "its axes are not at right angles" in refusal(sheared)
    nifti(path, voxels, srow=MATRIX * 1000, pixdim=(1, 2e3, 2e3, 5e3, 1, 1, 1, 1), xyzt_units=3)
    assert medical.read_volume(path)[1] == pytest.approx((2, 2, 5))


def test_a_header_that_does_not_say_how_the_volume_lies_gives_no_spacing_and_so_does_the_mask(tmp_path):
    voxels = np.zeros((4, 6, 2), np.uint8)
    voxels[3, 0, 1] = 250
    nifti(tmp_path / "x.nii", voxels, sform_code=0, qform_code=0)
    scan = read(tmp_path / "x.nii")
    assert scan.spacing is None and np.argwhere(np.array(scan.slices)[..., 0]).tolist() == [[1, 5, 3]]
    assert medical.outline([tmp_path / "x.nii"]) == (2, ())
    masks = (scan.slices[..., 1] == 250).astype(np.uint8)
    mask = gzip.decompress(encode_stack(scan, masks, "mask")["scan_mask.nii.gz"])
    assert mask[252:256] == bytes(4) and mask[352:] == (voxels // 250).tobytes("F")


def test_three_sequences_in_one_file(tmp_path):
    voxels = np.random.default_rng(3).integers(0, 255, (8, 6, 2, 3), dtype=np.uint8)
    left_back = ((-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0))
    nifti(tmp_path / "plain.nii", voxels, srow=left_back)
    nifti(tmp_path / "itk.nii", voxels[:, :, :, None], srow=left_back)
    vector = sitk.GetImageFromArray(voxels.swapaxes(0, 2), isVector=True)
    stack = sitk.JoinSeries([sitk.VectorIndexSelectionCast(vector, n) for n in range(3)])
    for name, image in (("vector.nrrd", vector), ("vector.mha", vector), ("stack.mha", stack), ("stack.nrrd", stack)):
        sitk.WriteImage(image, str(tmp_path / name))
    (tmp_path / "X.MHA").write_bytes((tmp_path / "vector.mha").read_bytes())
    for path in tmp_path.iterdir():
        scan = read(path)
        assert np.array_equal(scan.slices, voxels.swapaxes(0, 2)) and not scan.grey, path
        (mask,) = encode_stack(scan, scan.slices[..., 0] // 255, "mask").values()
        assert struct.unpack_from("<8h", gzip.decompress(mask), 40) == (3, 8, 6, 2, 1, 1, 1, 1)
    sitk.WriteImage(sitk.GetImageFromArray(voxels[..., :2].swapaxes(0, 2), isVector=True), str(tmp_path / "two.nrrd"))
    assert "(8, 6, 2, 2). Save one volume: FLAIR, or pre-contrast, FLAIR and" in refusal(tmp_path / "two.nrrd")
    for shape in ((8, 6, 2, 4), (8, 6, 2, 1, 4)):
        nifti(tmp_path / "x.nii", np.zeros(shape, np.uint8))
        assert f"has the shape {shape}. Save one volume" in refusal(tmp_path / "x.nii")


# --- NRRD and MetaImage ----------------------------------------------------------------------------------------


def test_a_segmentation_of_slicer_with_several_layers_is_a_mask(tmp_path):
    layers = np.zeros((2, 6, 8, 2), np.uint8)
    layers[0, 1, 2, 0], layers[1, 3, 4, 1] = 3, 1
    sitk.WriteImage(sitk.GetImageFromArray(layers, isVector=True), str(tmp_path / "Segmentation.seg.nrrd"), True)
    read = read_masks("P1", [tmp_path / "Segmentation.seg.nrrd"]).masks
    assert np.argwhere(read).tolist() == [[0, 1, 2], [1, 3, 4]]


def test_nrrd_that_does_not_say_how_it_lies_has_no_spacing(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)), str(tmp_path / "x.nrrd"))
    assert read(tmp_path / "x.nrrd").spacing == (1, 1, 1)
    header, content = (tmp_path / "x.nrrd").read_bytes().split(b"\n\n", 1)
    lines = [line for line in header.split(b"\n") if not line.startswith(b"space")]
    (tmp_path / "x.nrrd").write_bytes(b"\n".join(lines) + b"\n\n" + content)
    scan = read(tmp_path / "x.nrrd")
    assert scan.spacing is None and np.array_equal(np.array(scan.slices)[..., 0].argsort(None), np.arange(24))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_files_cut_short_are_one_error(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    sitk.WriteImage(turned(np.ones((9, 9, 9), np.int16), (0, 1, 2), (1, 1, 1)), str(path))
    whole = path.read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        assert "is damaged, cut off or of another kind" in refusal(path)
