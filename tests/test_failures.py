"""Each failure by its rule, and deliberately bad models, each named for what it is."""

import numpy as np
import pytest
from conftest import box, make_slices

from evaluation import failures
from evaluation import tables as evaluation_tables
from evaluation.lesions import remove_small_parts


def find(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, dict]:
    slices = make_slices({"TCGA_AA_0001_19990101": [true for true, _ in pairs]})
    tables = evaluation_tables.make_tables(slices, np.stack([predicted for _, predicted in pairs]))
    return {row["kind"]: row for row in failures.find(tables)}


def comb(top: int = 50) -> np.ndarray:
    """An outline that is anything but smooth: about 1,600 px."""
    return box((top, 50, 10, 100), *((top + 10, left, 50, 2) for left in range(50, 150, 10)))


# name -> (a slice that fails, one that does not but could, the value of the failure)
RULES = {
    "small tumour missed": ((box((10, 10, 20, 20)), box()), (box((10, 10, 20, 20)), box((10, 10, 1, 1))), 400),
    "larger tumour missed": ((box((9, 9, 30, 30)), box((99, 99, 9, 9))), (box((9, 9, 30, 30)), box((9, 9, 9, 9))), 900),
    "part of a tumour missed": (
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
    "false part beside a tumour": (
        (box((9, 9, 20, 20)), box((9, 9, 20, 20), (99, 99, 4, 4))),
        (box((9, 9, 20, 20)), box((9, 9, 20, 20), (99, 99, 3, 3))),  # 9 px are too few to count
        16,
    ),
}


def test_every_kind_has_its_case():
    assert RULES.keys() == {failure.kind for failure in failures.KINDS}


@pytest.mark.parametrize("kind", RULES)
def test_each_rule(kind):
    fails, passes, value = RULES[kind]
    row = find([passes, fails])[kind]
    assert (row["count"], row["of"], row["patients"]) == (1, 2, 1)
    (example,) = row["examples"]
    assert example["slice"] == 2 and example["image_path"].endswith("_2.tif")
    assert value is None or example["value"] == pytest.approx(value)
    assert find([passes])[kind]["count"] == 0
    other = (box(), box()) if kind != "false positive in an empty slice" else (box((9, 9, 20, 20)), box())
    assert find([other])[kind]["of"] == 0  # a slice of another kind cannot fail like this


def test_the_worst_come_first():
    sizes = [3, 7, 5, 4, 9, 8, 6]
    row = find([(box(), box((0, 0, size, 1))) for size in sizes])["false positive in an empty slice"]
    assert row["count"] == 7 and [example["value"] for example in row["examples"]] == [9, 8, 7, 6, 5]
    simpler = [(comb(), box((50, 50, 60, 100))), (comb(), box((50, 50, 60, 100), (110, 50, 30, 2)))]
    row = find(simpler)["complex boundary simplified"]
    assert [example["slice"] for example in row["examples"]] == [1, 2]  # the simplest outline is the worst


# --- Deliberately bad models -------------------------------------------------------------------------------------


def truth() -> np.ndarray:
    """Three patients with six slices each: empty, one part (three sizes), two parts twice."""
    stacks = []
    for k in range(3):
        at = 60 + 20 * k
        one = [box((at, at, side, side + 4)) for side in (14, 30, 50)]
        two = [box((at, 20, 30, 30), (at, 120 + shift, 20, 15)) for shift in (0, 30)]
        stacks += [box(), *one, *two]
    return np.stack(stacks)


def largest_only(masks: np.ndarray) -> np.ndarray:
    return np.stack([remove_small_parts(mask[None], 301)[0] if mask.sum() > 301 else mask for mask in masks])


MODELS = {
    "nothing": lambda masks: np.zeros_like(masks),
    "everything": lambda masks: np.ones_like(masks),
    "shifted": lambda masks: np.roll(masks, 5, axis=2),
    "largest only": largest_only,
    "perfect": lambda masks: masks.copy(),
}


@pytest.fixture(params=MODELS)
def bad(request):
    masks = truth()
    slices = make_slices({f"TCGA_AA_{k}_1": list(masks[6 * k : 6 * k + 6]) for k in range(3)})
    return request.param, evaluation_tables.make_tables(slices, MODELS[request.param](masks))


def test_bad_models_are_named_for_what_they_are(bad):
    name, tables = bad
    said = failures.diagnose(tables)
    rows = {row["kind"]: (row["count"], row["of"]) for row in failures.find(tables)}
    figures = {name: figure["value"] for name, figure in evaluation_tables.figures(tables).items()}
    if name == "nothing":
        assert said == ["The model predicts nothing at all: its IoU over all slices is that of predicting nothing."]
        assert figures["iou"] == figures["all_empty"] == 3 / 18 and figures["patient_dice"] == 0
        assert rows["small tumour missed"] == (3, 3) and rows["larger tumour missed"] == (12, 12)
        assert np.isnan(figures["patient_precision"]) and figures["surface_dice_3"] == 0
    elif name == "everything":
        assert len(said) == 2 and said[0].startswith("The model predicts far too much: 62 times as many pixels")
        assert "not above that of predicting nothing (0.167)" in said[1]
        assert rows["false positive in an empty slice"] == (3, 3) and figures["patient_sensitivity"] == 1
    elif name == "shifted":
        assert said == ["The predictions are displaced by 5.0 px: 5.0 px right (median of 9 slices)."]
        assert rows["larger tumour missed"][0] == rows["part of a tumour missed"][0] == 0
    elif name == "largest only":
        assert said == [
            "Of tumours in several parts the model usually misses one: in 6 of 6 slices; "
            "it never predicts more than one part in a slice."
        ]
        assert rows["part of a tumour missed"] == (6, 6) and figures["lesion_recall"] < 1
    else:
        assert said == [] and all(count == 0 for count, _ in rows.values())
        assert figures["iou"] == figures["patient_dice"] == figures["lesion_recall"] == figures["surface_dice_1"] == 1
        assert figures["hd95"] == 0


def test_a_displacement_in_one_patient_is_no_habit_of_the_model():
    masks = truth()
    for patients, said in ((1, 0), (2, 1)):
        rows = np.concatenate([masks[1:4]] * 2)
        slices = make_slices({f"p{k}": list(part) for k, part in enumerate(np.split(rows, patients))})
        assert len(failures.diagnose(evaluation_tables.make_tables(slices, np.roll(rows, 5, axis=2)))) == said


def test_too_little_is_said():
    slices = make_slices({"a": [box((0, 0, 40, 40))] * 3})
    tables = evaluation_tables.make_tables(slices, np.stack([box((0, 0, 10, 10))] * 3))
    assert failures.diagnose(tables) == ["The model predicts far too little: 6% of the pixels that are tumour."]
