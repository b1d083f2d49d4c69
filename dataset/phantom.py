"""Draw a synthetic patient: images and tumour mask of a crude head, from random numbers alone.

Scalp, skull, cortex with sulci, ventricles, skull base, and a tumour that is bright in FLAIR, among other things that
are bright in FLAIR too. No pixel comes from a real scan, and a score reached on these images says nothing about
patients.
"""

from functools import reduce
from typing import NamedTuple

import cv2
import numpy as np

from constants import CHANNELS, FLAIR, IMAGE_SIZE, POST, PRE, SYNTHETIC_SLICES

HEIGHT = 130  # pixels from the skull base to the vertex; puts heights and widths on one scale

# Brightness of a tissue in (pre-contrast, FLAIR, post-contrast), 0..255, before the patient's own scaling
TISSUES = {
    "air": (0, 0, 0),
    "scalp": (190, 150, 175),
    "bone": (10, 9, 12),
    "fluid": (26, 12, 28),
    "grey": (58, 76, 63),
    "white": (82, 62, 82),
    "muscle": (62, 48, 74),
    "fat": (165, 125, 150),
}
AIR, SCALP, BONE, FLUID, GREY, WHITE, MUSCLE, FAT = range(len(TISSUES))

# Ellipsoids on one side of the head: centre and radii along |u|, v, z, see Head
VENTRICLES = (
    (0.09, -0.24, 0.53, 0.055, 0.15, 0.11),  # frontal horn
    (0.10, 0.02, 0.60, 0.05, 0.26, 0.075),  # body
    (0.24, 0.30, 0.50, 0.06, 0.17, 0.10),  # trigone and occipital horn
    (0.00, 0.00, 0.44, 0.016, 0.13, 0.07),  # third ventricle
)
DEEP_GREY = (
    (0.24, -0.10, 0.47, 0.075, 0.15, 0.08),  # lentiform nucleus
    (0.11, 0.09, 0.47, 0.075, 0.11, 0.07),  # thalamus
)
ORBITS = ((0.36, -0.66, 0.24, 0.19, 0.155, 0.07),)

ROUGHNESS = {"smooth": 0.5, "irregular": 1.5}  # of the tumour's outline, by the made-up subtype of a patient


class Kind(NamedTuple):
    """The properties of a synthetic patient: missing sequence, kind of tumour, number of its components, subtype."""

    missing: int | None  # channel that FLAIR stands in for
    tiny: bool
    faint: bool
    components: int
    enhancing: bool
    subtype: str  # a key of ROUGHNESS


class Head(NamedTuple):
    """Position of each voxel in the head: float32 [S, H, W], or [S, 1, 1] where it is constant over a slice."""

    x: np.ndarray  # pixels from the midline, in the bent coordinates that make the anatomy irregular
    y: np.ndarray  # pixels from the centre, positive towards the back
    z: np.ndarray  # 0 at the skull base, 1 at the vertex; [S, 1, 1]
    depth: np.ndarray  # pixels below the skin, negative outside; not bent
    width: np.ndarray  # radii of this slice in pixels, to the side and to the front; [S, 1, 1]
    length: np.ndarray

    @property
    def u(self) -> np.ndarray:
        """x as a share of the radius: the skin is near u**2 + v**2 = 1."""
        return self.x / self.width

    @property
    def v(self) -> np.ndarray:
        return self.y / self.length

    @property
    def slant(self) -> np.ndarray:
        """1 where the head is widest, more where the slice cuts its surface at a slant: [S, 1, 1]."""
        return self.width.max() / self.width


def choose_kind(seed: int, number: int) -> Kind:
    """Return the kind of a patient. Each kind occurs among patients 1..7, among 8..14, and so on.

    Of patients 1 and 2, 3 and 4, and so on, one has either subtype: it says nothing about the rest of the kind.
    """
    block, place = divmod(number - 1, 7)
    slot = int(np.random.default_rng((seed, block, 7)).permutation(7)[place])
    pair, second = divmod(number - 1, 2)
    subtypes = np.random.default_rng((seed, pair, 2)).permutation(list(ROUGHNESS))
    return Kind(
        missing=(PRE, POST)[block % 2] if slot == 0 else None,
        tiny=slot == 1,
        faint=slot in (2, 3),
        components=2 if slot in (3, 4) else 1,
        enhancing=slot in (4, 5),
        subtype=str(subtypes[second]),
    )


