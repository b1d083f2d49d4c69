// The page: files in, masks out. All computing is in workers; this is what a person sees and presses.
import {zipSync} from "fflate";
import {placeOf, slabsOf} from "./geometry.js";
import {encodeNifti, makeGrid} from "./grid.js";
import {cut} from "./postprocess.js";
import {sum} from "./preprocess.js";
import {applyEdits, byId, current, goTo, goToLargest, listenToViewer, onShow, openPatient, show, state, undo, zoom} from "./stage.js";

const config = JSON.parse(byId("config").textContent);
const MOST_WORKERS = Math.min(4, navigator.hardwareConcurrency || 2);
const number = (value, digits = 0) => value.toLocaleString("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits});

// --- Workers ---------------------------------------------------------------------------------------------------------

const bytesOf = id => Uint8Array.from(atob(byId(id).textContent), letter => letter.charCodeAt(0));
const unpack = async bytes => new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
let parts = null, source = null;

async function startWorker() {
  source = source || URL.createObjectURL(new Blob([byId("worker").textContent], {type: "text/javascript"}));
  parts = parts || Promise.all(["runtime", "weights"].map(id => unpack(bytesOf(id))));
  const worker = new Worker(source), waiting = new Map();
  let asked = 0;
  worker.onmessage = ({data: {id, share, result, refusal, known}}) => {
    const {resolve, reject, progress} = waiting.get(id);
    if (share !== undefined) return progress(share);
    waiting.delete(id);
    if (refusal === undefined) resolve(result);
    else reject(Object.assign(new Error(refusal), {known}));
  };
  worker.onerror = event => { for (const {reject} of waiting.values()) reject(new Error(event.message || "the worker stopped")); };
  const ask = (what, about = {}, progress = () => {}) => new Promise((resolve, reject) => {
    waiting.set(++asked, {resolve, reject, progress});
    worker.postMessage({id: asked, ask: what, ...about}, about.planes ? about.planes.map(({buffer}) => buffer) : []);
  });
  const [wasm, model] = await parts;
  await ask("start", {wasm, model, about: config});
  return {ask, worker};
}

let first = null, pool = [];
const firstWorker = () => (first = first || startWorker());

// --- Messages --------------------------------------------------------------------------------------------------------

function say(text, share = null) {
  byId("status").textContent = text;
  byId("progress").hidden = share === null;
  if (share !== null) byId("progress").value = share;
}

function list(id, texts) {
  byId(id).replaceChildren(...texts.map(text => Object.assign(document.createElement("li"), {textContent: text})));
  byId(id).parentElement.hidden = !texts.length;
}

function refuse(text) {
  say("");
  byId("refusal").textContent = text;
  byId("refusal").hidden = !text;
  if (text) byId("refusal").scrollIntoView({block: "nearest"});
}

async function attempt(work) {
  refuse("");
  try {
    await work();
  } catch (error) {
    if (!error.known) first = null, pool = [];  // a worker that ran out of memory does not recover
    refuse(error.known ? error.message : `This did not work: ${error.message}. Smaller files, or another browser, may.`);
  }
}

// --- Files -----------------------------------------------------------------------------------------------------------

let job = 0, found = null;

// A new patient: what still runs for another is not shown
function begin(text) {
  byId("taken").hidden = byId("result").hidden = true;
  delete document.body.dataset.seconds;
  say(text);
  return ++job;
}

async function filesOf(transfer) {
  const files = [], entries = [...transfer.items].map(item => item.webkitGetAsEntry && item.webkitGetAsEntry());
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      files.push({file, path: path + file.name});
      return;
    }
    const reader = entry.createReader();
    while (true) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) break;
      for (const inner of some) await walk(inner, `${path}${entry.name}/`);
    }
  };
  if (entries.some(Boolean)) {
    for (const entry of entries.filter(Boolean)) await walk(entry, "");
    return files;
  }
  return [...transfer.files].map(file => ({file, path: file.name}));
}

const chosen = input => [...input.files].map(file => ({file, path: file.webkitRelativePath || file.name}));

async function takeFiles(files) {
  const own = begin("Reading names and headers …");
  found = await (await firstWorker()).ask("find", {files});
  if (own !== job) return;
  list("problems", found.problems);
  byId("spacing").hidden = true;
  for (const input of spacingInputs()) input.value = "";
  showItems();
  if (found.question) return refuse(found.items.length ? found.question : [found.question, ...found.problems].join(" "));
  await segmentFiles();
}

