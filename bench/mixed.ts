/**
 * Training on two different adapters at once, each with one core, whose shares follow the time that they take:
 *
 *   npm run bench:mixed -- [--drivers FILE,FILE] [--seconds 6]
 *
 * The drivers are Vulkan's (ICD files); by default the software ones of Debian's packages mesa-vulkan-drivers and chromium:
 * llvmpipe, and SwiftShader, which is several times slower. Prints the steps of each alone, of both, and what both could do
 * if nothing were lost.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { devices, setDefaultDevice } from "../src/index.ts";
import { measureTogether, quantile } from "./scaling/measure.ts";
import { mixedModel } from "./scaling/models.ts";

const debian = ["/usr/share/vulkan/icd.d/lvp_icd.json", "/usr/lib/chromium/vk_swiftshader_icd.json"];
const { values } = parseArgs({
  options: { drivers: { type: "string" }, seconds: { type: "string" }, here: { type: "boolean" } },
});
const seconds = Number(values.seconds ?? "6");
const drivers = values.drivers?.split(",") ?? debian;
const missing = drivers.filter((file) => !existsSync(file));
if (!(seconds > 0)) fail(`--seconds ${values.seconds}: need a number above 0`);
else if (drivers.length < 2 || missing.length > 0) {
  fail(`${missing.join(" and ") || drivers}: need the ICD files of two drivers`);
} else if (values.here === true) await measure();
else await inAProcessOfItsOwn();

/** The drivers read what they may use when they are loaded: llvmpipe the environment, SwiftShader a file where it is started. */
async function inAProcessOfItsOwn(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "shardwise-"));
  try {
    await writeFile(join(folder, "SwiftShader.ini"), "[Processor]\nThreadCount=1\n");
    const { status } = spawnSync(
      process.execPath,
      [
        ...process.execArgv.map(absolute),
        fileURLToPath(import.meta.url),
        "--here",
        "--seconds",
        `${seconds}`,
        "--drivers",
        drivers.join(),
      ],
      {
        cwd: folder,
        stdio: "inherit",
        env: {
          ...process.env,
          VK_ICD_FILENAMES: drivers.join(":"),
          VK_DRIVER_FILES: drivers.join(":"),
          LP_NUM_THREADS: "0",
        },
      },
    );
    process.exitCode = status ?? 1;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The loader of this process is found from anywhere. */
function absolute(argument: string): string {
  return argument === "tsx" ? import.meta.resolve("tsx") : argument;
}

async function measure(): Promise<void> {
  process.env["MESA_SHADER_CACHE_DIR"] ??= fileURLToPath(new URL("../.cache/mesa", import.meta.url));
  const [one, two] = await devices({ kind: "gpu" });
  if (one === undefined || two === undefined) return fail("need two adapters; the drivers gave fewer");
  setDefaultDevice(one);
  const both = `both, shares as measured`;
  const { measured } = await measureTogether(mixedModel, [
    { name: one.info.description, devices: [one] },
    { name: two.info.description, devices: [two] },
    // Shares are changed every few steps until they fit.
    { name: both, devices: [one, two], capacities: "auto", warmUp: 60 },
  ], seconds);
  console.log(`\n${mixedModel.name}, batch of ${mixedModel.rows}: milliseconds of a step, median and quartiles`);
  for (const { configuration, step, quartiles } of measured) {
    console.log(
      `${configuration.padEnd(40)} ${step.toFixed(1).padStart(8)}  ${quartiles.map((x) => x.toFixed(1)).join(" to ")}`,
    );
  }
  const [a, b, mixed] = measured as [(typeof measured)[0], (typeof measured)[0], (typeof measured)[0]];
  const rounds = mixed.rounds.map((step, round) => {
    const [first, second] = [a.rounds[round]!, b.rounds[round]!];
    return { gain: Math.min(first, second) / step, most: Math.min(first, second) * (1 / first + 1 / second) };
  });
  const median = (of: (round: (typeof rounds)[0]) => number) => quantile(rounds.map(of), 0.5).toFixed(3);
  console.log(
    `both against the faster alone: ${median(({ gain }) => gain)}x; if nothing were lost: ${
      median(({ most }) => most)
    }x`,
  );
}

function fail(message: string): void {
  process.stderr.write(`bench:mixed: ${message}\n`);
  process.exitCode = 1;
}
