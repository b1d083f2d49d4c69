"use strict";
// patients: [{id, view: [left, top, side], slices: [{number, images, runs, tumour, predicted, hit, false, missed, dice, iou, kind}]}]
const {size, patients} = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MASK = 1, PREDICTION = 2;  // bits of a pixel's label

function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

// Runs [skipped pixels, length, label, ...] -> the label of each pixel, rows first
function decodeLabels(runs) {
  const labels = new Uint8Array(size * size);
  let at = 0;
  for (let i = 0; i < runs.length; i += 3) {
    at += runs[i];
    labels.fill(runs[i + 2], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  return labels;
}

// The border of all pixels for which inside(label) holds, along pixel edges, as closed loops of an SVG path
function outline(labels, inside) {
  const is = (x, y) => x >= 0 && y >= 0 && x < size && y < size && inside(labels[y * size + x]);
  const ends = new Map();  // corner -> corners that an edge leads to, with the region on its right
  const corner = (x, y) => y * (size + 1) + x;
  const add = (x1, y1, x2, y2) => {
    const from = corner(x1, y1);
    if (!ends.has(from)) ends.set(from, []);
    ends.get(from).push(corner(x2, y2));
  };
  for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) if (is(x, y)) {
    if (!is(x, y - 1)) add(x, y, x + 1, y);
    if (!is(x + 1, y)) add(x + 1, y, x + 1, y + 1);
    if (!is(x, y + 1)) add(x + 1, y + 1, x, y + 1);
    if (!is(x - 1, y)) add(x, y + 1, x, y);
  }
  let path = "";
  for (const start of ends.keys()) while (ends.get(start).length) {
    let at = ends.get(start).pop(), before = start, step = 0;
    path += `M${start % (size + 1)} ${Math.floor(start / (size + 1))}`;
    while (true) {
      const done = at === start;
      const next = done ? 0 : ends.get(at).pop();
      if (done || next - at !== at - before) path += `L${at % (size + 1)} ${Math.floor(at / (size + 1))}`;
      if (done) break;
      [before, at] = [at, next];
    }
    path += "Z";
  }
  return path;
}

const is = {
  mask: label => (label & MASK) !== 0, prediction: label => (label & PREDICTION) !== 0,
  both: label => label === (MASK | PREDICTION), missed: label => label === MASK, false: label => label === PREDICTION,
};

// show: {mask, prediction, regions, sequence, levels: whether the filter applies, view}; all may be missing
function drawSlice(patient, slice, show) {
  const [left, top, side] = show.view || patient.view;
  const picture = svg("svg", {viewBox: `${left} ${top} ${side} ${side}`, role: "img", "aria-label": describe(patient, slice)});
  const image = svg("image", {href: "data:image/webp;base64," + slice.images[show.sequence || 0], width: size, height: size}, picture);
  if (show.levels) image.setAttribute("filter", "url(#levels)");
  const labels = decodeLabels(slice.runs);
  const draw = (kind, css) => {
    const d = outline(labels, is[kind]);
    if (d) svg("path", {d, class: css, "fill-rule": "evenodd"}, picture);
    return d;
  };
  if (show.regions) { draw("both", "both"); draw("missed", "missed-region"); draw("false", "false-region"); }
  for (const kind of ["mask", "prediction"]) if (show[kind]) { draw(kind, "halo"); draw(kind, "outline " + kind); }
  return picture;
}

const pixels = count => count.toLocaleString("en-US");
const score = value => value === null ? "–" : value.toFixed(3);

function describe(patient, slice) {
  const what = slice.tumour ? `tumour ${pixels(slice.tumour)} px` : "no tumour";
  const model = slice.predicted ? `predicted ${pixels(slice.predicted)} px` : "nothing predicted";
  return `${patient.id}, slice ${slice.number}: ${what}, ${model}, Dice ${score(slice.dice)}`;
}

// --- Viewer ---------------------------------------------------------------------------------------------------

const state = {patient: 0, slice: 0, zoom: 1, middle: null, hidden: false};  // middle: [x, y] of what is seen, in pixels
const shown = () => patients[state.patient].slices[state.slice];

function show() {
  const patient = patients[state.patient], slice = shown(), stack = patient.slices;
  const on = id => byId(id).checked && !state.hidden;
  const levels = setLevels(Number(byId("window").value) / 100, Number(byId("level").value) / 100);
  const sequence = Number(document.querySelector("input[name=sequence]:checked").value);
  byId("stage").replaceChildren(drawSlice(patient, slice, {mask: on("show-mask"), prediction: on("show-prediction"),
    regions: on("show-regions"), sequence, levels, view: seen(patient)}));
  byId("slice").value = state.slice;
  byId("slice").setAttribute("aria-valuetext", `slice ${slice.number}, ${state.slice + 1} of ${stack.length}`);
  byId("shown-slice").textContent = `${slice.number} (${state.slice + 1} of ${stack.length})`;
  byId("shown-dice").textContent = score(slice.dice);
  byId("shown-iou").textContent = score(slice.iou);
  byId("shown-tumour").textContent = pixels(slice.tumour);
  byId("shown-missed").textContent = pixels(slice.missed);
  byId("shown-false").textContent = pixels(slice.false);
  byId("spoken").textContent = verdict(slice);
  drawProfile();
}

// Let the filter show values from level - window / 2 to level + window / 2 as black to white; false if that changes nothing
function setLevels(window, level) {
  for (const part of document.querySelectorAll("#levels feComponentTransfer > *")) {
    part.setAttribute("slope", 1 / window);
    part.setAttribute("intercept", 0.5 - level / window);
  }
  return window !== 1 || level !== 0.5;
}

// The square of the slice that is seen: [left, top, side]
function seen(patient) {
  const [left, top, whole] = patient.view, side = whole / state.zoom;
  const [x, y] = state.middle || [left + whole / 2, top + whole / 2];
  const within = (value, first) => Math.max(first, Math.min(first + whole - side, value - side / 2));
  return [within(x, left), within(y, top), side];
}

function zoom(factor) {
  if (state.zoom === 1) state.middle = middleOfMarks();
  state.zoom = Math.max(1, Math.min(8, state.zoom * factor));
  if (state.zoom === 1) state.middle = null;
  byId("stage").classList.toggle("zoomed", state.zoom > 1);
  show();
}

// The middle of all marked pixels of the slice, [x, y]; null without any
function middleOfMarks() {
  let count = 0, x = 0, y = 0;
  decodeLabels(shown().runs).forEach((label, at) => { if (label) { count++; x += at % size; y += Math.floor(at / size); } });
  return count ? [x / count, y / count] : null;
}

function verdict(slice) {
  if (!slice.tumour) return slice.predicted ? "No tumour here: every predicted pixel is a false positive." : "No tumour, and none predicted.";
  if (!slice.hit) return slice.predicted ? "Missed: the prediction does not touch the tumour." : "Missed: nothing predicted.";
  return `Dice ${score(slice.dice)}: ${pixels(slice.missed)} px missed, ${pixels(slice.false)} px false positive` + (slice.kind ? ` (${slice.kind}).` : ".");
}

function choosePatient(index, slice) {
  Object.assign(state, {patient: index, zoom: 1, middle: null});
  byId("stage").classList.remove("zoomed");
  byId("patient").value = index;
  const stack = patients[index].slices;
  byId("slice").max = stack.length - 1;
  goTo(slice === undefined ? indexOfMost(stack, s => Math.max(s.tumour, s.predicted / 1e6)) : slice);
}

function goTo(index) {
  state.slice = Math.max(0, Math.min(patients[state.patient].slices.length - 1, index));
  show();
}

function indexOfMost(stack, value) {
  return stack.reduce((best, slice, index) => value(slice) > value(stack[best]) ? index : best, 0);
}

function drawProfile() {
  const canvas = byId("profile"), patient = patients[state.patient], stack = patient.slices;
  const width = Math.max(canvas.clientWidth, 240), height = 168, left = 46, right = width - 8, top = 16, foot = height - 32;
  const most = Math.max(1, ...stack.map(s => Math.max(s.tumour, s.predicted)));
  const x = index => stack.length === 1 ? (left + right) / 2 : left + index / (stack.length - 1) * (right - left);
  const y = area => foot - area / most * (foot - top);
  canvas.replaceChildren();
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const text = (content, attributes) => svg("text", attributes, canvas).append(content);
  for (const area of [0, most]) {
    svg("path", {class: "grid", d: `M${left} ${y(area)}H${right}`}, canvas);
    text(pixels(area), {x: left - 5, y: y(area) + 4, "text-anchor": "end"});
  }
  const numbers = [0, stack.length - 1, Math.floor((stack.length - 1) / 2)];
  for (const index of new Set(numbers)) text(`${stack[index].number}`, {x: x(index), y: foot + 14, "text-anchor": "middle"});
  text("slice", {x: (left + right) / 2, y: height - 3, "text-anchor": "middle"});
  const curve = key => stack.map((s, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(s[key]).toFixed(1)}`).join("");
  svg("path", {class: "area", d: `M${x(0)} ${foot}` + curve("tumour").replace("M", "L") + `L${x(stack.length - 1)} ${foot}Z`}, canvas);
  svg("path", {class: "outline mask", d: curve("tumour")}, canvas);
  svg("path", {class: "outline prediction", d: curve("predicted")}, canvas);
  svg("path", {class: "marker", d: `M${x(state.slice)} ${top - 6}V${foot}`}, canvas);
  text(`${shown().number}`, {x: Math.min(Math.max(x(state.slice), left + 8), right - 8), y: 9, "text-anchor": "middle", style: "fill:#fff"});
  byId("profile-title").textContent = "Area, px: reference mask solid, prediction dashed";
  const peak = indexOfMost(stack, s => s.tumour);
  canvas.setAttribute("aria-label", `Area along the stack of ${patient.id}: the reference mask is largest in slice ${stack[peak].number} with ${pixels(stack[peak].tumour)} px, where ${pixels(stack[peak].predicted)} px are predicted`);
  canvas.indexAt = clientX => {
    const share = ((clientX - canvas.getBoundingClientRect().left) * width / canvas.getBoundingClientRect().width - left) / (right - left);
    return Math.round(Math.max(0, Math.min(1, share)) * (stack.length - 1));
  };
}

// Within a notebook the page is the text of a frame, without an address of its own
const framed = location.protocol === "about:";

// The address names patient and slice once the user has moved: #patient/slice
function remember() {
  if (framed) return;
  history.replaceState(null, "", `#${encodeURIComponent(patients[state.patient].id)}/${shown().number}`);
}

function openAddress() {
  const [, id, number] = location.hash.match(/^#(.+)\/(\d+)$/) || [];
  if (id) open(decodeURIComponent(id), Number(number));
}

function open(id, number) {
  const index = patients.findIndex(patient => patient.id === id);
  if (index < 0) return;
  const slice = number === undefined ? undefined : patients[index].slices.findIndex(s => s.number === number);
  choosePatient(index, slice === -1 ? undefined : slice);
  byId("viewer").scrollIntoView();
  byId("stage").focus({preventScroll: true});
}

function listen() {
  const move = index => { goTo(index); remember(); };
  const last = () => patients[state.patient].slices.length - 1;
  byId("patient").addEventListener("change", event => { choosePatient(Number(event.target.value)); remember(); });
  byId("slice").addEventListener("input", event => move(Number(event.target.value)));
  byId("previous").addEventListener("click", () => move(state.slice - 1));
  byId("next").addEventListener("click", () => move(state.slice + 1));
  byId("zoom-in").addEventListener("click", () => zoom(1.5));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  byId("largest").addEventListener("click", () => move(indexOfMost(patients[state.patient].slices, s => Math.max(s.tumour, s.predicted / 1e6))));
  byId("worst").addEventListener("click", () => move(indexOfMost(patients[state.patient].slices, s => s.missed + s.false)));
  for (const input of document.querySelectorAll(".viewer fieldset input, .viewer .levels input")) input.addEventListener("input", show);
  listenToKeys(move, last);
  listenToStage(move, last);
  const profile = byId("profile");
  profile.addEventListener("pointerdown", event => move(profile.indexAt(event.clientX)));
  profile.addEventListener("pointermove", event => { if (event.buttons & 1) move(profile.indexAt(event.clientX)); });
  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
  addEventListener("hashchange", openAddress);
  new ResizeObserver(drawProfile).observe(profile);
  document.addEventListener("click", event => {
    const anchor = framed && event.target.closest("a[href^='#']");
    if (anchor) {
      event.preventDefault();
      byId(anchor.hash.slice(1)).scrollIntoView();
    }
    const link = event.target.closest("[data-patient]");
    if (!link) return;
    open(link.dataset.patient, link.dataset.slice === undefined ? undefined : Number(link.dataset.slice));
    remember();
  });
}

// On the picture all keys; elsewhere on the page those that do nothing there
function listenToKeys(move, last) {
  const everywhere = {ArrowRight: () => move(state.slice + 1), ArrowLeft: () => move(state.slice - 1),
    "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), b: () => hide(true)};
  const onStage = {...everywhere, ArrowUp: () => move(state.slice + 1), ArrowDown: () => move(state.slice - 1),
    Home: () => move(0), End: () => move(last()), PageUp: () => move(state.slice + 10), PageDown: () => move(state.slice - 10)};
  const hide = hidden => { if (state.hidden !== hidden) { state.hidden = hidden; show(); } };
  document.addEventListener("keydown", event => {
    const press = (event.target === byId("stage") ? onStage : everywhere)[event.key];
    if (!press || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, .scroll")) return;  // which have keys of their own
    event.preventDefault();
    press();
  });
  document.addEventListener("keyup", event => { if (event.key === "b") hide(false); });
  addEventListener("blur", () => hide(false));
}

// Wheel and swipe change the slice; a zoomed picture is dragged
function listenToStage(move, last) {
  const stage = byId("stage");
  let turned = 0;  // a wheel sends steps of about 100, a touchpad many small ones
  stage.addEventListener("wheel", event => {
    const direction = Math.sign(event.deltaY), target = state.slice + direction;
    if (event.ctrlKey || !direction || target < 0 || target > last()) return;  // at the ends the page scrolls on
    event.preventDefault();
    turned = Math.sign(turned) === -direction ? event.deltaY : turned + event.deltaY;
    if (Math.abs(turned) >= 40) { turned = 0; move(target); }
  }, {passive: false});
  let from = null;  // where a finger or a button went down, and what was seen then
  stage.addEventListener("pointerdown", event => {
    from = {x: event.clientX, y: event.clientY, view: seen(patients[state.patient])};
    if (state.zoom > 1) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", event => {
    if (!from || state.zoom === 1) return;
    const [left, top, side] = from.view, perPixel = side / stage.clientWidth;
    state.middle = [left + side / 2 - (event.clientX - from.x) * perPixel, top + side / 2 - (event.clientY - from.y) * perPixel];
    show();
  });
  const end = event => {
    const across = from && state.zoom === 1 ? event.clientX - from.x : 0;
    if (Math.abs(across) > 40 && Math.abs(event.clientY - from.y) < Math.abs(across)) move(state.slice - Math.sign(across));
    from = null;
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", () => { from = null; });
}

function fillGallery() {
  for (const place of document.querySelectorAll(".picture[data-of]")) {
    const patient = patients.find(p => p.id === place.dataset.of);
    const slice = patient && patient.slices.find(s => s.number === Number(place.dataset.number));
    if (slice) place.append(drawSlice(patient, slice, {mask: true, prediction: true}));
  }
}

patients.forEach((patient, index) => byId("patient").add(new Option(patient.title, index)));
if (patients.length) { listen(); fillGallery(); choosePatient(0); openAddress(); }
