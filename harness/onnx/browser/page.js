// Segments a dropped image with ONNX Runtime's WebAssembly build. The image is
// standardised as a whole, padded by reflection, and run in tiles that overlap
// by the network's receptive field, as package predict does.
const $ = (id) => document.getElementById(id);
const config = JSON.parse($("config").textContent);

async function unpack(id) {
  const text = $(id).textContent;
  $(id).remove(); // the page need not hold it twice
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

let session, ort, shown;

async function load() {
  const code = await unpack("runtime");
  ort = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  ort.env.wasm.numThreads = 1; // threads need headers that a file does not have
  ort.env.wasm.wasmBinary = (await unpack("wasm")).buffer;
  session = await ort.InferenceSession.create(await unpack("model"), { executionProviders: ["wasm"] });
  say("Ready.");
}

// mirror folds a coordinate into [0, n) by reflection at the last pixel.
function mirror(i, n) {
  if (i < n) return i;
  if (n === 1) return 0;
  i %= 2 * (n - 1);
  return i >= n ? 2 * (n - 1) - i : i;
}

function spans(n) {
  const out = [];
  for (let at = 0; at < n; ) {
    const begin = Math.max(0, at - config.margin);
    const end = Math.min(n, begin + config.tile);
    const to = end === n ? n : end - config.margin;
    out.push({ begin, end, from: at, to });
    at = to;
  }
  return out;
}

function standardize(x) {
  let mean = 0;
  for (const v of x) {
    if (!Number.isFinite(v)) throw new Error("the image has pixels that are no numbers");
    mean += v;
  }
  mean /= x.length;
  let variance = 0;
  for (const v of x) variance += (v - mean) ** 2;
  const std = Math.sqrt(variance / x.length);
  if (!(std > 0)) throw new Error("every pixel has the same value: there is nothing to segment");
  return x.map((v) => (v - mean) / std);
}

async function segment({ h, w, pixels }) {
  const x = standardize(pixels);
  const up = (n) => Math.ceil(n / config.period) * config.period;
  const rows = spans(up(h)), columns = spans(up(w));
  const p = new Float32Array(h * w);
  let done = 0;
  for (const r of rows) {
    for (const c of columns) {
      say(`Tile ${++done} of ${rows.length * columns.length} …`);
      await new Promise((f) => setTimeout(f)); // lets the line appear
      const th = r.end - r.begin, tw = c.end - c.begin;
      const tile = new Float32Array(th * tw);
      for (let y = 0; y < th; y++) {
        const row = mirror(r.begin + y, h) * w;
        for (let i = 0; i < tw; i++) tile[y * tw + i] = x[row + mirror(c.begin + i, w)];
      }
      const out = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", tile, [1, 1, th, tw]) });
      const q = out[session.outputNames[0]].data;
      for (let y = r.from; y < Math.min(r.to, h); y++) {
        for (let i = c.from; i < Math.min(c.to, w); i++) {
          const at = (y - r.begin) * tw + i - c.begin;
          let sum = 0;
          for (let k = 1; k < config.classes.length; k++) sum += q[k * th * tw + at];
          p[y * w + i] = sum;
        }
      }
    }
  }
  return { h, w, image: x, probability: p };
}

function draw() {
  const { h, w, image, probability } = shown;
  const level = Number($("threshold").value), heat = $("heat").checked;
  $("level").textContent = level.toFixed(2);
  const left = new ImageData(w, h), right = new ImageData(w, h);
  let area = 0;
  for (let i = 0; i < h * w; i++) {
    const g = Math.max(0, Math.min(255, ((image[i] + 2.5) / 5) * 255)); // ±2.5 standard deviations
    const t = heat ? probability[i] * 0.8 : probability[i] > level ? 0.55 : 0;
    if (probability[i] > level) area++;
    left.data.set([g, g, g, 255], 4 * i);
    right.data.set([g + (255 - g) * t, g + (140 - g) * t, g - g * t, 255], 4 * i);
  }
  for (const [id, data] of [["left", left], ["right", right]]) {
    $(id).width = w;
    $(id).height = h;
    $(id).getContext("2d").putImageData(data, 0, 0);
  }
  const nm = config.pixelSize / 10;
  const mean = probability.reduce((a, b) => a + b, 0) / (h * w);
  $("numbers").replaceChildren(
    ...[
      ["size", `${w} × ${h} pixels, ${(w * nm).toPrecision(3)} × ${(h * nm).toPrecision(3)} nm at the network's pixel size`],
      ["area above the threshold", `${((100 * area) / (h * w)).toFixed(2)} %, ${(area * nm * nm).toPrecision(4)} nm²`],
      ["mean probability", mean.toFixed(6)],
    ].map(([k, v]) => {
      const tr = document.createElement("tr"), th = document.createElement("th"), td = document.createElement("td");
      th.textContent = k;
      td.textContent = v;
      tr.append(th, td);
      return tr;
    }),
  );
  $("result").hidden = false;
}

const types = { "|u1": Uint8Array, "<u1": Uint8Array, "|i1": Int8Array, "<u2": Uint16Array, "<i2": Int16Array, "<u4": Uint32Array, "<i4": Int32Array, "<f4": Float32Array, "<f8": Float64Array };

function array(type, buffer, offset, n) {
  if (!type) throw new Error("an element type that this page does not read");
  if (n > 1 << 26) throw new Error("the image is too large for this page");
  const end = offset + n * type.BYTES_PER_ELEMENT;
  if (end > buffer.byteLength) throw new Error("the file is truncated");
  return Float64Array.from(new type(buffer.slice(offset, end)));
}

function readNPY(buffer) {
  const view = new DataView(buffer);
  const long = view.getUint8(6) > 1;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = long ? 12 : 10;
  const head = new TextDecoder("latin1").decode(new Uint8Array(buffer, start, length));
  const shape = /'shape': \(([^)]*)\)/.exec(head)?.[1].split(",").map((s) => s.trim()).filter(Boolean).map(Number);
  if (shape?.length !== 2 || /'fortran_order': True/.test(head)) throw new Error("an NPY file must hold one image, row by row");
  const [h, w] = shape;
  return { h, w, pixels: array(types[/'descr': '([^']*)'/.exec(head)?.[1]], buffer, start + length, h * w) };
}

function readTIFF(buffer) {
  const view = new DataView(buffer);
  if (view.getUint16(0) !== 0x4949) throw new Error("big-endian TIFF files are not read here");
  const at = view.getUint32(4, true);
  const tags = {};
  for (let i = 0, n = view.getUint16(at, true); i < n; i++) {
    const e = at + 2 + 12 * i, type = view.getUint16(e + 2, true), count = view.getUint32(e + 4, true);
    const size = { 3: 2, 4: 4 }[type];
    if (!size) continue;
    const from = size * count > 4 ? view.getUint32(e + 8, true) : e + 8;
    tags[view.getUint16(e, true)] = Array.from({ length: count }, (_, k) => (size === 2 ? view.getUint16(from + 2 * k, true) : view.getUint32(from + 4 * k, true)));
  }
  const one = (tag, def) => tags[tag]?.[0] ?? def;
  if (one(259, 1) !== 1 || one(277, 1) !== 1 || !tags[273]) throw new Error("only uncompressed grey TIFF files in strips are read here");
  const type = { "1-8": Uint8Array, "1-16": Uint16Array, "1-32": Uint32Array, "2-16": Int16Array, "2-32": Int32Array, "3-32": Float32Array }[`${one(339, 1)}-${one(258, 1)}`];
  const h = one(257), w = one(256), rows = one(278, h);
  if (!(h * w > 0 && h * w <= 1 << 26)) throw new Error("the image is too large for this page");
  const pixels = new Float64Array(h * w);
  tags[273].forEach((offset, i) => {
    const n = Math.min(rows, h - i * rows) * w;
    if (n > 0) pixels.set(array(type, buffer, offset, n), i * rows * w);
  });
  return { h, w, pixels };
}

async function readPicture(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width: w, height: h } = bitmap;
  const context = new OffscreenCanvas(w, h).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, w, h);
  return { h, w, pixels: Float64Array.from({ length: h * w }, (_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3) };
}

