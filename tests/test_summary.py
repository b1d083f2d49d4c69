"""Tables, metrics, lesions and failures of hand-made masks: empty, full, one pixel, at the border, in several parts."""

import math

import numpy as np
import pytest
import torch
from conftest import box, make_slices

from evaluation import failures, lesions, metrics, summary
from evaluation.lesions import match
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
    for numbers, number in (((1, 2, 3, 4), 1), ((7, 8, 10, 11), 2), ((1, 1000, 2, 1001), 2)):
        slices.table["image_path"] = [f"a/a_{n}.tif" for n in numbers]
        tables = make_tables(slices, np.stack([square] * 4))
        assert tables["patients"]["lesions"].tolist() == [number]
        assert tables["lesions"]["last_slice"].tolist()[-1] == max(numbers)
        assert tables["lesions"]["dice"].tolist() == [1] * number


def test_no_iou_is_printed_without_that_of_an_empty_prediction(tables):
    result = summary.summarise(tables, [], {"split": "test", "loss": 0.25}, ["a note"])
    lines = summary.describe(result, tables["patients"]).splitlines()
    assert len(lines) < 45 and max(map(len, lines)) <= 120
    (row,) = (n for n, line in enumerate(lines) if summary.METRICS["empty_prediction"].label in line)
    assert "0.375" in lines[row] and summary.METRICS["iou"].label in lines[row - 1]


def test_count_pixels():
    target = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    predicted = target.clone()
    target[0, 0, :2, :3] = True  # 6 pixels
    predicted[0, 0, 1:3, :2] = True  # 4 pixels, 2 of them inside
    counts = metrics.count_pixels(predicted, target)
    assert [part.tolist() for part in counts] == [[2, 0], [2, 0], [4, 0]]
    for other in (target[:, 0], target[:1], target.byte()):  # the first two would be broadcast silently
        with pytest.raises(ValueError, match="must be bool tensors of one shape"):
            metrics.count_pixels(other, target)


def test_without_tumour_slices_their_metrics_are_nan_rather_than_perfect():
    found = metrics.summarise(metrics.Counts(np.array([0]), np.array([0]), np.array([0])), ["a"])
    assert math.isnan(found["tumour_iou"]) and math.isnan(found["tumour_found"]) and found["iou"] == 1


# --- Lesions and outlines ---------------------------------------------------------------------------------------------


def test_matching_of_components_in_a_plane():
    mask = box((10, 10, 10, 10), (50, 50, 8, 10), (100, 100, 7, 7))  # 100 and 80 px; 49 px are too few to count
    predicted = box((10, 10, 10, 5), (57, 50, 1, 7), (200, 200, 5, 12), (220, 220, 7, 7))  # 50 px, 7 px, 60 px, 49 px
    found, components, false = match(mask[None], predicted[None])
    assert found["volume"].tolist() == [100, 80] and found["overlap"].tolist() == [50, 7]
    assert found["found"].tolist() == [1, 0]  # half of it; less than a tenth
    assert found["dice"].tolist() == [2 * 50 / (100 + 50), 2 * 7 / (80 + 7)]
    assert (components, false) == (2, 1)  # the components of 7 and 49 px do not count
    mask = box((0, 0, 10, 10))[None]
    assert match(mask, box((0, 0, 1, 10))[None])[0]["found"].tolist() == [1]  # a tenth is enough
    assert match(mask, box((0, 0, 1, 9))[None])[0]["found"].tolist() == [0]
    found, *counts = match(box((0, 0, 10, 10), (0, 20, 10, 10))[None], box((0, 0, 10, 30))[None])
    assert found["found"].tolist() == [1, 1] and found["dice"].tolist() == [2 * 100 / (100 + 300)] * 2
    assert counts == [1, 0]


def test_matching_in_a_stack():
    mask = np.zeros((6, 32, 32), np.uint8)
    predicted = mask.copy()
    mask[0:3, :5, :5] = 1  # 75 px over planes 0 to 2
    mask[3, 5:15, 5:15] = 1  # touches it at a corner only: the same lesion, 175 px
    mask[5, 20:30, 20:25] = 1  # 50 px, apart
    mask[5, 0, 0] = 1
    predicted[1, :5, :5] = 1
    found, *counts = match(mask, predicted)
    assert found["first_slice"].tolist() == [0, 5] and found["last_slice"].tolist() == [3, 5]
    assert found["volume"].tolist() == [175, 50] and found["overlap"].tolist() == [25, 0]
    assert found["found"].tolist() == [1, 0] and counts == [0, 0]  # 25 px are too few


