// Sequences of files -> the slices of one patient with 8 bits, as scans/read.py makes them
import {isStripped, pictureWarnings} from "./check.js";
import {describe, resample} from "./geometry.js";
import {Refusal, cutPlane, samePlace} from "./grid.js";
import {percentile, roundHalfEven} from "./preprocess.js";
import {readMeta, readNifti, readNrrd} from "./volumes.js";
import {contrastWarnings, readSeries} from "./dicom.js";
import {readPicture} from "./pictures.js";
import {stem} from "./items.js";

// items: {flair, pre, post} as items.js has them; given: spacing in mm, for files that do not say it, or null
// -> {name, names, slices: [{name, source, height, width, planes}], spacing, grid, grey, notes, warnings}
export async function readScan(items, config, progress = () => {}, given = null) {
  const flair = await readSequence(items.flair, config, progress), notes = flair.notes;
  const others = {};
  for (const role of ["pre", "post"]) {
    if (!items[role]) continue;
    try {
      others[role] = await readSequence(items[role], config, progress);
      align(flair, others[role], items[role].label, config);
      notes.push(...others[role].notes.map(note => `${config.shown[role]}: ${note}`));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      notes.push(`${config.shown[role]} is not used: ${error.message}`);
      delete others[role];
    }
  }
  const grey = flair.sequences === 1 && !Object.keys(others).length;
  if (Object.keys(others).length) {
    for (const role of ["pre", "post"]) if (!others[role]) notes.push(`FLAIR stands in for ${config.shown[role]}`);
  }
  const slices = flair.slices.map(({planes, ...about}, number) => ({
    ...about,
    planes: flair.sequences === 3 ? planes : ["pre", "flair", "post"].map(role => (others[role] || flair).slices[number].planes[0]),
  }));
  const {name, grid, warnings} = flair, {names} = items.flair, spacing = flair.spacing || given;
  notes.push(...describe({slices, spacing}, config));
  if (isStripped(slices, config.check, config.FLAIR, config.input.size)) notes.push("scalp and skull seem to be removed");
  if (!spacing) notes.push("no spacing known, so that areas are in pixels only");
  return {name, names, slices, spacing, grid, grey, notes, warnings};
}

async function readSequence(item, config, progress) {
  const file = (item.files || [item.tags[0].file])[0];
  try {
    return item.form === "pictures" ? await readPictures(item, config, progress) : await readVolume(item, file, config);
  } catch (error) {
    if (error instanceof Refusal && !error.message.startsWith(file.name)) throw new Refusal(`${file.name}: cannot be read: ${error.message}`);
    if (error instanceof RangeError && /allocation|array length/i.test(error.message)) throw new Refusal(`${file.name}: does not fit into the memory that a browser gives a page.`);
    throw error;
  }
}

async function readVolume(item, file, config) {
  const {values, grid} = item.form === "dicom" ? await readSeries(item.tags, config)
    : await {nifti: readNifti, nrrd: readNrrd, mha: readMeta}[item.form](file, config);
  const [width, height, count] = grid.shape, notes = [];
  const name = item.form === "dicom" ? item.label.replace(/^DICOM /, "").replace(/ \(\d+ files\)$/, "") || "series" : stem(file.name);
  const digits = String(count).length;
  const slices = Array.from({length: count}, (_, n) =>
    ({name: `${name}_${String(n + 1).padStart(digits, "0")}`, source: item.form === "dicom" ? name : file.name, height, width, planes: []}));
  const scales = values.map(sequence => sequence instanceof Uint8Array ? null : scaleOf([sequence], config));
  refuseMask(values);
  values.forEach((sequence, number) => {
    const convert = scales[number] ? scales[number].convert : value => value;
    slices.forEach(({planes}, n) => planes.push(cutPlane(sequence, grid, n, convert)));
    values[number] = null;
  });
  describeScales(scales, notes, config);
  const warnings = item.form === "dicom" ? contrastWarnings(item.tags[0], config) : [];
  return {name, slices, spacing: grid.spacing, grid, notes, warnings, sequences: values.length};
}

