// Runs ONNX models with ONNX Runtime. Protocol: see consumer.go.
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";

const jobs = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(jobs.node_modules + "/x.js");
const ort = require("onnxruntime-node");
const answer = { version: require("onnxruntime-node/package.json").version, runs: [] };
const sessions = new Map();
for (const run of jobs.runs) {
  try {
    if (!sessions.has(run.model)) {
      sessions.set(run.model, await ort.InferenceSession.create(run.model, { intraOpNumThreads: 1, logSeverityLevel: 3 }));
    }
    const session = sessions.get(run.model);
    const bytes = readFileSync(run.input);
    const data = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const start = process.cpuUsage();
    const out = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", data, run.shape) });
    const { user, system } = process.cpuUsage(start);
    const y = out[session.outputNames[0]];
    writeFileSync(run.output, Buffer.from(y.data.buffer, y.data.byteOffset, y.data.byteLength));
    answer.runs.push({ shape: y.dims, seconds: (user + system) / 1e6 });
  } catch (e) {
    answer.runs.push({ error: String(e.message ?? e) });
  }
}
writeFileSync(process.argv[3], JSON.stringify(answer));
process.exit(0);
