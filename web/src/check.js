// Warnings about a prediction, in the words of scans/check.py
import {sameSize} from "./geometry.js";
import {findHead, percentileOfCounts} from "./preprocess.js";

// slices: [{height, width, planes}], masks: [Uint8Array]
export function inputWarnings(slices, masks, {corner, uneven, bright, tooMuch, least, flair}) {
  const warnings = [], values = slices.map(slice => cornerValues(slice, corner));
  const [spread, level] = [0, 1].map(n => median(values.map(pair => pair[n])));
  if (spread > uneven || level > bright) {
    const what = spread > uneven ? "vary like the rest" : "are as bright as the rest";
    warnings.push(`this does not look like MR of one head: the corners, where MR shows air, ${what}. The masks of ` +
      "anything else mean nothing. Give slices of a whole head, with pre-contrast, FLAIR and post-contrast as " +
      "their channels.");
  }
  const stacks = sameSize(slices) ? [slices] : slices.map(slice => [slice]);
  const area = mask => { let sum = 0; for (let i = 0; i < mask.length; i++) sum += mask[i]; return sum; };
  const head = stacks.flatMap(stack =>
    findHead(stack.map(slice => slice.planes[flair]), stack[0].height, stack[0].width, true).map(area));
  const large = masks.filter((mask, number) => area(mask) > Math.max(tooMuch * head[number], least * mask.length)).length;
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
    const counts = new Float64Array(256), corners = new Float64Array(256);
    for (let i = 0; i < plane.length; i++) counts[plane[i]]++;
    for (const y of near(height, rows)) for (const x of near(width, columns)) corners[plane[y * width + x]]++;
    const [whole, part] = [counts, corners].map(describe);
    result[0] = Math.max(result[0], part.deviation / Math.max(whole.deviation, 1));
    result[1] = Math.max(result[1], part.mean / Math.max(percentileOfCounts(counts, 99.5), 1));
  }
  return result;
}

function describe(counts) {  // of how often each value occurs
  let count = 0, sum = 0, squares = 0;
  counts.forEach((times, value) => { count += times; sum += times * value; });
  const mean = sum / count;
  counts.forEach((times, value) => { squares += times * (value - mean) ** 2; });
  return {mean, deviation: Math.sqrt(squares / count)};
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
