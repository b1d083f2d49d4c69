// NIfTI and NRRD files -> {values: [typed array per sequence], grid}
import * as nifti from "nifti-reader-js";
import {Refusal, fromQuaternion, makeGrid} from "./grid.js";

const LONGEST_HEADER = 65536;  // bytes of NRRD
const CUT = "is cut off: its header says that it holds more voxels. Restore it.";
const DAMAGED = "is damaged, cut off or of another kind. Restore it, or save it anew as NIfTI-1.";

// --- Bytes: never more of them than the header asks for --------------------------------------------------------------

async function isPacked(file) {
  const [a, b] = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  return a === 0x1f && b === 0x8b;
}

// The first bytes of a file or stream up to a length that `needed(bytes read so far)` tells, as soon as it can (else 0)
async function readBytes(stream, needed) {
  const reader = stream.getReader(), parts = [];
  let length = 0, total = 0, result = null;
  try {
    while (true) {
      const {done, value} = await reader.read();
      if (done) break;
      if (result) {
        result.set(value.subarray(0, total - length), length);
      } else {
        parts.push(value);
        total = needed(() => join(parts, length + value.length)) || 0;
        if (total) {
          result = new Uint8Array(total);
          result.set(join(parts, length + value.length).subarray(0, total));
        }
      }
      length += value.length;
      if (total && length >= total) break;
    }
  } catch (error) {
    if (error instanceof Refusal || error instanceof RangeError) throw error;
    throw new Refusal(`is cut off or damaged. Restore it.`);
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!total) throw new Refusal(DAMAGED);
  if (length < total) throw new Refusal(CUT);
  return result;
}

function join(parts, length) {
  const result = new Uint8Array(length);
  parts.reduce((at, part) => { result.set(part, at); return at + part.length; }, 0);
  return result;
}

export function checkVoxels(width, height, slices, config) {
  const voxels = slices * Math.max(width, height, config.input.size) ** 2;
  if (!(voxels <= config.mostVoxels)) {
    throw new Refusal(`${voxels.toLocaleString("en-US")} voxels, slices padded to squares; at most ` +
      `${config.mostVoxels.toLocaleString("en-US")} are read. Use one folder or file per patient.`);
  }
}

const KINDS = {2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array, 256: Int8Array, 512: Uint16Array, 768: Uint32Array};

// The values of a sequence from bytes in either order
function toValues(bytes, from, count, Kind, little) {
  const own = bytes.slice(from, from + count * Kind.BYTES_PER_ELEMENT);
  if (!little) for (let at = 0; at < own.length; at += Kind.BYTES_PER_ELEMENT) own.subarray(at, at + Kind.BYTES_PER_ELEMENT).reverse();
  return new Kind(own.buffer);
}

function checkShape(shape, config) {
  const [width, height, slices, ...more] = shape, volumes = more.reduce((product, size) => product * size, 1);
  if (shape.length < 3 || shape.some(size => !(size > 0)) || ![1, 3].includes(volumes)) {
    throw new Refusal(`has the shape (${shape.join(", ")}). Save one volume: FLAIR, or pre-contrast, FLAIR and ` +
      "post-contrast as a fourth axis; or give the other sequences as files of their own.");
  }
  checkVoxels(width, height, slices * volumes, config);
  return volumes;
}

// --- NIfTI ---------------------------------------------------------------------------------------------------------

const METRES = {1: 1000, 3: 0.001};  // unit of a header in mm

export async function readNifti(file, config) {
  const stream = (await isPacked(file)) ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream();
  let header = null, shape, volumes, Kind;
  const bytes = await readBytes(stream, soFar => {
    const start = soFar();
    if (start.length < (start[0] === 92 || start[3] === 92 ? 352 : 544)) return 0;  // 348 bytes of NIfTI-1, 540 of NIfTI-2
    const first = new Uint8Array(544);
    first.set(start.subarray(0, 544));
    const {buffer} = first;
    if (!nifti.isNIFTI(buffer)) throw new Refusal(DAMAGED);
    header = nifti.readHeader(buffer);
    shape = header.dims.slice(1, 1 + header.dims[0]);
    while (shape.length > 3 && shape.at(-1) === 1) shape.pop();
    volumes = checkShape(shape, config);
    Kind = KINDS[header.datatypeCode];
    if (!Kind) throw new Refusal("holds values of a kind that is not read here. Save it with whole or floating point numbers.");
    return header.vox_offset + shape.reduce((product, size) => product * size, 1) * Kind.BYTES_PER_ELEMENT;
  });
  const count = shape[0] * shape[1] * shape[2];
  const values = Array.from({length: volumes}, (_, n) =>
    rescale(finite(toValues(bytes, header.vox_offset + n * count * Kind.BYTES_PER_ELEMENT, count, Kind, header.littleEndian)), header));
  return {values, grid: makeGrid(niftiAffine(bytes, header), shape.slice(0, 3), header.sform_code > 0 || header.qform_code > 0)};
}

