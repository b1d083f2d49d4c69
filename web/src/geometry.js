// A scan in the geometry that the network knows, by the mm of its header: scans/geometry.py. A scan is {slices: [{height,
// width, planes}], spacing: mm between rows, columns, slices, or null}
import {cross, dot} from "./grid.js";
import {findHead, resizeBytes, resizeFloats, roundHalfEven, toNetworkSize, toOriginalSize} from "./preprocess.js";

export const sameSize = slices => slices.every(({height, width}) => height === slices[0].height && width === slices[0].width);

// Of each slab its first slice and the one after its last; a slab may be one slice
export function slabsOf({slices, spacing}, {THIN, APART}) {
  const thick = !(spacing && spacing[2] < THIN && sameSize(slices));
  const count = thick ? slices.length : Math.max(1, roundHalfEven(slices.length * spacing[2] / APART));
  const edge = n => n === count ? slices.length : roundHalfEven(n * (slices.length / count));
  return Array.from({length: count}, (_, n) => [edge(n), edge(n + 1)]);
}

// Height and width of a slice with square pixels, which are as large as the shorter side of its own
function squareSize({height, width}, spacing, {UNEQUAL, LARGEST}) {
  const [rows, columns] = spacing || [1, 1];
  if (Math.max(rows, columns) <= UNEQUAL * Math.min(rows, columns)) return [height, width];
  const side = Math.max(Math.min(rows, columns), Math.max(height * rows, width * columns) / LARGEST);
  return [height * rows, width * columns].map(mm => Math.max(1, roundHalfEven(mm / side)));
}

// The sequences of each slab at the network's size with square pixels
export function toNetwork(scan, config) {
  return slabsOf(scan, config).map(([from, to]) => {
    const {height, width, planes} = scan.slices[from], size = squareSize(scan.slices[from], scan.spacing, config), done = new Map();
    return planes.map((plane, c) => {  // one sequence may stand for all three
      if (!done.has(plane)) {
        const mean = to - from > 1 ? average(scan.slices.slice(from, to).map(slice => slice.planes[c])) : plane;
        done.set(plane, toNetworkSize(resizeBytes(mean, height, width, ...size), ...size, config.input.size));
      }
      return done.get(plane);
    });
  });
}

const average = planes => Uint8Array.from(planes[0], (_, at) =>
  roundHalfEven(Math.fround(planes.reduce((sum, plane) => sum + plane[at], 0) / planes.length)));

// Masks of the slices on the grid of the network, by nearest neighbour; a slab is marked where half of its slices are
export function masksToNetwork(masks, scan, config) {
  const {size} = config.input, nearest = (at, old, now) => Math.floor((at + 0.5) * old / now);
  return slabsOf(scan, config).map(([from, to]) => {
    const {height, width} = scan.slices[from], [rows, columns] = squareSize(scan.slices[from], scan.spacing, config);
    const side = Math.max(rows, columns), top = (side - rows) >> 1, left = (side - columns) >> 1, own = masks.slice(from, to);
    return Uint8Array.from({length: size * size}, (_, pixel) => {
      const y = nearest(Math.floor(pixel / size), side, size) - top, x = nearest(pixel % size, side, size) - left;
      if (y < 0 || x < 0 || y >= rows || x >= columns) return 0;
      const at = nearest(y, height, rows) * width + nearest(x, width, columns);
      return 2 * own.reduce((sum, mask) => sum + mask[at], 0) >= own.length ? 1 : 0;
    });
  });
}

// The slab at or below slice n, and how far the slice is on the way to the next, 0 to 1
export function placeOf(slabs, n) {
  const middle = slab => (slabs[slab][0] + slabs[slab][1] - 1) / 2;
  const below = Math.max(0, slabs.findLastIndex((_, slab) => middle(slab) <= n));
  const share = below + 1 < slabs.length && n > middle(below) ? (n - middle(below)) / (middle(below + 1) - middle(below)) : 0;
  return [below, Math.fround(share)];
}

