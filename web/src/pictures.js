// Pictures -> {height, width, values: [typed array per sequence]}: by the browser, TIFF by UTIF
import UTIF from "utif2";
import {Refusal} from "./grid.js";
import {checkVoxels} from "./volumes.js";

export async function readPicture(file, config) {
  return /\.tiff?$/i.test(file.name) ? readTiff(await file.arrayBuffer(), config) : readByBrowser(file, config);
}

async function readByBrowser(file, config) {
  const start = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  if (start.length > 28 && start[0] === 0x89 && start[1] === 0x50) {  // PNG: its header comes first
    const view = new DataView(start.buffer);
    checkVoxels(view.getUint32(16), view.getUint32(20), 1, config);
    if (start[24] > 8) throw new Refusal("has more than 8 bits. Save it as TIFF or NIfTI.");
  }
  let picture;
  try {
    picture = await createImageBitmap(file, {colorSpaceConversion: "none", premultiplyAlpha: "none"});
  } catch {
    throw new Refusal("is damaged, cut off or no picture. Restore it, or save it anew.");
  }
  const {width, height} = picture;
  checkVoxels(width, height, 1, config);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(picture, 0, 0);
  picture.close();
  return fromPixels(context.getImageData(0, 0, width, height).data, 4, height, width);
}

// The sequences of interleaved pixels; one if all are alike
function fromPixels(pixels, step, height, width) {
  const values = [0, 1, 2].map(() => new pixels.constructor(height * width));
  let grey = true;
  for (let at = 0, n = 0; n < height * width; at += step, n++) {
    for (let c = 0; c < 3; c++) values[c][n] = pixels[at + (step > 2 ? c : 0)];
    grey = grey && values[0][n] === values[1][n] && values[1][n] === values[2][n];
  }
  return {height, width, values: (grey ? values.slice(0, 1) : values).map(plane => plane instanceof Uint8ClampedArray ? new Uint8Array(plane.buffer) : plane)};
}

function readTiff(buffer, config) {
  let pages, page;
  try {
    pages = UTIF.decode(buffer);
    page = pages[0];
    checkVoxels(page.t256[0], page.t257[0], 1, config);
    UTIF.decodeImage(buffer, page);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal("is damaged, cut off or no TIFF. Restore it, or save it anew.");
  }
  if (pages.length > 1) throw new Refusal("has more than one page. Save one slice per file, or the stack as NIfTI.");
  const {width, height, data} = page, bits = (page.t258 || [1])[0], samples = (page.t277 || [1])[0];
  const format = (page.t339 || [1])[0], colours = (page.t262 || [1])[0];
  if (!data || data.length < width * height * samples * bits / 8) throw new Refusal("is cut off. Restore it.");
  const Kind = {"8 1": Uint8Array, "16 1": Uint16Array, "16 2": Int16Array, "32 3": Float32Array}[`${bits} ${format}`];
  if (!Kind || ![1, 3, 4].includes(samples) || ![1, 2].includes(colours) || (samples > 1 && bits > 8)) {
    throw new Refusal("has a pixel format that is not read here. Save it as grey or as RGB of 8 bits.");
  }
  const bytes = data.slice(0, width * height * samples * bits / 8);
  if (bits > 16 && !page.isLE) for (let at = 0; at < bytes.length; at += bits / 8) bytes.subarray(at, at + bits / 8).reverse();
  return fromPixels(new Kind(bytes.buffer), samples, height, width);
}
