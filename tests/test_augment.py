"""Random changes: what they must keep, and the arithmetic behind them."""

import math

import numpy as np
import pytest
import torch
from conftest import box, disc, make_slices

from constants import FLAIR, POST, PRE
from training import augment, brain
from training.augment import blur, change_intensities, cut_window, generators, lower_resolution

SEQUENCES = [PRE, FLAIR, POST, FLAIR, FLAIR]


class Chance:
    """Stands in for a random generator: every draw is the given share of its range; of several draws, each its own."""

    def __init__(self, random: float | tuple[float, ...], uniform: float = 0.5):
        self.share, self.middle = random, uniform

    def random(self, count=None):
        return self.share if count is None else np.full(count, self.share)

    def uniform(self, low, high, count=None):
        value = low + (high - low) * self.middle
        return value if count is None else np.full(count, value)

    def integers(self, high):
        return 0


NEVER = Chance(1.0)  # nothing happens, as every probability is below 1; and no shift
ALWAYS = Chance(0.0)


@pytest.fixture
def images() -> torch.Tensor:
    """Noise. Where a pixel is read is rounded to 1e-5 pixels, and pixels differ by up to 9: hence the tolerances."""
    return torch.randn(3, 5, 256, 256, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def masks() -> torch.Tensor:
    places = [box((60, 70, 50, 40)), box((100, 30, 7, 90), (5, 5, 30, 30)), box()]
    return torch.from_numpy(np.stack(places))[:, None].float()


# --- Geometry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generators", [None, [NEVER] * 3])
def test_unchanged_windows_are_plain_crops(images, masks, generators):
    where = torch.tensor([(100, 90), (112, 96), (144, 160)])
    seen, found = cut_window(images, masks, where, (224, 192), (224, 192), generators)
    for row, (top, left) in enumerate([(-12, -6), (0, 0), (32, 64)]):
        rows, columns = (slice(max(first, 0), first + size) for first, size in ((top, 224), (left, 192)))
        inside = (row, slice(None), slice(max(-top, 0), None), slice(max(-left, 0), None))
        torch.testing.assert_close(seen[inside], images[row, :, rows, columns], rtol=0, atol=2e-4)
        assert torch.equal(found[inside], masks[row, :, rows, columns])
    # Beyond the frame the edge is repeated, without tumour
    torch.testing.assert_close(seen[0, :, :12], seen[0, :, 12:13].expand(-1, 12, -1))
    assert not found[0, :, :12].any() and not found[0, :, :, :6].any()


def moved(monkeypatch, images, masks, turn=0.0, zoom=1.0, flip=False, shift=(0, 0), size=(256, 256)) -> tuple:
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) / zoom
    matrix = matrix * np.array([-1 if flip else 1, 1])
    monkeypatch.setattr(augment, "_random_turn", lambda chance: (matrix, np.array(shift)))
    return cut_window(images, masks, torch.full((len(images), 2), 128), size, size, [NEVER] * len(images))


def test_flips_shifts_quarter_turns_and_zooms(monkeypatch, images, masks):
    flipped, found = moved(monkeypatch, images, masks, flip=True)
    torch.testing.assert_close(flipped, images.flip(3), rtol=0, atol=2e-4)
    assert torch.equal(found, masks.flip(3))

    shifted, found = moved(monkeypatch, images, masks, shift=(5, -9))
    torch.testing.assert_close(shifted[..., :-5, 9:], images[..., 5:, :-9], rtol=0, atol=2e-4)
    assert torch.equal(found[..., :-5, 9:], masks[..., 5:, :-9]) and not found[..., -5:, :].any()

    turned, found = moved(monkeypatch, images, masks, turn=math.pi / 2)
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-3)
    assert torch.equal(found, torch.rot90(masks, 1, (2, 3)))

    zoomed, found = moved(monkeypatch, images, masks, zoom=2)
    assert found[0].sum() == 4 * 46 * 40  # rows 64 to 191 are seen, so that the first four of the mask are not
    assert zoomed.std() < images.std()  # between pixels of noise


