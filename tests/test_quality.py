"""The expected Dice: features by hand, a regression on simulated patients, and what it says outside of their range."""

import numpy as np
import pandas as pd
import pytest
from conftest import box, done

from evaluation import quality
from inference.segment import expect
from scans.scan import Scan
from storage.run_folder import RunFolder


def test_features_by_hand():
    mask = np.stack([box((*place, 4, 4), size=20) for place in ((0, 0), (0, 2), (12, 12))])
    p = np.where(mask, 0.5, 0.0).astype(np.float32)
    p[0, :4, :4] = 1
    row = quality.features(p, mask)
    assert row["log_volume"] == pytest.approx(np.log10(48)) and row["log_components"] == pytest.approx(np.log10(2))
    assert row["largest_share"] == pytest.approx(32 / 48)
    assert row["neighbour_dice"] == pytest.approx(2 * 8 / (16 + 32 + 16))  # half of the first two boxes is shared
    assert row["threshold_dice"] == pytest.approx(2 * 16 / (48 + 16))
    assert row["entropy"] == pytest.approx(32 / 48)  # one bit in each of two boxes
    assert set(quality.features(p, mask * 0).values()) == {None}


def simulate(patients: int, seed: int = 0) -> pd.DataFrame:
    """Patients whose Dice is 0.3 + 0.6 x threshold_dice, with an error of 0.05 (SD); the other features say nothing."""
    random = np.random.default_rng(seed)
    rows = []
    for n in range(patients):
        row = dict(zip(quality.FEATURES, random.random(len(quality.FEATURES)), strict=True))
        rows.append(row | {"patient": f"p{n}", "dice": 0.3 + 0.6 * row["threshold_dice"] + random.normal(0, 0.05)})
    return quality.to_table(rows)


def test_a_regression_of_simulated_patients():
    rows = simulate(300)
    model = quality.fit(rows)
    assert model["features"]["threshold_dice"]["coefficient"] == pytest.approx(0.6, abs=0.03)
    assert all(abs(model["features"][name]["coefficient"]) < 0.03 for name in ("log_volume", "entropy"))
    assert model["half_width"] == pytest.approx(1.645 * 0.05, rel=0.2)  # of 90% of a normal distribution
    middle = dict.fromkeys(quality.FEATURES, 0.5)
    expected, low, high = quality.predict(model, middle).values()
    assert expected == pytest.approx(0.6, abs=0.02) and high - low == pytest.approx(2 * model["half_width"])
    assert quality.predict(model, middle | {"entropy": 1.5}) == quality.UNKNOWN
    assert quality.predict(model, middle | {"threshold_dice": -0.5}) == quality.UNKNOWN
    surest = middle | {"entropy": model["features"]["entropy"]["low"]}  # surer than this stands for this
    assert quality.predict(model, middle | {"entropy": -0.5}) == quality.predict(model, surest) != quality.UNKNOWN


def test_its_nested_cross_validation(monkeypatch):
    monkeypatch.setattr(quality, "FOLDS", 3)  # fewer than usual: each is a regression per patient
    patients = pd.DataFrame({"tumour_pixels": [9, 9, 0], "dice": [0.9, 0.8, 1], "false_lesions": 0})
    empty = {"patient": "empty", "dice": 0.0, **dict.fromkeys(quality.FEATURES)}
    rows = [*simulate(120).to_dict("records"), empty]
    result = quality.study(rows, patients)
    nested = result["nested"]
    assert nested["patients"] == 121 and 1 <= nested["unknown"] < 25 and result["model"]["patients"] == 120
    assert nested["mean_error"] == pytest.approx(0.05 * np.sqrt(2 / np.pi), rel=0.2) and nested["r"] > 0.9
    assert 0.84 < nested["coverage"] < 0.96 and nested["auc"] > 0.8
    assert result["model"]["empty"] == pytest.approx(0.8 / (0.8 + 0.25))  # 4 of 5 clean, 1 of 4 missed
    assert np.isnan(result["patients"][-1]["expected_dice"])  # an empty mask has no interval, and is judged as unknown
    few = quality.study(simulate(quality.FEWEST - 1).to_dict("records"), patients)
    assert few["model"] is None and few["nested"] is None and len(few["patients"]) == quality.FEWEST - 1


