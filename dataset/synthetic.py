"""Synthetic patients in the layout of the Kaggle LGG set: run and test everything without real data.

    python -m dataset.synthetic                                   # the 14 of the demo
    python -m dataset.synthetic my_patients --patients 30 --seed 1

Crude heads drawn from random numbers. No pixel comes from a real scan; a score reached here says nothing about people.
"""

import argparse
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

import constants
from constants import CHANNELS, FLAIR, IMAGE_SIZE, POST, PRE, SYNTHETIC_PATIENTS, SYNTHETIC_SEED, SYNTHETIC_SLICES
from dataset.labels import SYNTHETIC_LABEL, normalise_id
from dataset.published import LABEL_FILE
from utils import new_folder, parallel_map, positive, run_script, whole_number

PREFIX = "SYNTH_"  # the real ids begin with TCGA
README = """SYNTHETIC DATA - NOT PATIENTS

This project drew these images from random numbers: {patients} made-up patients, seed {seed}, third version.
No pixel comes from a real scan. They exist so that the pipeline can be run and tested; a score reached
on them says nothing about real gliomas. The layout is that of the Kaggle LGG segmentation set.
data.csv gives each of them a made-up subtype: the outline of an irregular tumour was drawn more irregular.
"""
KINDS = ("enhancing", "tiny", "two components", "faint", "one sequence missing", "two components, faint", "ordinary")
ROUGHNESS = {"smooth": 0.5, "irregular": 1.5}  # of the tumour's outline, by the made-up subtype
AIR, SCALP, BONE, FLUID, FAT, GREY, WHITE = range(7)
BRIGHTNESS = {  # of each tissue, 0 to 255, before the patient's own scaling
    PRE: (0, 190, 10, 26, 140, 60, 82),
    FLAIR: (0, 150, 9, 14, 100, 71, 62),
    POST: (0, 175, 12, 28, 120, 65, 82),
}
# Ellipsoids: centre and radii along |x|, y (to the back) and z, in radii of the head and its height
VENTRICLES = (
    (0.09, -0.24, 0.43, 0.055, 0.15, 0.12),  # frontal horn
    (0.10, 0.02, 0.52, 0.05, 0.26, 0.09),  # body
    (0.24, 0.30, 0.40, 0.06, 0.17, 0.12),  # occipital horn
)
DEEP_GREY = ((0.24, -0.10, 0.37, 0.075, 0.15, 0.1), (0.11, 0.09, 0.37, 0.075, 0.11, 0.08))
BRAIN_STEM = ((0, 0.06, 0, 0.2, 0.15, 0.2),)
ORBITS = ((0.36, -0.62, 0.05, 0.19, 0.16, 0.07),)
HEIGHT = 130  # of the head in pixels


def any_synthetic(patients: Iterable[str]) -> bool:
    """Return whether any of the patients was made by this module; no TCGA id begins with PREFIX."""
    return any(patient.startswith(PREFIX) for patient in patients)


def patient_name(number: int) -> str:
    """Return the id of synthetic patient 1, 2, ..."""
    return f"{PREFIX}XX_{number:04d}_20000101"


def describe_patient(number: int) -> tuple[str, str, int]:
    """Return kind, subtype and number of slices of patient 1, 2, ...; 14 in a row have each kind with each subtype."""
    fewest, most = SYNTHETIC_SLICES
    return KINDS[number % len(KINDS)], list(ROUGHNESS)[number % 2], fewest + 5 * number % (most - fewest + 1)


# --- Drawing ---------------------------------------------------------------------------------------------------


def ellipsoids(x: np.ndarray, y: np.ndarray, z: np.ndarray, shapes: list | tuple) -> np.ndarray:
    """Return 1 in the centre of the nearest ellipsoid, 0 on its surface, negative outside: float32 [S, H, W]."""
    distances = (((x - a) / ra) ** 2 + ((y - b) / rb) ** 2 + ((z - c) / rc) ** 4 for a, b, c, ra, rb, rc in shapes)
    return 1 - np.sqrt(reduce(np.minimum, distances))


