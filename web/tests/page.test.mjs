// node --test: what needs no browser. tests/test_web.py drives the built page
import assert from "node:assert/strict";
import {createHash} from "node:crypto";
import {test} from "node:test";
import {deflateSync} from "node:zlib";
import {cortexRatio, distances, inputWarnings, isMisplaced, isStripped, pictureWarnings, seenInTraining} from "../src/check.js";
import {expectedDice} from "../src/confidence.js";
import {describe, fromNetwork, masksToNetwork, networkPixel, resample, toNetwork} from "../src/geometry.js";
import {Refusal, cutPlane, encodeNifti, makeGrid, samePlace} from "../src/grid.js";
import {assignRoles, findItems, inOrder, kindOf, stem} from "../src/items.js";
import {removeSmall} from "../src/postprocess.js";
import {fillInput, findHead, headBox, percentileOfCounts, prepare, refusals, roundHalfEven, windowAround} from "../src/preprocess.js";
import {contrastWarnings} from "../src/dicom.js";
import {readScan} from "../src/scan.js";
import {readMeta, readNifti, readNrrd} from "../src/volumes.js";

const kinds = {mask: "seg|mask", flair: "flair", post: "t1[ _-]?(?:ce|post)", pre: "t1", other: "t2w?"};
const words = Object.fromEntries(Object.entries(kinds).map(([kind, own]) => [kind, `(?<![a-z0-9])(?:${own})(?![a-z0-9])`]));
const names = {ONTO: "_to_[a-z]+", CAMEL: "(?<=[a-z])(?=Mask)", AGENT: "gd"};
const input = {size: 4, normalisation: "plain", neighbours: 1, crop: false, resolution: 1, tta_flip: true, threshold: 0.5, min_component: 0};
const config = {input, network: {channels: 5}, words, names, FLAIR: 1, MEAN: [0, 0, 0], STD: [1, 1, 1], MULTIPLE: 32, MOST_VOXELS: 2 ** 27,
  APART: 5, THIN: 3, UNEQUAL: 1.05, LARGEST: 1024, PERCENTILES: [0, 100], AIR: 0.1, FILLING: [-32768],
  check: {STRIPPED: 2.85, AIR: 0.1, FEWEST: 5, STRIPPED_SLICES: 20}};
const rules = {CORNER: 16, UNEVEN: 0.4, BRIGHT: 0.8, TOO_MUCH: 1 / 3, LEAST: 0.01, CUT: 0.5, ENDS: 0.55, FEWEST: 5, CORTEX: 0.92, CORTEX_SLICES: 12, LIKE_T1: "like T1", MISPLACED: "misplaced", AT_END: "at the end"};
const refused = (work, words) => assert.rejects(work, error => error instanceof Refusal && error.message.includes(words));

test("slices are in the order that Python gives them", () => {
  const sorted = ["z_-10.png", "z_-5.png", "z_2.5.png", "z_5.png", "z_10.png"], other = ["s_2.10.png", "s_2.5.png", "s_2.75.png"];
  for (const names of [sorted, other]) assert.deepEqual([...names].reverse().sort(inOrder), names);
  assert.equal(inOrder("s_2.png", "S_02.png"), 0);
});

test("percentiles and halves as NumPy has them", () => {
  const counts = new Float64Array(256);
  counts[10] = counts[20] = counts[40] = 1;
  assert.equal(percentileOfCounts(counts, 50), 20);
  assert.equal(percentileOfCounts(counts, 75), 30);
  assert.deepEqual([0.5, 1.5, 2.5, 2.4].map(roundHalfEven), [0, 2, 2, 2]);
});

test("the head is the largest bright region without thin parts, and its window fits the network", () => {
  const plane = new Uint8Array(64 * 64);
  for (let y = 10; y < 30; y++) for (let x = 20; x < 50; x++) plane[y * 64 + x] = 100;
  plane.fill(200, 40 * 64, 40 * 64 + 60);  // a line
  const box = headBox(findHead([plane], 64, 64), 64, 64);
  assert.deepEqual(box, [10, 30, 20, 50]);
  assert.deepEqual(windowAround(box, 64, 32), [4, 19, 32, 32]);
  assert.deepEqual(windowAround([0, 0, 0, 0].map((_, n) => n % 2 * 64), 64, 32), [0, 0, 64, 64]);
});