// As other programs read it: the matrix if there is one, else the quaternion, else a guess.
function niftiAffine(bytes, header) {
  const view = new DataView(bytes.buffer), little = header.littleEndian, second = view.getInt32(0, little) === 540;
  const read = (at, count) => Array.from({length: count}, (_, n) => second ? view.getFloat64(at + 8 * n, little) : view.getFloat32(at + 4 * n, little));
  const unit = METRES[header.xyzt_units & 7] || 1, spacing = header.pixDims.slice(1, 4);
  let ras = [[-spacing[0], 0, 0, 0], [0, spacing[1], 0, 0], [0, 0, spacing[2], 0]];
  if (header.sform_code > 0) {
    const rows = read(second ? 400 : 280, 12);
    ras = [rows.slice(0, 4), rows.slice(4, 8), rows.slice(8)];
  } else if (header.qform_code > 0) {
    const parts = read(second ? 352 : 256, 6);
    ras = fromQuaternion(parts.slice(0, 3), parts.slice(3), header.pixDims);
  }
  return ras.map((row, n) => row.map(value => value * unit * (n < 2 ? -1 : 1)));
}

// Readers of NIfTI take what is not finite for 0
function finite(values) {
  if (values instanceof Float32Array || values instanceof Float64Array) {
    for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) values[i] = 0;
  }
  return values;
}

function rescale(values, {scl_slope: slope, scl_inter: shift}) {
  if (!Number.isFinite(slope) || Math.abs(slope) < 2e-16 || (slope === 1 && !shift)) return values;
  return Float32Array.from(values, value => value * slope + shift);
}

// --- NRRD ------------------------------------------------------------------------------------------------------------

const NRRD = {uchar: Uint8Array, uint8: Uint8Array, uint8_t: Uint8Array, "unsigned char": Uint8Array, "signed char": Int8Array, int8: Int8Array,
  int8_t: Int8Array, short: Int16Array, "short int": Int16Array, int16: Int16Array, int16_t: Int16Array, "signed short": Int16Array,
  ushort: Uint16Array, "unsigned short": Uint16Array, uint16: Uint16Array, uint16_t: Uint16Array, int: Int32Array, int32: Int32Array,
  int32_t: Int32Array, "signed int": Int32Array, uint: Uint32Array, "unsigned int": Uint32Array, uint32: Uint32Array, uint32_t: Uint32Array,
  float: Float32Array, double: Float64Array};
const SPACES = {"left-posterior-superior": [1, 1], LPS: [1, 1], "right-anterior-superior": [-1, -1], RAS: [-1, -1],
  "left-anterior-superior": [1, -1], LAS: [1, -1]};

export async function readNrrd(file, config) {
  const start = new Uint8Array(await file.slice(0, LONGEST_HEADER).arrayBuffer());
  const text = new TextDecoder("latin1").decode(start), end = text.match(/\r?\n\r?\n/);
  if (!text.startsWith("NRRD000") || !end) throw new Refusal(DAMAGED);
  const fields = Object.fromEntries(text.slice(0, end.index).split(/\r?\n/).slice(1)
    .filter(line => /^[^#].*?: /.test(line)).map(line => [line.split(": ")[0].toLowerCase(), line.slice(line.indexOf(": ") + 2).trim()]));
  const sizes = (fields.sizes || "").split(/\s+/).map(Number), Kind = NRRD[fields.type];
  const encoding = {raw: "", gzip: "gzip", gz: "gzip"}[fields.encoding];
  if (!Kind || encoding === undefined || fields["data file"] || fields["byte skip"] || fields["line skip"]) {
    throw new Refusal("is a kind of NRRD that is not read here. Save it as NIfTI, or as one NRRD file, raw or gzip.");
  }
  const vectors = (fields["space directions"] || "").match(/none|\([^)]*\)/g);
  const numbers = vector => vector.slice(1, -1).split(",").map(Number);
  const space = vectors ? vectors.map((vector, axis) => vector === "none" ? -1 : axis).filter(axis => axis >= 0)
    : sizes.map((_, axis) => axis).slice(-3);
  if (space.length !== 3 || sizes.length > 4) throw new Refusal(`has the shape (${sizes.join(", ")}). Save one volume.`);
  const lists = sizes.map((_, axis) => axis).find(axis => !space.includes(axis));  // the axis of sequences
  const shape = [...space.map(axis => sizes[axis]), ...(lists === undefined ? [] : [sizes[lists]])];
  const volumes = checkShape(shape, config), count = shape[0] * shape[1] * shape[2];
  const body = file.slice(end.index + end[0].length), total = count * volumes * Kind.BYTES_PER_ELEMENT;
  const bytes = await readBytes(encoding ? body.stream().pipeThrough(new DecompressionStream(encoding)) : body.stream(), () => total);
  const all = toValues(bytes, 0, count * volumes, Kind, fields.endian !== "big");
  const values = Array.from({length: volumes}, (_, n) => lists === 0 && volumes > 1
    ? Kind.from({length: count}, (_, at) => all[at * volumes + n]) : all.subarray(n * count, (n + 1) * count));
  const flips = [...(SPACES[fields.space] || [1, 1]), 1];
  const spacing = (fields.spacings || "").split(/\s+/).map(Number);
  const columns = space.map((axis, n) => vectors ? numbers(vectors[axis]) : [0, 1, 2].map(k => k === n ? spacing[axis] || 1 : 0));
  const origin = fields["space origin"] ? numbers(fields["space origin"]) : [0, 0, 0];
  const affine = flips.map((flip, row) => [...columns.map(column => column[row]), origin[row]].map(value => value * flip));
  return {values, grid: makeGrid(affine, shape.slice(0, 3), fields.space in SPACES)};
}