def test_both_scans_of_a_person_are_left_out_together(monkeypatch):
    monkeypatch.setattr(quality, "FOLDS", 4)
    fit, sizes = quality.fit, []
    scans = [simulate(40, seed).assign(patient=lambda of, date=date: of["patient"] + f"_{date}")
             for seed, date in enumerate((20190101, 20200101))]  # fmt: skip
    twice = pd.concat(scans, ignore_index=True)
    monkeypatch.setattr(quality, "fit", lambda rows: sizes.append(rows["patient"].str[:-9].value_counts()) or fit(rows))
    shown = quality.predict_held_out(twice, twice)
    assert len(sizes) == quality.FOLDS and all((size == 2).all() and len(size) == 30 for size in sizes)
    assert shown["expected_dice"].notna().sum() > 40
    assert quality.study(twice[twice["patient"] < "p3"].to_dict("records"), None)["model"] is None  # of 23 persons


def test_the_probability_that_an_empty_mask_is_right_by_hand():
    patients = pd.DataFrame({
        "tumour_pixels": [50, 50, 50, 50, 50, 50, 0, 0],
        "dice": [0.9, 0.8, 0.7, 0.0, 0.6, 0.9, 1.0, 0.0],  # the fourth is missed; without tumour a Dice of 0 is not
        "false_lesions": [0, 1, 0, 2, 0, 0, 0, 1],
    })  # fmt: skip
    assert quality.empty_is_right(patients) == pytest.approx(0.6 / (0.6 + 0.25))  # (5 + 1) / 10 and (1 + 1) / 8
    model, mask = {"intercept": 0.5}, np.zeros((1, 1024, 1024), np.uint8)
    scan, probabilities = Scan("P", mask[..., None], ["1"], []), np.zeros((1, 256, 256), np.float32)
    assert expect(model, probabilities, mask, scan, False) == quality.UNKNOWN  # stored without it
    model["empty"] = 0.75
    expected = {"expected_dice": 0.75, "low": None, "high": None}
    assert expect(model, probabilities, mask, scan, False) == expected
    assert expect(model, probabilities, mask, scan, True) == quality.UNKNOWN
    mask[0, 0, 0] = 1  # between the pixels of the network
    assert expect(model, probabilities, mask, scan, False) == quality.UNKNOWN


def test_what_expected_values_are_worth_by_hand():
    rows = [
        {"dice": 0.9, "expected_dice": 0.8, "low": 0.7, "high": 0.9},
        {"dice": 0.5, "expected_dice": 0.7, "low": 0.6, "high": 0.8},
        {"dice": 0.8, "expected_dice": None, "low": None, "high": None},
    ]
    worth = quality.judge(pd.DataFrame(rows))
    assert (worth["unknown"], worth["bad"], worth["bad_in_worst_10"]) == (1, 1, 1)
    assert worth["mean_error"] == pytest.approx(0.15) and worth["coverage"] == 0.5 and worth["r"] == pytest.approx(1)
    assert worth["auc"] == 0.5  # the bad one is before one of the two others


def test_a_study_of_a_run_by_volume_institution_and_form(call, monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "FOLDS", 3)
    rows, run = simulate(36), RunFolder(tmp_path)
    run.write("metrics.json", {"quality": {"patients": rows.to_dict("records")}})
    table = rows[["patient"]].assign(institution=[*"AB"] * 18, tumour_pixels=100 * rows.index)
    run.write("test_patients.csv", table)
    forms = rows.assign(form="stripped")
    forms.loc[:17, "threshold_dice"] = -2.0  # beyond those of all
    forms.to_csv(tmp_path / "robustness.csv")
    out = done(call("studies.quality", "--run", tmp_path, "--forms", tmp_path / "robustness.csv"))
    lines = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    counts = {line[0][2:]: tuple(line[1:3]) for line in lines}
    assert counts["all"][0] == "36" and counts["smallest third"][0] == "12" and counts["A left out"][0] == "18"
    assert int(counts["stripped"][1]) >= 18
    left_out = quality.predict_held_out(rows, rows, dict(zip(rows["patient"], table["institution"], strict=True)))
    known = left_out[::2].dropna().index[0]  # of A, by those of B
    by_others = quality.predict(quality.fit(rows[1::2]), rows.loc[known])
    assert left_out["expected_dice"][known] == by_others["expected_dice"]
