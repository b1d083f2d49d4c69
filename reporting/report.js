// What is behind the viewer of a page (viewer.js stands before this): its data, links to slices, the gallery, the address.
// data: {patients: [stack with slices {number, images, runs, probability, ...} as viewer.js has them]}
const data = JSON.parse(document.getElementById("data").textContent);
const webp = text => "data:image/webp;base64," + text;
const stacks = data.patients.map(patient => ({...patient, slices: patient.slices.map(({images, runs, probability, ...slice}) => ({
  ...slice, picture: layer => webp(images[layer]), labels: () => decodeLabels(runs, patient.width * patient.height),
  probability: probability ? () => webp(probability) : null,
}))}));

// Within a notebook the page is the text of a frame, without an address of its own
const framed = location.protocol === "about:";

// The address names patient and slice once the user has moved: #patient/slice
function remember(id, number) {
  if (!framed) history.replaceState(null, "", `#${encodeURIComponent(id)}/${number}`);
}

function openAddress() {
  const [, id, number] = location.hash.match(/^#(.+)\/(\d+)$/) || [];
  if (id) open(decodeURIComponent(id), Number(number));
}

function open(id, number) {
  viewer.open(id, number);
  document.getElementById("viewer").scrollIntoView();
}

function fillGallery() {
  for (const place of document.querySelectorAll(".picture[data-of]")) {
    const stack = stacks.find(own => own.id === place.dataset.of);
    const slice = stack && stack.slices.find(own => own.number === Number(place.dataset.number));
    if (slice) place.append(drawSlice(stack, slice, {mask: true, prediction: true}));
  }
}

document.addEventListener("click", event => {
  const anchor = framed && event.target.closest("a[href^='#']");
  if (anchor) {
    event.preventDefault();
    document.getElementById(anchor.hash.slice(1)).scrollIntoView();
  }
  const link = event.target.closest("[data-patient]");
  if (!link) return;
  open(link.dataset.patient, link.dataset.slice === undefined ? undefined : Number(link.dataset.slice));
  remember(viewer.current().id, viewer.current().number);
});
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });

const viewer = stacks.length ? makeViewer(document.getElementById("viewer-panel"), stacks, remember) : null;
if (viewer) {
  document.getElementById("viewer-panel").viewer = viewer;
  fillGallery();
  openAddress();
  addEventListener("hashchange", openAddress);
}
