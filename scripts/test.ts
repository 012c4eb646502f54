/**
 * The whole suite: in Node and in Deno, on the cpu device and on WebGPU. In Node the conformance tests once more on the cpu device
 * without WebAssembly, and with the schedules of a GPU, on this adapter and on SwiftShader where that is installed.
 *
 *   npm test                      everything
 *   npm test -- matmul devices    the test files whose names contain one of these
 *   npm test -- --quick           the files that take seconds, on the cpu device, in Node: within a minute
 *
 * Where no WebGPU adapter works, a software one is put into the project's cache folder. What cannot run is said loudly;
 * with CI=true it is a failure.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { byHand, commonEnvironment, type Environment, findAdapter, softwareAdapter } from "./software-adapter.ts";

/**
 * Most of the suite's time, Mesa's software driver compiles kernels. For vectors of 4, as many as its subgroups have lanes then,
 * it takes half as long as for those of 8 that most processors have, and half of that without optimizations.
 */
const narrow = { LP_NATIVE_VECTOR_WIDTH: process.env["LP_NATIVE_VECTOR_WIDTH"] ?? "128" };
const unoptimized = { ...narrow, GALLIVM_PERF: process.env["GALLIVM_PERF"] ?? "nopt" };

interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

const project = resolve(fileURLToPath(new URL("..", import.meta.url)));
const deno = join(project, "node_modules/.bin/deno");
const inCi = process.env["CI"] === "true";

/**
 * Test files that take long, the longest first: they begin first, so that none is left alone at the end, and `--quick` leaves them
 * out.
 */
const long = [
  "attention-meaning",
  "attention",
  "conv",
  "parallel-faults",
  "surface-nn",
  "parallel-deterministic",
  "checkpoint",
  "generic",
  "identity",
  "half",
  "in-place",
  "permissions",
  "tuning",
  "backlog",
  "io",
  "collectives",
  "surface",
  "realize-memory",
  "tensor",
  "readme",
  "plan-cache",
  "mnist",
  "parallel-random",
  "parallel-training",
  "parallel-executor",
  "devices-process",
  "trainer",
  "non-finite",
  "quiet",
  "batch-types",
  "types",
  "docs-types",
  "docs",
  "simplify",
  "safetensors",
  "parallel-overlap",
  "losses",
  "optim",
  "half-training",
  "package",
  "schedules",
  "wasm-functions",
  "wasm-kernels",
  "conformance-structural",
].map((name) => `test/${name}.test.ts`);

/** Processes that run tests side by side: each compiles kernels on a core of its own, and holds up to a GB. */
const processes = 2;

async function main(args: readonly string[]): Promise<void> {
  const filters = args.filter((arg) => arg !== "--quick");
  const files = await testFiles(filters);
  if (args.includes("--quick")) return await quickly(files);
  const notRun: string[] = [];
  // Plans are kept in the project, not in the user's folder.
  const environment = { SHARDWISE_CACHE: join(project, ".cache/plans"), ...await adapterEnvironment(notRun) };
  // Code as the driver makes it, and subgroups as wide: Deno's own WebGPU has none. With a GPU's schedules it is optimized, too.
  const wide = named(files, "conformance-structural.", "schedules.");
  const outcomes = [
    await runNode(`Node ${process.version}`, files.filter((file) => !wide.includes(file)), {
      ...environment,
      ...unoptimized,
    }),
    await runNode(`Node ${process.version}, the driver as it is`, wide, environment),
  ];
  const inJs = { ...environment, SHARDWISE_TEST_DEVICES: "cpu", SHARDWISE_WASM: "0" };
  outcomes.push(
    await runNode("The cpu device in JavaScript", named(files, "conformance-", "compiler.", "conv.", "devices."), inJs),
  );
  if (existsSync(deno)) outcomes.push(await runDeno(files, { ...environment, ...unoptimized }));
  else notRun.push("the whole suite in Deno: node_modules/.bin/deno is missing; npm ci brings it");
  outcomes.push(...await runAsGpu(files, environment));
  const sum = (count: (outcome: Outcome) => number) => outcomes.reduce((total, outcome) => total + count(outcome), 0);
  const skipped = sum((outcome) => outcome.skipped);
  if (skipped > 0) notRun.push(`${skipped} skipped tests, see above`);
  for (const what of notRun) console.log(`\n*** NOT RUN: ${what} ***`);
  const failed = sum((outcome) => outcome.failed);
  console.log(`\n${sum((outcome) => outcome.passed)} passed, ${failed} failed`);
  if (failed > 0 || (inCi && notRun.length > 0)) process.exitCode = 1;
}

