// From slices of 8 bits to the network's input: what dataset/preprocess.py and scans/geometry.py compute, bit for bit where
// they are exact. A stack is {height, width, slices: [[pre, flair, post], ...]} with a Uint8Array per sequence, rows first.
import {findHead, nearBrain} from "./head.js";
import {countValues, measure, percentileOfCounts, roundHalfEven} from "./numbers.js";

// --- Sizes -------------------------------------------------------------------------------------------------------

// A slice of one sequence, padded with black to a square and resized, as OpenCV does it: area below, else linear
export function toNetworkSize(plane, height, width, size) {
  const side = Math.max(height, width);
  let square = plane;
  if (height !== width) {
    square = new Uint8Array(side * side);
    const top = (side - height) >> 1, left = (side - width) >> 1;
    for (let y = 0; y < height; y++) square.set(plane.subarray(y * width, (y + 1) * width), (y + top) * side + left);
  }
  if (side === size) return square;
  return side > size ? shrink(square, side, size) : resizeBytes(square, side, side, size, size);
}

// Places and weights along one axis of a linear interpolation
function linear(from, to) {
  const first = new Int32Array(to), share = new Float32Array(to), scale = from / to;
  for (let i = 0; i < to; i++) {
    const at = Math.fround((i + 0.5) * scale - 0.5), cell = Math.floor(at);
    first[i] = Math.max(0, Math.min(from - 1, cell));
    share[i] = cell < 0 || cell >= from - 1 ? 0 : at - cell;
  }
  return {first, share};
}

const FIXED = 2048;  // OpenCV interpolates 8 bits with whole numbers

// By linear interpolation
export function resizeBytes(plane, height, width, toHeight, toWidth) {
  if (height === toHeight && width === toWidth) return plane;
  const [across, down] = [linear(width, toWidth), linear(height, toHeight)], result = new Uint8Array(toHeight * toWidth);
  const weights = ({share}) => [Int32Array.from(share, part => roundHalfEven(Math.fround(1 - part) * FIXED)), Int32Array.from(share, part => roundHalfEven(part * FIXED))];
  const [before, after] = weights(across), [upper, lower] = weights(down);
  const rows = Array.from({length: height}, (_, y) => {
    const line = new Int32Array(toWidth);
    for (let x = 0; x < toWidth; x++) {
      const at = y * width + across.first[x];
      line[x] = plane[at] * before[x] + plane[at + (across.first[x] < width - 1 ? 1 : 0)] * after[x];
    }
    return line;
  });
  for (let y = 0; y < toHeight; y++) {
    const above = rows[down.first[y]], below = rows[Math.min(down.first[y] + 1, height - 1)];
    for (let x = 0; x < toWidth; x++) {
      result[y * toWidth + x] = (((upper[y] * (above[x] >> 4)) >> 16) + ((lower[y] * (below[x] >> 4)) >> 16) + 2) >> 2;
    }
  }
  return result;
}

// The pixels that each pixel of the smaller picture covers along one axis: [from, to, at, weight]
function cover(from, to) {
  const scale = from / to, parts = [];
  for (let i = 0; i < to; i++) {
    const start = i * scale, end = start + scale, cell = Math.min(scale, from - start);
    const last = Math.min(Math.floor(end), from - 1), first = Math.min(Math.ceil(start), last), own = [];
    if (first - start > 1e-3) own.push([first - 1, Math.fround((first - start) / cell)]);
    for (let at = first; at < last; at++) own.push([at, Math.fround(1 / cell)]);
    if (end - last > 1e-3) own.push([last, Math.fround(Math.min(end - last, 1, cell) / cell)]);
    parts.push(own);
  }
  return parts;
}

