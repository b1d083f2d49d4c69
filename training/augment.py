"""Random augmentation of a batch, on the device that computes: geometry, intensities, missing sequences.

The augmentation of a slice depends on (seed, epoch, row) alone: a resumed run repeats it. Strengths began with those of
nnU-Net's 2D training (Isensee et al. 2021); most are more frequent and stronger here, because a network overfits so few
patients otherwise (docs/results.md).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from constants import FLAIR, POST, PRE
from training import brain

ROTATION = math.radians(30)  # largest, either way
ZOOM = (0.7, 1.4)
SHIFT = 16  # pixels, largest, either way
GEOMETRY = 0.7  # probability of rotation, and of zoom
FLIP = 0.5  # left and right
STRIPPED = 0.4  # probability that scalp and skull are removed
RIM = (0.4, -4, 30)  # of these: probability that a rim stays or is missing; smallest and largest, in pixels
LESION = (0.2, 0.9, 1.5)  # contrast of the tumour: probability, smallest, largest factor; fainter ones cost specificity
CORE = 0.15  # probability of a dark core, like a cyst or necrosis, with an enhancing rim
MISSING = 0.5  # FLAIR stands in for pre-contrast, post-contrast or both, as in the set itself where they are missing
SCALE = (0.4, 0.7, 1.3)  # brightness, and contrast: probability, smallest, largest factor
GAMMA = (0.5, 0.6, 1.6)  # exponent
NOISE = (0.2, 0.0, 0.3)  # standard deviation, in units of the head's
BLUR = (0.2, 0.5, 1.0)  # sigma in pixels of the network's input
LOW_RESOLUTION = (0.25, 0.5, 1.0)  # fraction of the resolution


def generators(seed: int, epoch: int, rows: torch.Tensor) -> list[np.random.Generator]:
    """Return a generator of random numbers for each row of an epoch."""
    return [np.random.default_rng((seed, epoch, int(row))) for row in rows]


# --- Geometry --------------------------------------------------------------------------------------------------


def cut_window(
    images: torch.Tensor, masks: torch.Tensor, centres: torch.Tensor, extent: tuple[int, int], size: tuple[int, int],
    generators: Sequence[np.random.Generator] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Cut a window out of each slice, turned, zoomed, shifted and flipped at random if `generators` are given.

    Args:
        images: float32 [N, C, H, W], interpolated bilinearly; the edge is repeated beyond the frame.
        masks: float32 [N, 1, H, W], 0 or 1; the nearest neighbour keeps them so.
        centres: float [N, 2], row and column between pixels of the windows' centres.
        extent: height and width of the window in pixels of the slice.
        size: height and width of the output.
    """
    height, width = images.shape[-2:]
    turns, centres = np.eye(2), centres.double()
    if generators is not None:
        turns, shifts = map(np.array, zip(*map(_random_turn, generators), strict=True))
        centres = centres + torch.from_numpy(shifts)
    # From the output's coordinates (x, y in -1..1) by way of pixels to those of the slice
    out = np.array([extent[1] / 2, extent[0] / 2])
    into = np.array([2 / width, 2 / height])
    theta = torch.empty(len(images), 2, 3, dtype=torch.float64)
    theta[:, :, :2] = torch.from_numpy(turns * out * into[:, None])
    theta[:, :, 2] = centres.flip(1) * torch.from_numpy(into) - 1
    theta = theta.float().to(images.device, non_blocking=True)
    grid = F.affine_grid(theta, [len(images), 1, *size], align_corners=False)
    # Repeats the edge like padding_mode="border", which Apple GPUs lack before PyTorch 2.13
    ends = grid.new_tensor([1 - 1 / width, 1 - 1 / height])
    return (
        F.grid_sample(images, grid.clamp(-ends, ends), mode="bilinear", padding_mode="zeros", align_corners=False),
        F.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False),
    )


