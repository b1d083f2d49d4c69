// Warnings about a prediction, in the words of scans/check.py
import {sameSize} from "./geometry.js";
import {nameParts} from "./items.js";
import {countValues, findHead, headBox, measure, median, percentileOfCounts, sum, toNetworkSize} from "./preprocess.js";

// Whether the weights learned from this patient, by name or by image; known: {name, or its digest: fingerprint of the
// images}, names: that the patient may have. Returns null where the browser computes no digests: on hosts without https
export async function seenInTraining({slices, names}, known, size) {
  if (names.some(name => name in known || name.replaceAll("-", "_") in known)) return true;
  if (!globalThis.crypto.subtle) return null;
  const digest = async content => {
    const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await new Blob(content).arrayBuffer()));
    return Array.from(bytes.subarray(0, 8), byte => byte.toString(16).padStart(2, "0")).join("");
  };
  for (const name of names) if (await digest([name]) in known) return true;
  if (!slices.every(({height, width}) => height === size && width === size)) return false;  // as all of them have
  const content = slices.flatMap(({planes}) =>
    [`(${size}, ${size}, 3)`, Uint8Array.from({length: 3 * size * size}, (_, at) => planes[at % 3][Math.floor(at / 3)])]);
  return Object.values(known).includes(`sha256:${await digest(content)}`);
}

// As scans/check.py has it: without the bright and dark values of scalp and skull the rest is even
export function isStripped(slices, {STRIPPED, AIR, FEWEST, STRIPPED_SLICES}, flair, size) {
  const step = Math.max(1, Math.floor(slices.length / STRIPPED_SLICES)), sample = slices.filter((_, n) => n % step === 0);
  const counts = countValues(sample.map(({planes, height, width}) => toNetworkSize(planes[flair], height, width, size)));
  const level = AIR * percentileOfCounts(counts, 99.5);
  counts.forEach((_, value) => { if (value <= level) counts[value] = 0; });
  if (sample.length < FEWEST || !counts.some(count => count)) return false;
  const [low, middle, high] = [0.5, 50, 99.5].map(share => percentileOfCounts(counts, share));
  return middle > STRIPPED * measure(counts, value => Math.min(Math.max(value, low), high)).deviation;
}

const ONE_STACK = "are taken for one stack of one patient, scaled together. Give each person or series a folder of its own.";