test("the input holds neighbours, repeated at the ends, and the mirror image", () => {
  const slices = [51, 102, 204].map(level => ({height: 4, width: 4, planes: [0, 1, 2].map(c => Uint8Array.from({length: 16}, (_, n) => level + (c === 1) * (n % 4)))}));
  const {input: values, shape} = fillInput(prepare(toNetwork({slices}, config), config), 0, config);
  const at = (pass, channel, x) => Math.round(values[(pass * 5 + channel) * 16 + x] * 255);
  assert.deepEqual(shape, [2, 5, 4, 4]);
  assert.deepEqual([at(0, 0, 0), at(0, 1, 3), at(0, 3, 3), at(0, 4, 3)], [51, 54, 54, 105]);
  assert.deepEqual([at(1, 1, 0), at(1, 1, 3)], [54, 51]);
});

test("what the page cannot do is refused", () => {
  assert.deepEqual(refusals(config), []);
  const other = {...config, input: {...input, normalisation: "new", resolution: 0.5, apart: 2}};
  assert.equal(refusals(other).length, 3);
  assert.equal(refusals({...config, network: {channels: 3}}).length, 1);
});

test("components touch by corners through slices; a small one, or one in a single slice, goes", () => {
  const clean = (masks, width, smallest) => {
    const stack = masks.map(mask => Uint8Array.from(mask));
    removeSmall(stack, stack[0].length / width, width, smallest, 2);
    return stack.map(mask => mask.join(""));
  };
  const masks = ["110" + "000" + "000" + "011", "000" + "001" + "000" + "000"];  // 1 1 touches 1 by a corner; 1 1 is alone
  assert.deepEqual(clean(masks, 3, 0), masks);
  assert.deepEqual(clean(masks, 3, 1), ["110000000000", masks[1]]);
  assert.deepEqual(clean(masks, 3, 3), ["000000000000", "000000000000"]);
  assert.deepEqual(clean(["1101"], 4, 2), ["1100"]);  // a stack of one slice
});

// A volume of 2 x 3 x 4 voxels whose axes run to the front, the right and down
const affine = [[0, -2, 0, 5], [-3, 0, 0, 6], [0, 0, -4, 7]];
const grid = () => makeGrid(affine, [2, 3, 4], true);

test("a volume is shown to the left, back and up, and its mask returns to its grid", async () => {
  const values = Uint8Array.from({length: 24}, (_, n) => n), own = grid();
  assert.deepEqual([own.shape, own.spacing], [[3, 2, 4], [3, 2, 4]]);
  const planes = [0, 1, 2, 3].map(n => cutPlane(values, own, n, value => value));
  assert.equal(planes[0][0], 23);  // the voxel that lies most to the right, front and down
  const file = new File([encodeNifti(planes, own)], "mask.nii"), back = await readNifti(file, config);
  assert.deepEqual([...back.values[0]], [...values]);
  assert.deepEqual([back.grid.affine, back.grid.known], [affine, true]);
  assert.ok(samePlace(own, back.grid) && !samePlace(own, makeGrid(affine.map(row => [...row.slice(0, 3), row[3] + 1]), [2, 3, 4], true)));
  assert.throws(() => makeGrid([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [2, 3, 4], true), /right angles/);
});

test("a quaternion says how a volume lies, where there is no matrix", async () => {
  const bytes = encodeNifti(Array(4).fill(new Uint8Array(6)), grid()), view = new DataView(bytes.buffer);
  view.setInt16(252, 1, true);
  view.setInt16(254, 0, true);
  for (const [quaternion, handed, rows] of [
    [[Math.sqrt(0.5), Math.sqrt(0.5), 0], 1, affine],
    [[0, 0, Math.sqrt(0.2)], 1, [[-1.8, 1.6, 0, 5], [-2.4, -1.2, 0, 6], [0, 0, 4, 7]]],
    [[0, 0, 0], -1, [[-3, 0, 0, 5], [0, -2, 0, 6], [0, 0, -4, 7]]],
  ]) {
    view.setFloat32(76, handed, true);
    [...quaternion, -5, -6, 7].forEach((value, n) => view.setFloat32(256 + 4 * n, value, true));
    const {grid: {affine: read}} = await readNifti(new File([bytes], "m.nii"), config);
    assert.ok(read.flat().every((value, n) => Math.abs(value - rows.flat()[n]) < 1e-5), `${read}`);
  }
});

test("damaged, cut and boasting files are refused before they are decoded", async () => {
  const bytes = encodeNifti([0, 1, 2, 3].map(() => new Uint8Array(6)), grid()), change = (at, values) => { const own = bytes.slice(); own.set(values, at); return own; };
  await refused(readNifti(new File(["a text"], "x.nii.gz"), config), "damaged");
  await refused(readNifti(new File([bytes.slice(0, -3)], "x.nii"), config), "cut off");
  await refused(readNifti(new File([change(42, [255, 127, 255, 127, 2, 0])], "x.nii"), config), "at most 134,217,728");
  await refused(readNifti(new File([change(40, [4, 0, 2, 0, 3, 0, 4, 0, 7, 0])], "x.nii"), config), "has the shape (2, 3, 4, 7)");
  const packed = new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer());
  await refused(readNifti(new File([packed.slice(0, -20)], "x.nii.gz"), config), "cut off");
});

