"""NIfTI volumes: how they lie, what their headers leave open, and sequences of several files on one grid."""

import gzip
import io

import numpy as np
import pytest
from test_scans import read, refusal

from scans import volumes
from scans.read import combine
from scans.scan import Scan

nibabel = pytest.importorskip("nibabel")


@pytest.mark.parametrize(("axes", "unit"), [("RAS", "mm"), ("LPS", "micron"), ("PIR", "unknown"), ("SAL", "meter")])
def test_nifti_is_shown_as_radiologists_expect_and_masks_return_to_its_grid(tmp_path, axes, unit):
    voxels = np.zeros((10, 12, 3), np.int16)  # right, front, up
    voxels[8, 11, 2] = 900  # far to the right, in front, on top
    plain = nibabel.Nifti1Image(voxels, np.diag([1.0, 1.5, 5.0, 1.0]))
    wanted = nibabel.orientations.axcodes2ornt(axes)
    volume = plain.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(plain.affine), wanted))
    volume.header.set_xyzt_units(unit)
    nibabel.save(volume, tmp_path / "scan.nii.gz")

    scan = read(tmp_path / "scan.nii.gz")
    shown = [plane[..., 1] == 255 for plane in scan.slices]
    assert np.argwhere(shown).tolist() == [[2, 0, 1]]  # on top; front above, the patient's right on the left
    assert scan.spacing == pytest.approx(np.array([1.5, 1, 5]) * {"micron": 0.001, "meter": 1000}.get(unit, 1))

    ((name, encode),) = volumes.mask_files(scan, [plane.astype(np.uint8) for plane in shown]).items()
    (tmp_path / name).write_bytes(encode())
    mask = nibabel.load(tmp_path / "scan_mask.nii.gz")
    assert np.array_equal(mask.affine, volume.affine) and mask.header.get_slope_inter() == (None, None)
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(volume.dataobj) > 0)


def test_nifti_values_are_scaled_as_its_header_says(tmp_path):
    volume = nibabel.Nifti1Image(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.diag([-1, -1, 1, 1]))
    volume.header.set_slope_inter(-2, 5)
    (tmp_path / "scan.nii").write_bytes(volume.to_bytes())
    scan = read(tmp_path / "scan.nii")
    assert scan.slices[0][0, 0, 0] == 255 and scan.slices[-1][-1, -1, 0] == 0  # 5 and -41
    assert "-40.77 becomes 0 and 4.77 becomes 255" in scan.notes[0]
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(volume.to_bytes()))
    header["srow_x"] = np.nan
    (tmp_path / "scan.nii").write_bytes(header.binaryblock + bytes(28))
    assert "how it lies in space" in refusal(tmp_path / "scan.nii")


def test_nifti_is_read_by_its_content_whatever_it_is_named(tmp_path):
    volume = nibabel.Nifti1Image(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.diag([-1, -1, 1, 1]))
    plain, packed = volume.to_bytes(), gzip.compress(volume.to_bytes())
    for name, content in (("a.nii", plain), ("b.nii", packed), ("c.nii.gz", plain), ("d.nii.gz", packed)):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(np.array(read(tmp_path / name).slices)[..., 0], np.arange(24).reshape(2, 3, 4).T)


@pytest.mark.parametrize("lost", ["codes", "spacing", "both", "spacing of the quaternion"])
def test_nifti_that_does_not_say_how_it_lies_has_no_spacing_and_its_mask_keeps_the_header(tmp_path, lost):
    voxels = np.zeros((4, 6, 2), np.uint8)
    voxels[3, 0, 1] = 250
    volume = nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 5, 1]))
    if lost in ("codes", "both"):
        volume.header["sform_code"] = volume.header["qform_code"] = 0
    if lost != "codes":
        volume.header["pixdim"][1:4] = volume.header["srow_z"][2] = 0
    if lost == "spacing of the quaternion":
        volume.header["sform_code"], volume.header["qform_code"] = 0, 1
    volume.header["vox_offset"] = 352
    (tmp_path / "x.nii").write_bytes(volume.header.binaryblock + bytes(4) + voxels.tobytes(order="F"))
    scan = read(tmp_path / "x.nii")
    assert scan.spacing is None and np.array(scan.slices).shape == (2, 6, 4, 3)
    masks = [(plane[..., 1] == 250).astype(np.uint8) for plane in scan.slices]
    (tmp_path / "mask.nii.gz").write_bytes(volumes.mask_files(scan, masks)["scan_mask.nii.gz"]())
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), voxels // 250)
    assert all(
        np.array_equal(mask.header[name], volume.header[name]) for name in ("srow_z", "sform_code", "qform_code")
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 6), "has the shape (8, 6): one slice. Save it as a picture or .npy, or as a volume [X, Y, 1]."),
        ((8, 6, 2, 4), "has the shape (8, 6, 2, 4): 4 volumes. Save FLAIR as a file of its own, and name the other"),
        ((8, 6, 2, 1, 4), "4 volumes"),
        ((8, 6, 2, 3, 2), "6 volumes"),
    ],
)
def test_nifti_of_other_shapes_is_refused_with_what_to_do(tmp_path, shape, message):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "x.nii")
    assert message in refusal(tmp_path / "x.nii")