async function readPictures(item, config, progress) {
  const pictures = [], notes = [];
  let voxels = 0;
  for (const [n, file] of item.files.entries()) {
    try {
      const picture = await readPicture(file, config);
      voxels += Math.max(picture.height, picture.width, config.input.size) ** 2;
      if (voxels > config.MOST_VOXELS) throw new Refusal("more pictures than are read at once. Use one folder per patient.");
      pictures.push({...picture, file});
    } catch (error) {
      if (!(error instanceof Refusal) || item.files.length === 1) throw error;
      notes.push(`${file.name}: left out: ${error.message}`);
    }
    progress(n / item.files.length);
  }
  if (!pictures.length) throw new Refusal("none of these pictures can be read.");
  const warnings = pictureWarnings(pictures.map(({file, height, width, values}) =>
    ({name: file.name, height, width, colour: values.length > 1, empty: !values[0].some(Boolean)})), stem);
  const colours = pictures.some(picture => picture.values.length > 1), sequences = colours ? 3 : 1;
  for (const picture of pictures) if (colours && picture.values.length === 1) picture.values = Array(3).fill(picture.values[0]);
  refuseMask(pictures.map(picture => picture.values[0]));
  const deep = pictures.some(picture => !(picture.values[0] instanceof Uint8Array));
  const scales = Array.from({length: sequences}, (_, c) => deep ? scaleOf(pictures.map(picture => picture.values[c]), config) : null);
  describeScales(scales, notes, config);
  const slices = pictures.map(({file, height, width, values}) => ({
    name: stem(file.name), source: file.name, height, width,
    planes: values.map((plane, c) => scales[c] ? Uint8Array.from(plane, scales[c].convert) : plane),
  }));
  const name = slices.length > 1 ? slices[0].name.replace(/[_-]?\d+$/, "") || "pictures" : slices[0].name;
  return {name, slices, spacing: null, grid: null, notes, warnings, sequences};
}

// Put another sequence onto the grid of FLAIR by their headers
function align(flair, other, label, config) {
  const sizes = scan => scan.slices.map(({height, width}) => `${width}x${height}`).join();
  if (flair.sequences !== 1 || other.sequences !== 1) throw new Refusal("one of the files holds more than one sequence already.");
  if (sizes(flair) === sizes(other) && !(flair.grid && other.grid && !samePlace(flair.grid, other.grid))) return;
  if (!flair.grid?.known || !other.grid?.known) {
    const [own, first] = [other, flair].map(scan => `${scan.slices.length} slices of ${scan.slices[0].width}x${scan.slices[0].height}`);
    throw new Refusal(`${label} has ${own}, but FLAIR has ${first}. Resample the sequences onto FLAIR first.`);
  }
  const {planes, overlap} = resample(other, flair);
  if (overlap < config.SAME_HEAD) {
    throw new Refusal(`${label}: its head and that of FLAIR overlap by ${Math.round(100 * overlap)}% only. Register it to FLAIR first.`);
  }
  other.slices = planes.map(plane => ({planes: [plane]}));
  other.notes.push("resampled onto the grid of FLAIR by the headers");
}

function refuseMask(arrays) {
  const seen = new Set();
  for (const values of arrays) for (let i = 0; i < values.length; i++) {
    seen.add(values[i]);
    if (seen.size > 12 || !(values[i] === 255 || (Number.isInteger(values[i]) && values[i] >= 0 && values[i] <= 10))) return;
  }
  if (seen.size > 1 && (!seen.has(255) || seen.size === 2)) {
    const shown = [...seen].sort((a, b) => a - b).join(", ");
    throw new Refusal(`holds only ${shown}: a mask, and no image. Name it like one (x_mask), or leave it out.`);
  }
}

// --- More than 8 bits ------------------------------------------------------------------------------------------------