test("NRRD: big-endian values, sequences as the first axis, axes of the header", async () => {
  const header = "NRRD0004\ntype: short\ndimension: 4\nspace: right-anterior-superior\nsizes: 3 2 1 1\n" +
    "space directions: none (2,0,0) (0,1,0) (0,0,5)\nspace origin: (1,2,3)\nendian: big\nencoding: raw\n\n";
  const file = new File([header, new Uint8Array([0, 1, 0, 2, 0, 3, 1, 1, 1, 2, 255, 255])], "x.nrrd");
  const {values, grid: {affine: read, spacing}} = await readNrrd(file, config);
  assert.deepEqual(values.map(own => [...own]), [[1, 257], [2, 258], [3, -1]]);
  assert.deepEqual([read.map(row => row[3]), spacing], [[-1, -2, 3], [1, 2, 5]]);
  await refused(readNrrd(new File([header.replace("raw", "hex")], "x.nrrd"), config), "kind of NRRD or MHA");
});

test("MetaImage: packed values, sequences as channels, one direction after the other", async () => {
  const header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n" +
    "TransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 2 1 5\nDimSize = 2 1 1\nElementNumberOfChannels = 3\n" +
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n";
  const body = deflateSync(new Int16Array([1, 2, 3, 4, 5, -6]));
  const {values, grid: {affine: read, known}} = await readMeta(new File([header, body], "x.mha"), config);
  assert.deepEqual(values.map(own => [...own]), [[1, 4], [2, 5], [3, -6]]);
  assert.deepEqual([read.map(row => row.map(value => value + 0)), known], [[[0, -1, 0, 1], [2, 0, 0, 2], [0, 0, 5, 3]], true]);
  await refused(readMeta(new File([header.replace("LOCAL", "x.raw"), body], "x.mha"), config), "damaged");
  await refused(readMeta(new File([header.replace("SHORT", "OTHER"), body], "x.mha"), config), "kind of NRRD or MHA");
  await refused(readMeta(new File([header, body.subarray(0, 9)], "x.mha"), config), "cut off");
});

test("patients of the training are known by name, its digest, or all of their pixels", async () => {
  const sha = bytes => createHash("sha256").update(bytes).digest("hex");
  const slices = [1, 2].map(value => ({height: 1, width: 1, planes: [0, 10, 20].map(more => Uint8Array.of(value + more))}));
  const image = `sha256:${sha(Buffer.concat(["(1, 1, 3)", [1, 11, 21], "(1, 1, 3)", [2, 12, 22]].map(part => Buffer.from(part)))).slice(0, 16)}`;
  const seen = (known, names, size = 1) => seenInTraining({slices, names}, known, size);
  const answers = [seen({a: image}, []), seen({a: image}, [], 2), seen({a: ""}, ["b"]), seen({a: ""}, ["b", "a"]), seen({[sha("a").slice(0, 16)]: ""}, ["a"]), seen({}, ["a"])];
  assert.deepEqual(await Promise.all(answers), [true, false, false, true, true, false]);
});