def test_a_turn_keeps_distances_in_a_window_that_is_no_square(monkeypatch):
    """A square turned by 20 degrees in a window of 224 x 192 keeps its area and its middle."""
    mask = torch.from_numpy(box((98, 98, 60, 60)))[None, None].float()
    seen, found = moved(monkeypatch, mask, mask, turn=math.radians(20), size=(224, 192))
    rows, columns = torch.nonzero(found[0, 0], as_tuple=True)
    assert found.sum() == pytest.approx(3600, rel=0.01) and seen.sum() == pytest.approx(3600, rel=0.01)
    assert rows.double().mean() == pytest.approx(111.5, abs=0.1)
    assert columns.double().mean() == pytest.approx(95.5, abs=0.1)
    diagonal = 60 * math.sqrt(2) * math.cos(math.radians(25))  # height and width of the turned square
    assert rows.max() - rows.min() + 1 == pytest.approx(diagonal, abs=2)
    assert columns.max() - columns.min() + 1 == pytest.approx(diagonal, abs=2)


# --- Intensities -----------------------------------------------------------------------------------------------


def test_everything_at_once_by_hand(monkeypatch):
    """Missing sequence, gamma, contrast, brightness on a slice of two values."""
    for name in ("LOW_RESOLUTION", "BLUR", "NOISE"):
        monkeypatch.setattr(augment, name, (-1.0, *getattr(augment, name)[1:]))  # never
    monkeypatch.setattr(augment, "GAMMA", (1, 2.0, 2.0))
    monkeypatch.setattr(augment, "SCALE", (1, 1.5, 1.5))
    images = torch.zeros(1, 3, 4, 4)
    images[0, FLAIR, 0] = torch.tensor([1.0, 2.0, 4.0, 4.0])  # the other 12 pixels are 0
    images[0, POST, :] = 7
    changed = change_intensities(images, [PRE, FLAIR, POST], [ALWAYS])
    gamma = torch.zeros(4, 4)
    gamma[0] = torch.tensor([1 / 4, 1.0, 4.0, 4.0])  # (value / 4)^2 x 4
    middle = 9.25 / 16
    expected = ((gamma - middle) * 1.5 + middle) * 1.5
    torch.testing.assert_close(changed[0, FLAIR], expected)
    torch.testing.assert_close(changed[0, PRE], expected)  # replaced by FLAIR
    torch.testing.assert_close(changed[0, POST], torch.full((4, 4), 7 * 1.5))