async function quickly(files: readonly string[]): Promise<void> {
  const environment = { SHARDWISE_CACHE: join(project, ".cache/plans"), SHARDWISE_TEST_DEVICES: "cpu" };
  const { failed, passed } = await runNode(
    `Node ${process.version}, quickly`,
    files.filter((file) => !long.includes(file)),
    environment,
  );
  console.log(
    `\n${passed} passed, ${failed} failed, on the cpu device and without the long files: npm test runs everything`,
  );
  if (failed > 0) process.exitCode = 1;
}

async function testFiles(filters: readonly string[]): Promise<string[]> {
  const all = (await readdir(join(project, "test"))).filter((name) => name.endsWith(".test.ts")).sort();
  const files = all.filter((name) => filters.length === 0 || filters.some((filter) => `test/${name}`.includes(filter)));
  if (files.length === 0) {
    throw new Error(`no test file's name contains ${filters.join(" or ")}; there are:\n${all.join("\n")}`);
  }
  const paths = files.map((name) => `test/${name}`);
  return [...long.filter((path) => paths.includes(path)), ...paths.filter((path) => !long.includes(path))];
}

/** The test files whose names begin with one of these. */
function named(files: readonly string[], ...names: readonly string[]): string[] {
  return files.filter((file) => names.some((name) => file.startsWith(`test/${name}`)));
}

/** The variables with which tests find their devices, and which devices they must find. */
async function adapterEnvironment(notRun: string[]): Promise<Environment> {
  const common = await commonEnvironment();
  const found = findAdapter(common);
  if (found !== undefined) {
    console.log(`WebGPU adapter: ${found}`);
    return { ...common, SHARDWISE_TEST_DEVICES: "cpu,gpu" };
  }
  try {
    console.log("No WebGPU adapter works here; preparing a software one in .cache/software-adapter (55 MB, once)");
    const environment = await softwareAdapter();
    const prepared = findAdapter(environment);
    if (prepared === undefined) throw new Error("the one in .cache/software-adapter does not work");
    console.log(`WebGPU adapter: ${prepared}`);
    return { ...environment, SHARDWISE_TEST_DEVICES: "cpu,gpu" };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    notRun.push(`all tests on WebGPU: no adapter works, and none could be prepared (${reason}). To get one, ${byHand}`);
    return { ...common, SHARDWISE_TEST_DEVICES: "cpu" };
  }
}