function showItems() {
  byId("taken").hidden = !found.items.length;
  byId("items").replaceChildren(...found.items.map((item, n) => {
    const row = document.createElement("div"), label = document.createElement("label"), select = document.createElement("select");
    select.id = `role-${n}`;
    label.htmlFor = select.id;
    label.textContent = item.label;
    for (const [role, text] of [["flair", "FLAIR, or all three"], ["pre", "T1 before contrast"], ["post", "T1 after contrast"], ["", "not used"]]) {
      select.add(new Option(text, role, false, found.roles[n] === role));
    }
    select.addEventListener("change", () => {
      found.roles[n] = select.value;
      byId("again").hidden = false;
    });
    row.append(label, select);
    return row;
  }));
  byId("again").hidden = !found.question;
}

const spacingInputs = () => [...document.querySelectorAll("#spacing input")];

// What the user says of files without it: mm between rows, columns and slices, or null
function givenSpacing() {
  const values = spacingInputs().map(({value}) => Number(value));
  if (values.some(Boolean) && !values.every(value => value > 0)) throw Object.assign(new Error("Give all three distances in mm, or none."), {known: true});
  return values[0] ? values : null;
}

async function segmentFiles() {
  const own = begin("Reading the images …"), items = {};
  byId("taken").hidden = false;
  const spacing = givenSpacing();
  for (const role of ["flair", "pre", "post"]) {
    const same = found.items.filter((_, n) => found.roles[n] === role);
    if (same.length > 1) return refuse(`${same.length} of these are ${config.shown[role]}: choose one.`);
    items[role] = same[0];
  }
  if (!items.flair) return refuse("No FLAIR, which is what is segmented: choose it below.");
  byId("again").hidden = true;
  const scan = await (await firstWorker()).ask("read", {items, spacing}, share => own === job && say("Reading the images …", share));
  if (own !== job) return;
  byId("spacing").hidden = Boolean(scan.grid?.known);
  await compute(scan, own);
}

async function takeSample() {
  const own = begin("Drawing the sample …"), {size, slices: count, spacing} = config.sample;
  const bitmap = await createImageBitmap(new Blob([bytesOf("sample")], {type: "image/webp"}));
  const context = new OffscreenCanvas(size, size * count).getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  const slices = Array.from({length: count}, (_, n) => {
    const {data} = context.getImageData(0, n * size, size, size);
    const planes = [0, 1, 2].map(c => Uint8Array.from({length: size * size}, (_, at) => data[4 * at + c]));
    return {name: `synthetic_${String(n + 1).padStart(2, "0")}`, source: "synthetic", height: size, width: size, planes};
  });
  const affine = [[spacing[1], 0, 0, 0], [0, spacing[0], 0, 0], [0, 0, spacing[2], 0]];
  const grid = makeGrid(affine, [size, size, count], true);
  const sample = {name: "synthetic", slices, spacing, grid, grey: false, about: [config.SYNTHETIC_NOTICE], notes: [], warnings: []};
  await (await firstWorker()).ask("take", {sample});
  if (own === job) await compute(sample, own);
}

// --- Computing -------------------------------------------------------------------------------------------------------

async function compute(scan, own) {
  const worker = await firstWorker(), {threshold} = config.input, count = scan.slices.length;
  say("Preparing …");
  const prepared = await worker.ask("prepare");
  if (own !== job) return;
  const patient = {...scan, brightest: config.BRIGHTEST, masks: [], areas: [], edits: [], threshold};
  const general = [...scan.about, ...(scan.grey ? [config.ONE_SEQUENCE] : []), ...scan.warnings];
  setThreshold(threshold);
  openPatient(patient);
  byId("result").hidden = false;
  const spacing = scan.spacing ? `, voxels of ${scan.spacing.map(mm => Number(mm.toPrecision(3))).join(" × ")} mm (rows, columns, slices)` : "";
  byId("title").textContent = `${scan.name}: ${count} slice${count > 1 ? "s" : ""}${spacing}`;
  byId("output").hidden = true;
  list("notes", scan.notes);
  list("warnings", general);
  goTo(count >> 1);
  byId("status").scrollIntoView();
  const slabs = slabsOf(scan, config), places = scan.slices.map((_, n) => placeOf(slabs, n));
  const logits = [], started = performance.now(), queue = [...slabs.keys()];
  const work = async ({ask}) => {
    while (queue.length && own === job) {
      const slab = queue.shift();
      logits[slab] = await ask("infer", {number: slab});
      if (own !== job) return;
      places.forEach(([below, share], n) => {
        if (patient.masks[n] || !logits[below] || (share && !logits[below + 1])) return;
        patient.masks[n] = cut(logits, scan, n, threshold, config);
        patient.areas[n] = sum(patient.masks[n]);
      });
      const done = slabs.length - queue.length, left = (performance.now() - started) / done * queue.length / 1000;
      const cutOut = Object.keys(patient.masks).length;
      say(`${cutOut} of ${count} slices${queue.length ? `, ${number(Math.ceil(left))} s left` : ""}`, cutOut / count);
      show();
    }
  };
  const voxels = scan.slices.reduce((sum, {height, width}) => sum + height * width, 0);  // fewer workers where memory is short
  const helpers = Math.min(MOST_WORKERS, Math.ceil(slabs.length / 8), Math.floor(2 * config.MOST_VOXELS / voxels)) - 1;
  const help = async n => {
    pool[n] = pool[n] || startWorker();
    const helper = await pool[n];
    if (!queue.length || own !== job) return;
    await helper.ask("share", {state: prepared});
    await work(helper);
  };
  await Promise.all([work(worker), ...Array.from({length: helpers}, (_, n) => help(n))]);
  if (own !== job) return;
  say("Removing small components …");
  const {masks, warnings, expected} = await worker.ask("segment", {planes: logits, threshold});
  if (own !== job) return;
  Object.assign(patient, {network: masks, expected});
  applyEdits(patient, masks);
  list("warnings", [...general, ...warnings]);
  byId("output").hidden = false;
  byId("save-masks").textContent = scan.grid ? "Save masks (.nii.gz)" : count > 1 ? "Save masks (PNG in a ZIP)" : "Save mask (PNG)";
  const seconds = (performance.now() - started) / 1000;
  say(`Done: ${count} slice${count > 1 ? "s" : ""} in ${number(seconds, 1)} s.${patient.areas.some(Boolean) ? "" : " Nothing is marked: check it."}`);
  document.body.dataset.seconds = seconds;
  goToLargest();
}

