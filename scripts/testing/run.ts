/** Runs test files in a few processes side by side, several files in each, in Node and in Deno. */
import { spawn } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Environment } from "../software-adapter.ts";

const project = resolve(fileURLToPath(new URL("../..", import.meta.url)));
export const deno = join(project, "node_modules/.bin/deno");

export interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** Test files that one process runs. */
export interface Batch {
  readonly title: string;
  readonly runtime: "node" | "deno";
  readonly files: readonly string[];
  readonly environment: Environment;
}

/** Runs batches, the first ones first, `processes` at a time. `programs` has the project's JavaScript. */
export async function runBatches(
  batches: readonly Batch[],
  { programs, processes }: { readonly programs: string; readonly processes: number },
): Promise<Outcome> {
  const waiting = [...batches];
  const outcomes: Outcome[] = [];
  const work = async () => {
    for (let batch = waiting.shift(); batch !== undefined; batch = waiting.shift()) {
      const begin = performance.now();
      console.log(`\n${batch.title} begins: ${batch.files.join(" ")}`);
      const outcome = batch.runtime === "node" ? await runInNode(batch, programs) : await runInDeno(batch, programs);
      outcomes.push(outcome);
      const took = ((performance.now() - begin) / 1000).toFixed(0);
      console.log(`\n${batch.title}, ${batch.files.length} files: ${told(outcome)} (${took} s)`);
    }
  };
  await Promise.all(Array.from({ length: processes }, work));
  const sum = (count: (outcome: Outcome) => number) => outcomes.reduce((total, outcome) => total + count(outcome), 0);
  return {
    passed: sum(({ passed }) => passed),
    failed: sum(({ failed }) => failed),
    skipped: sum(({ skipped }) => skipped),
  };
}

const told = ({ passed, failed, skipped }: Outcome) =>
  `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;

/** Node's runner, read as people do on the screen and counted from a second report. */
async function runInNode({ title, files, environment }: Batch, programs: string): Promise<Outcome> {
  const report = join(programs, `${title}-${files[0]}.tap`.replace(/[^\w.-]+/g, "-"));
  const { code, signal } = await run(
    process.execPath,
    [
      "--enable-source-maps",
      "--expose-gc",
      "--test-reporter=spec",
      "--test-reporter-destination=stdout",
      "--test-reporter=tap",
      `--test-reporter-destination=${report}`,
      join(programs, "scripts/testing/in-node.js"),
      ...files,
    ],
    environment,
    // ✔ test/one.test.ts (12.3ms)
    new Printer(title, /^\S+ test\/\S+ \(\S+\)$/),
  );
  const text = await readFile(report, "utf8").catch(() => "");
  const total = (name: string) => Number(new RegExp(`^# ${name} (\\d+)$`, "m").exec(text)?.[1] ?? 0);
  return judged(
    {
      passed: total("pass"),
      failed: total("fail") + total("cancelled"),
      skipped: total("skipped") + total("todo"),
    },
    total("suites"),
    files,
    code === 0 ? undefined : signal ?? `code ${code}`,
  );
}

/**
 * Deno's runner. A file is a test of it, and the tests in that are steps; it is counted from its last line:
 * `ok | 3 passed (12 steps) | 0 failed | 0 ignored (1 step) (5s)`.
 */
async function runInDeno(batch: Batch, programs: string, again = true): Promise<Outcome> {
  const { title, files, environment } = batch;
  const map = join(programs, "deno-imports.json");
  const gather = pathToFileURL(join(project, "scripts/testing/gather.ts")).href;
  await mkdir(programs, { recursive: true });
  await writeFile(map, JSON.stringify({ imports: { "node:test": gather } }));
  // test/one.test.ts ... ok (12ms)
  const printer = new Printer(title, /^test\/\S+ \.\.\. (ok|FAILED)/);
  const { code, signal } = await run(
    deno,
    [
      "test",
      "--allow-all",
      "--no-check",
      "--v8-flags=--expose-gc",
      `--import-map=${map}`,
      "scripts/testing/in-deno.ts",
      "--",
      ...files,
    ],
    { ...environment, NO_COLOR: "1" },
    printer,
  );
  const last = printer.lines.findLast((line) => /^(ok|FAILED) \|/.test(line)) ?? "";
  const ended = code === 0 ? undefined : signal ?? `code ${code}`;
  // A software driver was seen to bring down the process as it left, with all tests passed. Twice is a failure.
  if (again && ended !== undefined && last.startsWith("ok |")) {
    console.log(`\n*** Deno ended with ${ended} after its tests had passed; they are run again ***`);
    return await runInDeno(batch, programs, false);
  }
  const total = (name: string) => {
    const [, tests = 0, steps = 0] = new RegExp(`\\| (\\d+) ${name}(?: \\((\\d+) steps?\\))?`).exec(last) ?? [];
    return { tests: Number(tests), steps: Number(steps) };
  };
  const [passed, failed, ignored] = [total("passed"), total("failed"), total("ignored")];
  return judged(
    {
      // What was skipped has a step that passed, and one that says so.
      passed: passed.steps - ignored.steps,
      failed: Math.max(failed.steps, failed.tests),
      skipped: ignored.steps,
    },
    passed.tests + failed.tests,
    files,
    ended,
  );
}

/** What a report counts, and a failure more where a process did not get through all of its files, or ended badly. */
function judged(outcome: Outcome, ran: number, files: readonly string[], ended: string | undefined): Outcome {
  if (outcome.failed > 0 || (ran === files.length && ended === undefined)) return outcome;
  console.log(
    `\n*** FAILED: ${ran} of ${files.length} files were run (${ended ?? "no error"}): ${files.join(" ")} ***`,
  );
  return { ...outcome, failed: 1 };
}

/** Prints what a process says, a file at a time: others talk beside it. */
class Printer {
  readonly lines: string[] = [];
  readonly #title: string;
  readonly #endOfFile: RegExp;
  #rest = "";
  #held: string[] = [];

  constructor(title: string, endOfFile: RegExp) {
    this.#title = title;
    this.#endOfFile = endOfFile;
  }

  add(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) {
      this.lines.push(line);
      this.#held.push(line);
      // deno-lint-ignore no-control-regex
      if (this.#endOfFile.test(line.replaceAll(/\x1b\[\d*m/g, ""))) this.#print();
    }
  }

  end(): void {
    if (this.#rest !== "") this.add("\n");
    this.#print();
  }

  #print(): void {
    if (this.#held.some((line) => line !== "")) console.log(`\n${this.#title}:\n${this.#held.join("\n")}`);
    this.#held = [];
  }
}

/** Runs a command, passes on all that it prints, and resolves with how it ended. */
function run(
  command: string,
  args: readonly string[],
  environment: Environment,
  printer: Printer,
): Promise<{ code: number; signal: string | null }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: project,
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => printer.add(text));
    }
    child.on("error", reject);
    child.on("close", (code, signal) => {
      printer.end();
      resolve({ code: code ?? 1, signal });
    });
  });
}
