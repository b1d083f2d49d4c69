// The head, and roughly the brain in it, from slices of FLAIR: what dataset/head.py computes, pixel for pixel. A slice is a
// Uint8Array, rows first; a mask has 0 and 1. A shape is a list of half widths of its rows, in pixels, around its middle.
import {countValues, percentileOfCounts} from "./numbers.js";

const SQUARE = [2, 2, 2, 2, 2];
const CORNERS = [-1, 0, 1].flatMap(down => [-1, 0, 1].map(across => [0, down, across])).filter(([, down, across]) => down || across);
const FACES = [[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]];

// The largest bright region of each slice of FLAIR, with what lies inside of it if `filled`
export function findHead(planes, height, width, filled = false) {
  const level = 0.1 * percentileOfCounts(countValues(planes), 99.5);
  return planes.map(plane => {
    const region = largestRegion(open(plane.map(value => value > level ? 1 : 0), height, width, SQUARE), height, width, CORNERS);
    return filled ? fillHoles(region, height, width) : region;
  });
}

// FLAIR above a fraction of the head's median, deeper than the skin, opened; the largest region in the stack, closed
export function findBrain(planes, height, width, {DARKEST, SKIN, OPENED, CLOSED}) {
  const size = height * width, head = findHead(planes, height, width, true), brain = new Uint8Array(planes.length * size);
  const counts = countValues(planes, head);
  const level = counts.some(count => count) ? DARKEST * percentileOfCounts(counts, 50) : Infinity;
  planes.forEach((plane, n) => {
    const deep = spread(head[n], height, width, 0, SKIN);
    brain.set(open(plane.map((value, at) => deep[at] && value > level ? 1 : 0), height, width, OPENED), n * size);
  });
  const largest = largestRegion(brain, height, width, FACES);
  return planes.map((_, n) => fillHoles(close(largest.subarray(n * size, (n + 1) * size), height, width, CLOSED), height, width));
}

// The brain and what lies near it, by the shapes of the configuration's `brain`; all without a brain
export function nearBrain(planes, height, width, shapes) {
  const brain = findBrain(planes, height, width, shapes), found = brain.some(mask => mask.includes(1));
  return brain.map(mask => found ? spread(mask, height, width, 1, shapes.MARGIN) : mask.fill(1));
}

const open = (mask, height, width, shape) => spread(spread(mask, height, width, 0, shape), height, width, 1, shape);

// With black around the frame, into which the mask may grow before it shrinks
function close(mask, height, width, shape) {
  const edge = shape.length >> 1, wide = width + 2 * edge, tall = height + 2 * edge, framed = new Uint8Array(tall * wide);
  for (let y = 0; y < height; y++) framed.set(mask.subarray(y * width, (y + 1) * width), (y + edge) * wide + edge);
  const closed = spread(spread(framed, tall, wide, 1, shape), tall, wide, 0, shape), result = new Uint8Array(mask.length);
  for (let y = 0; y < height; y++) result.set(closed.subarray((y + edge) * wide + edge, (y + edge) * wide + edge + width), y * width);
  return result;
}

// Let one value (0 erodes, 1 dilates) spread to a shape around each of its pixels; nothing comes from outside
export function spread(mask, height, width, value, shape) {
  const result = mask.slice(), reach = shape.length >> 1, away = new Uint8Array(width);
  const ends = own => Array.from({length: height}, (_, y) => {  // the first and last pixel of a value in each row, or -1
    const row = mask.subarray(y * width, (y + 1) * width);
    return [row.indexOf(own), row.lastIndexOf(own)];
  });
  const sources = ends(value), targets = ends(1 - value);
  const excess = new Int16Array(mask.length).fill(255);  // of the way to the nearest source in a row over the shape's half width
  for (let y = 0; y < height; y++) {
    const [first, last] = sources[y];
    if (first < 0) continue;
    for (let x = 0, steps = 255; x < width; x++) away[x] = steps = mask[y * width + x] === value ? 0 : Math.min(steps + 1, 255);
    for (let x = width - 1, steps = 255; x >= 0; x--) away[x] = steps = Math.min(steps + 1, away[x]);
    for (let row = Math.max(0, y - reach); row <= Math.min(height - 1, y + reach); row++) {
      const half = shape[row - y + reach], from = row * width;
      const left = Math.max(0, targets[row][0], first - half), right = Math.min(targets[row][1], last + half);
      for (let x = left; x <= right; x++) excess[from + x] = Math.min(excess[from + x], away[x] - half);
    }
  }
  for (let at = 0; at < result.length; at++) if (excess[at] <= 0) result[at] = value;
  return result;
}

// The largest region of pixels that touch in one of the steps (slices, rows, columns), in a slice or a whole stack; the
// first of equals
function largestRegion(mask, height, width, steps) {
  const labels = new Int32Array(mask.length), stack = new Int32Array(mask.length);
  const jumps = Int32Array.from(steps, ([through, down, across]) => (through * height + down) * width + across);
  const rowOf = at => Math.floor(at / width) % height;
  const isBeyond = (at, next) => Math.abs(next % width - at % width) > 1 || Math.abs(rowOf(next) - rowOf(at)) > 1;  // the frame
  let count = 0, best = 0, most = 0;
  for (let start = mask.indexOf(1); start >= 0; start = mask.indexOf(1, start + 1)) {
    if (labels[start]) continue;
    let top = 0, area = 0;
    labels[start] = ++count;
    stack[top++] = start;
    while (top) {
      const at = stack[--top];
      area++;
      for (let k = 0; k < jumps.length; k++) {
        const next = at + jumps[k];
        if (next < 0 || next >= mask.length || !mask[next] || labels[next] || isBeyond(at, next)) continue;
        labels[next] = count;
        stack[top++] = next;
      }
    }
    if (area > most) [best, most] = [count, area];
  }
  const region = new Uint8Array(mask.length);
  for (let at = 0; at < region.length; at++) region[at] = best && labels[at] === best ? 1 : 0;
  return region;
}

function fillHoles(region, height, width) {
  const filled = new Uint8Array(region.length).fill(1), stack = new Int32Array(region.length);
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
