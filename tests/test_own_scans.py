"""The page of one's own scans, what to check first, and masks that a person corrected in the output folder."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from conftest import blob, write_volume
from test_predict import write_cohort

from reporting import scans as page
from scans import check
from scans.scan import Scan


def stacks_of(path: Path) -> list[dict]:
    """Return the stacks that a page shows."""
    return json.loads(page.DATA.search(path.read_text(encoding="utf-8"))[1])["patients"]


# --- Corrections -------------------------------------------------------------------------------------------------


def test_a_corrected_mask_is_measured_as_it_is_and_replaced_only_if_asked(predict, tmp_path):
    path = write_volume(tmp_path / "case.nii.gz", np.stack([blob()[0][..., 1]] * 2), (0.5, 0.5, 4))
    out, edited = tmp_path / "out", tmp_path / "out" / "case" / "case_mask.nii.gz"
    assert predict(path)[0] == 0
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(edited)))
    mask[1, 60:70] = 0  # 600 of 2,400 px
    write_volume(edited, mask * 3, (0.5, 0.5, 4))
    content = edited.read_bytes()
    for words in ("case (corrected mask): 2 of 2 slices with lesion, 4,200 px", "2 slices done before"):
        code, said, err, _ = predict(path)  # it stays corrected
        assert (code, err) == (0, "") and words in said and edited.read_bytes() == content
        (row,) = pd.read_csv(out / "patients.csv").to_dict("records")
        assert (row["origin"], row["check"], row["lesion_pixels"]) == ("corrected", "no", 4200)
        assert pd.read_csv(out / "slices.csv")["lesion_pixels"].tolist() == [2400, 1800]
        (stack,) = stacks_of(out / "report.html")
        assert stack["maskName"] == "corrected mask" and sum(stack["slices"][1]["runs"][1::3]) == 1800
    said = predict(path, "--overwrite")[1]
    assert "4,800 px" in said and pd.read_csv(out / "patients.csv")["origin"].item() == "network"


def test_a_cohort_grows_and_only_new_scans_are_segmented(predict, tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.stack([blob()[0]]))
    assert predict(tmp_path / "a.npy")[0] == 0
    mask = tmp_path / "out" / "a" / "a_mask.npy"
    np.save(mask, np.load(mask).astype(np.float64))  # saved by another program
    code, said, err, out = predict(tmp_path / "a.npy", tmp_path / "b.npy")
    assert (code, err) == (0, "") and "1 slice with masks that were there, 1 slice segmented" in said
    table = pd.read_csv(out / "patients.csv")
    assert table["patient"].tolist() == ["a", "b"] and table["origin"].tolist() == ["corrected", "network"]
    np.save(mask, np.zeros((3, 9, 9)))
    code, _, err, _ = predict(tmp_path / "a.npy", tmp_path / "b.npy")
    said = "a_mask.npy: cannot be used: it has 3 slices of 9x9, the images have 1 slices of"
    assert code == 1 and said in err
    rows = pd.read_csv(out / "patients.csv")
    assert rows["check"][0] == "yes" and said in rows["warnings"][0] and said not in rows["warnings"][1]
    assert np.load(mask).shape == (3, 9, 9)


def test_a_mask_saved_under_another_name_is_not_passed_over_in_silence(predict, tmp_path):
    path = write_volume(tmp_path / "case.nii.gz", np.stack([blob()[0][..., 1]] * 2), (0.5, 0.5, 4))
    assert predict(path, "--probabilities")[0] == 0
    other = write_volume(tmp_path / "out" / "case" / "Segmentation.seg.nrrd", np.stack([blob()[1]] * 2))
    for _ in range(2):
        code, _, err, _ = predict(path)
        assert code == 1 and err.startswith(f"error: {other}: is not read") and "has case_mask.nii.gz." in err


def test_a_scan_that_was_replaced_is_segmented_anew_and_a_corrected_mask_of_it_is_doubted(predict, tmp_path):
    image, mask = blob()
    for bottom, spacing in ((100, ()), (80, ()), (80, (1, 1, 4))):
        np.save(tmp_path / "a.npy", np.stack([blob(bottom)[0]]))
        code, said, err, out = predict(tmp_path / "a.npy", *(("--spacing", *spacing) if spacing else ()))
        assert (code, err) == (0, "") and "1 slice segmented" in said
        assert pd.read_csv(out / "patients.csv")["lesion_pixels"].item() == blob(bottom)[1].sum()
    np.save(out / "a" / "a_mask.npy", np.stack([mask]))
    assert "have changed" not in predict(tmp_path / "a.npy", "--spacing", 1, 1, 4)[1]
    np.save(tmp_path / "a.npy", np.stack([image]))
    said = predict(tmp_path / "a.npy", "--spacing", 1, 1, 4)[1]
    assert "1 slice with masks that were there" in said and check.OTHER_IMAGES in " ".join(said.split())
    for number in range(2):
        (row,) = pd.read_csv(out / "patients.csv").to_dict("records")
        assert (row["origin"], row["lesion_pixels"], row["check"]) == ("corrected", mask.sum(), "yes")
        assert "have changed" in row["warnings"]
        os.utime(tmp_path / "a.npy", (number, number))  # so that it is measured again
        predict(tmp_path / "a.npy", "--spacing", 1, 1, 4)
    np.save(out / "a" / "a_mask.npy", np.stack([mask * 3]))  # looked at again
    predict(tmp_path / "a.npy", "--spacing", 1, 1, 4)
    assert pd.read_csv(out / "patients.csv")["check"].item() == "no"


def test_of_a_scan_that_was_replaced_nothing_old_is_left(predict, tmp_path):
    np.save(tmp_path / "a.npy", np.stack([blob()[0]]))
    out = predict(tmp_path / "a.npy", "--probabilities")[3]
    assert (out / "a" / "a_probability.npy").is_file()
    np.save(tmp_path / "a.npy", np.stack([blob(80)[0]]))
    predict(tmp_path / "a.npy")
    assert sorted(path.name for path in (out / "a").iterdir()) == [
        "a_mask.json", "a_mask.npy", "a_overlay.png", "a_report.html"]  # fmt: skip


# --- What to check first -----------------------------------------------------------------------------------------


def test_the_order_of_the_table():
    def total(patient: str, **about) -> dict:
        row = {"patient": patient, "origin": "network", "warnings": "", "lesion_pixels": 9}
        row |= {"expected_dice": 0.8, "low": 0.75} | about
        return row | {"check": check.needs_check(row)}

    rows = [total("fine"), total("less", expected_dice=0.75), total("warned", warnings="w"),
            total("low", expected_dice=0.3, low=0.2),
            total("unknown", expected_dice=None, low=None),
            total("empty", expected_dice=0.99, low=None, high=None, lesion_pixels=0),
            total("done", origin="corrected", expected_dice=0.1, low=0)]  # fmt: skip
    order = [row["patient"] for row in sorted(rows, key=page.first_to_check)]
    assert order == ["unknown", "empty", "low", "warned", "done", "less", "fine"]


def test_an_empty_mask_has_the_probability_that_it_is_right():
    total = {"patient": "p", "lesion_pixels": 0, "volume_ml": 0.0, "expected_dice": 0.987, "low": None, "high": None}
    total |= {"lesion_slices": 0, "slices": 3, "origin": "network", "warnings": "", "check": "yes"}
    assert page.cohort_table([total])["rows"][0]["Expected Dice"] == "0.99 (no lesion)"
    assert page.title_of(total) == "p, 0.0 ml"  # not like the Dice of a lesion
    index = page.render_page("cohort", [], [total], {}, "", [])
    assert "0.99 (no lesion)" in index and page.IF_EMPTY in index
    assert page.IF_EMPTY not in page.render_page("cohort", [], [total | {"expected_dice": None}], {}, "", [])


def test_an_unknown_expected_dice_has_a_reason():
    unknown, scan = {"expected_dice": None, "low": None, "warnings": ""}, Scan("p", [], [], [])
    assert page.describe_expected(unknown) == "unknown"
    assert page.scan_facts(scan, unknown, "FLAIR x")[0] == f"Expected Dice unknown. {page.UNLIKE}"
    warned = page.scan_facts(scan, unknown | {"warnings": "No head."}, "FLAIR x")
    assert warned[:2] == ["Warning: No head.", "Expected Dice unknown."]


# --- The page ----------------------------------------------------------------------------------------------------


def test_the_page_of_a_cohort_in_a_browser(predict, browser, tmp_path):
    cohort = write_cohort(tmp_path / "coh")
    code, said, err, out = predict(cohort)
    assert (code, err) == (0, "") and f"all of it on one page: {out / 'report.html'}" in said
    shown, wrong = browser.new_page(viewport={"width": 390, "height": 800}), []
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("console", lambda message: wrong.append(message.text))
    shown.goto((out / "report.html").resolve().as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    cells = shown.locator("tr[data-row=b] td").all_inner_texts()
    assert cells[:4] == ["yes", "2.4 ml", "1 of 2", "0.857"]  # 2 x 1800 / (2400 + 1800); noise for air is a warning
    assert "does not look like MR" in cells[-1]
    shown.click("tr[data-row=b] button")
    assert shown.inner_text("#stack-facts .warning").startswith("Warning: this does not look like MR")
    assert "b, 2.4 ml, Dice 0.857" in shown.locator("#patient option:checked").inner_text()
    marks = shown.locator("#stage .mark").all_text_contents()
    assert marks[:2] == ["R", "L"] and re.fullmatch(r"(10|20) mm", marks[2])
    assert "Voxels of 0.5 × 0.5 × 4 mm" in shown.inner_text("#stack-facts")
    assert shown.locator("#stage image").count() == 1
    shown.check("#show-probability")
    assert shown.locator("#stage image").count() == 2
    assert shown.inner_text("#readout dd[data-value='area, mm²']") == "600"
    shown.select_option("#patient", index=0)  # a, without a reference
    assert not shown.locator("#show-mask").is_visible() and wrong == []
    shown.set_viewport_size({"width": 1280, "height": 900})
    shown.goto((out / "b" / "b_report.html").resolve().as_uri())
    ends = [shown.locator(id).bounding_box() for id in ("#stage", "#next", "#worst")]  # all in one window
    assert max(box["y"] + box["height"] for box in ends) <= 900
    assert "All scans" in shown.inner_text("header") and "Network" in shown.inner_text("#viewer")
    shown.emulate_media(media="print")
    assert shown.inner_text("#shown").split() == ["reference", "mask", "prediction"]  # a key, and no dead controls
    shown.close()


def test_many_scans_have_pages_of_their_own_and_an_index(predict, tmp_path, monkeypatch):
    for name in ("a", "b c"):
        np.save(tmp_path / f"{name}.npy", np.stack([blob()[0]]))
    inputs = tmp_path / "a.npy", tmp_path / "b c.npy"
    for limit in ("MOST_PATIENTS", "MOST_BYTES"):  # known before the first scan, and only after it
        with monkeypatch.context() as patch:
            patch.setattr(page, limit, 1)
            out = predict(*inputs, "--overwrite")[3] if limit == "MOST_BYTES" else predict(*inputs)[3]
        assert 'href="b%20c/b%20c_report.html"' in (out / "report.html").read_text(encoding="utf-8")
        assert stacks_of(out / "report.html") == []
        for name in ("a", "b c"):
            (stack,) = stacks_of(out / name / f"{name}_report.html")
            assert stack["id"] == name
    assert re.findall(r'<tr data-row="([^"]+)"', (out / "report.html").read_text(encoding="utf-8")) == ["a", "b c"]
    predict(*inputs)
    assert len(stacks_of(out / "report.html")) == 2
