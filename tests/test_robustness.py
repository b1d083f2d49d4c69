"""Patients in other forms: the same mask, on the grid that the form names."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from conftest import draw_patient, make_patients, make_slices, write_split

from studies import robustness
from studies.robustness import FORMS, write_patient


@pytest.mark.parametrize("form", FORMS)
def test_forms_hold_the_same_patient(form, tmp_path):
    images, masks = draw_patient(0)
    write_patient(tmp_path, make_slices({"a": list(masks)}, images), form)
    read = {path.name.split(".")[0]: sitk.ReadImage(str(path)) for path in (tmp_path / "a").iterdir()}
    assert set(read) == ({"flair", "seg"} if "alone" in form else {"t1", "flair", "t1ce", "seg"})
    mask, flair = (sitk.DICOMOrient(read[name], "LPS") for name in ("seg", "flair"))
    depth, width = 5 if form in robustness.THIN else 1, robustness.THICK if form == "sagittal" else 1
    voxels = int(sitk.GetArrayFromImage(mask).sum()) * width
    assert voxels == pytest.approx(depth * int(masks.sum()), rel=0.02 if width > 1 else 0)
    assert mask.GetSpacing() == pytest.approx((0.9 * width, 0.9, 5 / depth))
    assert mask.GetSize() == (256 // width, 256, 4 * depth)
    if width > 1:
        return
    pixels = sitk.GetArrayFromImage(flair)[depth // 2 :: depth]
    inside = masks > 0
    assert np.corrcoef(pixels[inside], images[..., 1][inside])[0, 1] > (0.8 if "half" in form else 0.95)
    if "stripped" in form:
        assert (pixels > 0).sum() < (images[..., 1] > 0).sum()


def test_dice_of_a_form(tmp_path, capsys):
    data = make_patients(tmp_path / "kaggle_3m", patients=3, slices=2)
    split = write_split(tmp_path, "train", "validation", "test")
    arguments = ["--data", data, "--split", split, "--out", tmp_path / "out", "--forms", "as they are", "FLAIR alone"]
    robustness.main(list(map(str, arguments)))
    table = pd.read_csv(tmp_path / "out" / "robustness.csv")
    assert table["patient"].tolist() == ["SYNTH_T_1"] * 2 and table["form"].tolist() == ["as they are", "FLAIR alone"]
    assert table["dice"].between(0, 1).all() and "| FLAIR alone | 1 |" in capsys.readouterr().out