test("pictures of several sizes or series, or partly in colour, are warned of; a brain without scalp is noted", () => {
  const said = names => pictureWarnings(names.map(([name, width, colour, empty]) => ({name, height: 2, width, colour, empty})), stem);
  assert.deepEqual(said([["a_1.png", 2], ["a_2.png", 2], ["b.png", 2]]), []);
  assert.match(said([["a_1.png", 3], ["a_2.png", 2]])[0], /^pictures of 2 sizes .2x2, 3x2. are taken for one stack/);
  assert.match(said([["a1_1.png", 2], ["a2_1.png", 2], ["a1_2.png", 2], ["a2_2.png", 2]])[0], /^pictures of 2 series by their names .a1_1.png, a2_1.png. /);
  assert.match(said([["1.png", 2], ["2.png", 2, true], ["3.png", 2]])[0], /^1 of 3 pictures are in colour, such as 2, /);
  assert.deepEqual(said([["1.png", 2, false, true], ["2.png", 2, true], ["3.png", 2]]), []);
  const stripped = values => isStripped(Array(5).fill({height: 2, width: 2, planes: [0, Uint8Array.from(values)]}), config.check, 1, 2);
  assert.deepEqual([stripped([0, 100, 110, 90]), stripped([0, 100, 250, 20])], [true, false]);
});

// The heads of tests/test_calibration.py
test("a head that lies unlike those of the data set, by its outline and the height of its pixels", () => {
  const draw = (height, width, inside) => [20, 70, 70, 70, 20].map(radius => Uint8Array.from({length: height * width}, (_, at) => {
    const [y, x] = inside(Math.floor(at / width), at % width);
    return Number(Math.abs(x - 50) < 25 + y / 9 && y >= 5 && y < 95 && Math.hypot(y - 50, x - 50) < radius);
  }));
  const misplaced = (head, width = 100, tall = 1) => isMisplaced(head, 100, width, tall, rules), egg = draw(100, 100, (y, x) => [y, x]);
  assert.deepEqual([misplaced(egg), misplaced(egg.map(mask => mask.map(() => 0))), misplaced(egg, 100, 0.5)], [false, false, true]);
  const turned = [draw(100, 100, (y, x) => [99 - y, x]), draw(100, 100, (y, x) => [x, 99 - y])];
  assert.deepEqual([...turned, egg.slice(1, 4)].map(head => misplaced(head)), [true, true, true]);
  assert.ok(misplaced(draw(100, 70, (y, x) => [y, x]), 70));
});

// The gyri of tests/test_calibration.py: 40 pixels wide, 8 apart
test("a cortex darker than white matter is like T1, by distances in the steps of OpenCV", () => {
  const spot = Uint8Array.from({length: 35}, (_, at) => Number(at !== 17)), shown = distances(spot, 5, 7).map(value => Math.round(1e4 * value));
  assert.deepEqual([...shown.subarray(14, 21)], [30000, 20000, 10000, 0, 10000, 20000, 30000]);
  assert.deepEqual([...shown.subarray(0, 7)], [35969, 28000, 21969, 20000, 21969, 28000, 35969]);
  const size = 256, ratio = cortex => {
    const draw = inside => Uint8Array.from({length: size * size}, (_, at) => {
      const y = Math.floor(at / size), x = at % size, first = Math.min(y % 48, x % 48), last = Math.max(y % 48, x % 48);
      return y >= 30 && y < 226 && Math.abs(x - 128) < 60 + y / 9 ? inside(y, last >= 40 ? 20 : first < 6 || last >= 34 ? cortex : 100) : 0;
    });
    const plane = draw((y, value) => value), end = draw((y, value) => y < 150 ? 0 : value), planes = [end, ...Array(5).fill(plane), end];
    const slices = planes.map(own => ({height: size, width: size, planes: [own, own, own]})), none = new Uint8Array(size * size);
    const warnings = inputWarnings({slices, spacing: null}, planes.map(() => none), rules, 1);
    return [cortexRatio(planes, findHead(planes, size, size, true), size, size, rules.CORTEX_SLICES), warnings.join()];
  };
  assert.deepEqual([80, 120].map(cortex => Math.abs(ratio(cortex)[0] - cortex / 100) < 0.08), [true, true]);
  assert.deepEqual([80, 120].map(cortex => ratio(cortex)[1]), ["like T1", ""]);
});