def make_patient(seed: int, number: int, slices: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draw a patient: a function of the arguments alone, but for the rounding of other processors and libraries.

    Returns: images, uint8 [S, 256, 256, 3], and masks, uint8 [S, 256, 256], 0 or 1.
    """
    rng = np.random.default_rng((seed, number))
    kind, subtype, count = describe_patient(number)
    slices = slices or count

    def noise(cell: float, layers: float) -> np.ndarray:
        """Return a random field that varies over `cell` pixels in a slice and `layers` slices: float32 [S, H, W]."""
        side = round(2 * IMAGE_SIZE / cell)
        coarse = rng.standard_normal((slices, side, side), dtype=np.float32)
        coarse = ndimage.gaussian_filter(coarse, (layers / 2, 1, 1), mode="nearest")
        coarse /= coarse.std()
        planes = (cv2.resize(plane, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC) for plane in coarse)
        return np.stack(list(planes))

    # The head: in each slice an ellipse, a little turned, shifted and bent
    z = np.linspace(0.05, 0.93, slices, dtype=np.float32)[:, None, None]
    size = np.sqrt(1 - ((z - 0.3) / 0.72) ** 2)
    width, length = rng.uniform(86, 97) * size, rng.uniform(106, 117) * size
    turn, right, down = np.float32(rng.uniform((-0.12, -5, -5), (0.12, 5, 5)))
    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32) - IMAGE_SIZE / 2
    x = columns * np.cos(turn) + rows * np.sin(turn) + right + 1.3 * noise(40, 4)
    y = rows * np.cos(turn) - columns * np.sin(turn) + down + 1.3 * noise(40, 4)
    u, v = x / width, y / length
    depth = (1 - np.hypot(u / (1 + 0.08 * v), v)) * (width + length) / 2 + noise(100, 8)  # pixels below the skin

    # The tumour: one or two ellipsoids on one side, with a more or less irregular surface
    radius, height = rng.uniform(16, 31), rng.uniform(0.34, 0.52) * HEIGHT
    if kind == "tiny":
        radius, height = rng.uniform(7, 9), 2.6 * HEIGHT / slices
    side, stretch = 2 * int(rng.integers(2)) - 1, rng.uniform(0.8, 1.25)
    a, b, c = side * rng.uniform(26, 46), rng.uniform(-52, 46), HEIGHT * rng.uniform(0.36, 0.5)
    shapes = [(a, b, c, radius * stretch, radius / stretch, height / 2)]
    if "two components" in kind:
        small = rng.uniform(0.45, 0.6) * radius
        gap = 7 + radius / stretch + small
        shapes.append((a, b - gap if b > 0 else b + gap, c + 6, small, small, height / 3))
    lobes = np.clip(ROUGHNESS[subtype] * (0.22 * noise(22, 2.5) + 0.09 * noise(9, 1.2)), -0.5, 0.5)
    tumour = ellipsoids(x, y, z * HEIGHT, shapes) + lobes - 0.05 * np.maximum(-side * x, 0)

    # Tissues, from the skin inwards
    rough = noise(9, 1)
    scalp = rng.uniform(4, 6) * (1 + 0.2 * noise(60, 5)) / size
    inside = depth - scalp - rng.uniform(4, 6) / size - 1.5  # pixels below the brain's surface
    reach = np.clip(1.1 - inside / rng.uniform(22, 30), 0, 1)  # of the sulci, which run inwards
    furrow = np.abs(np.sin(9 * np.arctan2(u, v) + 2.5 * noise(20, 2)))
    fissure = np.abs(x + 0.5 * rough) + 99 * ((z < 0.58) & (np.abs(v) < 0.6))
    ventricles = ellipsoids(np.abs(u) - 0.3 * v**2, v, z, VENTRICLES) + 0.12 * rough + rng.uniform(-0.1, 0.2)
    ventricles = np.minimum(ventricles, 0.4 - 2 * tumour)  # they give way to the tumour
    stem = ellipsoids(u, v, z, BRAIN_STEM) + 0.1 * rough
    orbits = ellipsoids(np.abs(u), v, z, ORBITS)
    brain = (inside > 0) & (orbits < -0.45)
    grey = (np.minimum(inside, fissure) < 4) | (furrow < 0.6 * reach)
    grey |= ellipsoids(np.abs(u), v, z, DEEP_GREY) + 0.1 * rough > 0
    fluid = (furrow < rng.uniform(0.1, 0.2) * reach) | (fissure < 0.8) | (ventricles > 0) | (np.abs(stem + 0.2) < 0.12)
    where = [depth < 0, depth < scalp, inside < -1.5, orbits > 0, orbits > -0.45, fluid | ~brain, grey]
    tissue = np.select(where, [AIR, SCALP, BONE, FLUID, FAT, FLUID, GREY], WHITE).astype(np.uint8)
    tumour[~brain | (ventricles > 0)] = -9

    # Bright in FLAIR and no tumour: caps on the ventricles, a patchy rim of the brain, and in some small lesions
    patches = np.clip(noise(20, 2), 0, 1)
    bright = rng.uniform(0.2, 0.8) * np.clip(1 + rng.uniform(1.5, 3) * ventricles, 0, 1) * (0.3 + patches)
    bright += 0.5 * np.exp(-((inside / 4) ** 2)) * patches
    bright += 0.7 * np.clip(2 * (noise(7, 0.6) - rng.uniform(2.4, 3.4)), 0, 1) * (tissue == WHITE)
    bright[tissue < GREY] = 0

    # The scanner: contrast, coil, blur and noise
    contrast = rng.uniform(0.7, 0.85) if "faint" in kind else rng.uniform(0.9, 1.3)
    share = np.clip(0.5 + tumour / rng.uniform(0.15, 0.4), 0, 1)  # its border is more or less sharp
    texture, coil, level = noise(10, 1.5), 1 + 0.07 * noise(128, 20), rng.uniform(1.5, 4)
    images = np.empty((*tissue.shape, CHANNELS), np.uint8)
    for channel, levels in BRIGHTNESS.items():
        levels = np.float32(levels * rng.uniform(0.95, 1.05, len(levels)))
        signal = levels[tissue] + (levels[WHITE] * bright if channel == FLAIR else 0)
        lesion = levels[WHITE] * (1 + contrast * (1 if channel == FLAIR else -0.2)) * (1 + 0.1 * texture)
        if channel == POST and kind == "enhancing":
            lesion += 0.7 * levels[WHITE] * np.clip(texture - 0.2, 0, 1) * np.clip(3 * tumour, 0, 1)
        signal += share * (lesion - signal)
        signal = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.8) for plane in signal])
        signal *= coil * rng.uniform(0.9, 1.1) * (1 + 0.04 * noise(4, 0.5))
        real, imaginary = level * rng.standard_normal((2, *signal.shape), dtype=np.float32)
        images[..., channel] = np.minimum(np.hypot(signal + real, imaginary), 255)
    if kind == "one sequence missing":
        images[..., POST if number % 3 else PRE] = images[..., FLAIR]
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))  # no reader outlines specks
    return images, np.stack([cv2.morphologyEx(plane, cv2.MORPH_OPEN, pen) for plane in np.uint8(tumour > 0)])


# --- Files -----------------------------------------------------------------------------------------------------


def write_slice(folder: Path, patient: str, number: int, image: np.ndarray, mask: np.ndarray) -> None:
    """Write an image (uint8 [256, 256, 3]) and its mask (0 or 1) as uncompressed TIFFs into the patient's folder."""
    (folder / patient).mkdir(parents=True, exist_ok=True)
    for ending, pixels in ((".tif", image[..., ::-1]), ("_mask.tif", mask * 255)):  # OpenCV takes BGR
        content = cv2.imencode(".tif", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1]
        (folder / patient / f"{patient}_{number}{ending}").write_bytes(content.tobytes())


def write_patients(folder: str | Path, patients: int = SYNTHETIC_PATIENTS, seed: int = SYNTHETIC_SEED) -> bool:
    """Write a set with its table of subtypes into a new folder; return False if this very set is there already.

    Raises: UserError if `folder` holds anything else.
    """
    folder, numbers = Path(folder).resolve(), range(1, patients + 1)
    readme, written = README.format(patients=patients, seed=seed), folder / "README.txt"
    if written.is_file() and written.read_text(encoding="utf-8") == readme:
        return False

    def write_patient(number: int) -> None:
        for n, (image, mask) in enumerate(zip(*make_patient(seed, number), strict=True), start=1):
            write_slice(work, patient_name(number), n, image, mask)

    with new_folder(folder) as work:
        parallel_map(write_patient, numbers)
        labels = [f"{normalise_id(patient_name(number))};{describe_patient(number)[1]}" for number in numbers]
        (work / LABEL_FILE).write_text("\n".join([f"Patient;{SYNTHETIC_LABEL}", *labels, ""]), encoding="utf-8")
        (work / "README.txt").write_text(readme, encoding="utf-8")
    return True


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=constants.SYNTHETIC_DIR, help="(%(default)s)")
    parser.add_argument("--patients", type=positive(int), default=SYNTHETIC_PATIENTS, help="(%(default)s)")
    parser.add_argument("--seed", type=whole_number, default=SYNTHETIC_SEED, help="of the random numbers (%(default)s)")
    args = parser.parse_args(argv)
    written = write_patients(args.folder, args.patients, args.seed)
    print(f"{args.folder}: {args.patients} patients, {'written' if written else 'there already'}")
    print(constants.SYNTHETIC_NOTICE)


if __name__ == "__main__":
    run_script(main)
