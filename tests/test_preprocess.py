"""Intensities, the head and its window, and neighbouring slices, by hand."""

import numpy as np
import pytest
import torch
from conftest import box, disc, make_slices

from constants import FLAIR, POST, PRE
from dataset.preprocess import NORMALISATIONS, Preprocessing, by_head, find_head, head_box, preprocess, window
from dataset.slices import Slices, without_masks

CPU = torch.device("cpu")


def scan(seed: int, slices: int = 3) -> np.ndarray:
    """A bright noisy disc on dark noise: uint8 [slices, 256, 256, 3], even values only."""
    rng, shape = np.random.default_rng(seed), (slices, 256, 256, 3)
    head = disc(60, 100 + 5 * seed, 120)[..., None]
    return (2 * (rng.integers(0, 4, shape) + head * rng.integers(20, 90, shape))).astype(np.uint8)


def patients(**stacks: np.ndarray) -> Slices:
    masks = {name: [box()] * len(stack) for name, stack in stacks.items()}
    return make_slices(masks, np.concatenate(list(stacks.values())))


def images_of(prepared, *rows: int) -> torch.Tensor:
    return prepared.batch(torch.tensor(rows or range(len(prepared))), CPU)[0]


def test_plain_is_the_formula_bit_for_bit():
    every = torch.arange(256, dtype=torch.uint8).view(1, 256, 1, 1).repeat(1, 1, 256, 3)
    prepared = preprocess(without_masks(every.numpy(), "a"), Preprocessing())
    half = torch.tensor([0.5, 0.5, 0.5])
    formula = every.float().div_(255).sub_(half).div_(half).permute(0, 3, 1, 2)
    assert torch.equal(images_of(prepared), formula)


def test_by_the_head_of_a_tiny_stack():
    stack = np.zeros((1, 2, 3, 3), np.uint8)
    stack[0, :, :, PRE] = [[0, 0, 200], [0, 10, 30]]
    stack[0, :, :, FLAIR] = [[0, 0, 200], [0, 50, 50]]
    head = np.array([[[False, False, False], [False, True, True]]])
    tables = by_head(stack, head)
    # PRE: 10 and 30; the percentiles 0.5 and 99.5 are 10.1 and 29.9, the standard deviation of these 9.9
    assert tables[PRE, [0, 5, 10, 20, 30, 255]] == pytest.approx([0, 0, 0, 9.9 / 9.9, 19.8 / 9.9, 19.8 / 9.9])
    # FLAIR is the same everywhere in the head, POST is black: nothing is divided by 0
    assert not tables[FLAIR].any() and not tables[POST].any()


