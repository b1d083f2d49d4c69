// Which file is what, by its name, its kind and the description of its series: a short form of scans/names.py
import {Refusal} from "./grid.js";
import {isDicom, readTags} from "./dicom.js";

const VOLUME = /\.(nii|nii\.gz|nrrd|mha)$/i, PICTURE = /\.(png|tiff?|jpe?g|bmp)$/i, FOREIGN = /\.(npy|mhd|nhdr|zip|csv|txt|html?|pdf|docx?)$/i;
const ENDING = /\.(nii\.gz|nii|nrrd|mha|png|tiff?|jpe?g|bmp|dcm|ima)$/i;
export const stem = name => name.replace(ENDING, "");

// What a name says: "flair", "pre", "post", "mask", "other", or null. words: the patterns of names.py
export function kindOf(name, {words, names}) {
  const text = name.replace(new RegExp(names.ONTO, "gi"), "").replace(new RegExp(names.CAMEL, "g"), "_"), found = [];
  for (const [kind, pattern] of Object.entries(words)) {
    const matches = [...text.matchAll(new RegExp(pattern, "gi"))];
    if (matches.length) found.push([kind, matches.at(-1).index + matches.at(-1)[0].length, -matches[0].index]);
  }
  found.sort((a, b) => (b[0] === "mask") - (a[0] === "mask") || b[1] - a[1] || b[2] - a[2]);
  return found.length ? found[0][0] : null;
}

const kindOfSeries = (description, config) => {
  const kind = kindOf(description.replace(/\s+/g, "_"), config);
  return kind === "pre" && new RegExp(config.names.AGENT, "i").test(description) ? "post" : kind;
};

// The words and the numbers of a name in turn, as natural_order of scans/scan.py has them
export const nameParts = name => stem(name).toLowerCase()
  .split(/((?:(?<![^_ =])-)?(?<![\d.])\d+\.\d+(?![\d.])|(?:(?<![^_ =])-)?\d+)/).map((part, n) => n % 2 ? Number(part) : part);

// Of two names, by which slice_2 comes before slice_10, and z_-12.5 before z_2.5
export function inOrder(one, other) {
  const [a, b] = [nameParts(one), nameParts(other)], n = a.findIndex((part, n) => part !== b[n]);
  return n < 0 ? a.length - b.length : n >= b.length || a[n] > b[n] ? 1 : -1;
}

// The names that a patient may have by that of a file or folder: with and without number and words for a sequence
function namesOf(name, {words}) {
  const plain = Object.values(words).reduce((text, pattern) => text.replace(new RegExp(pattern, "gi"), ""), name);
  return [name, ...[plain, name.replace(/\d+$/, "")].map(text => text.replace(/^[-_. ]+|[-_. ]+$/g, ""))];
}

// files: [{file, path}] -> {items: [{label, kind, form, files or tags, names}], problems: [text]}
export async function findItems(files, config) {
  const stacks = new Map(), series = new Map(), items = [], problems = [];
  const put = (map, key, value) => map.set(key, [...(map.get(key) || []), value]);
  for (const {file, path} of files) {
    const parts = path.split("/").filter(Boolean);
    if (parts.some(part => part.startsWith(".") || part === "__MACOSX")) continue;
    const folder = parts.slice(0, -1).join("/"), name = parts.at(-1);
    const names = [stem(name), ...parts.slice(0, -1)].flatMap(part => namesOf(part, config));
    let kind = kindOf(stem(name), config);
    for (const part of parts.slice(0, -1).reverse()) kind = kind || kindOf(part, config);
    if (/_overlay$/i.test(stem(name))) continue;
    if (VOLUME.test(name)) {
      items.push({label: name, kind, form: /nrrd$|mha$/i.exec(name)?.[0].toLowerCase() || "nifti", files: [file], names});
    } else if (PICTURE.test(name)) {
      put(stacks, `${folder}\n${kind || ""}`, {file, kind, names});
    } else if (/\.(dcm|dicom|ima)$/i.test(name) || await isDicom(file)) {
      try {
        const tags = await readTags(file);
        if (tags) put(series, [tags.uid, tags.number, tags.description].join("\n"), {...tags, names});
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        problems.push(error.message);
      }
    } else {
      problems.push(`${name} is not read here${FOREIGN.test(name) ? "" : ": its name has no ending of an image"}.`);
    }
  }
  for (const own of stacks.values()) {
    own.sort((a, b) => inOrder(a.file.name, b.file.name));
    const label = own.length === 1 ? own[0].file.name : `${own.length} pictures, ${own[0].file.name} to ${own.at(-1).file.name}`;
    items.push({label, kind: own[0].kind, form: "pictures", files: own.map(({file}) => file), names: own[0].names});
  }
  for (const tags of series.values()) {
    const {number, description} = tags[0];
    items.push({label: `DICOM ${[number, description].filter(Boolean).join(" ")} (${tags.length} files)`.replace("  ", " "),
      kind: kindOfSeries(description, config), form: "dicom", tags, names: tags[0].names});
  }
  return {items, problems};
}

// What each item is taken for: {roles: ["flair" or "pre" or "post" or "", ...], question: what the user has to decide}
export function assignRoles(items) {
  const roles = items.map(() => "");
  const take = (kind, role) => items.forEach((item, n) => { if (item.kind === kind) roles[n] = roles.includes(role) ? roles[n] : role; });
  take("flair", "flair");
  if (!roles.includes("flair")) take(null, "flair");
  take("pre", "pre");
  take("post", "post");
  const may = items.filter(item => item.kind === (items.some(({kind}) => kind === "flair") ? "flair" : null));
  let question = "";
  if (!items.length) question = "No image is among these files: NIfTI, NRRD, MHA, DICOM or pictures are read.";
  else if (!roles.includes("flair")) {
    question = `No FLAIR, which is what is segmented, beside ${items.map(({label}) => label).join(", ")}. ` +
      "Name its file like one (flair, x_flair), or choose it below.";
  } else if (may.length > 1) question = `${may.length} of these may be FLAIR: choose one below.`;
  return {roles, question};
}