def test_neighbours_change_like_flair_apart_from_noise(monkeypatch):
    monkeypatch.setattr(augment, "NOISE", (-1.0, 0.0, 0.3))
    images = torch.randn(40, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    images[:, 3] = images[:, 4] = images[:, FLAIR]
    changed = change_intensities(images, SEQUENCES, generators(1, 1, torch.arange(40)))
    torch.testing.assert_close(changed[:, 3], changed[:, FLAIR])
    torch.testing.assert_close(changed[:, 4], changed[:, FLAIR])
    replaced = [int(torch.equal(images[row, PRE], images[row, FLAIR])) for row in range(40)]
    assert not any(replaced)  # the input is as it was
    assert sum(not torch.allclose(changed[row, FLAIR], images[row, FLAIR], atol=1e-4) for row in range(40)) > 20


def test_blurring_a_point_gives_the_gaussian_and_keeps_the_sum():
    point = torch.zeros(1, 2, 21, 31)
    point[0, 1, 10, 15] = 1
    blurred = blur(point, 1.0)
    weights = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    weights /= weights.sum()
    np.testing.assert_allclose(blurred[0, 1, 7:14, 12:19], np.outer(weights, weights), atol=1e-6)
    assert blurred[0, 1].sum().item() == pytest.approx(1, abs=1e-5) and not blurred[0, 0].any()
    torch.testing.assert_close(blur(torch.full((1, 1, 9, 9), 5.0), 0.7), torch.full((1, 1, 9, 9), 5.0))


def test_a_lower_resolution_keeps_size_and_loses_detail():
    checks = torch.arange(64).remainder(2).float().expand(1, 1, 64, 64)
    assert torch.equal(lower_resolution(checks, 1.0), checks)
    assert lower_resolution(checks, 0.5).eq(0).all()  # every second column
    assert lower_resolution(torch.rand(2, 3, 7, 5), 0.1).shape == (2, 3, 7, 5)


# --- Skull and tumour ------------------------------------------------------------------------------------------


def head(tissue: int = 60) -> np.ndarray:
    """A bright scalp, dark bone, and a brain as discs of the radii 90, 84 and 70: uint8 [3, 256, 256, 3]."""
    plane = np.select([disc(70), disc(84), disc(90)], [tissue, 5, 200])
    return np.broadcast_to(plane[None, ..., None], (3, 256, 256, 3)).astype(np.uint8)


def test_distances_from_the_brain():
    masks = np.zeros((3, 256, 256), np.uint8)
    distance = brain.brain_distance(head(), masks).astype(int)
    assert distance.shape == (3, 256, 256) and (distance == distance[0]).all()
    assert distance[0, 128, 128] == 0 and distance[0, 128, 128 + 60] < brain.EDGE
    assert abs(distance[0, 128, 128 + 87] - brain.EDGE - 17) <= 6  # opening flattens the edge
    assert abs(distance[0, 128, 128 + 107] - distance[0, 128, 128 + 87] - 20) <= 2


def test_tumour_is_brain_and_patients_are_apart():
    mask = np.zeros((256, 256), np.uint8)
    mask[120:130, 200:215] = 1
    slices = make_slices({"a": [mask] * 3, "b": [mask * 0] * 3}, np.concatenate([head(), head(tissue=0) * 0]))
    distance = brain.brain_distances(slices)
    assert (distance[:3][slices.masks[:3] > 0] < brain.EDGE).all()
    assert torch.equal(distance[3:], distance[3:4].expand(3, -1, -1)) and (distance[3:] >= brain.EDGE).all()


def test_skull_is_removed_up_to_the_drawn_distance_from_the_brain(images):
    far = torch.full((3, 256, 256), 100, dtype=torch.uint8)
    far[:, :, :100], far[:, :, 100:110] = brain.EDGE - 10, brain.EDGE + 10
    rim, bare, kept = Chance((0.0, 0.0), uniform=1.0), Chance((0.0, 1.0)), Chance((1.0, 0.0))
    changed = augment.strip_skull(images, far, [rim, bare, kept])
    assert torch.equal(changed[0, :, :, :110], images[0, :, :, :110]) and not changed[0, :, :, 110:].any()
    assert torch.equal(changed[1, :, :, :100], images[1, :, :, :100]) and not changed[1, :, :, 100:].any()
    assert torch.equal(changed[2], images[2])


def test_other_contrasts_of_tumours_leave_the_rest_alone(images, masks):
    torch.testing.assert_close(change_intensities(images, SEQUENCES, [NEVER] * 3), images, rtol=0, atol=1e-5)
    assert torch.equal(augment.change_lesions(images, masks, SEQUENCES, [NEVER] * 3), images)
    changed = augment.change_lesions(images, masks, SEQUENCES, [ALWAYS] * 3)
    outside = torch.nn.functional.max_pool2d(masks, 13, 1, 6) == 0  # beyond the blurred edge
    for row in range(3):
        assert torch.equal(changed[row][:, outside[row, 0]], images[row][:, outside[row, 0]])
    assert torch.equal(changed[2], images[2])  # no tumour
    # The middle of the box is a core: one dark value, with the factors of its draws, in all slices of a sequence
    core = changed[0, :, 90:95, 90:95]
    assert torch.allclose(core[FLAIR], core[FLAIR].mean(), atol=1e-3) and torch.allclose(core[3], core[FLAIR].mean())