test("masks at the end of a stack or over a third of the head, heads by the spacing, a white page", () => {
  const draw = inside => Uint8Array.from({length: 1600}, (_, at) => Number(inside(Math.floor(at / 40), at % 40)));
  const head = draw((y, x) => y >= 5 && y < 35 && Math.abs(x - 20) < 5 + y / 5), end = draw((y, x) => y >= 8 && y < 13 && x >= 18 && x < 23);
  const none = draw(() => false), spot = draw((y, x) => y === 20 && x === 20);
  const picture = plane => ({height: 40, width: 40, planes: Array(3).fill(plane.map(value => 90 * value))});
  const slices = [end, head, head, head, end].map(picture);
  const said = (marked, spacing = null, own = slices) => inputWarnings({slices: own, spacing}, own.map((_, n) => marked[n] || none), rules, 1);
  assert.deepEqual(said([none, spot, spot, spot, none]), []);
  for (const marked of [[spot], [none, none, none, none, spot]]) assert.deepEqual(said(marked), ["at the end"]);
  assert.deepEqual([said([], [1, 1, 5]), said([], [1, 3, 5]), said([spot], [1, 3, 5], slices.slice(0, 4))], [[], ["misplaced"], []]);
  assert.match(said([none, head])[0], /^the mask covers more than a third of the head in 1 of 5 slices, as no tumour /);
  assert.match(said([head], null, [slices[1]])[0], / in 1 of 1 slice, as no tumour /);
  const white = said([spot], null, Array(5).fill(picture(draw(() => true))));
  assert.ok(white.length === 1 && white[0].includes("the corners, where MR shows air, are as bright as the rest."));
});

test("names say which file is what", async () => {
  const said = {p_flair: "flair", p_t1ce: "post", p_t1: "pre", "P 1 T1 post": "post", p_t1_to_flair: "pre", flair_seg: "mask", tumorMask: "mask", p_t2: "other", p_12: null};
  for (const [name, kind] of Object.entries(said)) assert.equal(kindOf(name, config), kind, name);
  const files = ["p/x_flair.nii.gz", "p/x_t1.nii.gz", "p/x_flair_seg.nii.gz", "p/.hidden.nii", "p/note.txt", "p/s_10.png", "p/s_9.png"]
    .map(path => ({path, file: new File([""], path.split("/")[1])}));
  const {items, problems} = await findItems(files, config);
  assert.deepEqual(items.map(({label}) => label), ["x_flair.nii.gz", "x_t1.nii.gz", "x_flair_seg.nii.gz", "2 pictures, s_9.png to s_10.png"]);
  assert.deepEqual(assignRoles(items), {roles: ["flair", "pre", "", ""], question: ""});
  assert.equal(problems.length, 1);
  assert.deepEqual(["p_1", "p"].map(name => items[3].names.includes(name)), [false, true]);
  assert.match(assignRoles([{kind: "pre", label: "t1.nii"}]).question, /^No FLAIR/);
  assert.match(assignRoles([{kind: null, label: "a"}, {kind: null, label: "b"}]).question, /^2 of these may be FLAIR/);
  assert.match(assignRoles([]).question, /^No image/);
});

// As in tests/test_geometry.py
const stack = (values, height, width, spacing) => ({spacing, slices: values.map(value => ({height, width, planes: Array(3).fill(new Uint8Array(height * width).fill(value))}))});
const one = {...config, input: {...input, size: 1}};