async function read(blob) {
  const head = new Uint8Array(await blob.slice(0, 8).arrayBuffer());
  const starts = (...bytes) => bytes.every((b, i) => head[i] === b);
  if (starts(0x93, 0x4e, 0x55, 0x4d)) return readNPY(await blob.arrayBuffer());
  if (starts(0x49, 0x49, 42, 0) || starts(0x4d, 0x4d, 0, 42)) return readTIFF(await blob.arrayBuffer());
  try {
    return await readPicture(blob);
  } catch {
    throw new Error("not an image that this page reads");
  }
}

let busy = false;

async function show(get, name) {
  if (busy || !session) return;
  busy = true;
  try {
    say(`Reading ${name} …`);
    const image = await get();
    const start = performance.now();
    shown = await segment(image);
    draw();
    say(`${name}: done in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
    document.body.dataset.done = name;
  } catch (e) {
    say(`${name}: ${e.message ?? e}`, true);
  }
  busy = false;
}

function saveProbability() {
  const { h, w, probability } = shown;
  let head = `{'descr': '<f4', 'fortran_order': False, 'shape': (${h}, ${w}), }`;
  head += " ".repeat(63 - ((10 + head.length) % 64)) + "\n";
  const start = new Uint8Array([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, head.length & 255, head.length >> 8]);
  const a = document.createElement("a");
  a.href = URL.createObjectURL(new Blob([start, head, probability]));
  a.download = "probability.npy";
  a.click();
  URL.revokeObjectURL(a.href);
}

const example = () => {
  const bytes = Uint8Array.from(atob(config.example.pixels), (c) => c.charCodeAt(0));
  return { h: config.example.h, w: config.example.w, pixels: Float64Array.from(new Float32Array(bytes.buffer)) };
};
$("example").onclick = () => show(example, "example");
$("file").onchange = (e) => e.target.files[0] && show(() => read(e.target.files[0]), e.target.files[0].name);
$("threshold").oninput = $("heat").onchange = draw;
$("save").onclick = saveProbability;
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (e) => {
    e.preventDefault();
    $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    const file = kind === "drop" && e.dataTransfer.files[0];
    if (file) show(() => read(file), file.name);
  });
}
load().then(
  () => location.hash === "#example" && config.example && show(example, "example"),
  (e) => say(`The network could not be loaded: ${e.message ?? e}`, true),
);