# --- Fields ----------------------------------------------------------------------------------------------------


def smooth_noise(
    rng: np.random.Generator, slices: int, cell: float, layers: float, columns: int = IMAGE_SIZE
) -> np.ndarray:
    """Return a random field that varies over `cell` pixels in a slice and over `layers` slices through the stack.

    Returns float32 [slices, IMAGE_SIZE, columns] with mean 0 and standard deviation 1, roughly.
    """
    grid = (slices, round(2 * IMAGE_SIZE / cell), round(2 * columns / cell))
    coarse = rng.standard_normal(grid, dtype=np.float32)
    distance = np.subtract.outer(np.arange(slices), np.arange(slices)) / layers
    mix = np.exp(-(distance**2)).astype(np.float32)
    mix /= np.linalg.norm(mix, axis=1, keepdims=True)  # keeps the variance of a slice
    coarse = np.einsum("ij,jhw->ihw", mix, coarse) * 3.6  # makes up for the blur, without which the grid would show
    field = np.empty((slices, IMAGE_SIZE, columns), dtype=np.float32)
    for plane, out in zip(coarse, field, strict=True):
        cv2.resize(cv2.GaussianBlur(plane, (0, 0), 1), (columns, IMAGE_SIZE), out, interpolation=cv2.INTER_CUBIC)
    return field


def ellipsoids(a: np.ndarray, b: np.ndarray, c: np.ndarray, centres_and_radii: list | tuple) -> np.ndarray:
    """Return 1 in the centre of the nearest ellipsoid, 0 on its surface, negative outside: float32 [S, H, W].

    They are flattened at the top and bottom, so that fewer slices merely graze them.
    """
    distances = (
        ((a - i) / ri) ** 2 + ((b - j) / rj) ** 2 + ((c - k) / rk) ** 4 for i, j, k, ri, rj, rk in centres_and_radii
    )
    return 1 - np.sqrt(reduce(np.minimum, distances))