/** Node's runner, read as people do on the screen and counted from a second report. */
async function runNode(title: string, files: readonly string[], environment: Environment): Promise<Outcome> {
  if (files.length === 0) return { passed: 0, failed: 0, skipped: 0 };
  console.log(`\n${title}: ${files.length} files`);
  const folder = join(project, ".cache");
  await mkdir(folder, { recursive: true });
  const report = join(folder, `test-report.${process.pid}.tap`);
  const { code } = await run(
    process.execPath,
    [
      "--import",
      "tsx",
      "--expose-gc",
      "--test",
      `--test-concurrency=${processes}`,
      "--test-reporter=spec",
      "--test-reporter-destination=stdout",
      "--test-reporter=tap",
      `--test-reporter-destination=${report}`,
      ...files,
    ],
    environment,
    (text) => process.stdout.write(text),
  );
  const text = await readFile(report, "utf8").catch(() => "");
  await rm(report, { force: true });
  const total = (name: string) => Number(new RegExp(`^# ${name} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
  const failed = total("fail") + total("cancelled");
  return {
    passed: total("pass"),
    failed: failed === 0 && code !== 0 ? 1 : failed,
    skipped: total("skipped") + total("todo"),
  };
}

/** Where Debian's and Ubuntu's chromium, and Chrome, have SwiftShader. */
const swiftShaders = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"].map((folder) =>
  `${folder}/vk_swiftshader_icd.json`
);

/** Tests of all that kernels compute, with the schedules that a discrete GPU gets: on software adapters, which have others. */
async function runAsGpu(files: readonly string[], environment: Environment): Promise<Outcome[]> {
  if (environment["SHARDWISE_TEST_DEVICES"] !== "cpu,gpu") return [];
  const asGpu = { ...environment, ...narrow, SHARDWISE_TEST_DEVICES: "gpu", SHARDWISE_TEST_CLASS: "discrete" };
  const outcomes = [
    await runNode("Schedules of a discrete GPU", named(files, "conformance-", "conv.", "generic."), asGpu),
  ];
  const others = named(files, "conformance-", "schedules.");
  const driver = swiftShaders.find((path) => existsSync(path));
  if (others.length === 0) return outcomes;
  if (driver === undefined) {
    console.log("\nSwiftShader is not installed (Debian's chromium has it): schedules were tested on one adapter only");
    return outcomes;
  }
  const onSwiftShader = { ...asGpu, VK_ICD_FILENAMES: driver, VK_DRIVER_FILES: driver };
  outcomes.push(await runNode("Schedules of a discrete GPU on SwiftShader", others, onSwiftShader));
  return outcomes;
}

/** Test files that one process of Deno runs. */
const denoFiles = 6;

async function runDeno(files: readonly string[], environment: Environment): Promise<Outcome> {
  console.log(`\nDeno: ${files.length} files`);
  const count = Math.ceil(files.length / denoFiles);
  // Neighbours in the alphabet take long together; a batch has files from all of it.
  const batches = Array.from({ length: count }, (_, first) => files.filter((_, i) => i % count === first));
  const outcome = { passed: 0, failed: 0, skipped: 0 };
  const work = async () => {
    for (let batch = batches.shift(); batch !== undefined; batch = batches.shift()) {
      const { passed, failed, skipped } = await runInDeno(batch, environment);
      outcome.passed += passed;
      outcome.failed += failed;
      outcome.skipped += skipped;
    }
  };
  await Promise.all(Array.from({ length: processes }, work));
  return outcome;
}

/**
 * Deno's runner, printed when it ends: others run beside it. Counted from its last line:
 * `ok | 12 passed (3 steps) | 0 failed | 1 ignored (5s)`.
 */
async function runInDeno(files: readonly string[], environment: Environment, again = true): Promise<Outcome> {
  console.log(`Deno begins: ${files.join(" ")}`);
  let printed = "";
  const { code, signal } = await run(
    deno,
    ["test", "--allow-all", "--no-check", "--v8-flags=--expose-gc", ...files],
    { ...environment, NO_COLOR: "1" },
    (text) => printed += text,
  );
  process.stdout.write(`\n${printed}`);
  const last = printed.trimEnd().split("\n").findLast((line) => /^(ok|FAILED) \|/.test(line)) ?? "";
  // A software driver was seen to bring down the process as it left, with all tests passed. Twice is a failure.
  if (again && code !== 0 && last.startsWith("ok |")) {
    console.log(`\n*** Deno ended with ${signal ?? `code ${code}`} after its tests had passed; they are run again ***`);
    return await runInDeno(files, environment, false);
  }
  const total = (name: string) => Number(new RegExp(`\\| (\\d+) ${name}`).exec(last)?.[1] ?? 0);
  const failed = total("failed");
  return { passed: total("passed"), failed: failed === 0 && code !== 0 ? 1 : failed, skipped: total("ignored") };
}

/** Runs a command, passes on all that it prints, and resolves with how it ended. */
function run(
  command: string,
  args: readonly string[],
  environment: Environment,
  print: (text: string) => void,
): Promise<{ code: number; signal: string | null }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: project,
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", print);
    }
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code: code ?? 1, signal }));
  });
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
});