function shrink(plane, from, to) {
  const result = new Uint8Array(to * to), times = from / to;
  if (Number.isInteger(times)) {
    const share = Math.fround(1 / times ** 2);
    for (let y = 0; y < to; y++) for (let x = 0; x < to; x++) {
      let sum = 0;
      for (let v = 0; v < times; v++) for (let u = 0; u < times; u++) sum += plane[(y * times + v) * from + x * times + u];
      result[y * to + x] = times === 2 ? (sum + 2) >> 2 : roundHalfEven(Math.fround(sum * share));
    }
    return result;
  }
  const parts = cover(from, to), lines = new Float32Array(from * to), sums = new Float32Array(to);
  for (let y = 0; y < from; y++) for (let x = 0; x < to; x++) {
    let sum = 0;
    for (const [at, weight] of parts[x]) sum = Math.fround(sum + Math.fround(plane[y * from + at] * weight));
    lines[y * to + x] = sum;
  }
  for (let y = 0; y < to; y++) {
    sums.fill(0);
    for (const [at, weight] of parts[y]) for (let x = 0; x < to; x++) sums[x] += Math.fround(lines[at * to + x] * weight);
    for (let x = 0; x < to; x++) result[y * to + x] = roundHalfEven(sums[x]);
  }
  return result;
}

// Logits at the size of the slice, without the padding: Float32Array of size x size -> of height x width
export function toOriginalSize(logits, size, height, width) {
  const side = Math.max(height, width), top = (side - height) >> 1, left = (side - width) >> 1;
  return resizeFloats(logits, size, size, side, side, [top, left, height, width]);
}

// By linear interpolation; window: the part that is wanted, [top, left, height, width]
export function resizeFloats(plane, height, width, toHeight, toWidth, window = [0, 0, toHeight, toWidth]) {
  const [top, left, rows, columns] = window;
  if (height === rows && width === columns && height === toHeight && width === toWidth) return plane;
  const across = linear(width, toWidth), down = linear(height, toHeight), result = new Float32Array(rows * columns);
  for (let y = 0, at = 0; y < rows; y++) {
    const first = down.first[y + top] * width, low = down.share[y + top], next = low ? width : 0;
    for (let x = 0; x < columns; x++, at++) {
      const from = first + across.first[x + left], right = across.share[x + left], step = right ? 1 : 0;
      const upper = plane[from] * (1 - right) + plane[from + step] * right;
      const lower = plane[from + next] * (1 - right) + plane[from + next + step] * right;
      result[at] = upper * (1 - low) + lower * low;
    }
  }
  return result;
}

// --- The window around the head --------------------------------------------------------------------------------------

// The box of the head in all slices, or the frame: [top, bottom, left, right], ends excluded
export function headBox(head, height, width) {
  let top = height, bottom = 0, left = width, right = 0;
  for (const mask of head) for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (mask[y * width + x]) {
    top = Math.min(top, y); bottom = Math.max(bottom, y + 1); left = Math.min(left, x); right = Math.max(right, x + 1);
  }
  return bottom ? [top, bottom, left, right] : [0, height, 0, width];
}

// The smallest window around a box whose sides are multiples that the network takes: [top, left, height, width]
export function windowAround([top, bottom, left, right], size, multiple) {
  const [[y, height], [x, width]] = [[top, bottom], [left, right]].map(([start, stop]) => {
    const length = Math.min(Math.ceil((stop - start - 0.5) / multiple) * multiple, size);
    return [Math.min(Math.max(Math.floor((start + stop - length) / 2), 0), size - length), length];
  });
  return [y, x, height, width];
}

// --- Intensities: the table of the 256 values of each sequence, by the name of the normalisation ---------------------

export const NORMALISATIONS = {
  plain(stack, head, {MEAN, STD}) {
    return MEAN.map((shift, sequence) => Float32Array.from({length: 256}, (_, value) =>
      Math.fround(Math.fround(Math.fround(value / 255) - Math.fround(shift)) / Math.fround(STD[sequence]))));
  },
  head: byHead((counts, clip) => measure(counts, clip).deviation),
  median: byHead((counts, clip) => (percentileOfCounts(counts, 50) - clip(0)) / 2),
};

// Clipped to percentiles in the head, air at 0, divided by unit(how often each value is in the head, clip)
function byHead(unit) {
  return (stack, head) => [0, 1, 2].map(sequence => {
    const planes = stack.map(slab => slab[sequence]), inside = countValues(planes, head);
    const counts = inside.some(count => count) ? inside : countValues(planes);
    const [low, high] = [0.5, 99.5].map(share => percentileOfCounts(counts, share));
    const clip = value => Math.min(Math.max(value, low), high), divisor = Math.max(unit(counts, clip), 1);
    return Float32Array.from({length: 256}, (_, value) => (clip(value) - clip(0)) / divisor);
  });
}