def smooth_step(x: np.ndarray) -> np.ndarray:
    """Return 0 below 0, 1 above 1, and a smooth transition in between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


# --- Anatomy ---------------------------------------------------------------------------------------------------


def shape_head(rng: np.random.Generator, slices: int) -> Head:
    """Return an egg-shaped head, widest at a third of its height, with a nose, slightly rotated and shifted."""
    z = np.linspace(0.03, 0.96, slices, dtype=np.float32)[:, None, None]
    size = np.where(z < 0.35, 0.9 + 0.1 * z / 0.35, np.sqrt(1 - (np.maximum(z - 0.35, 0) / 0.66) ** 2))
    width, length = rng.uniform(86, 97) * size, rng.uniform(106, 117) * size
    turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-7, 7), 1).astype(np.float32)
    shift = rng.uniform(-5, 5, (2, 1, 1)).astype(np.float32)

    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float32) - IMAGE_SIZE / 2 + shift
    x = turn[0, 0] * columns + turn[0, 1] * rows
    y = turn[1, 0] * columns + turn[1, 1] * rows
    v = y / length
    u = x / width / (1 + 0.08 * v)  # the back is broader than the front
    radius = np.sqrt(u**2 + v**2) * (1 - 0.2 * np.minimum((u * v) ** 2, 0.3))  # squarer than an ellipse
    radius *= 1 - 0.13 * np.exp(-((u / 0.14) ** 2)) * (v < 0) * smooth_step((0.3 - z) / 0.1)  # nose
    depth = (1 - radius) * (width + length) / 2 + smooth_noise(rng, slices, 100, 8)
    x = x + 2 * smooth_noise(rng, slices, 40, 4)
    y = y + 2 * smooth_noise(rng, slices, 40, 4)
    return Head(x, y, z, depth, width, length)


def push_aside(head: Head, tumour: tuple, strength: float) -> Head:
    """Return coordinates with the mass effect: anatomy drawn in them is displaced by the tumour (strength 0..0.4)."""
    x, y, z, *radii = tumour
    near = ellipsoids(head.x, head.y, head.z * HEIGHT, [(x, y, z, *(1.6 * radius for radius in radii))])
    shrink = strength * np.exp(-((1 - near) ** 2))
    return head._replace(x=head.x + shrink * (x - head.x), y=head.y + shrink * (y - head.y))


def draw_ventricles(rng: np.random.Generator, head: Head) -> np.ndarray:
    """Return values above 0 in the ventricles, falling to -1 over about their width: float32 [S, H, W]."""
    size = rng.uniform(0.9, 1.4)
    side = np.abs(head.u) - 0.3 * head.v**2  # the horns bend outwards
    parts = [(a * size, b, c, ra * size, rb * size, rc) for a, b, c, ra, rb, rc in VENTRICLES]
    return ellipsoids(side, head.v, head.z, parts) + 0.12 * smooth_noise(rng, len(head.z), 12, 2)


def draw_sulci(rng: np.random.Generator, head: Head, below: np.ndarray) -> np.ndarray:
    """Return the distance from the next sulcus, 0 inside it, about 1 between two: float32 [S, H, W].

    Noise over the angle around the hemisphere's centre and the pixels `below` its surface, stretched along the
    latter: the furrows run inwards.
    """
    slices, around = len(head.z), 1280
    noise = smooth_noise(rng, slices, 15, 2, columns=around)
    hemisphere = np.sign(head.x)
    angle = np.arctan2(head.u - 0.36 * hemisphere, head.v * 1.2) / np.pi  # -1..1 once around a hemisphere
    angle = (0.5 + 0.25 * (hemisphere + angle)) * around
    angle += 14 * smooth_noise(rng, slices, 16, 2)  # the furrows meander
    maps = zip(noise, angle, below * 0.5 + 5, strict=True)
    return np.abs(np.stack([cv2.remap(*each, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for each in maps]))


def label_tissues(rng: np.random.Generator, head: Head, ventricles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tissue of each voxel (index into TISSUES, uint8 [S, H, W]) and where a tumour can grow (bool)."""
    slices = len(head.z)
    u, v, z, side = head.u, head.v, head.z, np.abs(head.u)
    rough = smooth_noise(rng, slices, 9, 1)

    # scalp, skull, fluid: the layers of an onion
    scalp = rng.uniform(4, 6.5) * head.slant * (1 + 0.2 * smooth_noise(rng, slices, 60, 5))
    bone = rng.uniform(4, 6) * head.slant
    inside = head.depth - scalp - bone + 0.5 * rough  # pixels from the skull inwards
    tissue = np.where(head.depth > 0, np.uint8(SCALP), np.uint8(AIR))
    tissue[head.depth > scalp] = BONE
    tissue[inside > 0] = FLUID

    # brain: grey along its surface, which follows the fissure and the sulci, white below
    brain = inside > 1.5
    bridge = smooth_step((0.7 - z) / 0.04) * smooth_step((0.6 - np.abs(v)) / 0.3)  # the fissure ends above it
    fissure = np.abs(head.x + 0.8 * rough) + 60 * bridge
    below = np.minimum(inside - 1.5, fissure)
    furrow = draw_sulci(rng, head, below)
    reach = np.clip(1.1 - below / rng.uniform(22, 30), 0, 1)
    tissue[brain] = WHITE
    tissue[brain & ((below < 4) | (furrow < 0.75 * reach))] = GREY
    tissue[brain & (ellipsoids(side, v, z, DEEP_GREY) + 0.1 * rough > 0)] = GREY
    tissue[brain & ((furrow < rng.uniform(0.12, 0.21) * reach) | (fissure < 1.2) | (ventricles > 0))] = FLUID

    # cerebellum and brain stem
    blobs = smooth_noise(rng, slices, 12, 1.5)
    blobs += 1.2 * blobs[..., ::-1]  # left and right are alike
    stem = np.sqrt((u / 0.17) ** 2 + ((v - 0.06) / 0.13) ** 2) + 0.12 * rough
    cerebellum = brain & (z < 0.20 + 0.22 * v + 0.02 * rough)
    tissue[cerebellum] = np.where(np.sin(9 * stem + rough)[cerebellum] > -0.3, GREY, WHITE)
    tissue[brain & (z < 0.33) & (stem < 1.3) & (blobs > -0.3)] = FLUID
    tissue[brain & (z < 0.33) & (stem < 1.1)] = WHITE

    # face and neck, below a skull base that rises towards the front
    floor = 0.17 - 0.15 * v + 0.1 * np.maximum(side - 0.55, 0) + 0.012 * rough
    face = (inside > -bone) & (z < floor)
    tissue[face] = np.array([AIR, BONE, MUSCLE, FAT])[np.digitize(blobs[face], (-1.4, -0.7, 1.4))]
    tissue[(inside > -bone) & (np.abs(z - floor) < 0.012)] = BONE
    orbits = ellipsoids(side, v, z, ORBITS)
    tissue[orbits > -0.45] = FAT
    tissue[orbits > 0] = FLUID
    return tissue, brain & (z >= floor) & (ventricles <= 0)


