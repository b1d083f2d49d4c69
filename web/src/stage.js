// The viewer's state and picture. Outline, keys, wheel and swipe are those of the report.
import {drawScale, indexOfMost, listenToKeys, listenToStage, middleOfMarks, outline, seenSquare, svg} from "../../reporting/viewer.js";
import {countValues, sum} from "./preprocess.js";

export const byId = id => document.getElementById(id);
export const state = {slice: 0, zoom: 1, middle: null, hidden: false, tool: "", brush: 6};
let patient = null;  // {slices, spacing, grid, masks, areas, shades, ...}
export const current = () => patient;

// --- Drawing ---------------------------------------------------------------------------------------------------------

// A slice in a square, in widths of a pixel: how tall a pixel is, the side of the square, and where the slice begins
const frame = ({height, width}) => {
  const tall = patient.spacing ? patient.spacing[0] / patient.spacing[1] : 1, side = Math.max(height * tall, width);
  return {tall, side, top: (side - height * tall) / 2, left: (side - width) / 2};
};

let listeners = [];
export const onShow = listener => listeners.push(listener);

export function openPatient(other) {
  patient = other;
  Object.assign(state, {slice: 0, zoom: 1, middle: null});
  byId("stage").classList.remove("zoomed");
  byId("slice").max = patient.slices.length - 1;
  for (const input of document.querySelectorAll("input[name=sequence]")) {  // FLAIR may stand in for the others
    const {planes} = patient.slices[0], own = planes[input.value];
    input.checked = input.value === "1";
    input.parentElement.hidden = own === planes[1] && !input.checked;
  }
  byId("sequences").hidden = new Set(patient.slices[0].planes).size === 1;
  patient.shades = [0, 1, 2].map(sequence => brightness(patient.slices.map(slice => slice.planes[sequence]), patient.brightest));
}

// What each value is shown as: the brightest percentile of a stack as white, black pixels not counted
function brightness(planes, brightest) {
  const counts = countValues(planes);
  const all = sum(counts) - counts[0];
  let white = 0, below = 0;
  while (all && white < 255 && below <= (all - 1) * brightest / 100) below += counts[++white];
  return Float32Array.from({length: 256}, (_, value) => value / (white || 255));
}

// The part of the square that is seen: [left, top, side]
const seen = () => seenSquare([0, 0, frame(patient.slices[state.slice]).side], state);

export function zoom(factor) {
  if (!patient) return;
  const slice = patient.slices[state.slice], {tall, top, left} = frame(slice);
  const middle = middleOfMarks(patient.masks[state.slice] || [], {...slice, tall});
  if (state.zoom === 1) state.middle = middle && [middle[0] + left, middle[1] + top];
  state.zoom = Math.max(1, Math.min(8, state.zoom * factor));
  if (state.zoom === 1) state.middle = null;
  byId("stage").classList.toggle("zoomed", state.zoom > 1);
  show();
}

export function show() {
  if (!patient) return;
  const slice = patient.slices[state.slice], mask = patient.masks[state.slice], {tall, top, left} = frame(slice);
  const {height, width} = slice, sequence = Number(document.querySelector("input[name=sequence]:checked").value);
  const range = Number(byId("window").value) / 100, level = Number(byId("level").value) / 100;
  const table = patient.shades[sequence].map(share => 255 * ((Math.min(share, 1) - level) / range + 0.5));
  const picture = new ImageData(width, height), plane = slice.planes[sequence];
  for (let i = 0, at = 0; i < plane.length; i++, at += 4) {
    picture.data[at] = picture.data[at + 1] = picture.data[at + 2] = table[plane[i]];
    picture.data[at + 3] = 255;
  }
  const whole = byId("whole"), canvas = byId("picture"), context = canvas.getContext("2d");
  Object.assign(whole, {width, height});
  whole.getContext("2d").putImageData(picture, 0, 0);
  const view = seen(), pixels = Math.min(1240, Math.round(byId("stage").clientWidth * devicePixelRatio)) || 620, scale = pixels / view[2];
  Object.assign(canvas, {width: pixels, height: pixels});
  context.drawImage(whole, (left - view[0]) * scale, (top - view[1]) * scale, width * scale, height * tall * scale);

  const marks = byId("marks");
  marks.setAttribute("viewBox", `${view[0]} ${view[1]} ${view[2]} ${view[2]}`);
  marks.replaceChildren();
  const onSlice = svg("g", {transform: `translate(${left} ${top}) scale(1 ${tall})`}, marks);
  if (mask && !state.hidden && mask.includes(1)) {
    const {path: d} = outline(mask, width, height, value => value > 0);
    if (byId("show-overlay").checked) svg("path", {d, class: "overlay", "fill-rule": "evenodd"}, onSlice);
    if (byId("show-outline").checked) {
      svg("path", {d, class: "halo"}, onSlice);
      svg("path", {d, class: "outline prediction"}, onSlice);
    }
  }
  if (state.tool && state.cursor) svg("circle", {cx: state.cursor[0] + left, cy: state.cursor[1] + top, r: state.brush, class: "cursor"}, marks);
  drawScale(marks, {sides: patient.grid?.known && ["R", "L"], millimetres: patient.spacing && patient.spacing[1]}, ...view);
  byId("slice").value = state.slice;
  byId("slice").setAttribute("aria-valuetext", `slice ${state.slice + 1} of ${patient.slices.length}`);
  for (const listener of listeners) listener();
}

