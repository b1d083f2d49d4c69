"""The engine against the same computation written naively."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.folder import find_slices
from dataset.slices import Slices, load_slices
from training.engine import Interrupted, epoch_order, evaluate, predicted_mask, prepare, train_one_epoch
from training.losses import bce
from unet import UNet
from utils import Hardware, UserError

CPU = Hardware(torch.device("cpu"), bf16=False)


@pytest.fixture
def slices(folder) -> Slices:
    return load_slices(folder, {"all": find_slices(folder)})["all"]


def naive_batch(folder, table) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [N, 3, 256, 256] in [-1, 1] and [N, 1, 256, 256] in {0, 1}, as plainly as it can be written."""
    images, masks = [], []
    for row in table.itertuples():
        pixels = np.array(Image.open(folder / row.image_path))
        images.append((torch.tensor(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.5)
        masks.append(torch.tensor(np.array(Image.open(folder / row.mask_path)) > 0)[None].float())
    return torch.stack(images).contiguous(), torch.stack(masks)


def small_net() -> UNet:
    torch.manual_seed(3)
    return UNet(width=4)


def compare_one_step(folder, table, slices, model, naive) -> None:
    """One training step of the engine equals the naive fp32 step: loss, gradients, metric."""
    images, masks = naive_batch(folder, table)
    logits = naive(images)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
    loss.backward()
    predicted = torch.sigmoid(logits) >= 0.5
    ious = []
    for mine, true in zip(predicted, masks.bool(), strict=True):
        union = (mine | true).sum().item()
        ious.append((mine & true).sum().item() / union if union else 1.0)

    still = torch.optim.SGD(model.parameters(), lr=0.0)
    figures = train_one_epoch(model, slices, torch.arange(len(slices)), still, len(slices), bce, CPU)
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert figures["iou"] == pytest.approx(np.mean(ious), abs=1e-5)
    for (name, mine), theirs in zip(model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("lean_width", [1, 1000])
def test_one_step_equals_the_naive_step(folder, slices, monkeypatch, lean_width):
    monkeypatch.setattr("training.lean.FROM_WIDTH", lean_width)
    compare_one_step(folder, slices.table, slices, small_net(), small_net())


@pytest.mark.real
@pytest.mark.parametrize("lean_width", [1, 1000])
def test_one_step_equals_the_naive_step_on_real_slices(real, monkeypatch, lean_width):
    monkeypatch.setattr("training.lean.FROM_WIDTH", lean_width)
    table = find_slices(real, ["TCGA_CS_4944_20010208", "TCGA_HT_7694_19950404", "TCGA_HT_A5RC_19990831"])
    table = table.iloc[5:45:5].reset_index(drop=True)
    slices = load_slices(real, {"some": table})["some"]
    assert slices.masks.flatten(1).any(1).sum() >= 2  # tumour among them
    compare_one_step(real, table, slices, small_net(), small_net())


def test_an_epoch_equals_naive_steps_with_an_uneven_last_batch(folder, slices):
    model, naive = small_net(), small_net()
    images, masks = naive_batch(folder, slices.table)
    order = epoch_order(seed=1, epoch=1, slices=len(slices))
    plain = torch.optim.Adam(naive.parameters(), lr=1e-3)
    total = 0.0
    for rows in (order[:8], order[8:]):  # 15 slices: 8 and 7
        loss = bce(naive(images[rows]), masks[rows])
        plain.zero_grad()
        loss.backward()
        plain.step()
        total += loss.item() * len(rows)
    fused = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    figures = train_one_epoch(model, slices, order, fused, 8, bce, CPU)
    assert figures["loss"] == pytest.approx(total / 15, abs=1e-5)
    for mine, theirs in zip(model.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2.1e-3)  # Adam moves by up to lr a step, on noise too


def test_evaluation_does_not_depend_on_the_batch_size_and_changes_nothing(slices):
    model = small_net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = np.empty(slices.masks.shape, np.float32)
    figures, counts = evaluate(model, slices, 15, bce, CPU, probabilities_out=kept)
    others, other_counts = evaluate(model, slices, 4, bce, CPU)
    assert figures == pytest.approx(others, abs=1e-6)
    assert all((a == b).all() for a, b in zip(counts, other_counts, strict=True))
    assert ((kept >= 0.5).sum((1, 2)) == counts.predicted).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_prepare_maps_to_minus_one_and_one():
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    images[..., 1] = 255
    prepared = prepare(images, torch.channels_last)
    assert prepared.shape == (2, 3, 16, 16) and prepared.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(prepared, prepare(images)) and prepare(images).is_contiguous()
    assert prepared[:, 0].eq(-1).all() and prepared[:, 1].eq(1).all()


def test_the_threshold_belongs_to_the_lesion():
    assert predicted_mask(torch.tensor([-0.01, 0.0, 0.01])).tolist() == [False, True, True]


def test_order_depends_on_seed_and_epoch_alone():
    first = epoch_order(1, 1, 50)
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(first, epoch_order(1, 1, 50))
    assert sorted(first.tolist()) == list(range(50))
    assert not torch.equal(first, epoch_order(1, 2, 50)) and not torch.equal(first, epoch_order(2, 1, 50))


def test_a_loss_that_is_not_finite_stops_at_once_and_names_batch_and_patients(slices):
    model, seen = small_net(), []

    def failing(logits, masks):
        seen.append(len(logits))
        return bce(logits, masks) * (float("nan") if len(seen) == 2 else 1)

    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(UserError, match=r"batch 2 of 3 .*SYNTH_T_1, SYNTH_T_2, SYNTH_T_3"):
        train_one_epoch(model, slices, torch.arange(15), optimiser, 5, failing, CPU)
    assert len(seen) == 2


def test_a_request_to_stop_ends_training_after_the_step(slices):
    model, seen = small_net(), []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(Interrupted):
        train_one_epoch(
            model, slices, torch.arange(15), optimiser, 5, bce, CPU, stop=lambda: seen.append(1) or len(seen) == 2
        )
    assert len(seen) == 2


def test_bf16_is_close_to_fp32(slices):
    exact, _ = evaluate(small_net(), slices, 8, bce, CPU)
    rough, _ = evaluate(small_net(), slices, 8, bce, Hardware(torch.device("cpu"), bf16=True))
    assert rough["loss"] == pytest.approx(exact["loss"], rel=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu(slices):
    device = torch.device("cuda")
    exact, _ = evaluate(small_net(), slices, 8, bce, CPU)
    there, _ = evaluate(small_net().to(device), slices.to(device), 8, bce, Hardware(device, bf16=False))
    assert there["loss"] == pytest.approx(exact["loss"], rel=1e-3)


@pytest.mark.parametrize("closed", [False, True])
def test_no_progress_bar_without_standard_error(slices, monkeypatch, closed):
    stream = io.StringIO() if closed else None  # None: pythonw, or 2>&-
    if closed:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    metrics, _ = evaluate(small_net(), slices, 8, bce, CPU)
    assert 0 <= metrics["iou"] <= 1
