// Builds the page: node build.mjs FOLDER reads config.json, weights.onnx, sample.webp and card.md there, as build.py
// writes them, and writes page.html. Ends with code 2 and sentences on the output for errors if the page cannot use the
// weights. The same input gives the same bytes.
import {createHash} from "node:crypto";
import {readFileSync, readdirSync, writeFileSync} from "node:fs";
import {dirname, join} from "node:path";
import {fileURLToPath} from "node:url";
import {build} from "esbuild";
import {gzipSync} from "fflate";
import {FEATURES} from "./src/confidence.js";
import {refusals} from "./src/preprocess.js";

const here = dirname(fileURLToPath(import.meta.url)), folder = process.argv[2];
const read = (...path) => readFileSync(join(...path), "utf8");
const config = JSON.parse(read(folder, "config.json"));

const wrong = refusals(config);
const unknown = Object.keys(config.confidence?.features || {}).filter(name => !FEATURES.includes(name));
if (unknown.length) wrong.push(`the page cannot compute "${unknown[0]}" for the expected Dice`);
if (wrong.length) {
  console.error(wrong.join("; "));
  process.exit(2);
}

// --- Scripts: ours and the libraries --------------------------------------------------------------------------------

async function bundle(entry) {
  const {outputFiles, metafile} = await build({
    entryPoints: [join(here, "src", entry)], bundle: true, minify: true, write: false, metafile: true, format: "iife",
    target: "es2022", platform: "browser", legalComments: "none", charset: "utf8", logLevel: "error",
    define: {"import.meta.url": "self.location.href"},  // the runtime asks where it is; a classic worker has no import.meta
  });
  return {text: outputFiles[0].text.replaceAll("</script", "<\\/script"), inputs: Object.keys(metafile.inputs)};
}

function licences(inputs) {
  const packages = inputs.map(path => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)).filter(Boolean).map(match => match[1]);
  return [...new Set(packages)].sort().map(name => {
    const place = join(here, "node_modules", name), about = JSON.parse(read(place, "package.json"));
    const file = readdirSync(place).find(entry => /^licen[cs]e/i.test(entry));
    return `${name} ${about.version} (${about.license})\n\n${file ? read(place, file).trim() : about.repository?.url || ""}`;
  }).join("\n\n---\n\n");
}

// --- Text ------------------------------------------------------------------------------------------------------------

const escape = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const inline = text => escape(text)
  .replace(/\*\*(.+?)\*\*/g, "<strong>$1</strong>").replace(/`(.+?)`/g, "<code>$1</code>").replace(/\[(.+?)\]\((https:.+?)\)/g, "$1 ($2)");

// The Markdown of a model card: headings, paragraphs, lists and tables
function toHtml(markdown) {
  return markdown.replace(/^---\n[^]*?\n---\n/, "").trim().split(/\n{2,}/).map(block => {
    const lines = block.split("\n");
    if (block.startsWith("#")) return `<h3>${inline(block.replace(/^#+ /, ""))}</h3>`;
    if (block.startsWith("- ")) return `<ul>${lines.map(line => `<li>${inline(line.replace(/^- /, ""))}</li>`).join("")}</ul>`;
    if (block.startsWith("|")) {
      const cells = (line, tag) => `<tr>${line.split("|").slice(1, -1).map(cell => `<${tag}>${inline(cell.trim())}</${tag}>`).join("")}</tr>`;
      const rows = lines.slice(2).map(line => cells(line, "td")).join("");
      return `<div class="scroll card"><table><thead>${cells(lines[0], "th")}</thead><tbody>${rows}</tbody></table></div>`;
    }
    return `<p>${inline(block)}</p>`;
  }).join("\n");
}

const card = read(folder, "card.md");
const figures = card.match(/^## (?:Cross-validation|Validation|Test)\n[^]*?(?=^## )/m);

// --- The page --------------------------------------------------------------------------------------------------------

const base64 = bytes => Buffer.from(bytes).toString("base64");
const pack = path => base64(gzipSync(readFileSync(path), {level: 9, mtime: 0}));
const [app, worker] = [await bundle("app.js"), await bundle("worker.js")];
const hash = `'sha256-${createHash("sha256").update(app.text).digest("base64")}'`;
const fill = {
  policy: `default-src 'none'; script-src ${hash} 'wasm-unsafe-eval'; worker-src blob:; style-src 'unsafe-inline'; ` +
    "img-src blob: data:; base-uri 'none'; form-action 'none'",
  style: ["../reporting/report.css", "../reporting/viewer.css", "page.css"].map(name => read(here, name)).join("\n"),
  synthetic: config.synthetic ? `<div class="banner">${escape(config.SYNTHETIC_NOTICE)}</div>` : "",
  use: escape(config.RESEARCH_USE),
  threshold: String(config.input.threshold),
  "threshold-note": `The network's own threshold is ${config.input.threshold}, chosen on validation patients.`,
  figures: figures ? toHtml(figures[0]) : "",
  card: toHtml(card),
  licences: escape(licences([...app.inputs, ...worker.inputs])),
  config: JSON.stringify(config).replaceAll("<", "\\u003c"),
  sample: base64(readFileSync(join(folder, "sample.webp"))),
  weights: pack(join(folder, "weights.onnx")),
  runtime: pack(join(here, "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm")),
  worker: worker.text,
  app: app.text,
};
const page = read(here, "page.html").replace(/%([a-z-]+)%/g, (match, name) => {
  if (!(name in fill)) throw new Error(`page.html: nothing fills ${match}`);
  return fill[name];
});
writeFileSync(join(folder, "page.html"), page);
