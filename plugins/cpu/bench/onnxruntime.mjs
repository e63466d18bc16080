// Times a network in ONNX Runtime (npm's onnxruntime-node) and prints JSON like
// pytorch.py:
//   node onnxruntime.mjs NODE_MODULES MODEL SIZE BATCH THREADS SECONDS
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [modules, model] = process.argv.slice(2, 4);
const [size, batch, threads, seconds] = process.argv.slice(4).map(Number);
const require = createRequire(resolve(modules, "x.js"));
const ort = require("onnxruntime-node");
const session = await ort.InferenceSession.create(model, {
  intraOpNumThreads: threads,
  graphOptimizationLevel: "all",
  logSeverityLevel: 3,
});
const data = Float32Array.from({ length: batch * size * size }, (_, i) => Math.sin(i));
const feed = { [session.inputNames[0]]: new ort.Tensor("float32", data, [batch, 1, size, size]) };
await session.run(feed);
const times = [];
const begin = performance.now();
const before = process.cpuUsage();
while (times.length < 3 || performance.now() - begin < 1e3 * seconds) {
  const start = performance.now();
  await session.run(feed);
  times.push(performance.now() - start);
}
const { user, system } = process.cpuUsage(before);
times.sort((a, b) => a - b);
console.log(JSON.stringify({
  peer: "onnxruntime-node " + require("onnxruntime-node/package.json").version,
  step_ms: times[times.length >> 1],
  cpu_ms: (user + system) / 1e3 / times.length,
  peak_rss_mib: process.resourceUsage().maxRSS / 1024,
}));
process.exit(0);