export function goTo(index) {
  state.slice = Math.max(0, Math.min(patient.slices.length - 1, index));
  show();
}

export const goToLargest = () => goTo(indexOfMost(patient.areas, area => area || 0));

// --- Brush -----------------------------------------------------------------------------------------------------------

const MOST_UNDONE = 50;
const strokes = [];  // [slice, edits before it]

// Edits: Int8Array per slice, 1 painted, -1 erased, 0 as the network says; they outlive another threshold
export function applyEdits(patient, masks) {
  patient.masks = masks.map((mask, n) => {
    const edit = patient.edits[n];
    return edit ? mask.map((value, at) => edit[at] ? Number(edit[at] > 0) : value) : mask;
  });
  patient.areas = patient.masks.map(mask => sum(mask));
}

function beginStroke() {
  const {edits} = patient;
  strokes.push([patient, state.slice, edits[state.slice] ? edits[state.slice].slice() : null]);
  if (strokes.length > MOST_UNDONE) strokes.shift();
}

function dab([x, y]) {
  const n = state.slice, {height, width} = patient.slices[n], {tall} = frame(patient.slices[n]), value = state.tool === "paint" ? 1 : -1;
  patient.edits[n] = patient.edits[n] || new Int8Array(height * width);
  const r = state.brush;
  for (let v = Math.max(0, Math.ceil((y - r) / tall - 0.5)); v <= Math.min(height - 1, (y + r) / tall - 0.5); v++) {
    for (let u = Math.max(0, Math.ceil(x - r - 0.5)); u <= Math.min(width - 1, x + r - 0.5); u++) {
      if ((u + 0.5 - x) ** 2 + ((v + 0.5) * tall - y) ** 2 > r * r) continue;
      const at = v * width + u, before = patient.masks[n][at];
      patient.edits[n][at] = value;
      patient.masks[n][at] = value > 0 ? 1 : 0;
      patient.areas[n] += patient.masks[n][at] - before;
    }
  }
}

export function undo() {
  const [own, slice, edit] = strokes.pop() || [];
  if (own !== patient || !patient) return;
  patient.edits[slice] = edit;
  applyEdits(patient, patient.network);
  goTo(slice);
}

// Before the report's listeners, which a brush keeps from the picture
export function listenToBrush() {
  const stage = byId("stage");
  let drawing = false;
  const place = event => {
    const box = stage.getBoundingClientRect(), view = seen(), {top, left} = frame(patient.slices[state.slice]);
    return [view[0] + (event.clientX - box.left) / box.width * view[2] - left, view[1] + (event.clientY - box.top) / box.height * view[2] - top];
  };
  const line = (from, to) => {
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(1, state.brush / 2)));
    for (let n = 1; n <= steps; n++) dab(from.map((value, k) => value + (to[k] - value) * n / steps));
  };
  const listen = (name, act) => stage.addEventListener(name, event => {
    if (!state.tool || !patient || !patient.network) return;
    event.stopImmediatePropagation();
    act(event);
    show();
  });
  listen("pointerdown", event => {
    stage.setPointerCapture(event.pointerId);
    drawing = true;
    beginStroke();
    state.cursor = place(event);
    dab(state.cursor);
  });
  listen("pointermove", event => {
    const next = place(event);
    if (drawing) line(state.cursor, next);
    state.cursor = next;
  });
  listen("pointerup", () => { drawing = false; });
  listen("pointercancel", () => { drawing = false; });
  // By keys: the brush walks with shift and the arrows, and the space bar dabs
  stage.addEventListener("keydown", event => {
    if (!state.tool || !patient || !patient.network) return;
    const way = event.shiftKey && {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    const {height, width} = patient.slices[state.slice], size = [width, height * frame(patient.slices[state.slice]).tall];
    state.cursor = state.cursor || size.map(length => length / 2);
    if (way) {
      state.cursor = size.map((most, k) => Math.max(0, Math.min(most, state.cursor[k] + way[k] * Math.max(1, state.brush / 2))));
    } else {
      beginStroke();
      dab(state.cursor);
    }
    show();
  });
  document.addEventListener("keydown", event => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z" && patient) { event.preventDefault(); undo(); }
  });
}

export function listenToViewer() {
  const gestures = {
    zoom, seen, index: () => state.slice, last: () => (patient ? patient.slices.length : 1) - 1,
    move: index => { if (patient) goTo(index); },
    zoomed: () => state.zoom > 1,
    look: middle => { state.middle = middle; show(); },
    hide: hidden => { if (state.hidden !== hidden) { state.hidden = hidden; show(); } },
  };
  listenToBrush();
  listenToKeys(byId("stage"), gestures);
  listenToStage(byId("stage"), gestures);
}