function setThreshold(value) {
  byId("threshold").value = value;
  const own = config.input.threshold;
  byId("shown-threshold").textContent = value === own ? `${value}, the network's own` : `${value} (the network's own is ${own})`;
}

let cutting = null;
async function changeThreshold() {
  const patient = current(), value = Number(byId("threshold").value);
  setThreshold(value);
  if (!patient || !patient.network) return;
  patient.threshold = value;
  if (cutting) return;  // the newest is cut when this one is done
  cutting = value;
  do {
    cutting = patient.threshold;
    patient.network = (await (await firstWorker()).ask("segment", {threshold: cutting})).masks;
  } while (cutting !== patient.threshold);
  cutting = null;
  if (patient !== current()) return;
  applyEdits(patient, patient.network);
  show();
}

// --- Readout ---------------------------------------------------------------------------------------------------------

function readOut() {
  const {areas, slices, spacing, expected, threshold, edits} = current(), n = state.slice, pixels = sum(Array.from(areas, area => area || 0));
  byId("shown-slice").textContent = `${n + 1} of ${slices.length}`;
  byId("shown-area").textContent = areas[n] === undefined ? "–" : spacing ? `${number(areas[n] * spacing[0] * spacing[1])} mm²` : `${number(areas[n])} px`;
  byId("shown-lesion").textContent = `${areas.filter(area => area > 0).length} of ${slices.length}`;
  byId("shown-volume").textContent = spacing ? `${number(pixels * spacing[0] * spacing[1] * spacing[2] / 1000, 1)} ml` : `${number(pixels)} px`;
  byId("volume-name").textContent = spacing ? "volume" : "marked in all slices";
  byId("expected").hidden = !expected || threshold !== config.input.threshold || edits.some(Boolean);  // of the network's own mask
  if (expected) {
    const [dice, low, high] = [expected.dice, expected.low, expected.high].map(value => number(value || 0, 2));
    const known = expected.low === null ? `${dice} that no lesion is right` : `${dice} (${low} to ${high})`;
    byId("shown-expected").textContent = `${expected.dice === null ? "unknown" : known}${expected.check ? ": check" : ""}`;
  }
  byId("stage").setAttribute("aria-label", `Slice ${n + 1} of ${slices.length}: ${areas[n] === undefined ? "not computed yet" :
    areas[n] ? `${number(areas[n])} pixels marked` : "nothing marked"}. Arrow keys change the slice, Home and End go to the first and last, B hides the mask, plus and minus zoom.`);
  drawProfile(areas, slices.length);
}

function drawProfile(areas, count) {
  const canvas = byId("areas"), context = canvas.getContext("2d"), most = Math.max(1, ...areas.map(area => area || 0));
  const width = canvas.width = canvas.clientWidth || 300, height = canvas.height = 60, step = width / count;
  context.fillStyle = "#0b0e11";  // on paper, too
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#39434c";
  context.fillRect(0, height - 1, width, 1);
  for (let n = 0; n < count; n++) {
    context.fillStyle = n === state.slice ? "#ffffff" : areas[n] === undefined ? "#39434c" : "#56b4e9";
    const tall = Math.max(n === state.slice ? 3 : areas[n] > 0 || areas[n] === undefined ? 2 : 0, (areas[n] || 0) / most * (height - 4));
    context.fillRect(n * step, height - tall, Math.max(1, step - 1), tall);
  }
}

