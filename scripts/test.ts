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
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { batchesOf, type Stage } from "./testing/batches.ts";
import { deno, runBatches } from "./testing/run.ts";
import { transpile } from "./testing/transpile.ts";
import { byHand, commonEnvironment, type Environment, findAdapter, softwareAdapter } from "./software-adapter.ts";

/**
 * Most of the suite's time, Mesa's software driver compiles kernels. For vectors of 4, as many as its subgroups have lanes then,
 * it takes half as long as for those of 8 that most processors have, and half of that without optimizations.
 */
const narrow = { LP_NATIVE_VECTOR_WIDTH: process.env["LP_NATIVE_VECTOR_WIDTH"] ?? "128" };
const unoptimized = { ...narrow, GALLIVM_PERF: process.env["GALLIVM_PERF"] ?? "nopt" };

const project = resolve(fileURLToPath(new URL("..", import.meta.url)));
const inCi = process.env["CI"] === "true";

/**
 * Roughly the seconds of processor time that a test file takes in Node, with nothing cached, where they are many: the longest begin
 * first, so that none is left alone at the end, and `--quick` leaves these files out.
 */
const seconds: Readonly<Record<string, number>> = {
  "test/devices-process.test.ts": 75,
  "test/parallel-faults.test.ts": 59,
  "test/parallel-deterministic.test.ts": 40,
  "test/attention.test.ts": 36,
  "test/non-finite.test.ts": 35,
  "test/schedules.test.ts": 32,
  "test/conv.test.ts": 30,
  "test/attention-meaning.test.ts": 30,
  "test/backlog.test.ts": 29,
  "test/permissions.test.ts": 28,
  "test/realize-memory.test.ts": 27,
  "test/plan-cache.test.ts": 27,
  "test/collectives.test.ts": 25,
  "test/mnist.test.ts": 24,
  "test/generic.test.ts": 24,
  "test/threads.test.ts": 21,
  "test/checkpoint.test.ts": 20,
  "test/surface-nn.test.ts": 19,
  "test/training-process.test.ts": 18,
  "test/parallel-training.test.ts": 18,
  "test/half.test.ts": 18,
  "test/parallel-random.test.ts": 17,
  "test/parallel-overlap.test.ts": 17,
  "test/parallel-executor.test.ts": 17,
  "test/io.test.ts": 17,
  "test/tuning.test.ts": 16,
  "test/trainer.test.ts": 14,
  "test/readme.test.ts": 14,
  "test/quiet.test.ts": 14,
  "test/losses.test.ts": 14,
  "test/in-place.test.ts": 13,
  "test/browser.test.ts": 12,
  "test/identity.test.ts": 13,
  "test/docs-types.test.ts": 11,
  "test/compiler.test.ts": 11,
  "test/types.test.ts": 10,
  "test/half-training.test.ts": 10,
  "test/conformance-structural.test.ts": 10,
  "test/tensor.test.ts": 9,
  "test/safetensors.test.ts": 9,
  "test/realize.test.ts": 9,
  "test/batch-types.test.ts": 9,
  "test/validate.test.ts": 8,
  "test/numerics.test.ts": 8,
  "test/surface.test.ts": 7,
  "test/profile.test.ts": 7,
  "test/optim.test.ts": 7,
};

/** What the others take. */
const few = 3;

/** Processes that run tests side by side: each compiles kernels on a core of its own, and holds up to a GB. */
const processes = 2;

async function main(args: readonly string[]): Promise<void> {
  const filters = args.filter((arg) => arg !== "--quick");
  const files = await testFiles(filters);
  const quick = args.includes("--quick");
  const notRun: string[] = [];
  const programs = join(project, ".cache/programs");
  const common = {
    // Plans are kept in the project, not in the user's folder.
    SHARDWISE_CACHE: join(project, ".cache/plans"),
    SHARDWISE_TEST_PROGRAMS: programs,
  };
  const transpiled = transpile(programs);
  const environment = quick ? { SHARDWISE_TEST_DEVICES: "cpu" } : await adapterEnvironment(notRun);
  const stages = (quick ? quickStages : allStages)(files, { ...common, ...environment }, notRun);
  await transpiled;
  const batches = batchesOf(stages, (file) => seconds[file] ?? few);
  const { passed, failed, skipped } = await runBatches(batches, { programs, processes });
  if (skipped > 0 && !quick) notRun.push(`${skipped} skipped tests, see above`);
  for (const what of notRun) console.log(`\n*** NOT RUN: ${what} ***`);
  console.log(`\n${passed} passed, ${failed} failed`);
  if (quick) console.log("on the cpu device and without the long files: npm test runs everything");
  if (failed > 0 || (inCi && notRun.length > 0)) process.exitCode = 1;
}

