// From slices of 8 bits to the network's input: what dataset/preprocess.py and scans/geometry.py compute, bit for bit where
// they are exact. A stack is {height, width, slices: [[pre, flair, post], ...]} with a Uint8Array per sequence, rows first.

// Of a sorted sequence with the value at(k) at place k: linear interpolation, as NumPy does it
export function percentile(count, at, share) {
  const place = share / 100 * (count - 1), below = Math.floor(place), part = place - below;
  const low = at(below), high = at(Math.min(below + 1, count - 1));
  return part < 0.5 ? low + (high - low) * part : high - (high - low) * (1 - part);
}

// Of a mask or of other numbers, or of `count` of them
export function sum(values, from = 0, count = values.length, step = 1) {
  let result = 0;
  for (let n = 0; n < count; n++) result += values[from + n * step];
  return result;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return percentile(sorted.length, place => sorted[place], 50);
}

// How often each of 256 values occurs
export function countValues(planes) {
  const counts = new Float64Array(256);
  for (const plane of planes) for (let i = 0; i < plane.length; i++) counts[plane[i]]++;
  return counts;
}

// The same of 8-bit values given by how often each occurs
export function percentileOfCounts(counts, share) {
  const sums = new Float64Array(256);
  counts.reduce((sum, count, value) => (sums[value] = sum + count), 0);
  return percentile(sums[255], place => sums.findIndex(sum => sum > place), share);
}

// Mean and standard deviation of the same, of what `of` makes of each value
export function measure(counts, of = value => value) {
  let count = 0, sum = 0, squares = 0;
  counts.forEach((times, value) => { count += times; sum += times * of(value); });
  counts.forEach((times, value) => { squares += times * (of(value) - sum / count) ** 2; });
  return {mean: sum / count, deviation: Math.sqrt(squares / count)};
}

export function roundHalfEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

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

// --- The head ------------------------------------------------------------------------------------------------------

// The largest bright region of each slice of FLAIR, with what lies inside of it if `filled`: [Uint8Array, ...] of 0 and 1
export function findHead(planes, height, width, filled = false) {
  const level = 0.1 * percentileOfCounts(countValues(planes), 99.5), stack = new Int32Array(height * width);
  return planes.map(plane => {
    const bright = new Uint8Array(plane.length);
    for (let i = 0; i < plane.length; i++) bright[i] = plane[i] > level ? 1 : 0;
    const region = largestRegion(spread(spread(bright, height, width, 0), height, width, 1), height, width, stack);
    return filled ? fillHoles(region, height, width, stack) : region;
  });
}

const REACH = 2;  // pixels: a square of 5 x 5

// Let one value (0 erodes, 1 dilates) spread to a square around each of its pixels; nothing comes from outside
function spread(mask, height, width, value) {
  const along = (source, count, length, step, jump) => {
    const result = new Uint8Array(source.length).fill(1 - value);
    for (let line = 0; line < count; line++) {
      let until = -1;  // up to which the last pixel of this value reaches
      for (let i = -REACH; i < length; i++) {
        const ahead = i + REACH;
        if (ahead < length && source[line * jump + ahead * step] === value) until = ahead + REACH;
        if (i >= 0 && i <= until) result[line * jump + i * step] = value;
      }
    }
    return result;
  };
  return along(along(mask, height, width, 1, width), width, height, width, 1);
}

// The largest region of pixels that touch, corners included; the first of equals
function largestRegion(mask, height, width, stack) {
  const labels = new Int32Array(mask.length);
  let count = 0, best = 0, most = 0;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    let top = 0, area = 0;
    labels[start] = ++count;
    stack[top++] = start;
    while (top) {
      const at = stack[--top], y = Math.floor(at / width), x = at - y * width;
      area++;
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const next = v * width + u;
          if (mask[next] && !labels[next]) { labels[next] = count; stack[top++] = next; }
        }
      }
    }
    if (area > most) [best, most] = [count, area];
  }
  const region = new Uint8Array(mask.length);
  for (let i = 0; i < region.length; i++) region[i] = best && labels[i] === best ? 1 : 0;
  return region;
}

