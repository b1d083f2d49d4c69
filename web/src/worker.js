// Reads, prepares, computes and cuts out masks, beside the page so that it stays alive. One message in, one out.
import * as ort from "onnxruntime-web/wasm";
import {inputWarnings, seenInTraining} from "./check.js";
import {expectedDice} from "./confidence.js";
import {toNetwork} from "./geometry.js";
import {Refusal} from "./grid.js";
import {assignRoles, findItems} from "./items.js";
import {segment} from "./postprocess.js";
import {collectLogits, fillInput, prepare} from "./preprocess.js";
import {readScan} from "./scan.js";

let config, session, prepared, scan, logits;

const answers = {
  async start({wasm, model, about}) {
    config = about;
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1;  // several workers take less time than several threads
    ort.env.logLevel = "error";
    session = await ort.InferenceSession.create(new Uint8Array(model), {executionProviders: ["wasm"], graphOptimizationLevel: "all"});
  },
  async find({files}) {
    const {items, problems} = await findItems(files, config), {roles, question} = assignRoles(items);
    return {items, roles, question, problems};
  },
  async read({items, spacing}, progress) {
    scan = await readScan(items, config, progress, spacing);
    const seen = await seenInTraining(scan, config.trained, config.input.size);
    scan.about = seen ? ["Seen in training: the network learned from this patient."] : [];
    if (seen === null) scan.notes.push("whether the network learned from this patient is told only by a page from a file or from https");
    prepared = logits = null;
    return scan;
  },
  take({sample}) {  // a scan that was not read from files
    scan = sample;
  },
  prepare() {
    prepared = prepare(toNetwork(scan, config), config);
    return prepared;
  },
  share({state}) {  // what another worker prepared
    prepared = state;
  },
  async infer({number}) {
    const {input, shape} = fillInput(prepared, number, config);
    const {logits: output} = await session.run({slices: new ort.Tensor("float32", input, shape)});
    const frame = collectLogits(output.data, prepared, config);
    output.dispose();
    return frame;
  },
  segment({planes, threshold}) {  // planes: the logits, once, to be judged with the network's own threshold
    logits = planes || logits;
    const masks = segment(logits, scan, threshold, config), warnings = planes ? inputWarnings(scan, masks, config.check, config.FLAIR) : [];
    const doubtful = scan.warnings.length + warnings.length > 0;
    return {masks, warnings, expected: planes && expectedDice(logits, masks, scan, config, doubtful)};
  },
};

self.onmessage = async ({data: {id, ask, ...about}}) => {
  try {
    const result = await answers[ask](about, share => self.postMessage({id, share}));
    const moved = {infer: () => [result], segment: () => result.masks}[ask];
    self.postMessage({id, result}, moved ? moved().map(({buffer}) => buffer) : []);
  } catch (error) {
    self.postMessage({id, refusal: `${error.message || error}`, known: error instanceof Refusal});
  }
};