def _random_turn(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix from the output's to the slice's (x, y), and a shift of the centre (rows, columns)."""
    turns, zooms, flips = generator.random(3) < (GEOMETRY, GEOMETRY, FLIP)
    angle = generator.uniform(-ROTATION, ROTATION) * turns
    zoom = math.exp(generator.uniform(*np.log(ZOOM)) * zooms)
    shift = generator.uniform(-SHIFT, SHIFT, 2)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / zoom
    return matrix * np.array([-1 if flips else 1, 1]), shift


# --- Skull and tumour ------------------------------------------------------------------------------------------


def strip_skull(
    images: torch.Tensor, distances: torch.Tensor, generators: Sequence[np.random.Generator]
) -> torch.Tensor:
    """Replace scalp and skull by air in some slices: float32 [N, C, H, W], `brain_distance` uint8 [N, H, W]."""
    limits = []
    for generator in generators:
        stripped, partly = generator.random(2)
        rim = generator.uniform(*RIM[1:])
        limits.append((brain.EDGE + rim * (partly < RIM[0])) if stripped < STRIPPED else 255)
    limits = torch.tensor(limits, dtype=torch.float32, device=images.device)[:, None, None]
    return images * (distances <= limits)[:, None]


def change_lesions(
    images: torch.Tensor, masks: torch.Tensor, sequences: Sequence[int], generators: Sequence[np.random.Generator]
) -> torch.Tensor:
    """Give some tumours another contrast, or a dark core: float32 [N, C, H, W], masks [N, 1, H, W]."""
    images = images.clone()
    sequences = torch.tensor(sequences, device=images.device)
    for row, generator in enumerate(generators):
        changed, cored, depth, share, flair, others, rim = generator.random(7)
        factors, seed = generator.uniform(*LESION[1:], 3), int(generator.integers(2**63))
        if (changed >= LESION[0] and cored >= CORE) or not masks[row].any():
            continue
        tumour = masks[row : row + 1]
        if changed < LESION[0]:
            soft = blur(tumour, 1.0)[0]
            factor = torch.tensor(factors, dtype=torch.float32, device=images.device)[sequences][:, None, None]
            images[row] *= 1 + soft * (factor - 1)
        if cored < CORE:
            torch_generator = torch.Generator(images.device).manual_seed(seed)
            noise = torch.randn(1, 1, 8, 8, generator=torch_generator, device=images.device)
            noise = F.interpolate(noise, images.shape[-2:], mode="bicubic", align_corners=False)
            reach = 2 + round(6 * depth)
            inner = 1 - F.max_pool2d(1 - tumour, 2 * reach + 1, 1, reach)
            core = inner * (noise > 1.2 * share - 0.8)
            edge = F.max_pool2d(core, 5, 1, 2) - core
            core, edge = blur(core, 1.0)[0], blur(edge * tumour, 0.7)[0]
            dark = torch.where(sequences == FLAIR, 0.3 + 1.1 * flair, 0.4 + 1.1 * others)[:, None, None]
            images[row] += core * (dark - images[row])
            images[row] *= 1 + edge * (sequences == POST)[:, None, None] * 1.5 * rim
    return images


# --- Intensities -----------------------------------------------------------------------------------------------


def change_intensities(
    images: torch.Tensor, sequences: Sequence[int], generators: Sequence[np.random.Generator]
) -> torch.Tensor:
    """Return slices with augmented intensities: float32 [N, C, H, W], in units of the head's standard deviation.

    The channels of one sequence, FLAIR and its neighbours, get the same factors.
    """
    drawn = [_draw(generator) for generator in generators]
    images = images.clone()
    for row, draw in enumerate(drawn):
        for sequence in draw["missing"]:
            images[row, sequence] = images[row, FLAIR]
    names = ("gamma", "contrast", "brightness")
    factors = torch.tensor(np.array([[draw[name][list(sequences)] for draw in drawn] for name in names]))
    gamma, contrast, brightness = factors.float()[..., None, None].to(images.device, non_blocking=True)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = (high - low).clamp_(min=1e-6)
    images = images.sub_(low).div_(span).clamp_(min=0).pow_(gamma).mul_(span).add_(low)
    middle = images.mean((2, 3), keepdim=True)
    images = images.sub_(middle).mul_(contrast).add_(middle).mul_(brightness)
    for row, draw in enumerate(drawn):
        if draw["fraction"] < 1:
            images[row : row + 1] = lower_resolution(images[row : row + 1], draw["fraction"])
        if draw["sigma"]:
            images[row : row + 1] = blur(images[row : row + 1], draw["sigma"])
        if draw["noise"]:
            torch_generator = torch.Generator(images.device).manual_seed(draw["seed"])
            noise = torch.empty_like(images[row]).normal_(0, draw["noise"], generator=torch_generator)
            images[row] += noise
    return images


def _draw(generator: np.random.Generator) -> dict:
    """Draw the augmentation of a slice; always the same number of draws."""

    def between(rule: tuple[float, float, float], otherwise: float, count: int | None = None):
        value = generator.uniform(*rule[1:], count)
        return np.where(generator.random(count) < rule[0], value, otherwise)

    missing = ((PRE,), (POST,), (PRE, POST))[generator.integers(3)]
    return {
        "missing": missing if generator.random() < MISSING else (),
        "gamma": between(GAMMA, 1, 3),
        "contrast": between(SCALE, 1, 3),
        "brightness": between(SCALE, 1, 3),
        "fraction": float(between(LOW_RESOLUTION, 1)),
        "sigma": float(between(BLUR, 0)),
        "noise": float(between(NOISE, 0)),
        "seed": int(generator.integers(2**63)),
    }


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolve with a Gaussian of `sigma` pixels; the edge is repeated. float32 [N, C, H, W]."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1).unsqueeze(1)
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])
    return flat.view_as(images)


def lower_resolution(images: torch.Tensor, fraction: float) -> torch.Tensor:
    """Keep a fraction of the resolution: down by the nearest neighbour, up again bilinearly. float32 [N, C, H, W]."""
    size = images.shape[-2:]
    small = F.interpolate(images, [max(1, round(side * fraction)) for side in size], mode="nearest")
    return F.interpolate(small, size, mode="bilinear", align_corners=False)