// Which value of a sequence becomes which of 8 bits: a percentile of all values becomes 0, one of what is not air 255.
// Returns {low, high, black: how many are no value, convert: value -> 0 to 255}
function scaleOf(arrays, {FILLING, PERCENTILES, AIR}) {
  const none = FILLING.map(Math.fround);  // outside of the field of view
  const isValue = value => Number.isFinite(value) && !none.includes(value);
  const short = arrays.every(values => values.BYTES_PER_ELEMENT < 4);  // whole numbers from -32768 to 65535
  const {count, at, most} = short ? countShort(arrays, isValue) : countFloat(arrays, none);
  const all = arrays.reduce((sum, values) => sum + values.length, 0);
  if (!count) throw new Refusal("holds no finite value. Restore it.");
  const [low, bright] = PERCENTILES.map(share => Math.fround(percentile(count, at, share)));
  const level = Math.fround(low + Math.fround(Math.fround(AIR) * Math.fround(bright - low)));
  let below = 0;
  for (const values of arrays) for (let i = 0; i < values.length; i++) if (Math.fround(values[i]) < level && isValue(values[i])) below++;
  const top = Math.fround(percentile(count - below, place => at(below + place), PERCENTILES[1]));
  const high = top > low ? top : Math.max(most, low), range = high > low ? Math.fround(high - low) : 1;
  const convert = value => {
    value = Math.fround(value);
    if (!isValue(value)) return 0;
    const scaled = Math.fround(Math.fround(Math.fround(value - low) / range) * 255);
    return scaled <= 0 ? 0 : scaled >= 255 ? 255 : roundHalfEven(scaled);
  };
  if (!short) return {low, high, black: all - count, convert};
  const table = Uint8Array.from({length: 98304}, (_, n) => convert(n - 32768));
  return {low, high, black: all - count, convert: value => table[value + 32768]};
}

// The number of values, the one at a place in their order, and the highest
function countShort(arrays, isValue) {
  const counts = new Float64Array(98304);
  for (const values of arrays) for (let i = 0; i < values.length; i++) counts[values[i] + 32768]++;
  let count = 0, most = -Infinity;
  for (let n = 0; n < counts.length; n++) {
    if (!isValue(n - 32768)) counts[n] = 0;
    if (counts[n]) most = n - 32768;
    count += counts[n];
  }
  const at = place => {
    let n = 0;
    for (let before = counts[0]; before <= place; before += counts[n]) n++;
    return n - 32768;
  };
  return {count, at, most};
}

// The same of any numbers as float32: counted by the upper half of their bits, in an order that is that of the values
function countFloat(arrays, none) {
  const bits = arrays.map(values => new Uint32Array((values instanceof Float32Array ? values.slice() : Float32Array.from(values)).buffer));
  const [number, pattern] = [new Float32Array(1)].flatMap(single => [single, new Uint32Array(single.buffer)]);
  const filling = none.map(value => { number[0] = value; return pattern[0]; });
  const high = new Float64Array(65536);
  let count = 0, largest = 0;
  for (const own of bits) for (let i = 0; i < own.length; i++) {
    const b = own[i];
    if ((b & 0x7f800000) === 0x7f800000 || b === filling[0] || b === filling[1] || b === filling[2]) { own[i] = 0xffffffff; continue; }
    const key = own[i] = b & 0x80000000 ? ~b >>> 0 : (b | 0x80000000) >>> 0;
    high[key >>> 16]++;
    count++;
    if (key > largest) largest = key;
  }
  const toValue = key => { pattern[0] = key & 0x80000000 ? key & 0x7fffffff : ~key; return number[0]; };
  const fine = new Map();  // the lower half of the keys that share an upper one
  const at = place => {
    let upper = 0, before = 0, lower = 0;
    while (before + high[upper] <= place) before += high[upper++];
    if (!fine.has(upper)) {
      const low = new Float64Array(65536);
      for (const own of bits) for (let i = 0; i < own.length; i++) if (own[i] >>> 16 === upper) low[own[i] & 0xffff]++;
      fine.set(upper, low);
    }
    while (before + fine.get(upper)[lower] <= place) before += fine.get(upper)[lower++];
    return toValue((upper * 65536 + lower) >>> 0);
  };
  return {count, at, most: toValue(largest)};
}

function describeScales(scales, notes, {PERCENTILES}) {
  const deep = scales.filter(Boolean);
  if (!deep.length) return;
  const black = deep.reduce((sum, scale) => sum + scale.black, 0);
  if (black) notes.push(`${black.toLocaleString("en-US")} values that are not finite, or padding, are black`);
  const [low, high] = ["low", "high"].map(end => deep.map(scale => Number(scale[end].toPrecision(4))).join(", "));
  notes.push(`intensities scaled to 8 bits: ${low} becomes 0 and ${high} becomes 255 (percentiles ` +
    `${PERCENTILES[0]} of all slices and ${PERCENTILES[1]} of what is not air)`);
}
