// The slice viewer of every page. makeViewer(root, stacks, moved) fills the element `root` and shows the first stack.
// It neither knows nor fetches files: a stack gives its pictures as addresses (data:, blob:) and its masks as labels.
//
// stack: {id, title, height, width, slices,   height and width in pixels of all its slices
//   view: [left, top, side],                  square that is shown at first, in widths of a pixel
//   tall: 1, millimetres: null,               height of a pixel over its width, and its width in mm for the scale
//   sides: null,                              letters at the left and right edge, such as ["R", "L"]
//   layers: ["FLAIR", ...], facts: [],        names of the pictures of a slice; sentences about the stack
//   notes: [],                                more of these, folded away
//   hasReference, maskName: "prediction", unit: "px"}
// slice: {number, picture(layer) -> address, labels() -> Uint8Array [height * width] of the bits MASK and PREDICTION,
//   probability: null or () -> address of a grey picture, white is 1,
//   reference: area or null, predicted: area, wrong: area or null, words, values: {name: text}}
// moved(id, number) is called whenever the user goes elsewhere. Returned: {open(id, number), current() -> {id, number, view,
// slice: its index, layer, zoom}}. A page with a stage of its own takes outline, drawScale, seenSquare, listenToKeys, listenToStage alone.
const SVG = "http://www.w3.org/2000/svg";
const MASK = 1, PREDICTION = 2;  // bits of a pixel's label
const NOISY = {length: 400, perPixel: 0.6};  // a longer outline, with more edges per pixel: thin lines without halo
const SCALES = [100, 50, 20, 10, 5];  // mm

const is = {
  mask: label => (label & MASK) !== 0, prediction: label => (label & PREDICTION) !== 0,
  both: label => label === (MASK | PREDICTION), missed: label => label === MASK, false: label => label === PREDICTION,
};

export function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