function fillHoles(region, height, width, stack) {
  const filled = new Uint8Array(region.length).fill(1);
  let top = 0;
  const visit = at => { if (!region[at] && filled[at]) { filled[at] = 0; stack[top++] = at; } };
  for (let x = 0; x < width; x++) { visit(x); visit((height - 1) * width + x); }
  for (let y = 0; y < height; y++) { visit(y * width); visit(y * width + width - 1); }
  while (top) {
    const at = stack[--top], x = at % width;
    if (x > 0) visit(at - 1);
    if (x < width - 1) visit(at + 1);
    if (at >= width) visit(at - width);
    if (at < (height - 1) * width) visit(at + width);
  }
  return filled;
}

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
    const inside = new Float64Array(256), all = new Float64Array(256);
    stack.forEach((planes, number) => {
      const plane = planes[sequence], mask = head[number];
      for (let i = 0; i < plane.length; i++) { all[plane[i]]++; if (mask[i]) inside[plane[i]]++; }
    });
    const counts = inside.some(count => count) ? inside : all;
    const [low, high] = [0.5, 99.5].map(share => percentileOfCounts(counts, share));
    const clip = value => Math.min(Math.max(value, low), high), divisor = Math.max(unit(counts, clip), 1);
    return Float32Array.from({length: 256}, (_, value) => (clip(value) - clip(0)) / divisor);
  });
}

// What the network sees of a patient, from the slabs of geometry.js: also the table of each sequence and the window to compute
export function prepare(stack, config) {
  const {size, normalisation, crop} = config.input, head = findHead(stack.map(planes => planes[config.FLAIR]), size, size);
  const levels = NORMALISATIONS[normalisation](stack, head, config);
  const window = crop ? windowAround(headBox(head, size, size), size, config.MULTIPLE) : [0, 0, size, size];
  return {stack, levels, window};
}

// The network's input for a slab, and for its mirror image where both are averaged: Float32Array [1 or 2, channels, h, w]
export function fillInput({stack, levels, window: [top, left, height, width]}, number, config) {
  const {size, neighbours, tta_flip: flip} = config.input, planes = [0, 1, 2].map(n => [stack[number][n], levels[n]]);
  for (let distance = 1; distance <= neighbours; distance++) for (const step of [-distance, distance]) {
    const near = stack[Math.max(0, Math.min(stack.length - 1, number + step))];
    planes.push([near[config.FLAIR], levels[config.FLAIR]]);
  }
  const passes = flip ? 2 : 1, area = height * width, input = new Float32Array(passes * planes.length * area);
  planes.forEach(([plane, table], channel) => {
    for (let y = 0; y < height; y++) {
      const from = (top + y) * size + left, to = channel * area + y * width;
      for (let x = 0; x < width; x++) input[to + x] = table[plane[from + x]];
      if (flip) for (let x = 0; x < width; x++) input[planes.length * area + to + x] = table[plane[from + width - 1 - x]];
    }
  });
  return {input, shape: [passes, planes.length, height, width]};
}

// The logits of a whole slab from those of its window, averaged over the mirror image: Float32Array of size x size
export function collectLogits(output, {window: [top, left, height, width]}, config) {
  const {size, tta_flip: flip} = config.input, frame = new Float32Array(size * size).fill(config.OUTSIDE);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const at = y * width + x, mirrored = height * width + y * width + width - 1 - x;
    frame[(top + y) * size + left + x] = flip ? (output[at] + output[mirrored]) / 2 : output[at];
  }
  return frame;
}

// A sentence for each thing about the weights that this page cannot do; empty if there is none
export function refusals({input, network}) {
  const known = ["size", "normalisation", "neighbours", "crop", "resolution", "tta_flip", "threshold", "min_component"];
  const wrong = Object.keys(input).filter(name => !known.includes(name))
    .map(name => `the page knows nothing of "${name}" in the preprocessing of these weights`);
  if (!(input.normalisation in NORMALISATIONS)) wrong.push(`the page cannot normalise by "${input.normalisation}"`);
  if (input.resolution !== 1) wrong.push(`the page computes at full resolution alone, not at ${input.resolution}`);
  if (network.channels !== 3 + 2 * input.neighbours) wrong.push(`${network.channels} channels are not three and neighbours`);
  return wrong;
}