function quickStages(files: readonly string[], environment: Environment): Stage[] {
  const quick = files.filter((file) => (seconds[file] ?? few) < 9);
  return [{ title: `Node ${process.version}, quickly`, runtime: "node", files: quick, environment }];
}

function allStages(files: readonly string[], environment: Environment, notRun: string[]): Stage[] {
  // Code as the driver makes it, and subgroups as wide: Deno's own WebGPU has none. With a GPU's schedules it is optimized, too.
  const wide = named(files, "conformance-structural.", "schedules.");
  const stages: Stage[] = [
    {
      title: `Node ${process.version}`,
      runtime: "node",
      files: files.filter((file) => !wide.includes(file)),
      environment: { ...environment, ...unoptimized },
    },
    { title: `Node ${process.version}, the driver as it is`, runtime: "node", files: wide, environment },
    {
      title: "The cpu device in JavaScript",
      runtime: "node",
      files: named(files, "conformance-", "compiler.", "conv.", "devices."),
      environment: { ...environment, SHARDWISE_TEST_DEVICES: "cpu", SHARDWISE_WASM: "0" },
    },
    ...asGpu(files, environment),
  ];
  if (existsSync(deno)) {
    // What is said of sources and pages is the same in every runtime.
    const ofSources = named(files, "batch-types.", "docs-types.", "docs.", "mutations.", "structure.");
    stages.push({
      title: "Deno",
      runtime: "deno",
      files: files.filter((file) => !ofSources.includes(file)),
      environment: { ...environment, ...unoptimized },
    });
  } else notRun.push("the whole suite in Deno: node_modules/.bin/deno is missing; npm ci brings it");
  return stages;
}

async function testFiles(filters: readonly string[]): Promise<string[]> {
  const all = (await readdir(join(project, "test"))).filter((name) => name.endsWith(".test.ts")).sort();
  const files = all.filter((name) => filters.length === 0 || filters.some((filter) => `test/${name}`.includes(filter)));
  if (files.length === 0) {
    throw new Error(`no test file's name contains ${filters.join(" or ")}; there are:\n${all.join("\n")}`);
  }
  return files.map((name) => `test/${name}`);
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

/** Where Debian's and Ubuntu's chromium, and Chrome, have SwiftShader. */
const swiftShaders = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"].map((folder) =>
  `${folder}/vk_swiftshader_icd.json`
);

/** Tests of all that kernels compute, with the schedules that a discrete GPU gets: on software adapters, which have others. */
function asGpu(files: readonly string[], environment: Environment): Stage[] {
  if (environment["SHARDWISE_TEST_DEVICES"] !== "cpu,gpu") return [];
  const schedules = { ...environment, ...narrow, SHARDWISE_TEST_DEVICES: "gpu", SHARDWISE_TEST_CLASS: "discrete" };
  const stages: Stage[] = [{
    title: "Schedules of a discrete GPU",
    runtime: "node",
    files: named(files, "conformance-", "conv.", "generic."),
    environment: schedules,
  }];
  const others = named(files, "conformance-", "schedules.");
  const driver = swiftShaders.find((path) => existsSync(path));
  if (others.length === 0) return stages;
  if (driver === undefined) {
    console.log("\nSwiftShader is not installed (Debian's chromium has it): schedules are tested on one adapter only");
    return stages;
  }
  stages.push({
    title: "Schedules of a discrete GPU on SwiftShader",
    runtime: "node",
    files: others,
    environment: { ...schedules, VK_ICD_FILENAMES: driver, VK_DRIVER_FILES: driver },
  });
  return stages;
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
});