// Runs [skipped pixels, length, label, ...] -> the label of each pixel, rows first
export function decodeLabels(runs, pixels) {
  const labels = new Uint8Array(pixels);
  let at = 0;
  for (let i = 0; i < runs.length; i += 3) {
    at += runs[i];
    labels.fill(runs[i + 2], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  return labels;
}

// The border of all pixels for which inside(label) holds, along pixel edges, as closed loops of an SVG path.
// Returned: {path, length: edges, area: pixels}.
export function outline(labels, width, height, inside) {
  const isIn = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside(labels[y * width + x]);
  const ends = new Map();  // corner -> corners that an edge leads to, with the region on its right
  const corner = (x, y) => y * (width + 1) + x;
  let length = 0, area = 0;
  const add = (x1, y1, x2, y2) => {
    const from = corner(x1, y1);
    if (!ends.has(from)) ends.set(from, []);
    ends.get(from).push(corner(x2, y2));
    length++;
  };
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (isIn(x, y)) {
    area++;
    if (!isIn(x, y - 1)) add(x, y, x + 1, y);
    if (!isIn(x + 1, y)) add(x + 1, y, x + 1, y + 1);
    if (!isIn(x, y + 1)) add(x + 1, y + 1, x, y + 1);
    if (!isIn(x - 1, y)) add(x, y + 1, x, y);
  }
  const parts = [], place = at => `${at % (width + 1)} ${Math.floor(at / (width + 1))}`;
  for (const start of ends.keys()) while (ends.get(start).length) {
    let at = ends.get(start).pop(), before = start;
    parts.push("M", place(start));
    while (true) {
      const done = at === start;
      const next = done ? 0 : ends.get(at).pop();
      if (done || next - at !== at - before) parts.push("L", place(at));
      if (done) break;
      [before, at] = [at, next];
    }
    parts.push("Z");
  }
  return {path: parts.join(""), length, area};
}

// show: {mask, prediction, regions, probability, layer, levels: whether the filter applies, view, scale}; all may be missing
export function drawSlice(stack, slice, show) {
  const {width, height} = stack, tall = stack.tall || 1, [left, top, side] = show.view || stack.view;
  const label = `${stack.id}, slice ${slice.number}: ${slice.words}`;
  const picture = svg("svg", {viewBox: `${left} ${top} ${side} ${side}`, role: "img", "aria-label": label});
  const plane = svg("g", {transform: `scale(1 ${tall})`}, picture);
  const frame = {width, height, preserveAspectRatio: "none"};
  const image = svg("image", {href: slice.picture(show.layer || 0), ...frame}, plane);
  if (show.levels) image.setAttribute("filter", "url(#levels)");
  if (show.probability && slice.probability) svg("image", {href: slice.probability(), filter: "url(#heat)", ...frame}, plane);
  const labels = slice.labels();
  const draw = (kind, ...styles) => {
    const {path, length, area} = outline(labels, width, height, is[kind]);
    const noisy = length > Math.max(NOISY.length, NOISY.perPixel * area);
    const lines = noisy ? styles.filter(css => css !== "halo") : styles;
    if (path) for (const css of lines) svg("path", {d: path, class: css + (noisy ? " noisy" : ""), "fill-rule": "evenodd"}, plane);
  };
  if (show.regions) { draw("both", "both"); draw("missed", "missed-region"); draw("false", "false-region"); }
  for (const kind of ["mask", "prediction"]) if (show[kind]) draw(kind, "halo", "outline " + kind);
  if (show.scale) drawScale(picture, stack, left, top, side);
  return picture;
}

// The letters of the sides and a bar of so many mm, over the picture
export function drawScale(picture, stack, left, top, side) {
  const text = (content, x, y, anchor) => svg("text", {x, y, "text-anchor": anchor, "font-size": side / 26, class: "mark"}, picture).append(content);
  if (stack.sides) {
    text(stack.sides[0], left + side * 0.015, top + side / 2, "start");
    text(stack.sides[1], left + side * 0.985, top + side / 2, "end");
  }
  const bar = stack.millimetres && SCALES.find(mm => mm / stack.millimetres <= side / 3);
  if (!bar) return;
  const x = left + side * 0.03, y = top + side * 0.97, tick = side / 80;
  svg("path", {d: `M${x} ${y - tick}V${y}h${bar / stack.millimetres}V${y - tick}`, class: "scale"}, picture);
  text(`${bar} mm`, x, y - side / 50, "start");
}

const MARKUP = `
<div class="picture-side">
<div id="stage" tabindex="0" role="group" aria-label="Slice picture. Arrow keys change the slice, Home and End go to the first and last, B hides the masks, plus and minus zoom."></div>
<div class="steps">
<button type="button" id="previous" aria-label="Previous slice">◀</button>
<input type="range" id="slice" min="0" max="0" value="0" aria-label="Slice">
<button type="button" id="next" aria-label="Next slice">▶</button>
<button type="button" id="zoom-out" aria-label="Zoom out">−</button>
<button type="button" id="zoom-in" aria-label="Zoom in">+</button>
</div>
</div>
<div class="side">
<div class="choice"><label for="patient">Patient</label> <select id="patient"></select></div>
<p id="stack-title"></p>
<ul class="soft" id="stack-facts"></ul>
<details class="soft" id="stack-notes"><summary>Notes</summary><ul></ul></details>
<dl class="readout" id="readout"></dl>
<p class="soft" id="spoken" aria-live="polite"></p>
<div class="along"><div class="soft" id="profile-title"></div><svg id="profile" role="img" aria-labelledby="profile-title"></svg></div>
<fieldset class="choices" id="shown"><legend>Show</legend>
<label><input type="checkbox" id="show-mask" checked><svg width="34" height="10" aria-hidden="true"><path class="outline mask" d="M1 5H33"/></svg>reference mask</label>
<label><input type="checkbox" id="show-prediction" checked><svg width="34" height="10" aria-hidden="true"><path class="outline prediction" d="M1 5H33"/></svg><span id="mask-name"></span></label>
<label><input type="checkbox" id="show-regions"><svg width="62" height="16" aria-hidden="true"><rect class="ground" width="62" height="16"/><rect class="both" width="18" height="16"/><rect class="missed-region" x="22" width="18" height="16"/><rect class="false-region" x="44" width="18" height="16"/></svg>true positive · missed · false positive</label>
<label><input type="checkbox" id="show-probability"><svg width="62" height="16" aria-hidden="true"><rect fill="url(#heat-scale)" width="62" height="16"/></svg>probability, 0 to 1</label>
</fieldset>
<fieldset class="choices" id="sequences"><legend>Sequence</legend></fieldset>
<div class="levels"><label for="window">Window</label><input type="range" id="window" min="10" max="200" value="100" step="5">
<label for="level">Level</label><input type="range" id="level" min="0" max="100" value="50" step="5"></div>
<div class="jumps"><button type="button" id="largest">Largest area</button><button type="button" id="worst">Most wrong pixels</button></div>
</div>
<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>
<filter id="levels" x="0" y="0" width="1" height="1" color-interpolation-filters="sRGB"><feComponentTransfer>
<feFuncR type="linear"/><feFuncG type="linear"/><feFuncB type="linear"/></feComponentTransfer></filter>
<filter id="heat" x="0" y="0" width="1" height="1" color-interpolation-filters="sRGB">
<feColorMatrix values="1 0 0 0 0  1 0 0 0 0  1 0 0 0 0  1 0 0 0 0"/><feComponentTransfer>
<feFuncR type="table" tableValues=".3 .6 .95 1"/><feFuncG type="table" tableValues="0 .15 .6 1"/><feFuncB type="table" tableValues=".55 .5 .2 .6"/>
<feFuncA type="table" tableValues="0 .6 .7 .75"/></feComponentTransfer></filter>
<linearGradient id="heat-scale"><stop offset="0" stop-color="#4d008c" stop-opacity="0"/><stop offset=".33" stop-color="#992680"/><stop offset=".67" stop-color="#f29933"/><stop offset="1" stop-color="#ffff99"/></linearGradient>
<pattern id="hatch-both" width="3" height="3" patternUnits="userSpaceOnUse"><rect width="3" height="3" fill="#2fc79a" fill-opacity=".3"/></pattern>
<pattern id="hatch-missed" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="5" height="5" fill="#e69f00" fill-opacity=".22"/><path d="M0 0V5" stroke="#e69f00" stroke-width="2.6"/></pattern>
<pattern id="hatch-false" width="4.4" height="4.4" patternUnits="userSpaceOnUse"><rect width="4.4" height="4.4" fill="#56b4e9" fill-opacity=".25"/><circle cx="2.2" cy="2.2" r="1.1" fill="#56b4e9"/></pattern>
</defs></svg>`;

export function makeViewer(root, stacks, moved = () => {}) {
  root.innerHTML = MARKUP;
  root.classList.add("viewer");
  const byId = id => root.querySelector("#" + id);
  const stage = byId("stage"), profile = byId("profile");
  const state = {stack: 0, slice: 0, layer: 0, zoom: 1, middle: null, hidden: false};  // middle: [x, y] of what is seen
  const stack = () => stacks[state.stack], shown = () => stack().slices[state.slice];
  const last = () => stack().slices.length - 1;
  const amount = area => Math.round(area).toLocaleString("en-US");

  function show() {
    const own = stack(), slice = shown();
    const on = id => byId(id).checked && !state.hidden;
    const levels = setLevels(Number(byId("window").value) / 100, Number(byId("level").value) / 100);
    stage.replaceChildren(drawSlice(own, slice, {mask: own.hasReference && on("show-mask"), prediction: on("show-prediction"),
      regions: own.hasReference && on("show-regions"), probability: on("show-probability"), layer: state.layer, levels,
      view: seen(), scale: true}));
    byId("slice").value = state.slice;
    byId("slice").setAttribute("aria-valuetext", `slice ${slice.number}, ${state.slice + 1} of ${last() + 1}`);
    byId("spoken").textContent = slice.words;
    const values = {slice: `${slice.number} (${state.slice + 1} of ${last() + 1})`, ...slice.values};
    byId("readout").replaceChildren(...Object.entries(values).map(([name, value]) => {
      const row = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
      [dt.textContent, dd.textContent, dd.dataset.value] = [name, value, name];
      row.append(dt, dd);
      return row;
    }));
    drawProfile();
  }

  // Let the filter show values from level - window / 2 to level + window / 2 as black to white; false if that changes nothing
  function setLevels(window, level) {
    for (const part of root.querySelectorAll("#levels feComponentTransfer > *")) {
      part.setAttribute("slope", 1 / window);
      part.setAttribute("intercept", 0.5 - level / window);
    }
    return window !== 1 || level !== 0.5;
  }

  const seen = () => seenSquare(stack().view, state);

  function zoom(factor) {
    if (state.zoom === 1) state.middle = middleOfMarks(shown().labels(), stack());
    state.zoom = Math.max(1, Math.min(8, state.zoom * factor));
    if (state.zoom === 1) state.middle = null;
    stage.classList.toggle("zoomed", state.zoom > 1);
    show();
  }

  const largest = slices => indexOfMost(slices, s => (s.reference || 0) + s.predicted / 1e6);
  const worst = slices => indexOfMost(slices, s => s.wrong || 0);

  function chooseStack(index, slice) {
    Object.assign(state, {stack: index, zoom: 1, middle: null});
    const own = stack();
    state.layer = Math.min(state.layer, own.layers.length - 1);
    stage.classList.remove("zoomed");
    byId("patient").value = index;
    byId("slice").max = last();
    for (const id of ["show-mask", "show-regions"]) byId(id).parentElement.hidden = !own.hasReference;
    byId("show-probability").parentElement.hidden = !own.slices.some(s => s.probability);
    byId("worst").hidden = !own.hasReference;
    byId("stack-title").textContent = own.title;  // on paper, in place of the list
    byId("mask-name").textContent = own.maskName || "prediction";
    const items = texts => (texts || []).map(text => {
      const item = document.createElement("li");
      item.textContent = text;
      item.classList.toggle("warning", text.startsWith("Warning:"));
      return item;
    });
    byId("stack-facts").replaceChildren(...items(own.facts));
    byId("stack-notes").lastElementChild.replaceChildren(...items(own.notes));
    byId("stack-notes").hidden = !(own.notes || []).length;
    const choices = own.layers.map((name, number) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, {type: "radio", name: "sequence", value: number, checked: number === state.layer});
      label.append(input, name);
      return label;
    });
    byId("sequences").replaceChildren(byId("sequences").firstElementChild, ...choices);
    byId("sequences").hidden = choices.length < 2;
    goTo(slice === undefined ? largest(own.slices) : slice);
  }

  function goTo(index) {
    state.slice = Math.max(0, Math.min(last(), index));
    show();
  }

  const move = index => { goTo(index); moved(stack().id, shown().number); };

  function open(id, number) {
    const index = stacks.findIndex(own => own.id === id);
    if (index < 0) return;
    const slice = number === undefined ? -1 : stacks[index].slices.findIndex(s => s.number === number);
    chooseStack(index, slice < 0 ? undefined : slice);
    stage.focus({preventScroll: true});
  }

  function drawProfile() {
    const own = stack(), slices = own.slices;
    const width = Math.max(profile.clientWidth, 240), height = 132, left = 50, right = width - 8, top = 16, foot = height - 32;
    const most = Math.max(1, ...slices.map(s => Math.max(s.reference || 0, s.predicted)));
    const x = index => slices.length === 1 ? (left + right) / 2 : left + index / (slices.length - 1) * (right - left);
    const y = area => foot - area / most * (foot - top);
    profile.replaceChildren();
    profile.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const text = (content, attributes) => svg("text", attributes, profile).append(content);
    for (const area of [0, most]) {
      svg("path", {class: "grid", d: `M${left} ${y(area)}H${right}`}, profile);
      text(amount(area), {x: left - 5, y: y(area) + 4, "text-anchor": "end"});
    }
    const numbers = [0, slices.length - 1, Math.floor((slices.length - 1) / 2)];
    for (const index of new Set(numbers)) text(`${slices[index].number}`, {x: Math.min(x(index), right - 8), y: foot + 14, "text-anchor": "middle"});
    text("slice", {x: (left + right) / 2, y: height - 3, "text-anchor": "middle"});
    const curve = key => slices.map((s, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(s[key]).toFixed(1)}`).join("");
    if (own.hasReference) {
      svg("path", {class: "area", d: `M${x(0)} ${foot}` + curve("reference").replace("M", "L") + `L${x(slices.length - 1)} ${foot}Z`}, profile);
      svg("path", {class: "outline mask", d: curve("reference")}, profile);
    }
    svg("path", {class: "outline prediction", d: curve("predicted")}, profile);
    svg("path", {class: "marker", d: `M${x(state.slice)} ${top - 6}V${foot}`}, profile);
    text(`${shown().number}`, {x: Math.min(Math.max(x(state.slice), left + 8), right - 8), y: 9, "text-anchor": "middle", style: "fill:#fff"});
    const name = own.maskName || "prediction";
    byId("profile-title").textContent = `Area, ${own.unit || "px"}: ` + (own.hasReference ? `reference mask solid, ${name} dashed` : name);
    const peak = slices[largest(slices)];
    profile.setAttribute("aria-label", `Area along the stack of ${own.id}: largest in slice ${peak.number}, ${peak.words}`);
    profile.indexAt = clientX => {
      const box = profile.getBoundingClientRect(), share = ((clientX - box.left) * width / box.width - left) / (right - left);
      return Math.round(Math.max(0, Math.min(1, share)) * (slices.length - 1));
    };
  }

  function listen() {
    byId("patient").addEventListener("change", event => { chooseStack(Number(event.target.value)); moved(stack().id, shown().number); });
    byId("slice").addEventListener("input", event => move(Number(event.target.value)));
    const buttons = {previous: () => move(state.slice - 1), next: () => move(state.slice + 1), "zoom-in": () => zoom(1.5),
      "zoom-out": () => zoom(1 / 1.5), largest: () => move(largest(stack().slices)), worst: () => move(worst(stack().slices))};
    for (const [id, press] of Object.entries(buttons)) byId(id).addEventListener("click", press);
    root.addEventListener("input", event => {
      if (event.target.name === "sequence") state.layer = Number(event.target.value);
      if (event.target.matches("fieldset input, .levels input")) show();
    });
    profile.addEventListener("pointerdown", event => move(profile.indexAt(event.clientX)));
    profile.addEventListener("pointermove", event => { if (event.buttons & 1) move(profile.indexAt(event.clientX)); });
    new ResizeObserver(drawProfile).observe(profile);
    returnFocus();
    const gestures = {
      index: () => state.slice, last, move, zoom, zoomed: () => state.zoom > 1, seen,
      look: middle => { state.middle = middle; show(); },
      hide: hidden => { if (state.hidden !== hidden) { state.hidden = hidden; show(); } },
    };
    listenToKeys(stage, gestures);
    listenToStage(stage, gestures);
  }

  // After a click on a control the picture has the keys again; whoever uses the keyboard stays on the control
  function returnFocus() {
    let pointed = false;
    const back = () => { if (pointed) stage.focus({preventScroll: true}); };
    root.addEventListener("pointerdown", () => { pointed = true; }, true);
    root.addEventListener("keydown", () => { pointed = false; }, true);
    root.addEventListener("change", back);
    root.addEventListener("click", event => { if (event.target.closest("button, input, #profile")) back(); });
  }

  stacks.forEach((own, index) => byId("patient").add(new Option(own.title, index)));
  byId("patient").parentElement.hidden = stacks.length < 2;
  listen();
  chooseStack(0);
  return {open, current: () => ({...state, id: stack().id, number: shown().number, view: seen()})};
}

// The place of the slice with the highest value; the middle if all are alike
export function indexOfMost(slices, value) {
  return slices.reduce((best, slice, index) => value(slice) > value(slices[best]) ? index : best, slices.length >> 1);
}

// The middle of all marked pixels of a slice, [x, y]; null without any
export function middleOfMarks(labels, {width, tall = 1}) {
  let count = 0, x = 0, y = 0;
  labels.forEach((label, at) => { if (label) { count++; x += at % width; y += Math.floor(at / width); } });
  return count ? [x / count, y / count * tall] : null;
}

// The square of a slice that is seen, [left, top, side]; view: the whole, middle: [x, y], or null for its middle
export function seenSquare([left, top, whole], {zoom, middle}) {
  const side = whole / zoom, [x, y] = middle || [left + whole / 2, top + whole / 2];
  const within = (value, first) => Math.max(first, Math.min(first + whole - side, value - side / 2));
  return [within(x, left), within(y, top), side];
}

// --- Keys, wheel, swipe: for any page with a focusable element `stage` ------------------------------------------
// gestures: {index(), last(), move(index), zoom(factor), zoomed(), seen(), look([x, y]), hide(hidden)}

// On the picture all keys; elsewhere on the page those that do nothing there
export function listenToKeys(stage, {index, last, move, zoom, hide}) {
  const anywhere = {"+": () => zoom(1.5), "-": () => zoom(1 / 1.5), b: () => hide(true)};
  const arrows = {ArrowRight: () => move(index() + 1), ArrowLeft: () => move(index() - 1)};
  const onStage = {ArrowUp: arrows.ArrowRight, ArrowDown: arrows.ArrowLeft, Home: () => move(0), End: () => move(last()),
    PageUp: () => move(index() + 10), PageDown: () => move(index() - 10)};
  const keyOf = event => event.key.length === 1 ? event.key.toLowerCase() : event.key;  // Caps Lock sends B
  document.addEventListener("keydown", event => {
    const {target} = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("select, textarea, input:not([type=checkbox], [type=radio], [type=range])")) return;
    const own = target.closest("input[type=radio], input[type=range], .scroll");  // they have arrow keys of their own
    const press = {...anywhere, ...(own ? {} : arrows), ...(target === stage ? onStage : {})}[keyOf(event)];
    if (!press) return;
    event.preventDefault();
    press();
  });
  document.addEventListener("keyup", event => { if (keyOf(event) === "b") hide(false); });
  addEventListener("blur", () => hide(false));
}

// Once the picture was clicked the wheel changes the slice, until the end of the stack; a swipe always does; a zoomed
// picture is dragged
export function listenToStage(stage, {index, last, move, zoomed, seen, look}) {
  let turned = 0, scrolled = -Infinity;  // a wheel sends steps of about 100, a touchpad many small ones
  addEventListener("scroll", () => { scrolled = performance.now(); }, {passive: true});
  stage.addEventListener("wheel", event => {
    const direction = Math.sign(event.deltaY), target = index() + direction;
    if (document.activeElement !== stage || event.ctrlKey || !direction || target < 0 || target > last()) return;
    if (performance.now() - scrolled < 300) return;  // the page scrolls, and the picture comes under the pointer
    event.preventDefault();
    turned = Math.sign(turned) === -direction ? event.deltaY : turned + event.deltaY;
    if (Math.abs(turned) >= 40) { turned = 0; move(target); }
  }, {passive: false});
  let from = null;  // where a finger or a button went down, and what was seen then
  stage.addEventListener("pointerdown", event => {
    from = {x: event.clientX, y: event.clientY, view: seen()};
    if (zoomed()) stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", event => {
    if (!from || !zoomed()) return;
    const [left, top, side] = from.view, perPixel = side / stage.clientWidth;
    look([left + side / 2 - (event.clientX - from.x) * perPixel, top + side / 2 - (event.clientY - from.y) * perPixel]);
  });
  stage.addEventListener("pointerup", event => {
    const across = from && !zoomed() ? event.clientX - from.x : 0;
    if (Math.abs(across) > 40 && Math.abs(event.clientY - from.y) < Math.abs(across)) move(index() - Math.sign(across));
    from = null;
  });
  stage.addEventListener("pointercancel", () => { from = null; });
}
