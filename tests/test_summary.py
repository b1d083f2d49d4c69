"""Tables and metrics of hand-made masks: empty, full, one pixel, at the border, with several components."""

import numpy as np
import pytest
from conftest import box, make_slices

from evaluation import failures, metrics, summary
from evaluation.tables import make_tables

FULL = box((0, 0, 256, 256))
# patient -> (reference mask, predicted mask) of each slice
CASES = {
    "TCGA_AA_0001_19990101": [
        (box(), box()),  # rightly empty
        (box(), box((0, 0, 3, 4))),  # 12 px where nothing is, at the border
        (box((10, 10, 20, 20)), box((10, 10, 20, 10))),  # half of 400 px
        (box((10, 10, 30, 30), (100, 100, 20, 20)), box((10, 10, 30, 30))),  # 900 px found, 400 px missed
    ],
    "TCGA_BB_0002_19990101": [
        (FULL, FULL),
        (box((128, 128, 1, 1)), box()),  # one pixel, missed
        (box((0, 0, 40, 40)), box((216, 216, 40, 40))),  # 1,600 px in one corner, predicted in the opposite one
    ],
    "SYNTH": [(box(), box())],  # no tumour at all
}


@pytest.fixture(scope="module")
def tables() -> dict:
    """The tables of CASES; head pixels are not counted."""
    images = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    images[:4, ..., 2] = images[:4, ..., 1]  # the first patient has no post-contrast sequence
    slices = make_slices({patient: [mask for mask, _ in pairs] for patient, pairs in CASES.items()}, images)
    made = make_tables(slices, np.stack([predicted for pairs in CASES.values() for _, predicted in pairs]))
    return made | {"patients": made["patients"].assign(head_pixels=0, brier=np.nan)}


def test_slices_by_hand(tables):
    s = tables["slices"]
    assert s["slice"].tolist() == [1, 2, 3, 4, 1, 2, 3, 1]
    assert s["tumour_pixels"].tolist() == [0, 0, 400, 1300, 65536, 1, 1600, 0]
    assert s["predicted_pixels"].tolist() == [0, 12, 200, 900, 65536, 0, 1600, 0]
    assert s["iou"].tolist() == [1, 0, 0.5, 9 / 13, 1, 0, 0, 1]
    assert s["dice"].tolist() == [1, 0, 400 / 600, 1800 / 2200, 1, 0, 0, 1]
    np.testing.assert_array_equal(s["hd95"].isna(), [True, True, False, False, False, True, False, True])
    assert s["hd95"].iloc[2] == 10 and s["hd95"].iloc[4] == 0  # the edge of 20 px that is off is more than 5%
    assert 60 * 2**0.5 < s["hd95"].iloc[3] < 80 * 2**0.5 and 176 * 2**0.5 < s["hd95"].iloc[6] < 216 * 2**0.5
    np.testing.assert_array_equal(s["surface_dice_2"].isna(), [True, False, False, False, False, False, False, True])
    assert s["surface_dice_2"].iloc[[1, 4, 5, 6]].tolist() == [0, 1, 0, 0]


def test_patients_by_hand(tables):
    p = tables["patients"].set_index("patient")
    assert list(p.index) == ["SYNTH", "TCGA_AA_0001_19990101", "TCGA_BB_0002_19990101"]
    assert p["institution"].tolist() == ["unknown", "AA", "BB"]
    assert p["sequences"].tolist() == ["all three", "no post-contrast", "all three"]
    assert p["slices"].tolist() == [1, 4, 3] and p["tumour_slices"].tolist() == [0, 2, 3]
    assert p["tumour_pixels"].tolist() == [0, 1700, 67137] and p["predicted_pixels"].tolist() == [0, 1112, 67136]
    assert p["dice"].tolist() == [1, 2 * 1100 / (1700 + 1112), 2 * 65536 / (67137 + 67136)]
    np.testing.assert_array_equal(p["sensitivity"], [np.nan, 1100 / 1700, 65536 / 67137])
    np.testing.assert_array_equal(p["precision"], [np.nan, 1100 / 1112, 65536 / 67136])
    assert p["missed_slices"].tolist() == [0, 0, 2] and p["false_positive_slices"].tolist() == [0, 1, 0]
    assert p["lesions"].tolist() == [0, 2, 2]  # in AA both slices' squares at (10, 10) are one lesion
    assert p["lesions_found"].tolist() == [0, 1, 1] and p["false_lesions"].tolist() == [0, 0, 1]


