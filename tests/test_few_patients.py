"""Few patients of an institution: who trains, who is tested, and that the same command trains nothing again."""

import pandas as pd
from conftest import run_here, write_slice

from storage.run_folder import RunFolder
from studies import few_patients

NAMES = ("CS_0001", "CS_0002", "CS_0003", "CS_0004", "DU_0001")


def test_an_institution_is_left_out_and_learned_from_few(monkeypatch, undrawn, capsys, tmp_path):
    monkeypatch.setattr(few_patients, "run_python", run_here)
    monkeypatch.setattr(few_patients, "FEW", (2,))
    folder = tmp_path / "kaggle_3m"
    for seed, name in enumerate(NAMES):
        for number in (1, 2):
            write_slice(folder, f"TCGA_{name}_20000101", number, tumour=number == 1, seed=seed)
    options = ("--institutions", "CS", "--draws", 1, "--epochs", 1, "--width", 2)
    arguments = [str(o) for o in ("--data", folder, "--out", tmp_path / "few", *options)]
    few_patients.main(arguments)
    table = pd.read_csv(tmp_path / "few" / "few.csv")
    assert table["network"].value_counts().to_dict() == dict.fromkeys(few_patients.COLORS, 2)  # two test patients
    split = pd.read_csv(tmp_path / "few" / "CS" / "went_on_2_0" / "split.csv").groupby("split")["patient"]
    assert set(split.get_group("test")) == set(table["patient"]) and len(split.get_group("train")) == 2
    assert not set(split.get_group("train")) & set(table["patient"])
    others = pd.read_csv(tmp_path / "few" / "CS" / "others" / "train.csv")["patient"]
    assert set(others) == {"TCGA_DU_0001_20000101"}
    assert (tmp_path / "few" / "few.png").is_file()
    runs = [RunFolder(path.parent) for path in (tmp_path / "few").rglob("config.json")]
    assert len(runs) == 3 and {run.read_config()["settings"]["epochs"] for run in runs} == {1}  # all are a quick trial
    printed = capsys.readouterr().out
    assert "| CS | 2 | " in printed and "| all | 2 | " in printed
    few_patients.main(arguments)
    assert capsys.readouterr().out.count("nothing is left to do") == 3