// What the network sees of a patient, from the slabs of geometry.js: also the table of each sequence and the window to compute.
// If the mirror image has no scalp and skull: what is near the brain in each slab, and the tables of the slabs without the rest
export function prepare(stack, config) {
  const {size, normalisation, crop, tta_flip: flip, tta_strip: strip} = config.input;
  const flair = stack.map(planes => planes[config.FLAIR]), head = findHead(flair, size, size);
  const levels = NORMALISATIONS[normalisation](stack, head, config);
  const window = crop ? windowAround(headBox(head, size, size), size, config.MULTIPLE) : [0, 0, size, size];
  if (!flip || !strip) return {stack, levels, window};
  const brain = nearBrain(flair, size, size, config.brain);
  const stripped = stack.map((planes, number) => planes.map(plane => stripPlane(plane, brain[number])));
  const strippedHead = findHead(stripped.map(planes => planes[config.FLAIR]), size, size);
  return {stack, levels, window, brain, brainLevels: NORMALISATIONS[normalisation](stripped, strippedHead, config)};
}

const stripPlane = (plane, brain) => plane.map((value, at) => value * brain[at]);

// The network's input for a slab, and for its mirror image where both are averaged: Float32Array [1 or 2, channels, h, w]
export function fillInput({stack, levels, window: [top, left, height, width], brain, brainLevels}, number, config) {
  const {size, neighbours, tta_flip: flip} = config.input, channels = [0, 1, 2].map(sequence => [number, sequence]);
  for (let distance = 1; distance <= neighbours; distance++) for (const step of [-distance, distance]) {
    channels.push([Math.max(0, Math.min(stack.length - 1, number + step)), config.FLAIR]);
  }
  const passes = flip ? 2 : 1, area = height * width, input = new Float32Array(passes * channels.length * area);
  channels.forEach(([slab, sequence], channel) => {
    const plane = stack[slab][sequence], table = levels[sequence];
    const [other, otherTable] = brain ? [stripPlane(plane, brain[slab]), brainLevels[sequence]] : [plane, table];
    for (let y = 0; y < height; y++) {
      const from = (top + y) * size + left, to = channel * area + y * width, mirrored = channels.length * area + to;
      for (let x = 0; x < width; x++) input[to + x] = table[plane[from + x]];
      if (flip) for (let x = 0; x < width; x++) input[mirrored + x] = otherTable[other[from + width - 1 - x]];
    }
  });
  return {input, shape: [passes, channels.length, height, width]};
}

// The logits of a whole slab from those of its window, averaged over the mirror image, near the brain alone if that shows
// nothing else: Float32Array of size x size
export function collectLogits(output, {window: [top, left, height, width], brain}, number, config) {
  const {size, tta_flip: flip} = config.input, frame = new Float32Array(size * size).fill(config.OUTSIDE);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const at = y * width + x, mirrored = height * width + y * width + width - 1 - x, place = (top + y) * size + left + x;
    const averaged = flip && (!brain || brain[number][place]);
    frame[place] = averaged ? (output[at] + output[mirrored]) / 2 : output[at];
  }
  return frame;
}

// A sentence for each thing about the weights that this page cannot do; empty if there is none
export function refusals({input, network}) {
  const known = ["size", "normalisation", "neighbours", "crop", "resolution", "tta_flip", "tta_strip", "threshold", "min_component"];
  const wrong = Object.keys(input).filter(name => !known.includes(name))
    .map(name => `the page knows nothing of "${name}" in the preprocessing of these weights`);
  if (!(input.normalisation in NORMALISATIONS)) wrong.push(`the page cannot normalise by "${input.normalisation}"`);
  if (input.resolution !== 1) wrong.push(`the page computes at full resolution alone, not at ${input.resolution}`);
  if (network.channels !== 3 + 2 * input.neighbours) wrong.push(`${network.channels} channels are not three and neighbours`);
  return wrong;
}
