// Warnings about a prediction, in the words of scans/check.py
import {sameSize} from "./geometry.js";
import {findHead, measure, percentileOfCounts, toNetworkSize} from "./preprocess.js";
import {sha256} from "./sha256.js";

// Whether the weights learned from this patient, by name or by image; known: {name, or its digest: fingerprint of the
// images}, names: that the patient may have
export function seenInTraining({slices, names}, known, size) {
  const digest = parts => sha256(parts).slice(0, 16), text = new TextEncoder();
  if (names.some(name => name in known || digest([text.encode(name)]) in known)) return true;
  if (!slices.every(({height, width}) => height === size && width === size)) return false;  // as all of them have
  const parts = function* () {
    for (const {planes} of slices) {
      yield text.encode(`(${size}, ${size}, 3)`);
      yield Uint8Array.from({length: 3 * size * size}, (_, at) => planes[at % 3][Math.floor(at / 3)]);
    }
  };
  return Object.values(known).includes(`sha256:${digest(parts())}`);
}

// As scans/unusual.py has it: without the bright and dark values of scalp and skull the rest is even
export function isStripped(slices, {stripped, air, fewest, sampled}, flair, size) {
  const step = Math.max(1, Math.floor(slices.length / sampled)), counts = new Float64Array(256);
  const sample = slices.filter((_, n) => n % step === 0);
  for (const {planes, height, width} of sample) for (const value of toNetworkSize(planes[flair], height, width, size)) counts[value]++;
  const level = air * percentileOfCounts(counts, 99.5);
  counts.forEach((_, value) => { if (value <= level) counts[value] = 0; });
  if (sample.length < fewest || !counts.some(count => count)) return false;
  const [low, middle, high] = [0.5, 50, 99.5].map(share => percentileOfCounts(counts, share));
  return middle > stripped * measure(counts, value => Math.min(Math.max(value, low), high)).deviation;
}

const ONE_STACK = "are taken for one stack of one patient, scaled together. Give each person or series a folder of its own.";

// Of pictures that may not be one stack of one patient: [{name, height, width, colour, empty}]
export function pictureWarnings(pictures, endless) {
  const warnings = [], sizes = new Map(), series = new Map();
  for (const {name, height, width} of pictures) {
    sizes.set(`${width}x${height}`, [height, width]);
    const parts = endless(name).toLowerCase().split(/((?:(?<![^_ =])-)?(?<![\d.])\d+\.\d+(?![\d.])|(?:(?<![^_ =])-)?\d+)/);
    const key = parts.map((part, n) => n % 2 ? Number(part) : part).filter((_, n) => n !== parts.length - 2).join("\n");
    series.set(key, [...(series.get(key) || []), name]);
  }
  if (sizes.size > 1) {
    const sorted = [...sizes].sort(([, a], [, b]) => a[0] - b[0] || a[1] - b[1]).map(([text]) => text);
    warnings.push(`pictures of ${sizes.size} sizes (${sorted.slice(0, 3).join(", ")}) ${ONE_STACK}`);
  }
  if (series.size > 1 && [...series.values()].every(own => own.length > 1)) {
    const first = [...series.values()].slice(0, 3).map(own => own[0]).join(", ");
    warnings.push(`pictures of ${series.size} series by their names (${first}) ${ONE_STACK}`);
  }
  const colours = pictures.filter(({colour}) => colour), grey = pictures.filter(({colour, empty}) => !colour && !empty);
  if (colours.length && colours.length < grey.length) {
    warnings.push(`${colours.length} of ${pictures.length} pictures are in colour, such as ${endless(colours[0].name)}, and are ` +
      "read as three sequences; the others are grey, and are read as FLAIR. Save all alike.");
  }
  return warnings;
}

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
    const [whole, part] = [counts, corners].map(own => measure(own));
    result[0] = Math.max(result[0], part.deviation / Math.max(whole.deviation, 1));
    result[1] = Math.max(result[1], part.mean / Math.max(percentileOfCounts(counts, 99.5), 1));
  }
  return result;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