// --- Saving ----------------------------------------------------------------------------------------------------------

function save(content, name) {
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(content), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function toPng(mask, {height, width}) {
  const canvas = new OffscreenCanvas(width, height), picture = new ImageData(width, height);
  mask.forEach((value, at) => picture.data.set([255 * value, 255 * value, 255 * value, 255], 4 * at));
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return new Uint8Array(await (await canvas.convertToBlob({type: "image/png"})).arrayBuffer());
}

async function saveMasks() {
  const {name, slices, masks, grid} = current();
  if (grid) {
    const packed = new Blob([encodeNifti(masks, grid)]).stream().pipeThrough(new CompressionStream("gzip"));
    return save(await new Response(packed).blob(), `${name}_mask.nii.gz`);
  }
  const files = {};
  for (const [n, slice] of slices.entries()) files[`${slice.name}_mask.png`] = [await toPng(masks[n], slice), {level: 0}];
  if (slices.length === 1) return save(new Blob([Object.values(files)[0][0]], {type: "image/png"}), Object.keys(files)[0]);
  save(new Blob([zipSync(files)], {type: "application/zip"}), `${name}_masks.zip`);
}

function saveTable() {
  const {name, slices, areas, spacing, threshold} = current(), quote = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const rows = slices.map((slice, n) => {
    const mm2 = spacing ? areas[n] * spacing[0] * spacing[1] : null;
    const shown = mm2 === null ? ["", ""] : [mm2.toFixed(6), (mm2 * spacing[2]).toFixed(6)];
    return [quote(name), quote(slice.name), slice.height, slice.width, areas[n], ...shown, threshold, current().edits[n] ? "yes" : "no", quote(slice.source)].join();
  });
  const columns = "patient,slice,height,width,lesion_pixels,lesion_mm2,lesion_mm3,threshold,edited,source";
  save(new Blob([`${[columns, ...rows].join("\n")}\n`], {type: "text/csv"}), `${name}_slices.csv`);
}

// --- Listening -------------------------------------------------------------------------------------------------------

function chooseTool() {
  state.tool = document.querySelector("input[name=tool]:checked").value;
  byId("stage").classList.toggle("brush", Boolean(state.tool));
  show();
}

function listen() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  for (const id of ["files", "folder"]) on(id, "change", ({target}) => { const files = chosen(target); target.value = ""; attempt(() => takeFiles(files)); });
  on("sample-button", "click", () => attempt(takeSample));
  on("again", "click", () => attempt(segmentFiles));
  on("threshold", "input", () => attempt(changeThreshold));
  on("own-threshold", "click", () => { byId("threshold").value = config.input.threshold; attempt(changeThreshold); });
  on("slice", "input", ({target}) => goTo(Number(target.value)));
  on("previous", "click", () => goTo(state.slice - 1));
  on("next", "click", () => goTo(state.slice + 1));
  on("zoom-in", "click", () => zoom(1.5));
  on("zoom-out", "click", () => zoom(1 / 1.5));
  on("largest", "click", goToLargest);
  on("undo", "click", undo);
  on("brush", "input", ({target}) => { state.brush = Number(target.value) / 2; show(); });
  on("save-masks", "click", () => attempt(saveMasks));
  on("save-table", "click", () => attempt(saveTable));
  on("areas", "pointerdown", ({offsetX, target}) => goTo(Math.floor(offsetX / target.clientWidth * current().slices.length)));
  for (const input of document.querySelectorAll(".shown input")) input.addEventListener("input", show);
  for (const input of spacingInputs()) input.addEventListener("input", () => { byId("again").hidden = false; });
  for (const input of document.querySelectorAll("input[name=tool]")) input.addEventListener("input", chooseTool);
  addEventListener("dragover", event => { event.preventDefault(); byId("drop").classList.add("over"); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) byId("drop").classList.remove("over"); });
  addEventListener("drop", event => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    attempt(async () => takeFiles(await filesOf(event.dataTransfer)));
  });
  new ResizeObserver(show).observe(byId("stage"));
  onShow(readOut);
  listenToViewer();
}

byId("threshold").value = config.input.threshold;
listen();
firstWorker().then(() => { document.body.dataset.ready = "yes"; }, error => refuse(`This browser cannot run the network: ${error.message}`));