# --- Tumour ----------------------------------------------------------------------------------------------------


def place_tumour(rng: np.random.Generator, kind: Kind, slices: int) -> list[tuple]:
    """Return position and size of the tumour: ellipsoids, centre and radii in pixels along x, y and HEIGHT * z."""
    share = 2.6 / slices if kind.tiny else rng.uniform(0.34, 0.52)  # of the stack's height
    radius = rng.uniform(7, 9) if kind.tiny else rng.uniform(16, 31)
    stretch = rng.uniform(0.8, 1.25)
    x, y, z = rng.choice((-1, 1)) * rng.uniform(26, 46), rng.uniform(-52, 46), HEIGHT * rng.uniform(0.46, 0.6)
    parts = [(x, y, z, radius * stretch, radius / stretch, HEIGHT * share / 2)]
    if kind.components == 2:
        small = rng.uniform(0.45, 0.6) * radius
        gap = 7 + radius / stretch + small
        parts.append((x, y - np.sign(y) * gap, z + 0.05 * HEIGHT, small, small, HEIGHT * share / 3))
    return [tuple(map(float, part)) for part in parts]  # NumPy's own scalars would turn float32 into float64


def grow_tumour(rng: np.random.Generator, head: Head, parts: list[tuple], roughness: float) -> np.ndarray:
    """Return values above 0 in the tumour, at most 1.5 deep inside: float32 [S, H, W].

    Noise makes the outline irregular, the more the higher the roughness; it is bounded so that the centre stays inside.
    The other side is mostly spared.
    """
    slices = len(head.z)
    lobes = 0.22 * smooth_noise(rng, slices, 22, 2.5) + 0.09 * smooth_noise(rng, slices, 9, 1.2)
    beyond_midline = np.maximum(-float(np.sign(parts[0][0])) * head.x, 0)
    lobes = np.clip(roughness * lobes, -0.5, 0.5)
    return ellipsoids(head.x, head.y, head.z * HEIGHT, parts) + lobes - 0.05 * beyond_midline


# --- Scan ------------------------------------------------------------------------------------------------------


