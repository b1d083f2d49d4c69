// NIfTI, NRRD and MetaImage (MHA) files -> {values: [typed array per sequence], grid}
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
  if (!(voxels <= config.MOST_VOXELS)) {
    throw new Refusal(`${voxels.toLocaleString("en-US")} voxels, slices padded to squares; at most ` +
      `${config.MOST_VOXELS.toLocaleString("en-US")} are read. Use one folder or file per patient.`);
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

// --- NRRD and MetaImage: a header in words, then the values ----------------------------------------------------------

const NUMBERS = {char: Int8Array, int8: Int8Array, uchar: Uint8Array, uint8: Uint8Array, short: Int16Array, int16: Int16Array,
  ushort: Uint16Array, uint16: Uint16Array, int: Int32Array, int32: Int32Array, uint: Uint32Array, uint32: Uint32Array,
  float: Float32Array, double: Float64Array};
const SPACES = {"left-posterior-superior": [1, 1], LPS: [1, 1], "right-anterior-superior": [-1, -1], RAS: [-1, -1],
  "left-anterior-superior": [1, -1], LAS: [1, -1]};
const words = (text = "", separator = /\s+/) => text.split(separator).map(Number);

// The fields of a header, by their names in lower case, and what follows it
async function readFields(file, ending, separator) {
  const text = new TextDecoder("latin1").decode(await file.slice(0, LONGEST_HEADER).arrayBuffer()), end = text.match(ending);
  if (!end) throw new Refusal(DAMAGED);
  const lines = text.slice(0, end.index).split(/\r?\n/).map(line => line.split(separator));
  return {fields: Object.fromEntries(lines.map(([name, ...value]) => [name.toLowerCase(), value.join(separator).trim()])),
    body: file.slice(end.index + end[0].length)};
}

export async function readNrrd(file, config) {
  const {fields, body} = await readFields(file, /(?<=^NRRD000[^]*)\r?\n\r?\n/, ": ");
  const {type, encoding, endian, space, "space directions": directions, "space origin": place} = fields;
  const sizes = words(fields.sizes), vectors = (directions || "").match(/none|\([^)]*\)/g), spacing = words(fields.spacings);
  const axes = vectors ? vectors.map((vector, axis) => vector === "none" ? -1 : axis).filter(axis => axis >= 0)
    : sizes.map((_, axis) => axis).slice(-3);
  const vector = text => words(text.slice(1, -1), ",");
  const columns = axes.map((axis, n) => vectors ? vector(vectors[axis]) : [0, 1, 2].map(k => k === n ? spacing[axis] || 1 : 0));
  const flips = [...(SPACES[space] || [1, 1]), 1], origin = place ? vector(place) : [0, 0, 0];
  const affine = flips.map((flip, row) => [...columns.map(column => column[row]), origin[row]].map(value => value * flip));
  const elsewhere = fields["data file"] || fields["byte skip"] || fields["line skip"];
  const packed = elsewhere ? undefined : {raw: "", gzip: "gzip", gz: "gzip"}[encoding];
  return readPlain(body, {sizes, axes, affine, type, packed, little: endian !== "big", known: space in SPACES}, config);
}

export async function readMeta(file, config) {
  const {fields, body} = await readFields(file, /^ElementDataFile *= *LOCAL *\r?\n/im, " = "), is = name => /^true$/i.test(fields[name]);
  const dimensions = words(fields.dimsize), count = dimensions.length, channels = Number(fields.elementnumberofchannels || 1);
  const turns = words(fields.transformmatrix), spacing = words(fields.elementspacing), origin = words(fields.offset);
  const own = (values, n, otherwise) => values.length >= count ? values[n] : otherwise;
  const affine = [0, 1, 2].map(row => [...[0, 1, 2].map(n => own(turns, n * count + row, Number(n === row)) * own(spacing, n, 1)), own(origin, row, 0)]);
  const several = channels > 1 ? 1 : 0, packed = !is("binarydata") ? undefined : is("compresseddata") ? "deflate" : "";
  return readPlain(body, {sizes: several ? [channels, ...dimensions] : dimensions, axes: dimensions.slice(0, 3).map((_, n) => n + several), affine,
    type: fields.elementtype, packed, little: !is("binarydatabyteordermsb") && !is("elementbyteordermsb"), known: true}, config);
}

// axes: of the sizes, those of space; the other one is of sequences. packed: undefined for what is not read here
async function readPlain(body, {sizes, axes, affine, type = "", packed, little, known}, config) {
  const Kind = NUMBERS[type.toLowerCase().replace("unsigned ", "u").replace(/^(met_|signed )|(_t| int)$/g, "")];
  if (!Kind || packed === undefined) {
    throw new Refusal("is a kind of NRRD or MHA that is not read here. Save it as NIfTI, or as one such file, raw or compressed.");
  }
  if (axes.length !== 3 || sizes.length > 4) throw new Refusal(`has the shape (${sizes.join(", ")}). Save one volume.`);
  const lists = sizes.findIndex((_, axis) => !axes.includes(axis)), shape = [...axes, lists].filter(axis => axis >= 0).map(axis => sizes[axis]);
  const volumes = checkShape(shape, config), count = shape[0] * shape[1] * shape[2], total = count * volumes;
  const stream = packed ? body.stream().pipeThrough(new DecompressionStream(packed)) : body.stream();
  const all = toValues(await readBytes(stream, () => total * Kind.BYTES_PER_ELEMENT), 0, total, Kind, little);
  const values = Array.from({length: volumes}, (_, n) => lists === 0 && volumes > 1
    ? Kind.from({length: count}, (_, at) => all[at * volumes + n]) : all.subarray(n * count, (n + 1) * count));
  return {values, grid: makeGrid(affine, shape.slice(0, 3), known)};
}
