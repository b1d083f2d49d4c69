// From logits to masks, as inference/segment.py and evaluation/selection.py do it. A mask is a Uint8Array of 0 and 1.
import {fromNetwork, networkPixel, sameSize} from "./geometry.js";
import {roundHalfEven, sum} from "./preprocess.js";

// The pixels of slice n whose probability reaches the threshold
export function cut(logits, scan, n, threshold, config) {
  const level = Math.log(threshold / (1 - threshold));
  return Uint8Array.from(fromNetwork(logits, scan, n, config), value => value >= level ? 1 : 0);
}

// The mask of each slice: components go through the slices unless these differ in size
export function segment(logits, scan, threshold, config) {
  const {slices, spacing} = scan, masks = slices.map((_, n) => cut(logits, scan, n, threshold, config));
  for (const stack of sameSize(slices) ? [masks] : masks.map(mask => [mask])) {
    const slice = slices[masks.indexOf(stack[0])];
    const least = roundHalfEven(config.input.min_component * networkPixel(slice, spacing, config));
    removeSmall(stack, slice.height, slice.width, least, config.FEWEST_SLICES);
  }
  return masks;
}

// Remove the components of a stack whose largest section has fewer pixels, or that lie in too few slices; 0 keeps all
export function removeSmall(masks, height, width, smallest, fewestSlices) {
  if (!smallest) return;
  const {runs, rootOf, sections} = findComponents(masks, height, width), few = Math.min(fewestSlices, masks.length);
  runs.forEach(([slice, y, first, last], run) => {
    const pixels = sections.get(rootOf(run));
    if (pixels.size < few || Math.max(...pixels.values()) < smallest) masks[slice].fill(0, y * width + first, y * width + last + 1);
  });
}

// The pixels of each component of a stack
export function countComponents(masks, height, width) {
  return [...findComponents(masks, height, width).sections.values()].map(pixels => sum([...pixels.values()]));
}

// Components touch through slices, corners included. Returns {runs: [[slice, row, first, last], ...], rootOf: run -> the
// name of its component, sections: of each component, its pixels by slice}
function findComponents(masks, height, width) {
  const parent = [], runs = [];
  const root = run => { while (parent[run] !== run) run = parent[run] = parent[parent[run]]; return run; };
  const join = (rows, own) => {  // with runs of a row beside, corners included; both sorted
    let k = rows[0];
    for (let run = own[0]; run < own[1]; run++) {
      const [, , first, last] = runs[run];
      while (k < rows[1] && runs[k][3] < first - 1) k++;
      for (let other = k; other < rows[1] && runs[other][2] <= last + 1; other++) parent[root(other)] = root(run);
    }
  };
  let before = null;
  masks.forEach((mask, slice) => {
    const rows = [];  // of each row: [first, last) of its runs
    for (let y = 0; y < height; y++) {
      const start = runs.length, offset = y * width;
      for (let x = mask.indexOf(1, offset) - offset; x >= 0 && x < width;) {
        let end = x;
        while (end + 1 < width && mask[offset + end + 1]) end++;
        parent.push(runs.length);
        runs.push([slice, y, x, end]);
        for (x = end + 1; x < width && !mask[offset + x];) x++;
      }
      rows.push([start, runs.length]);
      if (rows[y][0] === rows[y][1]) continue;
      if (y) join(rows[y - 1], rows[y]);
      if (before) for (const near of [y - 1, y, y + 1]) if (before[near]) join(before[near], rows[y]);
    }
    before = rows;
  });
  const sections = new Map();  // of each component: pixels by slice
  runs.forEach(([slice, , first, last], run) => {
    const own = root(run);
    if (!sections.has(own)) sections.set(own, new Map());
    sections.get(own).set(slice, (sections.get(own).get(slice) || 0) + last - first + 1);
  });
  return {runs, rootOf: root, sections};
}