// Of pictures that may not be one stack of one patient: [{name, height, width, colour, empty}]
export function pictureWarnings(pictures, endless) {
  const warnings = [], sizes = new Map(), series = new Map();
  for (const {name, height, width} of pictures) {
    sizes.set(`${width}x${height}`, [height, width]);
    const parts = nameParts(name), key = parts.filter((_, n) => n !== parts.length - 2).join("\n");
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

// Of a scan {slices: [{height, width, planes}], spacing} and its masks: [Uint8Array]; rules: `check` of the configuration
export function inputWarnings({slices, spacing}, masks, rules, flair) {
  const warnings = [], values = slices.map(slice => cornerValues(slice, rules.CORNER));
  const [spread, level] = [0, 1].map(n => median(values.map(pair => pair[n]))), unlike = spread > rules.UNEVEN || level > rules.BRIGHT;
  if (unlike) {
    const what = spread > rules.UNEVEN ? "vary like the rest" : "are as bright as the rest";
    warnings.push(`this does not look like MR of one head: the corners, where MR shows air, ${what}. The masks of ` +
      "anything else mean nothing. Give slices of a whole head, with pre-contrast, FLAIR and post-contrast as " +
      "their channels.");
  }
  const ofOneSize = sameSize(slices), stacks = ofOneSize ? [slices] : slices.map(slice => [slice]), [{height, width}] = slices;
  const head = stacks.flatMap(stack => findHead(stack.map(slice => slice.planes[flair]), stack[0].height, stack[0].width, true));
  const pixels = masks.map(mask => sum(mask));
  const large = pixels.filter((own, n) => own > Math.max(rules.TOO_MUCH * sum(head[n]), rules.LEAST * masks[n].length)).length;
  if (large) {
    warnings.push(`the mask covers more than a third of the head in ${large} of ${counted(slices.length, "slice")}, as no ` +
      "tumour of the data set does. Look at the overlays before you use the areas.");
  }
  if (ofOneSize && slices.length >= rules.FEWEST && !unlike) {
    if (isMisplaced(head, height, width, spacing ? spacing[0] / spacing[1] : 1, rules)) warnings.push(rules.MISPLACED);
    else if (cortexRatio(slices.map(({planes}) => planes[flair]), head, height, width, rules.CORTEX_SLICES) < rules.CORTEX) warnings.push(rules.LIKE_T1);
    if (pixels[0] || pixels.at(-1)) warnings.push(rules.AT_END);
  }
  return warnings;
}

// Whether a head, filled, is cut off, upside down or on its side; tall: height of a pixel over its width
export function isMisplaced(head, height, width, tall, {CUT, ENDS}) {
  const areas = head.map(mask => sum(mask)), largest = Math.max(...areas);
  const edges = head.flatMap(mask => [
    ...[0, height - 1].map(y => sum(mask, y * width, width) / width), ...[0, width - 1].map(x => sum(mask, x, height, width) / height)]);
  if (Math.max(...edges) > CUT || Math.min(areas[0], areas.at(-1)) > ENDS * largest) return true;
  const middles = [], shapes = [], mean = values => sum(values) / values.length;
  head.forEach((mask, n) => {
    if (areas[n] <= largest / 2) return;
    const [top, bottom, left, right] = headBox([mask], height, width), length = bottom - top;
    let middle = 0;  // of the area, from top (-1) to bottom (1)
    for (let y = 0; y < length; y++) middle += sum(mask, (top + y) * width, width) * (2 * y / Math.max(length - 1, 1) - 1);
    middles.push(middle / areas[n]);
    shapes.push(length * tall / (right - left));
  });
  return mean(middles) < 0 || mean(shapes) < 1;  // of no head neither
}

// The brightness of tissue near fluid, mostly cortex, over that of white matter, by FLAIR and the head, filled; 1 if it
// cannot be told. Lengths are fractions of the head's radius
export function cortexRatio(planes, head, height, width, sampled) {
  const areas = head.map(mask => sum(mask)), largest = Math.max(...areas), ratios = [];
  const large = [...planes.keys()].filter(n => areas[n] > 0.6 * largest), upper = large.slice(large.length >> 1);  // without the base of the skull
  const step = Math.max(1, Math.floor(upper.length / sampled));
  for (const n of upper.filter((_, place) => place % step === 0)) {
    const plane = planes[n], radius = Math.sqrt(areas[n] / Math.PI), depth = distances(head[n], height, width);
    const count = isPart => countValues([plane.filter((_, at) => depth[at] > 0.2 * radius && isPart(at))]);
    const level = percentileOfCounts(count(() => true), 50);
    const away = distances(plane.map(value => value >= 0.6 * level), height, width);  // from fluid
    const near = count(at => away[at] > 0.02 * radius && away[at] < 0.06 * radius), far = count(at => away[at] > 0.1 * radius);
    if (!sum(near) || !sum(far)) continue;
    const reach = Math.max(1, Math.floor(0.14 * level));  // white matter: the most frequent, to 7% of the level
    const around = Array.from(far, (_, value) => sum(far.subarray(Math.max(0, value - (reach >> 1)), value - (reach >> 1) + reach)));
    ratios.push(percentileOfCounts(near, 50) / around.indexOf(Math.max(...around)));
  }
  return ratios.length ? median(ratios) : 1;
}

// From each pixel to the nearest that is 0, as OpenCV has it: the shortest way by steps of these rows, columns, lengths
const STEPS = [[0, -1, 1], [-1, 0, 1], [-1, -1, 1.4], [-1, 1, 1.4], [-1, -2, 2.1969], [-1, 2, 2.1969], [-2, -1, 2.1969], [-2, 1, 2.1969]];

export function distances(mask, height, width) {
  const line = width + 4, ways = new Float64Array((height + 4) * line).fill(Infinity);  // with a frame, from which nothing comes
  const lengths = STEPS.map(step => step[2]), place = n => (Math.floor(n / width) + 2) * line + n % width + 2;
  for (const sign of [1, -1]) {  // from above, then from below
    const offsets = STEPS.map(([down, across]) => sign * (down * line + across));
    for (let n = 0; n < mask.length; n++) {
      const own = sign > 0 ? n : mask.length - 1 - n, at = place(own);
      if (!mask[own]) ways[at] = 0;
      else for (let k = 0; k < STEPS.length; k++) ways[at] = Math.min(ways[at], ways[at + offsets[k]] + lengths[k]);
    }
  }
  return Float64Array.from(mask, (_, n) => ways[place(n)]);
}

// As utils.py has it: 1 mask, 2 masks
const counted = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

// How the four corners of a slice compare with all of it, in its highest channel: spread and level
function cornerValues({height, width, planes}, corner) {
  const rows = Math.ceil(height / corner), columns = Math.ceil(width / corner), result = [0, 0];
  const near = (length, reach) => Array.from({length: 2 * reach}, (_, n) => (n - reach + length) % length);
  for (const plane of new Set(planes)) {
    const counts = countValues([plane]), corners = new Float64Array(256);
    for (const y of near(height, rows)) for (const x of near(width, columns)) corners[plane[y * width + x]]++;
    const [whole, part] = [counts, corners].map(own => measure(own));
    result[0] = Math.max(result[0], part.deviation / Math.max(whole.deviation, 1));
    result[1] = Math.max(result[1], part.mean / Math.max(percentileOfCounts(counts, 99.5), 1));
  }
  return result;
}
