"""What to check first: warnings about files, images and masks, by hand and on real patients."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import box, disc
from test_calibration import head_image

from dataset.folder import find_slices
from dataset.preprocess import find_head
from dataset.published import published_patients
from dataset.slices import load_slices, name_digest
from scans import check
from scans.check import cortex_ratio, file_warnings, input_warnings, is_misplaced, is_stripped
from scans.scan import Scan, pad


def warnings_of(images: np.ndarray, masks: np.ndarray) -> list[str]:
    return input_warnings(Scan("p", images, [], []), find_head(images, filled=True), masks)


GREY = np.full((8, 8, 3), 90, np.uint8)
TINTED = GREY + np.array([0, 0, 2], np.uint8)


@pytest.mark.parametrize(("names", "planes", "expected"), [
    (("a_1", "a_2", "a_3"), [TINTED, GREY * 0, GREY * 0], ""),
    (("z_-12.5", "z_0.0", "z_2.5"), [TINTED] * 3, ""),
    (("x", "y1", "7"), [GREY] * 3, ""),
    (("a_1", "a_2", "b_1", "b_2"), [GREY] * 4, "pictures of 2 series by their names (a_1.png, b_1.png)"),
    (("1", "2", "3"), [GREY, GREY[:6], GREY], "pictures of 2 sizes (8x6, 8x8) are taken for one stack"),
    (("1", "2", "3"), [GREY, TINTED, GREY], "1 of 3 pictures are in colour, such as 2, and are read as three"),
])  # fmt: skip
def test_pictures_that_are_no_stack_of_one_patient(names, planes, expected):
    paths = [Path(f"{name}.png") for name in names]
    scan = Scan("p", pad(planes), list(names), paths)
    scan.sizes = [plane.shape[:2] for plane in planes] if len({plane.shape for plane in planes}) > 1 else []
    warnings = file_warnings(scan, paths[0])
    assert (len(warnings) == 1 and expected in warnings[0]) if expected else warnings == []


def test_a_head_without_scalp_and_skull():
    brain = disc(70) * (90 + np.arange(256) % 40)
    head = np.where(disc(100) & ~disc(84), 250, brain)
    for plane, slices, stripped in ((brain, 5, True), (head, 5, False), (brain, 4, False), (brain * 0, 5, False)):
        planes = np.stack([np.repeat(plane[..., None], 3, 2).astype(np.uint8)] * slices)
        assert is_stripped(Scan("p", planes, [], [])) is stripped


def test_a_photograph_a_page_and_masks_too_large_or_at_the_end_of_a_stack_are_doubted():
    images, masks = np.stack([head_image()] * 2), np.zeros((2, 256, 256), np.uint8)
    images[:, :9, :9] = 0
    assert warnings_of(images, np.stack([box((100, 100, 20, 20))] * 2)) == []
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    assert "the corners, where MR shows air, vary like the rest" in warnings_of(noise, masks)[0]
    assert "are as bright as the rest" in warnings_of(np.full_like(images, 250), masks)[0]
    masks[1] = find_head(images, filled=True)[1]
    assert "more than a third of the head in 1 of 2 slices" in warnings_of(images, masks)[0]
    stack, marked = images[[0] * 5], np.stack([box((100, 100, 20, 20))] * 5)
    assert "the mask reaches the first or last slice" in warnings_of(stack, marked)[-1]
    images[1] = box((100, 100, 30, 30))[..., None] * 90
    assert warnings_of(images, np.stack([box(), box((100, 100, 20, 20))])) == []  # 400 px, where the head ends


def test_a_head_that_lies_unlike_those_of_the_data_set():
    y, x = np.mgrid[:100, :100]
    egg = (np.abs(x - 50) < 25 + y / 9) & (y >= 5) & (y < 95)  # 90 rows; 50 columns in front, 70 behind
    stack = np.stack([egg & (np.hypot(y - 50, x - 50) < radius) for radius in (20, 70, 70, 70, 20)])
    assert not is_misplaced(stack) and not is_misplaced(stack & False)
    assert is_misplaced(stack, tall=0.5)
    for wrong in (stack[:, ::-1], np.rot90(stack, 1, (1, 2)), stack[:, :70], stack[1:4]):
        assert is_misplaced(wrong)


@pytest.mark.parametrize("cortex", [80, 120])
def test_a_cortex_darker_than_white_matter_is_like_t1(cortex):
    y, x = np.mgrid[:256, :256]
    first, last = np.minimum(y % 48, x % 48), np.maximum(y % 48, x % 48)  # in gyri of 40 pixels, 8 apart
    plane = np.select([last >= 40, (first < 6) | (last >= 34)], [20, cortex], 100)
    plane[(np.abs(x - 128) >= 60 + y / 9) | (y < 30) | (y >= 226)] = 0
    stack = np.repeat(plane[None, ..., None].astype(np.uint8), 7, 0).repeat(3, -1)
    stack[[0, -1], :150] = 0  # smaller at the ends
    assert cortex_ratio(stack[..., 1], find_head(stack, filled=True)) == pytest.approx(cortex / 100, abs=0.08)
    warnings = warnings_of(stack, np.zeros(stack.shape[:3], np.uint8))
    assert ["looks like T1" in text for text in warnings] == [True] * (cortex < 100)


@pytest.mark.real
def test_t1_is_told_from_flair_in_the_12_real_patients(real):
    slices = load_slices(real, {"all": find_slices(real, published_patients(subset=True))})["all"]
    doubted = []
    for rows in slices.stacks().values():
        stacks = [slices.images.numpy()[rows][..., [channel] * 3] for channel in range(3)]
        doubted.append([cortex_ratio(stack[..., 0], find_head(stack, filled=True)) < check.CORTEX for stack in stacks])
    assert np.sum(doubted, 0).tolist() == [12, 0, 9]


@pytest.mark.parametrize("about, expected", [
    ({}, "no"), ({"warnings": "too large"}, "yes"), ({"lesion_pixels": 0}, "yes"), ({"low": None}, "yes"),
    ({"low": 0.69}, "yes"), ({"low": 0.71}, "no"), ({"low": 0.1, "warnings": "w", "origin": "corrected"}, "no"),
])  # fmt: skip
def test_who_is_to_be_checked(about, expected):
    assert check.needs_check({"origin": "network", "warnings": "", "lesion_pixels": 9} | about) == expected


def test_who_was_seen_in_training():
    seen = partial(check.seen_in_training, "a", "sha256:1")
    assert (seen(None), seen({"b": "sha256:0"}), seen({"a": ""}), seen({"b": "sha256:1"})) == ("", "no", "yes", "yes")
    for own in ("TCGA_CS_4941_19960909", name_digest("TCGA_CS_4941_19960909")):  # the set is public as NIfTI, too
        assert check.seen_in_training("TCGA-CS-4941", "x", {own: ""}) == "yes"
        assert check.seen_in_training("TCGA-CS-4942", "x", {own: ""}) == "no"
