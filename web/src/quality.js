// Warnings about a prediction, in the words of evaluation/quality.py
import {findHead, percentileOfCounts} from "./preprocess.js";

// slices: [{height, width, planes}], masks: [Uint8Array]
export function inputWarnings(slices, masks, {corner, uneven, bright, tooMuch, flair}) {
  const warnings = [], values = slices.map(slice => cornerValues(slice, corner));
  const [spread, level] = [0, 1].map(n => median(values.map(pair => pair[n])));
  if (spread > uneven || level > bright) {
    const what = spread > uneven ? "vary like the rest" : "are as bright as the rest";
    warnings.push(`this does not look like MR of one head: the corners, where MR shows air, ${what}. The masks of ` +
      "anything else mean nothing. Give slices of a whole head, with pre-contrast, FLAIR and post-contrast as " +
      "their channels.");
  }
  const alike = slices.every(({height, width}) => height === slices[0].height && width === slices[0].width);
  const stacks = alike ? [slices] : slices.map(slice => [slice]);
  const area = mask => { let sum = 0; for (let i = 0; i < mask.length; i++) sum += mask[i]; return sum; };
  const head = stacks.flatMap(stack =>
    findHead(stack.map(slice => slice.planes[flair]), stack[0].height, stack[0].width, true).map(area));
  const large = masks.filter((mask, number) => area(mask) > tooMuch * head[number]).length;
  if (large) {
    warnings.push(`the mask covers more than a third of the head in ${large} of ${slices.length} slices, as no tumour ` +
      "of the data set does. Look at the overlays before you use the areas.");
  }
  return warnings;
}

// How the four corners of a slice compare with all of it, in its highest channel: spread and level
function cornerValues({height, width, planes}, corner) {
  const rows = Math.ceil(height / corner), columns = Math.ceil(width / corner), result = [0, 0];
  const near = (length, reach) => Array.from({length: 2 * reach}, (_, n) => (n - reach + length) % length);
  for (const plane of new Set(planes)) {
    const counts = new Float64Array(256), corners = [];
    for (let i = 0; i < plane.length; i++) counts[plane[i]]++;
    for (const y of near(height, rows)) for (const x of near(width, columns)) corners.push(plane[y * width + x]);
    const all = [...counts.keys()].filter(value => counts[value]);
    const spread = deviation(corners.map(value => [value, 1])) / Math.max(deviation(all.map(value => [value, counts[value]])), 1);
    const level = corners.reduce((sum, value) => sum + value, 0) / corners.length / Math.max(percentileOfCounts(counts, 99.5), 1);
    result[0] = Math.max(result[0], spread);
    result[1] = Math.max(result[1], level);
  }
  return result;
}

function deviation(pairs) {  // of [value, times]
  const count = pairs.reduce((sum, [, times]) => sum + times, 0);
  const mean = pairs.reduce((sum, [value, times]) => sum + value * times, 0) / count;
  return Math.sqrt(pairs.reduce((sum, [value, times]) => sum + times * (value - mean) ** 2, 0) / count);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