def brighten_elsewhere(rng: np.random.Generator, head: Head, ventricles: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Return FLAIR signal other than tumour, as a share of that of white matter: float32 [S, H, W].

    Caps on the ventricles and a patchy rim of the brain in everyone, small white matter lesions in some.
    """
    slices = len(head.z)
    patches = smooth_noise(rng, slices, 20, 2)
    caps = rng.uniform(0.2, 0.8) * smooth_step(1 + rng.uniform(1.5, 3) * ventricles) * smooth_step(0.4 + patches)
    spots = 0.7 * smooth_step(2 * (smooth_noise(rng, slices, 7, 0.6) - rng.uniform(2.4, 3.4))) * (tissue == WHITE)
    rim = 0.5 * np.exp(-(((head.depth - 15) / 4) ** 2)) * smooth_step(patches)
    return (caps + spots + rim) * ((tissue == GREY) | (tissue == WHITE))


def scan(
    rng: np.random.Generator, head: Head, tissue: np.ndarray, bright: np.ndarray, tumour: np.ndarray, kind: Kind
) -> np.ndarray:
    """Simulate a scanner with its own contrast, coil, blur and noise: uint8 [S, H, W, CHANNELS]."""
    slices = len(head.z)
    contrast = rng.uniform(0.6, 0.75) if kind.faint else rng.uniform(0.9, 1.3)
    tumour_brightness = {PRE: 1 - 0.2 * contrast, FLAIR: 1 + contrast, POST: 1 - 0.2 * contrast}
    tumour_share = smooth_step(0.5 + tumour / rng.uniform(0.15, 0.4))  # its border is more or less sharp
    texture = smooth_noise(rng, slices, 10, 1.5)
    blur = rng.uniform(0.6, 0.9) * head.slant.ravel() ** 2  # a thick slice smears slanted surfaces
    coil = rng.uniform(0.88, 1.14) * (1 + 0.07 * smooth_noise(rng, slices, 128, 20))
    noise_level = rng.uniform(1.5, 4)

    image = np.empty((*tissue.shape, CHANNELS), dtype=np.uint8)
    for channel, brightness in enumerate(np.transpose(list(TISSUES.values()))):
        brightness = np.float32(brightness * rng.uniform(0.95, 1.05, len(TISSUES)))
        white = float(brightness[WHITE])
        signal = brightness[tissue]
        if channel == FLAIR:
            signal += white * bright
        lesion = white * tumour_brightness[channel] * (1 + 0.1 * texture)
        if channel == POST and kind.enhancing:
            lesion += 0.7 * white * smooth_step(texture - 0.2) * smooth_step(3 * tumour)
        signal += tumour_share * (lesion - signal)
        for plane, sigma in zip(signal, blur, strict=True):
            cv2.GaussianBlur(plane, (0, 0), sigma, dst=plane)
        signal *= coil * rng.uniform(0.94, 1.06)
        signal *= 1 + 0.04 * smooth_noise(rng, slices, 4, 0.5)
        noise = noise_level * rng.standard_normal(signal.shape, dtype=np.float32)
        signal += noise
        signal = np.sqrt(signal**2 + noise[::-1, ::-1] ** 2)  # Rician; turned round, the noise is as good as new
        image[..., channel] = np.minimum(signal, 255)

    if rng.random() < 0.5:  # registration to the other channels leaves a corner of an outer slice empty
        cut = head.y[0] * rng.uniform(-1, 1) + head.x[0] > rng.uniform(-60, 60)
        image[rng.choice((0, -1)), cut, rng.choice((PRE, FLAIR, POST))] = 0
    if kind.missing is not None:
        image[..., kind.missing] = image[..., FLAIR]
    return image


def make_patient(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one patient from the skull base up.

    The same seed and number give the same patient; on another processor or with other versions of NumPy and OpenCV
    a grey value may differ by rounding.

    Returns images uint8 [S, IMAGE_SIZE, IMAGE_SIZE, CHANNELS] (pre-contrast, FLAIR, post-contrast)
    and masks uint8 [S, IMAGE_SIZE, IMAGE_SIZE] in {0, 1}.
    """
    rng = np.random.default_rng((seed, number))
    kind = choose_kind(seed, number)
    slices = int(rng.integers(*SYNTHETIC_SLICES, endpoint=True))
    parts = place_tumour(rng, kind, slices)
    head = push_aside(shape_head(rng, slices), parts[0], rng.uniform(0, 0.4))
    tumour = grow_tumour(rng, head, parts, ROUGHNESS[kind.subtype])
    ventricles = np.minimum(draw_ventricles(rng, head), 0.4 - 2 * tumour)  # they give way to the tumour's core
    tissue, room = label_tissues(rng, head, ventricles)
    tumour[~room] = -9
    images = scan(rng, head, tissue, brighten_elsewhere(rng, head, ventricles, tissue), tumour, kind)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))  # nobody outlines specks
    masks = np.stack([cv2.morphologyEx(plane, cv2.MORPH_OPEN, pen) for plane in np.uint8(tumour > 0)])
    return images, masks