def test_three_sequences_as_itk_stores_them(tmp_path):
    voxels = np.random.default_rng(3).integers(0, 255, (8, 6, 2, 3), dtype=np.uint8)
    plain = nibabel.Nifti1Image(voxels, np.diag([-1, -1, 1, 1]))
    vector = nibabel.Nifti1Image(voxels[:, :, :, None], plain.affine)
    vector.header.set_intent("vector")
    for name, volume in (("plain.nii", plain), ("vector.nii", vector)):
        nibabel.save(volume, tmp_path / name)
        scan = read(tmp_path / name)
        assert np.array_equal(scan.slices, voxels.swapaxes(0, 2)) and not scan.grey
    mask = volumes.mask_files(scan, [np.ones((6, 8), np.uint8)] * 2)["scan_mask.nii.gz"]()
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask))
    assert mask.shape == (8, 6, 2) and mask.header.get_intent()[0] == "none"


def test_sequences_are_combined_only_on_one_grid(tmp_path):
    voxels = np.random.default_rng(3).integers(0, 90, (3, 8, 6, 4), dtype=np.uint8)

    def scan(channel: int, size: float = 1, slices: int = 4) -> Scan:
        affine = np.diag([size, size, size, 1])
        nibabel.save(nibabel.Nifti1Image(voxels[channel, :, :, :slices], affine), tmp_path / "x.nii")
        return read(tmp_path / "x.nii")

    whole = combine(scan(1), scan(0), scan(2))
    assert np.array_equal(whole.slices, np.moveaxis(voxels, 0, 3)[::-1, ::-1].swapaxes(0, 2)) and not whole.grey
    without = np.array(combine(scan(1), None, scan(2)).slices)
    assert np.array_equal(without, np.array(whole.slices)[..., [1, 1, 2]])
    for others, message in (
        ((scan(0, size=2), None), "lies elsewhere in space"),
        ((None, scan(2, slices=3)), "has 3 slices of 8x6, but .* has 4 slices of 8x6"),
        ((whole, None), "more than one sequence"),
    ):
        with pytest.raises(ValueError, match=message):
            combine(scan(1), *others)


def test_sequences_in_another_order_of_axes_are_one_grid(tmp_path):
    voxels = np.random.default_rng(3).integers(0, 90, (8, 6, 4), dtype=np.uint8)
    flair = nibabel.Nifti1Image(voxels, np.diag([0.5, 0.5, 5, 1]))

    def other(axes: str, shift: float) -> Scan:
        wanted = nibabel.orientations.axcodes2ornt(axes)
        turned = flair.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(flair.affine), wanted))
        affine = turned.affine.copy()
        affine[0, 3] += shift
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), affine), tmp_path / "x.nii")
        return read(tmp_path / "x.nii")

    for axes in ("RAS", "LPS", "SPR"):
        for shift in (0, 0.04, -0.049):  # mm; a tenth of a voxel is 0.05
            assert np.array_equal(combine(other("RAS", 0), other(axes, shift), None).slices, other(axes, 0).slices)
        with pytest.raises(ValueError, match="lies elsewhere in space"):
            combine(other("RAS", 0), other(axes, 0.06), None)


def test_nifti_without_nibabel(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "nibabel", None)
    assert "pip install nibabel" in refusal(tmp_path / "x.nii")
