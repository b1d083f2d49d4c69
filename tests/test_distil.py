"""The chain of trainings behind the default weights: who begins with whom, who learns from whom."""

from conftest import run_here

from storage.run_folder import RunFolder
from studies import distil

QUICK = ("--epochs", 1, "--width", 2, "--no-validation", "--fold", "1/3")


def test_a_network_learns_from_four_and_is_tested(folder, monkeypatch, undrawn, capsys, call, tmp_path):
    monkeypatch.setattr(distil, "run_python", run_here)
    run = RunFolder(tmp_path / "student")
    for done in (0, 5):
        code, out, _ = call("studies.distil", "--data", folder, "--run", run, *QUICK)
        assert code == 0 and out.count("nothing is left to do") == done
    config = run.read_config()
    first, *others = (
        RunFolder(tmp_path / f"student_{name}").read_config() for name in ("first", "on_1", "on_2", "on_3")
    )
    assert "weights" not in first and first["settings"]["progressive_resolution"]
    assert [other["weights"]["file"] for other in (*others, config)] == ["epoch_1.pt"] * 4
    assert len({other["weights"]["sha256"] for other in (*others, config)}) == 1
    assert config["teachers"][0]["sha256"] == config["weights"]["sha256"]
    assert len({teacher["sha256"] for teacher in config["teachers"]}) == 4
    assert not config["settings"]["progressive_resolution"] and config["settings"]["lr"] == 0.001
    assert not config["weights"]["seen"]["test"]  # a fold's patients are held back from all five
    code, out, _ = call("train_model", "--run", run.path, "--resume")  # as cross_validate.py calls it
    assert code == 0 and "nothing is left to do" in out
