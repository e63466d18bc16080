// Runs ONNX models with OpenCV compiled to WebAssembly. Protocol: see
// consumer.go. The interface to JavaScript has no way to make a batch, so the
// images of one are run one after the other.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const jobs = JSON.parse(readFileSync(process.argv[2], "utf8"));
const folder = jobs.node_modules + "/@opencvjs/web/";
const { loadOpenCV } = await import(pathToFileURL(folder + "lib/index.js"));
const cv = await loadOpenCV();
// OpenCV throws pointers to C++ exceptions
const reason = (e) => (typeof e === "number" ? cv.exceptionFromPtr(e).msg : String(e?.message ?? e)).replace(/\s+/g, " ");
const answer = { version: JSON.parse(readFileSync(folder + "package.json", "utf8")).version.split("-")[0], runs: [] };
const nets = new Map();
for (const run of jobs.runs) {
  try {
    if (!nets.has(run.model)) {
      const name = `model${nets.size}.onnx`;
      cv.FS_createDataFile("/", name, readFileSync(run.model), true, false, false);
      nets.set(run.model, cv.readNetFromONNX("/" + name));
    }
    const net = nets.get(run.model);
    const [n, , h, w] = run.shape;
    const bytes = readFileSync(run.input);
    const data = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const outs = [];
    let shape, seconds = 0;
    for (let i = 0; i < n; i++) {
      const image = new cv.Mat(h, w, cv.CV_32FC1);
      image.data32F.set(data.subarray(i * h * w, (i + 1) * h * w));
      const blob = cv.blobFromImage(image, 1, new cv.Size(w, h), new cv.Scalar(0, 0, 0, 0), false, false, cv.CV_32F);
      net.setInput(blob);
      const start = process.cpuUsage();
      const y = net.forward();
      const { user, system } = process.cpuUsage(start);
      seconds += (user + system) / 1e6;
      shape = [n, ...Array.from(y.matSize).slice(1)];
      const count = shape.reduce((a, b) => a * b) / n;
      const at = y.data32F.byteOffset / 4; // the view itself has the length of a 2-D matrix
      outs.push(Buffer.from(cv.HEAPF32.slice(at, at + count).buffer));
      for (const m of [image, blob, y]) m.delete();
    }
    writeFileSync(run.output, Buffer.concat(outs));
    answer.runs.push({ shape, seconds });
  } catch (e) {
    answer.runs.push({ error: reason(e) });
  }
}
writeFileSync(process.argv[3], JSON.stringify(answer));
process.exit(0);
