"""Comparing two runs, as from the command line."""

import numpy as np
import pandas as pd
from conftest import ROOT, done, refused

from storage.run_folder import RunFolder


def write_run(folder, dice: dict[str, float], tumour_pixels: int = 9) -> None:
    """Write a tested run, with the given Dice and made-up other metrics of each patient."""
    patients = pd.DataFrame({"patient": list(dice), "dice": list(dice.values())})
    patients = patients.assign(slices=3, tumour_pixels=tumour_pixels)
    for name in ("iou", "sensitivity", "precision", "surface_dice_2", "hd95"):
        patients[name] = patients["dice"] / 2
    patients.loc[0, "hd95"] = np.nan
    RunFolder(folder).write_test(dict.fromkeys(("slices", "patients", "lesions"), patients), {}, np.zeros(0))


def test_a_difference_is_significant_or_not_and_p_is_exact(call, tmp_path):
    names = [f"TCGA_AA_{n}_1" for n in range(8)]
    write_run(tmp_path / "a", {name: 0.5 + 0.01 * n for n, name in enumerate(names)})
    write_run(tmp_path / "b", {name: 0.6 + 0.012 * n for n, name in enumerate(names)})
    code, out, err = call("compare_runs", tmp_path / "a", tmp_path / "b")
    assert (code, err) == (0, "") and "SYNTHETIC" not in out
    dice = next(line.split() for line in out.splitlines() if line.startswith("Volumetric Dice, mean over patients"))
    assert dice[5:10] == ["8", "0.535", "0.642", "+0.107", "0.0078"]  # 2 / 2**8: all differ one way
    reach = 2.364624 * 0.002 * 6**0.5 / 8**0.5  # t of 7; the variance of 0, 1, ..., 7 is 6
    assert dice[10:] == [f"{0.107 - reach:+.3f}", "to", f"{0.107 + reach:+.3f}"] == ["+0.103", "to", "+0.111"]
    assert next(line.split() for line in out.splitlines() if line.startswith("HD95"))[2] == "7"  # one has none
    assert f"B has the higher volumetric Dice (p 0.0078). The paired comparison is precise to ± {reach:.3f}" in out
    code, out, _ = call("compare_runs", tmp_path / "a", tmp_path / "a")
    assert code == 0 and "No difference in volumetric Dice is shown (p 1)" in out and "nan" not in out
    for run, value in (("c", 0.1), ("d", 0.9)):
        write_run(tmp_path / run, {f"SYNTH_XX_{n}_1": value for n in range(2)})
    code, out, _ = call("compare_runs", tmp_path / "c", tmp_path / "d")
    assert code == 0 and "2 patients cannot show any difference" in out and "SYNTHETIC" in out
    assert out.count("+0.800, +0.800") == 1  # the values of both, instead of an interval


def test_runs_that_cannot_be_compared(call, tmp_path):
    write_run(tmp_path / "a", {"p": 0.1, "q": 0.2})
    write_run(tmp_path / "b", {"p": 0.1, "r": 0.2})
    a_and_b = ("compare_runs", tmp_path / "a", tmp_path / "b")
    refused(call(*a_and_b), "tested on different patients; 2 are in only one of them (q, r)")
    (tmp_path / "b" / "test_patients.csv").write_text("patient,dice\np,0.1\nq,0.9\n")
    refused(call(*a_and_b), "test_patients.csv: has no column slices, tumour_pixels, iou")
    write_run(tmp_path / "b", {"p": 0.1, "q": 0.2}, tumour_pixels=36)
    refused(call(*a_and_b), "different reference masks of 2 patients, such as p")


def test_the_committed_results_compare(call):
    out = done(call("compare_runs", ROOT / "results" / "tuned", ROOT / "results" / "tuned_seed_1"))
    assert "20 patients" in out and "0.846   0.854" in out
