"""The engine against the same computation written naively."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import box, make_slices
from PIL import Image

from dataset.folder import find_slices
from dataset.preprocess import PreprocessedSlices, Preprocessing, preprocess
from dataset.slices import load_slices
from evaluation.metrics import Counts
from training import augment, engine
from training.engine import TrainingTransform, compute_logits, epoch_order, evaluate, predict, train_one_epoch
from training.hardware import Hardware
from training.losses import bce
from unet import UNet
from utils import UserError

CPU = Hardware(torch.device("cpu"), bf16=False)


@pytest.fixture
def slices(folder) -> PreprocessedSlices:
    return preprocess(load_slices(folder, {"all": find_slices(folder)})["all"], Preprocessing())


def naive_batch(folder, table) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [N, 3, 256, 256] in [-1, 1] and [N, 1, 256, 256] in {0, 1}, as plainly as it can be written."""
    images, masks = [], []
    for row in table.itertuples():
        pixels = np.array(Image.open(folder / row.image_path))
        images.append((torch.tensor(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.5)
        masks.append(torch.tensor(np.array(Image.open(folder / row.mask_path)) > 0)[None].float())
    return torch.stack(images).contiguous(), torch.stack(masks)


def iou(predicted: np.ndarray, true: np.ndarray) -> float:
    return (predicted & true).sum() / (predicted | true).sum() if (predicted | true).any() else 1.0


def small_net() -> UNet:
    torch.manual_seed(3)
    return UNet(width=4)


def test_an_epoch_equals_naive_steps_with_an_uneven_last_batch(folder, slices):
    """Loss, metric, and the weights after two steps."""
    model, naive = small_net(), small_net()
    images, masks = naive_batch(folder, slices.table)
    order = epoch_order(seed=1, epoch=1, slices=slices)
    plain, losses, ious = torch.optim.SGD(naive.parameters(), lr=0.1), [], []
    for rows in (order[:8], order[8:]):  # 15 slices: 8 and 7
        logits = naive(images[rows])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks[rows])
        plain.zero_grad()
        loss.backward()
        plain.step()
        losses += [loss.item()] * len(rows)
        ious += map(iou, (torch.sigmoid(logits) >= 0.5).numpy(), masks[rows].bool().numpy())

    figures = train_one_epoch(model, slices, order, torch.optim.SGD(model.parameters(), lr=0.1), 8, bce, CPU)
    assert figures["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert figures["iou"] == pytest.approx(np.mean(ious), abs=1e-4)
    for (name, mine), theirs in zip(model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_evaluation_does_not_depend_on_the_batch_size_and_changes_nothing(slices):
    model, kept = small_net(), np.empty(slices.masks.shape, np.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    figures = evaluate(model, slices, 15, bce, CPU, probabilities_out=kept)
    assert figures == pytest.approx(evaluate(model, slices, 4, bce, CPU), abs=1e-6)
    assert figures["iou"] == pytest.approx(np.mean([*map(iou, kept >= 0.5, slices.masks.numpy() > 0)]))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_slice_drawn_twice_counts_twice_with_its_own_predictions():
    """Patient a: 1 of 4 pixels right at first, then all 4; patient b has no tumour."""
    first = (torch.tensor(1.0), torch.tensor([0, 1]), Counts(*torch.tensor([[1, 0], [0, 0], [3, 0]])))
    second = (torch.tensor(4.0), torch.tensor([2]), Counts(*torch.tensor([[4], [0], [0]])))
    figures = engine.summarise_epoch([first, second], ["a", "b", "a"])
    assert figures["loss"] == (2 * 1.0 + 4.0) / 3
    assert figures["tumour_iou"] == (1 / 4 + 1) / 2 and figures["empty_prediction"] == 1 / 3
    assert figures["patient_dice"] == (2 * 5 / (2 * 5 + 3) + 1) / 2


@pytest.mark.parametrize(("share", "others"), [(0.0, 0), (0.35, 14), (0.999, 40)])
def test_an_epoch_has_all_tumour_slices_and_a_share_of_the_others(share, others):
    tumour = set(range(5, 15))
    slices = make_slices({"a": [np.full((4, 4), int(row in tumour)) for row in range(50)]})
    order = epoch_order(1, 1, slices, share)
    rows = order.tolist()
    assert len(set(rows)) == len(rows) and tumour <= set(rows) and len(set(rows) - tumour) == others
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(order, epoch_order(1, 1, slices, share))
    assert not 0 < others < 40 or set(rows) != set(epoch_order(1, 2, slices, share).tolist())  # others each epoch
    whole = epoch_order(1, 1, slices).tolist()
    assert sorted(whole) == list(range(50)) and whole != epoch_order(2, 1, slices).tolist()  # another seed
    assert rows == [row for row in whole if row in set(rows)]  # in the same order


def test_patients_are_drawn_alike_and_their_slices_by_their_tumour():
    """a: 16 pixels in one of two slices, so that they weigh 16.8 and 0.8; b: no tumour in three slices, all alike."""
    masks = {"a": [np.ones((4, 4)), np.zeros((4, 4))], "b": [np.zeros((4, 4))] * 3}
    slices = make_slices(masks)
    orders = [epoch_order(1, epoch, slices, 0.5, patient_balanced=0.1) for epoch in range(1, 1001)]
    assert {len(order) for order in orders} == {3} and torch.equal(orders[6], epoch_order(1, 7, slices, 0.5, 0.1))
    shares = torch.cat(orders).bincount(minlength=5) / 3000
    expected = torch.tensor([16.8 / 17.6 / 2, 0.8 / 17.6 / 2, 1 / 6, 1 / 6, 1 / 6])
    torch.testing.assert_close(shares, expected, atol=0.025, rtol=0)  # nearly three standard deviations


def test_training_grows_to_the_full_resolution():
    assert [engine.resolution_of_epoch(epoch, 10) for epoch in range(1, 11)] == [0.5] * 3 + [0.75] * 3 + [1] * 4
    assert engine.resolution_of_epoch(1, 1) == 1


def test_a_loss_that_is_not_finite_stops_at_once_and_names_batch_and_patients(slices):
    model, seen = small_net(), []

    def failing(logits, masks):
        seen.append(len(logits))
        return bce(logits, masks) * (float("nan") if len(seen) == 2 else 1)

    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(UserError, match=r"batch 2 of 3 .*SYNTH_T_1, SYNTH_T_2, SYNTH_T_3"):
        train_one_epoch(model, slices, torch.arange(15), optimiser, 5, failing, CPU)
    assert len(seen) == 2


# --- Transforms, windows and mirror images -----------------------------------------------------------------------


@pytest.fixture
def heads() -> PreprocessedSlices:
    """Two patients whose heads are textured rectangles at different places; a slice without tumour between two with."""
    texture = np.random.default_rng(0).integers(60, 200, (256, 256, 3), dtype=np.uint8)
    places = [box((40, 60, 100, 90))] * 3 + [box((100, 120, 156, 70))] * 2
    images = np.stack([texture * place[..., None] for place in places])
    masks = {"a": [box((60, 70, 20, 30)), box(), box((90, 90, 9, 9))], "b": [box(), box((110, 130, 50, 40))]}
    return preprocess(make_slices(masks, images), Preprocessing("head", neighbours=1, crop=True))


def five_channels(pixel_unshuffle: int = 1) -> UNet:
    torch.manual_seed(3)
    return UNet(channels=5, width=2, bilinear=True, pixel_unshuffle=pixel_unshuffle).eval()


def test_a_cropped_view_is_the_window_around_the_head(heads):
    rows = torch.tensor([0, 2])
    images, masks = heads.batch(rows, CPU.device)
    seen, found = TrainingTransform(crop=True).batch(heads, rows, CPU.device)
    assert seen.shape == (2, 5, *engine.WINDOW) and found.shape == (2, 1, *engine.WINDOW)
    # The head's middle is (90, 105): rows from -22, of which 0 is the first in the frame, and columns from 9
    torch.testing.assert_close(seen[:, :, 22:], images[..., :202, 9:201], rtol=0, atol=2e-4)
    assert torch.equal(found[:, :, 22:], masks[..., :202, 9:201]) and not found[:, :, :22].any()


@pytest.mark.parametrize("brain", [None, torch.zeros(5, 256, 256, dtype=torch.uint8)])
def test_random_views_depend_on_seed_epoch_and_row_and_not_on_the_batch(heads, brain, monkeypatch):
    views = TrainingTransform(crop=True, augmented=True, brain=brain, seed=1, epoch=2)
    if brain is None:  # without --robust no tumour is changed
        monkeypatch.setattr(augment, "change_lesions", None)
    images, masks = views.batch(heads, torch.tensor([0, 1, 4]), CPU.device)
    again, again_masks = views.batch(heads, torch.tensor([4, 0]), CPU.device)
    torch.testing.assert_close(again, images[[2, 0]], rtol=0, atol=1e-5)
    assert torch.equal(again_masks, masks[[2, 0]])
    for other in (TrainingTransform(True, True, seed=2, epoch=2), TrainingTransform(True, True, seed=1, epoch=3)):
        assert not torch.allclose(other.batch(heads, torch.tensor([0]), CPU.device)[0], images[:1], atol=1e-2)


def test_validation_and_training_share_the_window_of_the_loss(heads):
    """Without crop the loss is over the frame; with it over the head's window, and outside nothing is learned."""
    model, seen = five_channels(), []

    def loss(logits, masks):
        seen.append((tuple(logits.shape[-2:]), masks.sum().item()))
        return bce(logits, masks)

    evaluate(model, heads, 3, loss, CPU)
    assert seen == [((128, 96), heads.masks[:3].sum()), ((160, 96), heads.masks[3:].sum())]
    seen.clear()
    evaluate(model, replace(heads, preprocessing=heads.preprocessing._replace(crop=False)), 5, loss, CPU)
    assert seen == [((256, 256), heads.masks.sum())]


@pytest.mark.parametrize("tta_flip", [False, True])
def test_outside_of_the_window_nothing_is_found(heads, tta_flip):
    model, rows = five_channels(), torch.tensor([0, 2])
    window = (slice(30, 158), slice(57, 153))
    images, masks = heads.batch(rows, CPU.device)
    with torch.inference_mode():
        logits, same = compute_logits(model, heads, rows, window, CPU, tta_flip)
        inner = images[..., 30:158, 57:153].contiguous()
        expected = model(inner)
        if tta_flip:
            mirrored = model(torch.from_numpy(np.ascontiguousarray(inner.numpy()[..., ::-1])))
            expected = (expected + mirrored.flip(3)) / 2
    assert torch.equal(same, masks) and logits.shape == (2, 1, 256, 256)
    assert torch.equal(logits[..., 30:158, 57:153], expected)
    outside = torch.ones_like(logits, dtype=torch.bool)
    outside[..., 30:158, 57:153] = False
    assert logits[outside].eq(engine.OUTSIDE).all()


def test_a_network_is_asked_at_its_own_resolution(heads):
    """One that answers with FLAIR: the slice made smaller and larger again, in the window alone."""
    asked = []

    class Flair(torch.nn.Module):
        def forward(self, images):
            asked.append(tuple(images.shape[-2:]))
            return images[:, 1:2]

    half = replace(heads, preprocessing=heads.preprocessing._replace(resolution=0.5))
    rows, window = torch.tensor([0, 2]), (slice(30, 158), slice(57, 153))
    logits, _ = compute_logits(Flair(), half, rows, window, CPU)
    flair = heads.batch(rows, CPU.device)[0][:, 1:2, 30:158, 57:153]
    pairs = flair.unflatten(2, (64, 2)).unflatten(4, (48, 2)).mean((3, 5))  # means of 2 x 2 pixels
    assert asked == [(64, 48)]
    inside = logits[..., 30:158, 57:153]
    assert torch.allclose(inside[..., 0, 0], pairs[..., 0, 0])  # a corner has no other neighbour
    between = 0.75**2 * pairs[..., 4, 4] + 0.75 * 0.25 * (pairs[..., 3, 4] + pairs[..., 4, 3]) + pairs[..., 3, 3] / 16
    assert torch.allclose(inside[..., 8, 8], between, atol=1e-5)  # a quarter of a pixel off
    seen, _ = TrainingTransform(crop=False, resolution=0.5).batch(heads, rows, CPU.device)  # as in training
    torch.testing.assert_close(engine.resize(heads.batch(rows, CPU.device)[0], (128, 128)), seen, rtol=0, atol=1e-3)


def test_predictions_are_those_that_are_scored(heads):
    model = five_channels(pixel_unshuffle=2)
    kept = np.empty((5, 256, 256), np.float32)
    evaluate(model, heads, 2, bce, CPU, probabilities_out=kept, tta_flip=True)
    logits = predict(model, heads, 2, CPU, tta_flip=True)
    assert logits.shape == (5, 256, 256) and np.array_equal(logits.sigmoid().numpy(), kept)
    assert (logits[0] > engine.OUTSIDE).sum() == 128 * 96  # the head is 100 x 90 pixels
