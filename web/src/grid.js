// Where a volume lies: its axes, slices as radiologists see them (columns to the patient's left, rows to the back,
// slices upwards), and masks on the grid of the file as NIfTI. Matrices are rows of numbers, in mm left, back and up.

export class Refusal extends Error {}  // a sentence for the user

const SHEARED = 0.02;  // cosine between axes, 0 if they are at right angles
const SAME_PLACE = 0.1;  // of a voxel; scanners round their positions

// affine: 3 x 4, voxel (i, j, k) -> mm; size: voxels along i, j, k; known: whether the file says where it lies
export function makeGrid(affine, size, known) {
  const columns = [0, 1, 2].map(axis => affine.map(row => row[axis])), spacing = columns.map(norm);
  if (!affine.flat().every(Number.isFinite) || !spacing.every(length => length > 0)) {
    throw new Refusal("its header does not say how it lies in space. Save it with an affine matrix.");
  }
  const unit = columns.map((column, axis) => column.map(value => value / spacing[axis]));
  for (const [a, b] of [[0, 1], [0, 2], [1, 2]]) if (Math.abs(dot(unit[a], unit[b])) > SHEARED) {
    throw new Refusal("its axes are not at right angles. Resample it.");
  }
  // Each axis of the file goes to the direction that it is nearest to, the clearest first
  const order = [], signs = [];  // of left, back, up: the axis of the file, and whether it runs that way
  const pairs = unit.flatMap((column, axis) => column.map((value, way) => [Math.abs(value), way, axis, value]));
  for (const [, way, axis, value] of pairs.sort((a, b) => b[0] - a[0])) {
    if (order[way] !== undefined || order.includes(axis)) continue;
    order[way] = axis;
    signs[way] = Math.sign(value);
  }
  const first = signs.map((sign, way) => sign < 0 ? size[order[way]] - 1 : 0);  // voxel where each begins
  const place = affine.map(row => row[3] + first.reduce((sum, at, way) => sum + row[order[way]] * at, 0));
  const shown = affine.map((row, n) => [...order.map((axis, way) => row[axis] * signs[way]), place[n]]);
  const shape = order.map(axis => size[axis]);  // columns, rows, slices
  const strides = [1, size[0], size[0] * size[1]];
  return {
    affine, size, known, shown, shape,
    start: first.reduce((sum, at, way) => sum + at * strides[order[way]], 0),
    steps: order.map((axis, way) => strides[axis] * signs[way]),
    spacing: known ? [1, 0, 2].map(way => spacing[order[way]]) : null,  // mm between rows, columns, slices
  };
}

// Whether each voxel lies where its like in the other lies; true if one is unknown
export function samePlace(one, other) {
  if (!one.known || !other.known) return true;
  const within = SAME_PLACE * Math.min(...[0, 1, 2].map(axis => norm(one.shown.map(row => row[axis]))));
  for (let corner = 0; corner < 8; corner++) {
    const at = [...one.shape.map((size, axis) => (corner >> axis & 1) * (size - 1)), 1];
    for (const n of [0, 1, 2]) if (Math.abs(dot(at, one.shown[n].map((value, k) => value - other.shown[n][k]))) > within) return false;
  }
  return true;
}

// A slice of the file's values, as shown, each converted to 8 bits
export function cutPlane(values, {shape: [width, height], start, steps: [across, down, up]}, slice, convert) {
  const plane = new Uint8Array(height * width);
  for (let j = 0, pixel = 0; j < height; j++) {
    let voxel = start + slice * up + j * down;
    for (let i = 0; i < width; i++, voxel += across) plane[pixel++] = convert(values[voxel]);
  }
  return plane;
}

export const dot = (a, b) => a.reduce((sum, value, n) => sum + value * b[n], 0);
export const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
const norm = vector => Math.hypot(...vector);

// --- NIfTI-1, from the masks of all slices -----------------------------------------------------------------------

const HEADER = 352;  // bytes

export function encodeNifti(masks, grid) {
  const voxels = grid.size[0] * grid.size[1] * grid.size[2];
  const bytes = new Uint8Array(HEADER + voxels), view = new DataView(bytes.buffer);
  const int16 = (at, values) => values.forEach((value, n) => view.setInt16(at + 2 * n, value, true));
  const float = (at, values) => values.forEach((value, n) => view.setFloat32(at + 4 * n, value, true));
  const ras = grid.affine.map((row, n) => n < 2 ? row.map(value => -value) : row);  // NIfTI's axes: right, front, up
  const spacing = [0, 1, 2].map(axis => norm(ras.map(row => row[axis])));
  view.setInt32(0, 348, true);
  int16(40, [3, ...grid.size, 1, 1, 1, 1]);
  int16(70, [2, 8]);  // uint8
  float(76, [1, ...spacing, 0, 0, 0, 0]);
  float(108, [HEADER]);
  float(112, [1, 0]);
  bytes[123] = 2;  // mm
  int16(254, [grid.known ? 1 : 0]);
  float(280, ras.flat());
  bytes.set([0x6e, 0x2b, 0x31], 344);  // n+1
  const {shape: [width, height], start, steps: [across, down, up]} = grid;
  masks.forEach((mask, slice) => {
    for (let pixel = 0; pixel < height * width; pixel++) {
      bytes[HEADER + start + slice * up + Math.floor(pixel / width) * down + pixel % width * across] = mask[pixel];
    }
  });
  return bytes;
}

// The matrix of a NIfTI header's quaternion: 3 x 4, in its axes
export function fromQuaternion(parts, offset, [handed, ...spacing]) {
  const squares = dot(parts, parts), half = 1 - squares < 1e-7;  // half a turn, but for rounding
  const a = half ? 0 : Math.sqrt(1 - squares), [b, c, d] = parts.map(part => half ? part / Math.sqrt(squares) : part), z = spacing[2] * (handed < 0 ? -1 : 1);
  return [
    [(a * a + b * b - c * c - d * d) * spacing[0], (2 * b * c - 2 * a * d) * spacing[1], (2 * b * d + 2 * a * c) * z, offset[0]],
    [(2 * b * c + 2 * a * d) * spacing[0], (a * a + c * c - b * b - d * d) * spacing[1], (2 * c * d - 2 * a * b) * z, offset[1]],
    [(2 * b * d - 2 * a * c) * spacing[0], (2 * c * d + 2 * a * b) * spacing[1], (a * a + d * d - c * c - b * b) * z, offset[2]],
  ];
}
