// DICOM series, uncompressed: only how the slices lie and what they show is taken over; nothing that says whose they are
import dicomParser from "dicom-parser";
import {Refusal, cross, dot, makeGrid} from "./grid.js";
import {median} from "./preprocess.js";
import {checkVoxels} from "./volumes.js";

const PLAIN = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"];  // little endian, implicit and explicit
const EVEN = 0.1;  // of the distance of two slices, by which others may differ from it
const ROUNDED = 1e-3;  // of direction cosines and of mm between pixels

export async function isDicom(file) {
  const bytes = new Uint8Array(await file.slice(128, 132).arrayBuffer());
  return String.fromCharCode(...bytes) === "DICM";
}

// What the header of a file says; null for what is no image, such as a report
export async function readTags(file) {
  let data;
  try {
    data = dicomParser.parseDicom(new Uint8Array(await file.arrayBuffer()));
  } catch {
    throw new Refusal(`${file.name} is damaged or cut off. Restore it.`);
  }
  const text = tag => (data.string(tag) || "").trim(), numbers = tag => text(tag).split("\\").filter(Boolean).map(Number);
  if (!data.elements.x7fe00010) {
    if (data.uint16("x00280010")) throw new Refusal(`${file.name} is damaged or cut off. Restore it.`);
    return null;
  }
  return {
    file, syntax: text("x00020010"), uid: text("x0020000e"), number: text("x00200011"), description: text("x0008103e"),
    rows: data.uint16("x00280010"), columns: data.uint16("x00280011"), spacing: numbers("x00280030"),
    orientation: numbers("x00200037"), position: numbers("x00200032"), thickness: Number(text("x00180050")),
    echo: Number(text("x00180081")), inversion: Number(text("x00180082")), frames: Number(text("x00280008")) || 1, bits: data.uint16("x00280100"), signed: data.uint16("x00280103") === 1,
    photometric: text("x00280004"), slope: Number(text("x00281053") || 1), shift: Number(text("x00281052") || 0),
    padding: data.elements.x00280120 && (data.uint16("x00280103") === 1 ? data.int16("x00280120") : data.uint16("x00280120")),
    offset: data.elements.x7fe00010.dataOffset, length: data.elements.x7fe00010.length,
  };
}

// Of times that FLAIR never has, in the words of scans/check.py
export function contrastWarnings({echo, inversion, description}, {SHORT_ECHO, SHORT_INVERSION}) {
  const wrong = [["echo", echo, SHORT_ECHO], ["inversion", inversion, SHORT_INVERSION]].find(([, time, shortest]) => time > 0 && time < shortest);
  return wrong ? [`the ${wrong[0]} time of the series ${description} taken for FLAIR is ${round(wrong[1])} ms, ` +
    "shorter than any of FLAIR: another sequence, whose mask means nothing. Choose above what is FLAIR."] : [];
}

const round = value => Number(value.toPrecision(4));

// The files of a series in the order of their positions, and the distance of two slices in mm
export function sortSlices(tags) {
  const first = tags[0];
  for (const own of tags) {
    if (!PLAIN.includes(own.syntax)) {
      throw new Refusal(`${own.file.name} is compressed, which is not read here. Save the series as NIfTI (dcm2niix).`);
    }
    if (own.photometric !== "MONOCHROME2" || own.frames !== 1 || own.spacing.length !== 2 || own.orientation.length !== 6 ||
      own.position.length !== 3 || ![8, 16, 32].includes(own.bits)) {
      throw new Refusal(`${own.file.name} is not one grey slice with black as 0, a position and a spacing. Save the ` +
        "series as NIfTI (dcm2niix).");
    }
    for (const [name, key] of [["Rows", "rows"], ["Columns", "columns"], ["PixelSpacing", "spacing"], ["ImageOrientationPatient", "orientation"]]) {
      const apart = [own[key]].flat().map((value, n) => Math.abs(value - [first[key]].flat()[n]));
      if (!apart.every(value => value <= ROUNDED + 1e-5)) {
        throw new Refusal(`its slices differ in ${name} (${own.file.name}). Leave those of another stack out.`);
      }
    }
    if (own.length < own.rows * own.columns * own.bits / 8) throw new Refusal(`${own.file.name} is cut off. Restore it.`);
  }
  const upwards = cross(first.orientation.slice(0, 3), first.orientation.slice(3));
  const ordered = tags.map(own => ({...own, height: dot(own.position, upwards)}))
    .sort((a, b) => a.height - b.height || (a.file.name < b.file.name ? -1 : 1));
  if (ordered.length === 1) return {ordered, step: first.thickness || 1, upwards};
  const gaps = ordered.slice(1).map((own, n) => own.height - ordered[n].height);
  const typical = median(gaps);
  if (Math.min(...gaps) <= ROUNDED) {
    throw new Refusal("several of its slices lie at one position. Leave one time point or echo in the folder.");
  }
  const apart = gaps.map(gap => Math.abs(gap - typical)), n = apart.indexOf(Math.max(...apart));
  if (apart[n] > EVEN * typical) {
    throw new Refusal(`its slices are ${round(typical)} mm apart, but ${round(gaps[n])} mm between ${ordered[n].file.name} ` +
      `and ${ordered[n + 1].file.name}. Restore the slices that are missing there.`);
  }
  return {ordered, step: gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length, upwards};
}

// tags: of each file, as readTags returns them. Padding outside of the field of view is NaN
export async function readSeries(tags, config) {
  const {ordered, step, upwards} = sortSlices(tags), {rows, columns, spacing, orientation, position} = ordered[0];
  checkVoxels(columns, rows, ordered.length, config);
  const values = new Float32Array(rows * columns * ordered.length);
  for (const [number, own] of ordered.entries()) {
    const bytes = await own.file.slice(own.offset, own.offset + rows * columns * own.bits / 8).arrayBuffer();
    const Kind = own.signed ? {8: Int8Array, 16: Int16Array, 32: Int32Array} : {8: Uint8Array, 16: Uint16Array, 32: Uint32Array};
    const stored = new Kind[own.bits](bytes), at = number * rows * columns;
    for (let n = 0; n < stored.length; n++) {
      values[at + n] = stored[n] === own.padding ? NaN : stored[n] * own.slope + own.shift;
    }
  }
  const across = orientation.slice(0, 3), down = orientation.slice(3);
  const affine = [0, 1, 2].map(n => [across[n] * spacing[1], down[n] * spacing[0], upwards[n] * step, position[n]]);
  return {values: [values], grid: makeGrid(affine, [columns, rows, ordered.length], true)};
}