// The logits of slice n at its own size, from those of the slabs
export function fromNetwork(logits, scan, n, config) {
  const {height, width} = scan.slices[n], size = squareSize(scan.slices[n], scan.spacing, config);
  const [below, share] = placeOf(slabsOf(scan, config), n), next = logits[below + 1];
  const plane = share ? logits[below].map((value, at) => value * (1 - share) + next[at] * share) : logits[below];
  return resizeFloats(toOriginalSize(plane, config.input.size, ...size), ...size, height, width);
}

// The pixels of a slice that one pixel of the network covers
export function networkPixel(slice, spacing, config) {
  const size = squareSize(slice, spacing, config);
  return (Math.max(...size) / config.input.size) ** 2 * (slice.height * slice.width / (size[0] * size[1]));
}

// What toNetwork does to the slices, as notes for the user
export function describe(scan, config) {
  const notes = [], slabs = slabsOf(scan, config).length, [first] = scan.slices;
  const [rows, columns, between] = (scan.spacing || []).map(value => Number(value.toPrecision(3)));
  if (slabs < scan.slices.length) notes.push(`slices of ${between} mm are averaged in ${slabs} slabs, as thick as those of the data set`);
  if (`${squareSize(first, scan.spacing, config)}` !== `${[first.height, first.width]}`) {
    notes.push(`pixels of ${rows} x ${columns} mm, as of slices taken in another plane, are made square for the network; ` +
      "the mask is on the grid of the input");
  }
  return notes;
}

// The planes of one sequence on the grid of FLAIR, by linear interpolation, and the Dice of both heads, 0 to 1
export function resample(other, flair) {
  const [width, height, depth] = other.grid.shape, planes = other.slices.map(slice => slice.planes[0]);
  const steps = inverseTimes(other.grid.shown, flair.grid.shown);  // voxel of FLAIR -> voxel of the other
  const moved = flair.slices.map((slice, k) => {
    const plane = new Uint8Array(slice.height * slice.width);
    for (let j = 0, at = 0; j < slice.height; j++) for (let i = 0; i < slice.width; i++, at++) {
      const [x, y, z] = steps.map(row => row[0] * i + row[1] * j + row[2] * k + row[3]);
      if (!(x >= -0.5 && y >= -0.5 && z >= -0.5 && x < width - 0.5 && y < height - 0.5 && z < depth - 0.5)) continue;
      const [u, v, w] = [Math.max(0, x), Math.max(0, y), Math.max(0, z)], [left, top, low] = [Math.floor(u), Math.floor(v), Math.floor(w)];
      const [right, bottom, high] = [Math.min(left + 1, width - 1), Math.min(top + 1, height - 1), Math.min(low + 1, depth - 1)];
      const line = (of, row) => of[row * width + left] + (of[row * width + right] - of[row * width + left]) * (u - left);
      const area = of => line(of, top) + (line(of, bottom) - line(of, top)) * (v - top);
      plane[at] = area(planes[low]) + (area(planes[high]) - area(planes[low])) * (w - low);
    }
    return plane;
  });
  const heads = [moved, flair.slices.map(slice => slice.planes[0])].map(own => findHead(own, flair.slices[0].height, flair.slices[0].width, true));
  let both = 0, sum = 0;
  heads[0].forEach((head, n) => head.forEach((value, at) => { both += value & heads[1][n][at]; sum += value + heads[1][n][at]; }));
  return {planes: moved, overlap: 2 * both / Math.max(1, sum)};
}

// Of two matrices, 3 x 4, the second followed by the inverse of the first
function inverseTimes(first, second) {
  const [a, b, c] = [0, 1, 2].map(axis => first.map(row => row[axis]));
  const rows = [cross(b, c), cross(c, a), cross(a, b)].map(row => row.map(value => value / dot(a, cross(b, c))));
  const columns = [0, 1, 2, 3].map(axis => second.map((row, n) => row[axis] - (axis === 3 ? first[n][3] : 0)));
  return rows.map(row => columns.map(column => dot(row, column)));
}
