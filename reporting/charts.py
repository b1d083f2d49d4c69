"""Small charts as SVG text for the report: they follow its light or dark colours, print, and need no script.

Colours, widths and dashes belong to the page: a curve carries a CSS class, nothing else. Every chart has a title and a
sentence that says in words what it shows, for people who do not see it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 440, 290  # units of the drawing; on a phone one of them is 0.8 pixels, so that text stays legible
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 46  # margins around the plot area, for the labels


@dataclass(frozen=True)
class Axis:
    """A range with a name; low < high, and 0 < low if it is logarithmic."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between low (0) and high (1)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers inside the range, sorted."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if math.log10(self.high / self.low) < 3 else (1,)
            return [t for d in decades for s in steps if self.low <= (t := s * 10.0**d) <= self.high]
        step = round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... (times any power of ten) that is at least `least` > 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def whole_range(values: Sequence[float], label: str, log: bool = False) -> Axis:
    """An axis that holds all finite values, with a little room; a single value gets a range of its own."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not finite:
        return Axis(label, 0.1, 1, log) if log else Axis(label, 0, 1)
    low, high = min(finite), max(finite)
    if log:
        return Axis(label, low / 1.15, high * 1.15, log=True)
    room = 0.05 * (high - low) or max(abs(high), 1) * 0.05
    return Axis(label, low - room, high + room)


def number(value: float) -> str:
    """A tick label: as short as the number allows."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"


@dataclass
class Chart:
    """A chart that is filled mark by mark, and then turned into HTML."""

    title: str
    description: str  # what it shows, in words
    x: Axis
    y: Axis
    marks: list[str] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)  # (HTML of a sample, name)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Position in the drawing."""
        across, up = self.x.share(x), self.y.share(y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def _drawable(self, x: float, y: float) -> bool:
        return all(
            math.isfinite(v) and (v > 0 or not axis.log) and -0.001 <= axis.share(v) <= 1.001
            for v, axis in ((x, self.x), (y, self.y))
        )

    def line(self, xs: Sequence[float], ys: Sequence[float], css: str, name: str = "") -> None:
        """A curve; it is interrupted where a value is missing."""
        path, drawing = [], False
        for x, y in zip(xs, ys, strict=True):
            if self._drawable(x, y):
                path.append("{}{:.1f} {:.1f}".format("L" if drawing else "M", *self.place(x, y)))
                drawing = True
            else:
                drawing = False
        self.marks.append(f'<path class="line {css}" d="{" ".join(path)}"/>')
        if name:
            self.legend.append((f'<path class="line {css}" d="M1 6H27"/>', name))

    def points(self, xs: Sequence[float], ys: Sequence[float], css: str, name: str = "", radius: float = 3.5) -> None:
        """A dot each."""
        dots = [self.place(x, y) for x, y in zip(xs, ys, strict=True) if self._drawable(x, y)]
        self.marks += [f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in dots]
        if name:
            self.legend.append((f'<circle class="dot {css}" cx="14" cy="6" r="{radius}"/>', name))

    def columns(self, lows: Sequence[float], highs: Sequence[float], ys: Sequence[float], css: str, name: str) -> None:
        """Upright bars from the foot of the chart."""
        for low, high, y in zip(lows, highs, ys, strict=True):
            (left, top), (right, foot) = self.place(low, y), self.place(high, self.y.low)
            box = f'x="{left + 1:.1f}" y="{top:.1f}" width="{max(right - left - 2, 1):.1f}" height="{foot - top:.1f}"'
            self.marks.append(f'<rect class="column {css}" {box}/>')
        self.legend.append((f'<rect class="column {css}" x="6" y="0" width="16" height="12"/>', name))

    def html(self) -> str:
        """The chart as a <figure> with its legend."""
        label = escape(f"{self.title}. {self.description}", quote=True)
        samples = "".join(
            f'<li><svg width="28" height="12" aria-hidden="true">{sample}</svg>{escape(name)}</li>'
            for sample, name in self.legend
        )
        return (
            f'<figure class="chart"><figcaption>{escape(self.title)}</figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
            f"{self._grid()}{''.join(self.marks)}</svg>"
            f'<ul class="legend">{samples}</ul></figure>'
        )

    def _grid(self) -> str:
        """Grid lines with their numbers, and the names of the axes."""
        parts = []
        right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM
        for tick in self.x.ticks():
            x = self.place(tick, self.y.low)[0]
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{foot}"/>')
            parts.append(f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{number(tick)}</text>')
        for tick in self.y.ticks():
            y = self.place(self.x.low, tick)[1]
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{foot}H{right}"/>')
        middle = (TOP + foot) / 2
        parts.append(
            f'<text class="name" x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{escape(self.x.label)}</text>"
            f'<text class="name" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.label)}</text>"
        )
        return "".join(parts)
