// Sequences of files -> the slices of one patient with 8 bits, as scans/read.py makes them
import {Refusal, eachVoxel, samePlace} from "./geometry.js";
import {percentile} from "./preprocess.js";
import {readNifti, readNrrd, checkVoxels} from "./volumes.js";
import {readSeries} from "./dicom.js";
import {readPicture} from "./pictures.js";
import {stem} from "./items.js";

// items: {flair, pre, post} as items.js has them -> {name, slices: [{name, source, height, width, planes}], spacing, grid, grey, notes}
export async function readScan(items, config, progress = () => {}) {
  const flair = await readSequence(items.flair, config, progress), notes = flair.notes;
  const others = {};
  for (const role of ["pre", "post"]) {
    if (!items[role]) continue;
    try {
      others[role] = await readSequence(items[role], config, progress);
      checkSequence(flair, others[role], items[role].label);
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
  const {spacing} = flair;
  if (spacing && Math.max(spacing[0], spacing[1]) > config.oblong * Math.min(spacing[0], spacing[1])) {
    const [rows, columns] = spacing.map(value => Number(value.toPrecision(3)));
    notes.push(`pixels of ${rows} x ${columns} mm, as of slices that were taken in another plane: the network knows ` +
      "axial ones with square pixels alone");
  }
  return {name: flair.name, slices, spacing, grid: flair.grid, grey, notes};
}

async function readSequence(item, config, progress) {
  const file = (item.files || [item.tags[0].file])[0];
  try {
    return item.form === "pictures" ? await readPictures(item, config, progress) : await readVolume(item, file, config);
  } catch (error) {
    if (error instanceof Refusal && !error.message.startsWith(file.name)) throw new Refusal(`${file.name}: cannot be read: ${error.message}`);
    if (error instanceof RangeError) throw new Refusal(`${file.name}: does not fit into the memory that a browser gives a page.`);
    throw error;
  }
}

async function readVolume(item, file, config) {
  const {values, grid} = item.form === "dicom" ? await readSeries(item.tags, config)
    : await (item.form === "nrrd" ? readNrrd : readNifti)(file, config);
  const [width, height, count] = grid.shape, notes = [];
  const name = item.form === "dicom" ? item.label.replace(/^DICOM /, "").replace(/ \(\d+ files\)$/, "") || "series" : stem(file.name);
  const digits = String(count).length;
  const slices = Array.from({length: count}, (_, n) =>
    ({name: `${name}_${String(n + 1).padStart(digits, "0")}`, source: item.form === "dicom" ? name : file.name, height, width, planes: []}));
  const scales = values.map(sequence => sequence instanceof Uint8Array ? null : limits([sequence], config));
  refuseMask(values);
  values.forEach((sequence, number) => {
    const planes = slices.map(() => new Uint8Array(height * width)), convert = converter(scales[number]);
    eachVoxel(grid, (slice, pixel, voxel) => { planes[slice][pixel] = convert(sequence[voxel]); });
    planes.forEach((plane, n) => slices[n].planes.push(plane));
    values[number] = null;
  });
  describeScales(scales, notes, config);
  return {name, slices, spacing: grid.spacing, grid, notes, sequences: values.length};
}

async function readPictures(item, config, progress) {
  const pictures = [], notes = [];
  let voxels = 0;
  for (const [n, file] of item.files.entries()) {
    try {
      const picture = await readPicture(file, config);
      voxels += Math.max(picture.height, picture.width, config.input.size) ** 2;
      checkVoxels(1, voxels / config.input.size ** 2, 1, {...config, mostVoxels: Infinity});
      if (voxels > config.mostVoxels) throw new Refusal("more pictures than are read at once. Use one folder per patient.");
      pictures.push({...picture, file});
    } catch (error) {
      if (!(error instanceof Refusal) || item.files.length === 1) throw error;
      notes.push(`${file.name}: left out: ${error.message}`);
    }
    progress(n / item.files.length);
  }
  if (!pictures.length) throw new Refusal("none of these pictures can be read.");
  const colours = pictures.some(picture => picture.values.length > 1), sequences = colours ? 3 : 1;
  for (const picture of pictures) if (colours && picture.values.length === 1) picture.values = Array(3).fill(picture.values[0]);
  refuseMask(pictures.map(picture => picture.values[0]));
  const deep = pictures.some(picture => !(picture.values[0] instanceof Uint8Array));
  const scales = Array.from({length: sequences}, (_, c) => deep ? limits(pictures.map(picture => picture.values[c]), config) : null);
  describeScales(scales, notes, config);
  const slices = pictures.map(({file, height, width, values}) => ({
    name: stem(file.name), source: file.name, height, width,
    planes: values.map((plane, c) => scales[c] ? Uint8Array.from(plane, converter(scales[c])) : plane),
  }));
  const name = slices.length > 1 ? slices[0].name.replace(/[_-]?\d+$/, "") || "pictures" : slices[0].name;
  return {name, slices, spacing: null, grid: null, notes, sequences};
}

function checkSequence(flair, other, label) {
  const sizes = scan => scan.slices.map(({height, width}) => `${width}x${height}`).join();
  if (flair.sequences !== 1 || other.sequences !== 1) throw new Refusal("one of the files holds more than one sequence already.");
  if (sizes(flair) !== sizes(other)) {
    const [own, first] = [other, flair].map(scan => `${scan.slices.length} slices of ${scan.slices[0].width}x${scan.slices[0].height}`);
    throw new Refusal(`${label} has ${own}, but FLAIR has ${first}. Resample the sequences onto FLAIR first.`);
  }
  if (flair.grid && other.grid && !samePlace(flair.grid, other.grid)) {
    throw new Refusal(`${label}: lies elsewhere in space than FLAIR. Register it to FLAIR first.`);
  }
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


// The values that become 0 and 255, by percentiles of all values; {low, high, black, isValue}
function limits(arrays, {filling, percentiles}) {
  const none = new Set(filling);  // outside of the field of view
  const isValue = value => Number.isFinite(value) && !none.has(value);
  const single = new Float32Array(1), bits = new Uint32Array(single.buffer);
  const key = value => { single[0] = value; return bits[0] & 0x80000000 ? ~bits[0] >>> 0 : (bits[0] | 0x80000000) >>> 0; };
  const toValue = number => { bits[0] = number & 0x80000000 ? number & 0x7fffffff : ~number; return single[0]; };
  const high = new Float64Array(65536);
  let count = 0, all = 0, most = -Infinity;
  for (const values of arrays) for (let i = 0; i < values.length; i++) {
    const value = Math.fround(values[i]);
    if (!isValue(value)) continue;
    high[key(value) >>> 16]++;
    count++;
    if (value > most) most = value;
  }
  for (const values of arrays) all += values.length;
  if (!count) throw new Refusal("holds no finite value. Restore it.");
  const fine = new Map();  // the lower half of the keys that share an upper one
  const at = place => {
    let upper = 0, before = 0;
    while (before + high[upper] <= place) before += high[upper++];
    if (!fine.has(upper)) {
      const low = new Float64Array(65536);
      for (const values of arrays) for (let i = 0; i < values.length; i++) {
        const value = Math.fround(values[i]);
        if (isValue(value) && key(value) >>> 16 === upper) low[key(value) & 0xffff]++;
      }
      fine.set(upper, low);
    }
    let lower = 0;
    while (before + fine.get(upper)[lower] <= place) before += fine.get(upper)[lower++];
    return toValue((upper * 65536 + lower) >>> 0);
  };
  const [low, top] = percentiles.map(share => Math.fround(percentile(count, at, share)));
  return {low, high: top > low ? top : Math.max(most, Math.fround(low)), black: all - count, isValue};
}

function converter(scale) {
  if (!scale) return value => value;
  const {low, high, isValue} = scale, range = high > low ? Math.fround(high - low) : 1;
  return value => {
    value = Math.fround(value);
    if (!isValue(value)) return 0;
    const scaled = Math.fround(Math.fround(Math.fround(value - low) / range) * 255);
    if (scaled <= 0) return 0;
    if (scaled >= 255) return 255;
    const floor = Math.floor(scaled), rest = scaled - floor;
    return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
  };
}

function describeScales(scales, notes, {percentiles}) {
  const deep = scales.filter(Boolean);
  if (!deep.length) return;
  const black = deep.reduce((sum, scale) => sum + scale.black, 0);
  if (black) notes.push(`${black.toLocaleString("en-US")} values that are not finite, or padding, are black`);
  const [low, high] = ["low", "high"].map(end => deep.map(scale => Number(scale[end].toPrecision(4))).join(", "));
  notes.push(`intensities scaled to 8 bits: ${low} becomes 0 and ${high} becomes 255 (percentiles ` +
    `${percentiles.join(" and ")} of all slices)`);
}
