import os
import shutil

import pytest
import torch
from conftest import save_checkpoint

from storage import checkpoints
from unet import UNet
from utils import UserError, atomic_write

FIGURES = {"training_loss": 0.5, "training_iou": 0.25, "validation_loss": 0.75, "validation_iou": 0.125}
CONFIG = {"settings": {"width": 2, "bilinear": False, "lr": 1e-3}, "versions": {"torch": "x"}}


def save(models, epoch=1, **figures) -> UNet:
    torch.manual_seed(epoch)
    model = UNet(width=2)
    save_checkpoint(models, epoch, model, FIGURES | figures, CONFIG)
    return model


def test_a_checkpoint_rebuilds_its_network(tmp_path):
    model = save(tmp_path).eval()
    path = checkpoints.epoch_path(tmp_path, 1)
    rebuilt = checkpoints.load_network(path)[0]
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(image), rebuilt(image))


def test_a_checkpoint_says_all_that_was_asked_of_it(tmp_path):
    save(tmp_path, epoch=7)
    content = torch.load(tmp_path / "epoch_7.pt", weights_only=True)  # with nothing allowed beyond PyTorch's own list
    assert content["epoch"] == 7 and {name: content[name] for name in FIGURES} == FIGURES
    assert content["network"] == {"channels": 3, "classes": 1, "width": 2, "bilinear": False}
    assert content["input"] == {"size": 256, "mean": [0.5] * 3, "std": [0.5] * 3, "threshold": 0.5}
    assert content["config"] == CONFIG


def test_figures_of_all_epochs_sorted_and_strangers_ignored(tmp_path):
    for epoch in (10, 9, 2):
        save(tmp_path, epoch=epoch, validation_iou=epoch / 100)
    for name in ("epoch_x.pt", "epoch_03.pt", "epoch_3.pt.bak", "notes.txt", ".epoch_11.pt.1.tmp", "best.pt"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    figures = checkpoints.read_figures(tmp_path)
    assert figures["epoch"].tolist() == [2, 9, 10]
    assert figures["validation_iou"].tolist() == [0.02, 0.09, 0.1]
    assert checkpoints.best_epoch(figures) == 10


def test_the_earliest_of_equally_good_epochs_is_the_best(tmp_path):
    for epoch, score in enumerate([0.1, 0.6, 0.6, 0.2], start=1):
        save(tmp_path, epoch=epoch, validation_iou=score)
    assert checkpoints.best_epoch(checkpoints.read_figures(tmp_path)) == 2


def test_resuming_restores_weights_and_optimiser(tmp_path):
    model = UNet(width=2)
    optimiser = torch.optim.Adam(model.parameters())
    for epoch in (1, 2):
        model(torch.randn(2, 3, 16, 16)).mean().backward()
        optimiser.step()
        checkpoints.Writer(tmp_path, model, optimiser, CONFIG).save_epoch(epoch, FIGURES)
    other = UNet(width=2)
    other_optimiser = torch.optim.Adam(other.parameters())
    assert checkpoints.restore(tmp_path, other, other_optimiser) == (2, None)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    state, other_state = optimiser.state_dict()["state"], other_optimiser.state_dict()["state"]
    assert all(torch.equal(state[k]["exp_avg_sq"], other_state[k]["exp_avg_sq"]) for k in state)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_MARK"],)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:2000]), "damaged or no checkpoint"),
        (lambda p: p.write_bytes(b""), "damaged or no checkpoint"),
        (lambda p: p.write_bytes(b"<html>404</html>" * 100), "damaged or no checkpoint"),
        (lambda p: torch.save({"weights": {}}, p), "no checkpoint of this project"),
        (lambda p: torch.save([1, 2], p), "no checkpoint of this project"),
        (lambda p: torch.save({"format": checkpoints.FORMAT, "epoch": 1}, p), "lacks network"),
        (lambda p: torch.save(Evil(), p), "damaged or no checkpoint"),
        (lambda p: shutil.move(p, p.with_name("epoch_4.pt")), "holds epoch 1"),
    ],
)
def test_a_file_that_is_no_good_is_one_error_and_runs_nothing(tmp_path, monkeypatch, spoil, message):
    mark = tmp_path / "code of the file was run"
    monkeypatch.setenv("EVIL_MARK", str(mark))
    models = tmp_path / "models"
    save(models)
    spoil(models / "epoch_1.pt")
    with pytest.raises(UserError, match=message):
        checkpoints.read_figures(models)
    assert not mark.exists()


def test_weights_of_another_network_are_refused(tmp_path):
    save(tmp_path)
    path = tmp_path / "epoch_1.pt"
    content = checkpoints.read_checkpoint(path)
    content["network"]["width"] = 4
    with pytest.raises(UserError, match="do not fit its network"):
        checkpoints.build_network(content, path)


def test_no_checkpoints_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints"):
        checkpoints.read_figures(tmp_path / "models")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_what_is_no_network_is_told_from_one_that_is_damaged(tmp_path):
    models = tmp_path / "models"
    save(models)
    (models / checkpoints.RESUME).write_bytes(b"state")
    with pytest.raises(UserError, match=r"resume.pt: is what --resume goes on from.*Name an epoch_N.pt"):
        checkpoints.load_network(models / checkpoints.RESUME)
    with pytest.raises(UserError, match=r"models: is a folder. Name one of its files epoch_N.pt"):
        checkpoints.load_network(models)
    with pytest.raises(UserError, match=r"epoch_9.pt: no such file. Name another"):
        checkpoints.load_network(models / "epoch_9.pt")