def test_median_is_that_of_the_brain_with_and_without_skull():
    stack, head = scan(1), find_head(scan(1))
    rim = stack.copy()
    ring = disc(70, 105, 120) & ~disc(61, 105, 120)
    rim[:, ring] = 250
    tables = [NORMALISATIONS["median"](pixels, find_head(pixels)) for pixels in (stack, rim, stack // 2)]
    middle = int(np.median(stack[head][:, FLAIR]))
    assert tables[0][FLAIR, middle] == pytest.approx(2, abs=0.05) and (tables[0][:, 0] == 0).all()
    assert tables[2][FLAIR, middle // 2] == pytest.approx(2, abs=0.1)
    assert tables[1][FLAIR, middle] > 0.6 * tables[0][FLAIR, middle]  # though a quarter of the head is its rim


# --- The head --------------------------------------------------------------------------------------------------


def test_the_head_is_the_largest_bright_region_of_each_slice():
    stack = np.zeros((3, 256, 256, 3), np.uint8)
    head, skull = disc(40, 100, 120), disc(12, 30, 220)
    stack[0, head, FLAIR] = 100
    stack[0, skull, FLAIR] = 250
    stack[0, 200, :, FLAIR] = 250  # a line, thinner than the opening
    stack[1, :, :, FLAIR] = 9  # noise below a tenth
    stack[1, :, :, PRE] = 255  # the other sequences do not matter
    stack[2, skull, FLAIR] = 60
    found = find_head(stack)
    assert found.dtype == bool and not found[1].any()
    # The opening takes at most a pixel at the round edge
    assert not (found[0] & ~head).any() and (head & ~found[0]).sum() < 0.02 * head.sum()
    assert not (found[2] & ~skull).any() and found[2].sum() > 0.9 * skull.sum()
    assert head_box(found[:1]) == (61, 140, 81, 160)  # without the disc's four outermost pixels
    assert head_box(found) == (19, 140, 81, 232)  # of all slices
    stack[0, disc(20, 100, 120)] = 0
    assert not find_head(stack)[0, 100, 120] and find_head(stack, filled=True)[0, 100, 120]  # a hole in it


def test_windows_by_hand():
    assert window((100, 132, 64, 128)) == (slice(100, 132), slice(64, 128))  # multiples already
    assert window((100, 133, 10, 11)) == (slice(84, 148), slice(0, 32))  # at the left edge
    assert window((200, 256, 255, 256)) == (slice(192, 256), slice(224, 256))
    assert window((0, 256, 0, 256)) == window((0, 225, 31, 256)) == (slice(0, 256), slice(0, 256))
    assert window((100, 132, 64, 128), 0.5) == (slice(84, 148), slice(64, 128))  # 64 pixels are the fewest that fit
    # 32 computed pixels are 42.7 of the slice: 170 are four times that, 171 are as many, 172 need five
    assert window((40, 210, 40, 211), 0.75) == (slice(39, 210), slice(40, 211))
    assert window((40, 212, 40, 254), 0.75) == (slice(19, 232), slice(0, 256))


def numbered(*numbers: int) -> np.ndarray:
    """Slices whose FLAIR is their number, and whose other sequences are 0."""
    stack = np.zeros((len(numbers), 256, 256, 3), np.uint8)
    stack[..., FLAIR] = np.array(numbers)[:, None, None]
    return stack


def test_neighbours_come_nearest_first_and_repeat_the_end_of_their_own_stack():
    slices = patients(b=numbered(10, 11, 12, 13), a=numbered(20, 21), c=numbered(30))
    how = Preprocessing(neighbours=2)
    assert how.channels == 7 and how.sequences == [PRE, FLAIR, POST, FLAIR, FLAIR, FLAIR, FLAIR]
    images = images_of(preprocess(slices, how))
    values = (images[:, :, 7, 9] + 1).mul(127.5).round().int().tolist()
    assert values == [
        [0, 10, 0, 10, 11, 10, 12],  # before and after by one, before and after by two
        [0, 11, 0, 10, 12, 10, 13],
        [0, 12, 0, 11, 13, 10, 13],
        [0, 13, 0, 12, 13, 11, 13],
        [0, 20, 0, 20, 21, 20, 21],
        [0, 21, 0, 20, 21, 20, 21],
        [0, 30, 0, 30, 30, 30, 30],
    ]
    assert torch.equal(images[:, :3], images_of(preprocess(slices, Preprocessing())))


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_patient_is_prepared_the_same_without_the_others(normalisation):
    stacks = {"m": scan(1), "z": scan(2, slices=2) // 2, "a": scan(3, slices=4)}
    how = Preprocessing(normalisation, neighbours=1, crop=True)
    together, first = preprocess(patients(**stacks), how), 0
    for number, (name, stack) in enumerate(stacks.items()):
        rows = range(first, first := first + len(stack))
        alone = preprocess(without_masks(stack, name), how)
        assert together.stack[list(rows)].tolist() == [number] * len(stack)
        assert torch.equal(images_of(alone), images_of(together, *rows))
        assert alone.boxes == together.boxes[number : number + 1]


@pytest.mark.parametrize("crop", [False, True])
def test_batches_cover_every_row_once_in_order(crop):
    prepared = preprocess(patients(b=scan(1, 5), a=scan(8, 2)), Preprocessing(crop=crop))
    batches = list(prepared.batches(2))
    assert torch.cat([rows for rows, _ in batches]).tolist() == list(range(7))
    frame = (slice(0, 256), slice(0, 256))
    if crop:  # the batches of one patient, each with the window of its head
        assert [rows.tolist() for rows, _ in batches] == [[0, 1], [2, 3], [4], [5, 6]]
        assert [seen for _, seen in batches] == [window(prepared.boxes[patient]) for patient in (0, 0, 0, 1)]
        assert batches[0][1] != batches[-1][1] != frame
    else:
        assert [len(rows) for rows, _ in batches] == [2, 2, 2, 1] and all(seen == frame for _, seen in batches)