def test_lesions_by_hand(tables):
    rows = tables["lesions"].set_index(["patient", "lesion"])
    assert len(rows) == 4
    first = rows.loc["TCGA_AA_0001_19990101", 1]
    assert [first["first_slice"], first["last_slice"], first["volume"], first["overlap"]] == [3, 4, 1300, 1100]
    assert first["found"] == 1 and first["dice"] == 2 * 1100 / (1300 + 1100)
    second = rows.loc["TCGA_AA_0001_19990101", 2]
    assert [second["first_slice"], second["volume"], second["found"], second["dice"]] == [4, 400, 0, 0]
    assert rows.loc["TCGA_BB_0002_19990101", "volume"].tolist() == [65537, 1600]  # the pixel touches the full slice


def test_metrics_by_hand(tables):
    found = {name: estimate["value"] for name, estimate in summary.estimate_metrics(tables).items()}
    p = tables["patients"]
    expected = {
        "iou": (1 + 0 + 0.5 + 9 / 13 + 1 + 0 + 0 + 1) / 8,
        "empty_prediction": 3 / 8,
        "tumour_iou": (0.5 + 9 / 13 + 1) / 5,
        "tumour_found": 3 / 5,
        "false_positive_share": 1 / 3,
        "false_positive_area": 12,
        "patient_dice": p["dice"].mean(),
        "patient_dice_tumour": p["dice"].iloc[1:].mean(),
        "patient_dice_median": p["dice"].iloc[2],
        "lesion_recall": 2 / 4,
        "lesion_precision": 2 / 3,  # AA one, BB one and a false one
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    counts = metrics.Counts(*(tables["slices"][name].to_numpy() for name in metrics.Counts._fields))
    from_counts = metrics.summarise(counts, tables["slices"]["patient"])  # as training prints them
    assert {name: found[name] for name in from_counts} == pytest.approx(from_counts)


def test_subgroups_by_hand(tables):
    rows = {(row["by"], row["group"]): row for row in failures.subgroup_metrics(tables)}
    area = {group: rows["area", group] for group in ("<200", "200-500", "1k-2k", ">2k")}
    assert [row["slices"] for row in area.values()] == [1, 1, 2, 1] and ("area", "500-1k") not in rows
    assert [row["found"] for row in area.values()] == [0, 1, 0.5, 1]
    assert area["1k-2k"]["tumour_iou"] == pytest.approx(9 / 26) and area["1k-2k"]["patients"] == 2
    assert rows["sequences", "no post-contrast"]["slices"] == 2 and rows["sequences", "all three"]["slices"] == 3
    assert np.isnan(rows["area", ">2k"]["tumour_iou_low"])  # one patient has no interval
    row = rows["institution", "AA"]
    assert (row["patients"], row["slices"]) == (1, 2) and np.isnan(row["dice_low"])
    assert row["dice"] == pytest.approx((2 / 3 + 18 / 22) / 2)
    assert ("institution", "unknown") not in rows  # has no tumour


def test_a_missing_slice_separates_lesions_and_the_order_of_the_rows_does_not_matter():
    square = box((0, 0, 10, 10))
    slices = make_slices({"a": [square] * 4})
    for numbers, lesions in (((1, 2, 3, 4), 1), ((7, 8, 10, 11), 2), ((1, 1000, 2, 1001), 2)):
        slices.table["image_path"] = [f"a/a_{n}.tif" for n in numbers]
        tables = make_tables(slices, np.stack([square] * 4))
        assert tables["patients"]["lesions"].tolist() == [lesions]
        assert tables["lesions"]["last_slice"].tolist()[-1] == max(numbers)
        assert tables["lesions"]["dice"].tolist() == [1] * lesions


def test_no_iou_is_printed_without_that_of_an_empty_prediction(tables):
    result = summary.summarise(tables, [], {"split": "test", "loss": 0.25}, ["a note"])
    lines = summary.describe(result, tables["patients"]).splitlines()
    assert len(lines) < 45 and max(map(len, lines)) <= 120
    (row,) = (n for n, line in enumerate(lines) if summary.METRICS["empty_prediction"].label in line)
    assert "0.375" in lines[row] and summary.METRICS["iou"].label in lines[row - 1]
