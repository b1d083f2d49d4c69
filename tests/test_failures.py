"""Each kind of failure by its rule, models that are bad in a known way, and metrics of subgroups."""

import numpy as np
import pytest
from conftest import box, make_slices

from evaluation import summary
from evaluation.failures import list_failures
from evaluation.tables import make_tables


def by_kind(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict]:
    slices = make_slices({"TCGA_AA_0001_19990101": [mask for mask, _ in pairs]})
    tables = make_tables(slices, np.stack([predicted for _, predicted in pairs]))
    return {row["kind"]: row for row in list_failures(tables.slices)}


def comb(top: int = 50) -> np.ndarray:
    """An outline that is anything but smooth: about 1,600 px."""
    return box((top, 50, 10, 100), *((top + 10, left, 50, 2) for left in range(50, 150, 10)))


# name -> (a slice that fails, one that does not but could)
RULES = {
    "small tumour missed": ((box((10, 10, 20, 20)), box()), (box((10, 10, 20, 20)), box((10, 10, 1, 1)))),
    "larger tumour missed": ((box((9, 9, 30, 30)), box((99, 99, 9, 9))), (box((9, 9, 30, 30)), box((9, 9, 9, 9)))),
    "component of a tumour missed": (
        (box((10, 10, 30, 30), (99, 99, 9, 9)), box((10, 10, 30, 30))),
        (box((10, 10, 30, 30), (99, 99, 9, 9)), box((10, 10, 30, 30), (99, 99, 3, 9))),
    ),
    "complex boundary simplified": ((comb(), box((50, 50, 60, 100))), (comb(), comb())),
    "size of a large tumour off": (
        (box((0, 0, 50, 50)), box((0, 0, 50, 37))),  # 26% too small
        (box((0, 0, 50, 50)), box((0, 0, 50, 62))),  # 24% too large
    ),
    "false positive in an empty slice": ((box(), box((0, 0, 1, 1))), (box(), box())),
    "false component beside a tumour": (
        (box((9, 9, 20, 20)), box((9, 9, 20, 20), (99, 99, 4, 4))),
        (box((9, 9, 20, 20)), box((9, 9, 20, 20), (99, 99, 3, 3))),  # 9 px are too few to count
    ),
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
    simpler = [(comb(), box((50, 50, 60, 100), (110, 50, 30, 2))), (comb(), box((50, 50, 60, 100)))]
    row = by_kind(simpler)["complex boundary simplified"]
    assert [example["slice"] for example in row["examples"]] == [2, 1]  # the simplest outline is the worst


@pytest.mark.parametrize("value", [0, 1])
def test_a_model_that_marks_nothing_or_everything(value):
    masks = [box(), box((60, 60, 14, 18)), box((60, 60, 30, 34)), box(), box()]
    slices = make_slices({"TCGA_AA_0001_19990101": masks})
    _, result = summary.evaluate_masks(slices, np.full((5, 256, 256), value, np.uint8), None, {}, [])
    counts = {row["kind"]: row["count"] for row in result["failures"]}
    assert (counts["small tumour missed"], counts["larger tumour missed"]) == (1 - value, 1 - value)
    assert counts["false positive in an empty slice"] == 3 * value and result["empty_prediction"] == 3 / 5
    assert (result["patient_sensitivity"], result["iou"] == 3 / 5) == (value, not value)
