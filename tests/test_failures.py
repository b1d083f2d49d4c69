"""Each kind of failure by its rule, models that are bad in a known way, and metrics of subgroups."""

import numpy as np
import pytest
from conftest import box, make_slices

from evaluation.failures import list_failures
from evaluation.tables import make_tables


def by_kind(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict]:
    slices = make_slices({"TCGA_AA_0001_19990101": [mask for mask, _ in pairs]})
    tables = make_tables(slices, np.stack([predicted for _, predicted in pairs]))
    return {row["kind"]: row for row in list_failures(tables["slices"])}


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