def test_outlines_by_hand():
    """5x5 against the same 3 px to the right: 16 surface pixels each, of which 11 are within 2 px of the other."""
    # top and bottom row: 3, 2, 1, 0, 0 px off, so 4 each; left column between them: 3 px off, so none;
    # right column between them: 1 px off, so 3
    assert [*lesions.compare_outlines(box((10, 10, 5, 5)), box((10, 13, 5, 5))).values()] == [3, 32, 11 / 16]
    pixels = box((10, 10, 1, 1)), box((13, 14, 1, 1))  # 3 down, 4 to the right
    assert [*lesions.compare_outlines(*pixels).values()] == [5, 2, 0]
    empty, full = box(), box((0, 0, 256, 256))
    for pair in ((empty, full), (full, empty)):
        assert [*lesions.compare_outlines(*pair).values()][1:] == [4 * 255, 0]
    nothing = lesions.compare_outlines(empty, empty)
    assert nothing.pop("surface_pixels") == 0 and np.isnan([*nothing.values()]).all()


def test_surfaces_in_mm_by_hand():
    mask = np.zeros((5, 9, 9), np.uint8)
    mask[2, 4, 4] = 1
    moved = np.roll(mask, (1, 2), (0, 1))  # one slice and two rows away
    distance, nan = np.hypot(4, 2 * 0.5), np.nan
    cube = np.ones((5, 9, 9), np.uint8)
    for one, other, expected in (
        (mask, moved, (distance, distance, 0)),
        (mask, np.roll(mask, 1, 2), (1, 1, 1)),
        (cube, cube, (0, 0, 1)),
        (mask, mask * 0, (nan, nan, 0)),
        (mask * 0, mask * 0, (nan, nan, nan)),
    ):
        found = lesions.compare_surfaces(one, other, (0.5, 1, 4))  # mm of rows, columns and slices
        assert [*found.values()] == pytest.approx(expected, nan_ok=True)


# --- Failures ---------------------------------------------------------------------------------------------------------


def by_kind(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict]:
    slices = make_slices({"TCGA_AA_0001_19990101": [mask for mask, _ in pairs]})
    tables = make_tables(slices, np.stack([predicted for _, predicted in pairs]))
    return {row["kind"]: row for row in failures.list_failures(tables["slices"])}


# name -> (a slice that fails, one that does not but could)
RULES = {
    "small tumour missed": ((box((10, 10, 20, 20)), box()), (box((10, 10, 20, 20)), box((10, 10, 1, 1)))),
    "larger tumour missed": ((box((9, 9, 30, 30)), box((99, 99, 9, 9))), (box((9, 9, 30, 30)), box((9, 9, 9, 9)))),
    "size of a large tumour off": (
        (box((0, 0, 50, 50)), box((0, 0, 50, 37))),  # 26% too small
        (box((0, 0, 50, 50)), box((0, 0, 50, 62))),  # 24% too large
    ),
    "false positive in an empty slice": ((box(), box((0, 0, 1, 1))), (box(), box())),
}


@pytest.mark.parametrize("kind", RULES)
def test_each_rule(kind):
    """A slice of another kind cannot fail like this: it is not among those of which failures are counted."""
    fails, passes = RULES[kind]
    other = (box((9, 9, 20, 20)), box()) if kind == "false positive in an empty slice" else (box(), box())
    rows = by_kind([passes, fails, other])
    assert rows.keys() == RULES.keys()
    row = rows[kind]
    assert (row["count"], row["of"], row["patients"]) == (1, 2, 1)
    (example,) = row["examples"]
    assert example["slice"] == 2 and example["image_path"].endswith("_2.tif")


def test_the_worst_come_first():
    sizes = [3, 7, 5, 4, 9, 8, 6]
    row = by_kind([(box(), box((0, 0, size, 1))) for size in sizes])["false positive in an empty slice"]
    assert row["count"] == 7 and [example["predicted_pixels"] for example in row["examples"]] == [9, 8, 7, 6]
