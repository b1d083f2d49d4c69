"""Read a scan of any format as slices of three channels with 8 bits."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from constants import CHANNELS, POST, PRE
from scans import dicom, pictures, volumes
from scans.scan import PICTURES, Scan, Source, check_total, file_ending, safe_name, stem

PERCENTILES = (0.5, 99.5)  # become 0 and 255 where there are more than 8 bits
MASK_VALUES = {*range(11), 255}  # labels, or 0 and 255
MOST_SORTED = 2**24  # pixels that the percentiles are taken of; of a larger stack, every second, third, ...


def read_scan(source: Source) -> tuple[Scan | None, list[str]]:
    """Return the scan, or None, and problems as text. Pictures that cannot be read are left out of the scan."""
    problems: list[str] = []
    first = source.paths[0]
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # of values beyond float32
            scan = _read_pictures(source, problems) if file_ending(first) in PICTURES else _read_volume(source)
            if scan is not None:
                _refuse_mask(scan)
                _to_eight_bits(scan)
                _to_three_channels(scan)
        return scan, problems
    except Exception as error:  # libraries raise many kinds for a damaged file
        return None, [*problems, _describe(error, first if len(source.paths) == 1 else first.parent)]


def _describe(error: Exception, path: Path) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    remedy = "" if reason.endswith(".") else ". Restore it, or save it anew."  # errors of libraries have none
    return f"{path}: cannot be read: {reason}{remedy}"


def _read_pictures(source: Source, problems: list[str]) -> Scan | None:
    def each(read: Callable[[Path], Any], paths: Iterable[Path]) -> dict[Path, Any]:
        results = {}
        for path in paths:
            try:
                results[path] = read(path)
            except Exception as error:
                problems.append(_describe(error, path))
        return results

    check_total(len(source.paths), 0)
    sizes = each(pictures.read_size, source.paths)
    check_total(len(sizes), sum(max(size) ** 2 for size in sizes.values()))
    slices = {path: np.atleast_3d(plane) for path, plane in each(pictures.read_picture, sizes).items()}
    names = [safe_name(stem(path)) for path in slices]
    if len({name.lower() for name in names}) < len(names):  # such as 1.png beside 1.tif
        names = [safe_name(path.name) for path in slices]
    return Scan(source.name, list(slices.values()), names, list(slices)) if slices else None


def _read_volume(source: Source) -> Scan:
    paths, spacing, grid = source.paths[:1], None, None
    ending = file_ending(paths[0])
    if ending == ".npy":
        stack = volumes.read_array(paths[0])
    elif ending:
        stack, spacing, grid = volumes.read_nifti(paths[0])
    else:
        stack, spacing, grid = dicom.read_series(source.paths, source.series)
        paths = [paths[0].parent]
    digits = len(str(len(stack)))
    names = [f"{source.name}_{number:0{digits}d}" for number in range(1, len(stack) + 1)]
    return Scan(source.name, [np.atleast_3d(plane) for plane in stack], names, paths, spacing, grid=grid)


def _refuse_mask(scan: Scan) -> None:
    """Raise ValueError if a scan holds the values of a mask alone, whatever it is called."""
    values: set[float] = set()
    for plane in scan.slices:
        values.update(np.unique(plane).tolist())
        if not values <= MASK_VALUES:
            return
    if len(values) > 1 and (values == {0, 255} or 255 not in values):
        shown = ", ".join(f"{value:g}" for value in sorted(values))
        raise ValueError(f"holds only {shown}: a mask, and no image. Name it like one (x_mask), or leave it out.")


def _to_eight_bits(scan: Scan) -> None:
    """Scale the slices of more than 8 bits together, each channel by its percentiles, so that dark ones stay dark.

    A value that is not finite is no value: it is black, and no percentile counts it. Some programs set NaN outside of
    the brain.
    """
    deep = {number: plane for number, plane in enumerate(scan.slices) if plane.dtype != np.uint8}
    if not deep:
        return
    step = -(-sum(plane[..., 0].size for plane in deep.values()) // MOST_SORTED)
    broken = sum(np.count_nonzero(~np.isfinite(plane.astype(np.float32))) for plane in deep.values())
    if broken == sum(plane.size for plane in deep.values()):
        raise ValueError("holds no finite value. Restore it.")
    if broken:
        scan.notes.append(f"{broken:,} values that are not finite are black")
    channels = range(next(iter(deep.values())).shape[2])
    limits = [_limits([plane[..., channel] for plane in deep.values()], step) for channel in channels]
    low, high = np.array(limits, dtype=np.float32).T  # of each channel
    for number, plane in deep.items():
        plane = plane.astype(np.float32)
        scaled = (plane - low) / np.where(high > low, high - low, 1) * 255
        scan.slices[number] = np.where(np.isfinite(plane), scaled, 0).clip(0, 255).round().astype(np.uint8)
    low, high = (", ".join(f"{value:.4g}" for value in values) for values in (low, high))
    scan.notes.append(
        f"intensities scaled to 8 bits: {low} becomes 0 and {high} becomes 255 "
        f"(percentiles {PERCENTILES[0]} and {PERCENTILES[1]} of all slices)"
    )


def _limits(planes: list[np.ndarray], step: int) -> tuple[float, float]:
    """Return PERCENTILES of every `step`th finite value of a channel; up to its highest value if they are equal."""
    values = np.concatenate([plane.astype(np.float32).ravel()[::step] for plane in planes])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0, 0
    low, high = np.percentile(values, PERCENTILES)
    if high <= low:  # hardly anything but background
        every = (plane.astype(np.float32) for plane in planes)
        high = max(np.max(plane, initial=low, where=np.isfinite(plane)) for plane in every)
    return low, high


def _to_three_channels(scan: Scan) -> None:
    """Let the one sequence of a grey slice fill all channels, as the data set does where a sequence is missing."""
    grey = [bool((plane == plane[..., :1]).all()) for plane in scan.slices]
    scan.grey = all(grey)
    count = sum(each and plane.any() for each, plane in zip(grey, scan.slices, strict=True))  # black ones do not count
    if count and not scan.grey:
        scan.notes.append(f"{count} of {len(grey)} slices hold one sequence only, used for all three channels")
    scan.slices = [np.broadcast_to(plane, (*plane.shape[:2], CHANNELS)) for plane in scan.slices]


def read_patient(source: Source) -> tuple[Scan | None, list[str]]:
    """Return the scan with all its sequences, or None, and problems as text."""
    scan, problems = read_scan(source)
    others = {}
    for channel, paths in source.others.items():
        others[channel], wrong = read_scan(replace(source, paths=paths, series=""))
        problems += wrong
    if scan is None or (problems and others):  # a sequence must not be left out without a word
        return None, problems
    scan.notes = [*source.notes, *scan.notes]
    try:
        return (combine(scan, others.get(PRE), others.get(POST)) if others else scan), problems
    except ValueError as error:
        return None, [str(error)]


def combine(flair: Scan, pre: Scan | None, post: Scan | None) -> Scan:
    """Return FLAIR with the other sequences in its channels; FLAIR stands in for a missing one. Raises: ValueError."""
    others = [scan for scan in (pre, post) if scan is not None]
    for scan in (flair, *others):
        if not scan.grey:
            raise ValueError(f"{scan.paths[0]}: holds more than one sequence already. Leave out --pre and --post.")
        if [plane.shape for plane in scan.slices] != [plane.shape for plane in flair.slices]:
            raise ValueError(f"{_size(scan)}, but {_size(flair)}. Resample the sequences onto FLAIR first.")
        if scan.grid and flair.grid and not flair.grid.matches(scan.grid, _columns_rows_slices(flair)):
            raise ValueError(f"{scan.paths[0]}: lies elsewhere in space than FLAIR. Register it to FLAIR first.")
    flair.notes += [
        f"{name}: {note}"
        for name, scan in (("pre-contrast", pre), ("post-contrast", post))
        if scan
        for note in scan.notes
    ]
    channels = zip((pre or flair).slices, flair.slices, (post or flair).slices, strict=True)
    flair.slices = [np.stack([plane[..., 0] for plane in planes], axis=2) for planes in channels]
    flair.grey = False
    return flair


def _size(scan: Scan) -> str:
    width, height, slices = _columns_rows_slices(scan)
    return f"{scan.paths[0]} has {slices} slices of {width}x{height}"


def _columns_rows_slices(scan: Scan) -> tuple[int, int, int]:
    height, width = scan.slices[0].shape[:2]
    return width, height, len(scan.slices)
