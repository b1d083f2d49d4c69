"""Each failure by its rule, and deliberately bad models, each named for what it is."""

import numpy as np
import pytest
from conftest import box, make_slices

from evaluation import failures, summary
from evaluation.selection import remove_small_components
from evaluation.tables import make_tables


def find(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict]:
    slices = make_slices({"TCGA_AA_0001_19990101": [mask for mask, _ in pairs]})
    tables = make_tables(slices, np.stack([predicted for _, predicted in pairs]))
    return {row["kind"]: row for row in failures.find(tables)}


def comb(top: int = 50) -> np.ndarray:
    """An outline that is anything but smooth: about 1,600 px."""
    return box((top, 50, 10, 100), *((top + 10, left, 50, 2) for left in range(50, 150, 10)))


# name -> (a slice that fails, one that does not but could, the value of the failure)
RULES = {
    "small tumour missed": ((box((10, 10, 20, 20)), box()), (box((10, 10, 20, 20)), box((10, 10, 1, 1))), 400),
    "larger tumour missed": ((box((9, 9, 30, 30)), box((99, 99, 9, 9))), (box((9, 9, 30, 30)), box((9, 9, 9, 9))), 900),
    "component of a tumour missed": (
        (box((10, 10, 30, 30), (99, 99, 9, 9)), box((10, 10, 30, 30))),
        (box((10, 10, 30, 30), (99, 99, 9, 9)), box((10, 10, 30, 30), (99, 99, 3, 9))),
        81,
    ),
    "complex boundary simplified": ((comb(), box((50, 50, 60, 100))), (comb(), comb()), None),
    "size of a large tumour off": (
        (box((0, 0, 50, 50)), box((0, 0, 50, 37))),  # 26% too small
        (box((0, 0, 50, 50)), box((0, 0, 50, 62))),  # 24% too large
        -0.26,
    ),
    "false positive in an empty slice": ((box(), box((0, 0, 1, 1))), (box(), box()), 1),
    "false component beside a tumour": (
        (box((9, 9, 20, 20)), box((9, 9, 20, 20), (99, 99, 4, 4))),
        (box((9, 9, 20, 20)), box((9, 9, 20, 20), (99, 99, 3, 3))),  # 9 px are too few to count
        16,
    ),
}


def test_every_kind_has_its_case():
    assert RULES.keys() == {failure.kind for failure in failures.FAILURES}


@pytest.mark.parametrize("kind", RULES)
def test_each_rule(kind):
    """A slice of another kind cannot fail like this: it is not among those of which failures are counted."""
    fails, passes, value = RULES[kind]
    other = (box((9, 9, 20, 20)), box()) if kind == "false positive in an empty slice" else (box(), box())
    row = find([passes, fails, other])[kind]
    assert (row["count"], row["of"], row["patients"]) == (1, 2, 1)
    (example,) = row["examples"]
    assert example["slice"] == 2 and example["image_path"].endswith("_2.tif")
    assert value is None or example["value"] == pytest.approx(value)


def test_the_worst_come_first():
    sizes = [3, 7, 5, 4, 9, 8, 6]
    row = find([(box(), box((0, 0, size, 1))) for size in sizes])["false positive in an empty slice"]
    assert row["count"] == 7 and [example["value"] for example in row["examples"]] == [9, 8, 7, 6, 5]
    simpler = [(comb(), box((50, 50, 60, 100))), (comb(), box((50, 50, 60, 100), (110, 50, 30, 2)))]
    row = find(simpler)["complex boundary simplified"]
    assert [example["slice"] for example in row["examples"]] == [1, 2]  # the simplest outline is the worst


# --- Deliberately bad models -------------------------------------------------------------------------------------


def references() -> np.ndarray:
    """Three patients with six slices each: empty, one component (three sizes), two components twice."""
    stacks = []
    for k in range(3):
        at = 60 + 20 * k
        one = [box((at, at, side, side + 4)) for side in (14, 30, 50)]
        two = [box((at, 20, 30, 30), (at, 120 + shift, 20, 15)) for shift in (0, 30)]
        stacks += [box(), *one, *two]
    return np.stack(stacks)


def largest_only(masks: np.ndarray) -> np.ndarray:
    return np.stack([remove_small_components(mask[None], 301)[0] if mask.sum() > 301 else mask for mask in masks])


MODELS = {  # name: (its prediction, sentences about it, some of its failures, some of its metrics)
    "nothing": (
        np.zeros_like,
        ["The model predicts nothing at all: its IoU over all slices comes from the slices without tumour."],
        {"small tumour missed": (3, 3), "larger tumour missed": (12, 12)},
        {"iou": 3 / 18, "empty_prediction": 3 / 18, "patient_dice": 0, "patient_precision": np.nan},
    ),
    "everything": (
        np.ones_like,
        [
            "The model predicts far too much: 62 times as many pixels as are tumour.",
            "The IoU over all slices (0.016) is not above that of an empty prediction (0.167).",
        ],
        {"false positive in an empty slice": (3, 3)},
        {"patient_sensitivity": 1},
    ),
    "shifted": (
        lambda masks: np.roll(masks, 5, axis=2),
        ["The predictions are displaced by 5.0 px: 5.0 px right (median of 9 slices)."],
        {"larger tumour missed": (0, 12), "component of a tumour missed": (0, 6)},
        {},
    ),
    "largest only": (
        largest_only,
        [
            "Where a tumour has several components, the model usually misses one: in 6 of 6 slices; "
            "it never predicts more than one in a slice."
        ],
        {"component of a tumour missed": (6, 6)},
        {"slice_lesion_recall": 15 / 21},
    ),
    "perfect": (
        np.copy,
        [],
        {kind: (0, of) for kind, of in zip(RULES, (3, 12, 6, 0, 3, 3, 15), strict=True)},
        {"iou": 1, "patient_dice": 1, "lesion_recall": 1, "surface_dice_1": 1, "hd95": 0},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_bad_models_are_named_for_what_they_are(name):
    predict, sentences, counts, metrics = MODELS[name]
    masks = references()
    slices = make_slices({f"TCGA_AA_{k}_1": list(masks[6 * k : 6 * k + 6]) for k in range(3)})
    tables = make_tables(slices, predict(masks))
    assert failures.diagnose(tables) == sentences
    found = {row["kind"]: (row["count"], row["of"]) for row in failures.find(tables)}
    assert counts == {kind: found[kind] for kind in counts}
    tables.patients[["brier", "head_pixels"]] = 0
    estimates = summary.estimate_metrics(tables)
    assert {name: estimates[name]["value"] for name in metrics} == pytest.approx(metrics, nan_ok=True)


def test_a_displacement_in_one_patient_is_no_habit_of_the_model():
    masks = references()
    for patients, said in ((1, 0), (2, 1)):
        rows = np.concatenate([masks[1:4]] * 2)
        slices = make_slices({f"p{k}": list(part) for k, part in enumerate(np.split(rows, patients))})
        assert len(failures.diagnose(make_tables(slices, np.roll(rows, 5, axis=2)))) == said


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (box((0, 0, 40, 40)), "The model predicts far too little: 6% of the number of tumour pixels."),
        (box(), "The model predicts tumour, but no slice has any."),
    ],
)
def test_the_wrong_amount(mask, sentence):
    tables = make_tables(make_slices({"a": [mask] * 3}), np.stack([box((0, 0, 10, 10))] * 3))
    assert failures.diagnose(tables)[0] == sentence