test("slabs and what lies between them", () => {
  const thin = stack([0, 10, 20, 30, 40, 50, 60, 70, 80, 90], 4, 4, [1, 1, 1]);
  assert.deepEqual(toNetwork(thin, config).map(planes => planes[1][0]), [20, 70]);
  const logits = [0, 10].map(value => new Float32Array(16).fill(value));
  assert.deepEqual(thin.slices.map((_, n) => fromNetwork(logits, thin, n, config)[5]).map(value => Math.round(1e4 * value) / 1e4), [0, 0, 0, 2, 4, 6, 8, 10, 10, 10]);
  assert.match(describe(thin, config)[0], /^slices of 1 mm are averaged in 2 slabs/);
  for (const [slices, between, slabs] of [[3, 1, 1], [12, 2.9, 7], [155, 1, 31], [1, 0.5, 1], [7, 3, 7]]) {
    const scan = stack(Array(slices).fill(0), 1, 1, [1, 1, between]);
    assert.equal(toNetwork(scan, one).length, slabs);
    assert.ok(scan.slices.every((_, n) => fromNetwork(Array(slabs).fill(new Float32Array(1)), scan, n, one).length === 1));
  }
  const sizes = {spacing: [1, 1, 1], slices: [...stack([0], 1, 1).slices, ...stack([0], 2, 2).slices]};
  assert.equal(toNetwork(sizes, one).length, 2);
});

test("pixels of another plane become square, and the mask has the grid of the input", () => {
  const row = Uint8Array.from([0, 0, 200, 200]), scan = {spacing: [2, 1, 5], slices: [{height: 2, width: 4, planes: Array(3).fill(Uint8Array.from([...row, ...row]))}]};
  assert.deepEqual([...toNetwork(scan, config)[0][1]], [row, row, row, row].flatMap(own => [...own]));
  assert.deepEqual([...fromNetwork([Float32Array.from({length: 16}, (_, n) => Math.floor(n / 4))], scan, 0, config)], [0.5, 0.5, 0.5, 0.5, 2.5, 2.5, 2.5, 2.5]);
  assert.match(describe(scan, config)[0], /^pixels of 2 x 1 mm/);
  const size = {...config, input: {size: 256}};
  for (const [height, width, spacing, pixels] of [[256, 200, null, 1], [512, 512, [0.5, 0.5, 5], 4], [256, 50, [1, 5, 1], 0.2]]) {
    assert.equal(networkPixel({height, width}, spacing, size).toFixed(6), pixels.toFixed(6));
  }
});

test("masks reach the grid of the network by nearest neighbour, in slabs by majority", () => {
  const scan = {spacing: [2, 1, 2.5], slices: Array(4).fill({height: 2, width: 4})};  // slabs of two slices, rows twice
  const masks = [[0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], Array(8).fill(0), [0, 0, 0, 0, 0, 0, 0, 1]].map(own => Uint8Array.from(own));
  assert.deepEqual(masksToNetwork(masks, scan, config).map(mask => mask.join("")), ["0110011000000000", "0000000000010001"]);
  const narrow = {spacing: null, slices: [{height: 4, width: 2}]};  // black to both sides
  assert.deepEqual(masksToNetwork([new Uint8Array(8).fill(1)], narrow, config)[0].join(""), "0110".repeat(4));
});

test("a sequence on another grid is resampled by the headers", () => {
  const make = (values, affine, size) => {
    const own = makeGrid(affine, size, true);
    return {grid: own, slices: Array.from({length: own.shape[2]}, (_, n) => ({height: own.shape[1], width: own.shape[0], planes: [cutPlane(values, own, n, value => value)]}))};
  };
  const flair = make(new Uint8Array(4), [[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0]], [4, 1, 1]);
  const other = make(Uint8Array.from([10, 21, 40]), [[-1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0]], [3, 1, 1]);  // 40, 21, 10 from x = 0 on
  assert.deepEqual([...resample(other, flair).planes[0]], [30, 15, 0, 0]);  // halves are cut off, and nothing is beyond
});

test("air does not count in what becomes white, padding in nothing", async () => {
  const values = Int16Array.from([-32768, 0, 5, 19, 20, 110, 200, 150]), bytes = encodeNifti([new Uint8Array(8)], makeGrid([[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]], [8, 1, 1], true));
  const file = new Uint8Array(352 + 16);
  file.set(bytes.subarray(0, 352));
  file.set([4, 0, 16], 70);  // int16
  file.set(new Uint8Array(values.buffer), 352);
  const item = {form: "nifti", label: "x", files: [new File([file], "x.nii")]};
  const read = async percentiles => {
    const {slices, notes} = await readScan({flair: item}, {...config, PERCENTILES: percentiles});
    return {plane: [...slices[0].planes[1]].reverse(), notes};
  };
  assert.deepEqual((await read([0, 100])).plane, [0, 0, 6, 24, 26, 140, 255, 191]);
  const {plane, notes} = await read([0, 50]);  // 20 is the middle of all, and 65 that of those from 2 on
  assert.deepEqual(plane, [0, 0, 20, 75, 78, 255, 255, 255]);
  assert.match(notes.join(), /1 values that are not finite.*0 becomes 0 and 65 becomes 255 .percentiles 0 of all slices and 50 of what is not air/);
});

test("times that FLAIR never has are warned of", () => {
  const times = {SHORT_ECHO: 40, SHORT_INVERSION: 1200};
  assert.deepEqual(contrastWarnings({echo: 120, inversion: 2500, description: "AX FLAIR"}, times), []);
  assert.deepEqual(contrastWarnings({echo: 0, inversion: 0}, times), []);
  assert.match(contrastWarnings({echo: 9.125, inversion: 0, description: "AX T1"}, times)[0], /^the echo time of the series AX T1 taken for FLAIR is 9.125 ms/);
});

// tests/test_quality.py has the same mask and features; the probabilities are 1 in its first box, 0.5 in the others
test("the expected Dice is a sum over features with an interval, unknown beyond those of other patients", () => {
  const size = 20, boxes = [[0, 0], [0, 2], [12, 12]], slices = boxes.map(() => ({height: size, width: size}));
  const masks = boxes.map(([top, left]) => Uint8Array.from({length: size * size}, (_, at) => {
    const y = Math.floor(at / size) - top, x = at % size - left;
    return Number(y >= 0 && y < 4 && x >= 0 && x < 4);
  }));
  const logits = masks.map((mask, n) => Float32Array.from(mask, value => value ? (n ? 0 : 60) : -60));
  const expected = (name, low = 0, high = 9) => expectedDice(logits, masks, {slices}, {...config, input: {size}, confidence:
    {intercept: 0.5, half_width: 0.2, thresholds: [0.3, 0.7], bad: 0.45, surest: {threshold_dice: "high", entropy: "low"}, features: {[name]: {coefficient: 0.1, low, high}}}});
  const values = {log_volume: Math.log10(48), log_components: Math.log10(2), largest_share: 32 / 48, neighbour_dice: 0.25, threshold_dice: 0.5, entropy: 32 / 48};
  for (const [name, value] of Object.entries(values)) assert.ok(Math.abs(expected(name).dice - 0.5 - 0.1 * value) < 1e-6, name);
  const {dice, low, high, check} = expected("log_volume");
  assert.deepEqual([dice, low, high].map(value => value.toFixed(4)), ["0.6681", "0.4681", "0.8681"]);
  assert.deepEqual([check, expected("entropy").check], [false, true]);
  const unknown = {dice: null, low: null, high: null, check: true}, empty = masks.map(mask => mask.map(() => 0));
  assert.deepEqual(expected("log_volume", 2), unknown);
  assert.deepEqual([expected("entropy", 0, 0.5), expected("threshold_dice", 0.6)], [unknown, unknown]);
  for (const [name, low, high, end] of [["entropy", 1, 2, 1], ["threshold_dice", 0, 0.4, 0.4]])  // surer than all others
    assert.ok(Math.abs(expected(name, low, high).dice - 0.5 - 0.1 * end) < 1e-6, name);
  const ofEmpty = (confidence, doubtful, own = empty, of = slices) => expectedDice(logits, own, {slices: of}, {...config, input: {size}, confidence}, doubtful);
  assert.deepEqual(ofEmpty({features: {entropy: {}}}), unknown);  // stored without the probability that it is right
  assert.deepEqual(ofEmpty({features: {entropy: {}}, empty: 0.75}), {...unknown, dice: 0.75});
  assert.deepEqual(ofEmpty({features: {entropy: {}}, empty: 0.75}, true), unknown);
  const side = 4 * size, speck = Uint8Array.from({length: side * side}, (_, at) => at ? 0 : 1);  // between the pixels of the network
  assert.deepEqual(ofEmpty({features: {entropy: {}}, empty: 0.75}, false, [speck], [{height: side, width: side}]), unknown);
  assert.equal(expectedDice(logits, masks, {slices}, {...config, confidence: null}), null);
});
