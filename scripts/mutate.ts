/**
 * `npm run mutate`: tries each change of scripts/mutations on a copy of the project, with the tests that must fail then.
 *
 *   npm run mutate                       all of them, one after the other
 *   npm run mutate -- fuse.ts backlog    those of which file, tests or reason contain one of these
 *   npm run mutate -- --list             what there is
 *
 * On the cpu device, but for those that need a GPU, which are left out where there is no adapter. A change that no test noticed
 * has survived: a law is missing. Exits with 1 then.
 */
import { spawn } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type Mutation, mutations } from "./mutations/index.ts";
import { commonEnvironment, type Environment, findAdapter, softwareAdapter } from "./software-adapter.ts";

const project = resolve(fileURLToPath(new URL("..", import.meta.url)));

/** What is not copied. Modules are linked. */
const left = new Set([".git", ".cache", "node_modules", "dist", "runs"]);

interface Outcome {
  /** "stuck": did not end in time; "broken": ran no test. */
  readonly came: "passed" | "failed" | "stuck" | "broken";
  readonly printed: string;
}

async function main(words: readonly string[]): Promise<void> {
  const wanted = chosen(words.filter((word) => word !== "--list"));
  if (words.includes("--list")) {
    for (const mutation of wanted) console.log(`${await placeOf(mutation)}  ${mutation.why}\n    ${shown(mutation)}`);
    console.log(`${wanted.length} mutations`);
    return;
  }
  const copy = await mkdtemp(join(tmpdir(), "shardwise-mutate-"));
  const leave = () => rm(copy, { recursive: true, force: true });
  let runner: Runner | undefined;
  process.once("SIGINT", () => {
    runner?.stop();
    void leave().then(() => process.exit(130));
  });
  try {
    await copyProject(copy);
    const gpu = wanted.some((mutation) => mutation.gpu) ? await gpuEnvironment() : undefined;
    const tried = wanted.filter((mutation) => gpu !== undefined || !mutation.gpu);
    if (tried.length < wanted.length) {
      console.log(`*** NOT TRIED: ${wanted.length - tried.length} mutations that need a GPU: no adapter works ***`);
    }
    runner = new Runner(copy, gpu);
    process.exitCode = await runner.tryAll(tried) ? 0 : 1;
  } finally {
    await leave();
  }
}

function chosen(words: readonly string[]): readonly Mutation[] {
  const wanted = mutations.filter(({ file, tests, why }) =>
    words.length === 0 || words.some((word) => [file, why, ...Object.keys(tests)].some((text) => text.includes(word)))
  );
  if (wanted.length === 0) throw new Error(`no mutation's file, tests or reason contains ${words.join(" or ")}`);
  return wanted;
}

async function copyProject(folder: string): Promise<void> {
  for (const name of await readdir(project)) {
    if (!left.has(name)) await cp(join(project, name), join(folder, name), { recursive: true });
  }
  await symlink(join(project, "node_modules"), join(folder, "node_modules"));
}

/** The variables with which tests find a GPU, or an adapter in software; undefined where there is none. */
async function gpuEnvironment(): Promise<Environment | undefined> {
  const common = await commonEnvironment();
  if (findAdapter(common) !== undefined) return common;
  const software = await softwareAdapter().catch(() => undefined);
  return software !== undefined && findAdapter(software) !== undefined ? software : undefined;
}

/** Runs tests of a copy of the project. */
class Runner {
  readonly #copy: string;
  readonly #gpu: Environment | undefined;
  /** The process that runs now. */
  #running: number | undefined;

  constructor(copy: string, gpu: Environment | undefined) {
    this.#copy = copy;
    this.#gpu = gpu;
  }

  /** Ends what runs, with what it started. */
  stop(): void {
    if (this.#running !== undefined) process.kill(-this.#running, "SIGKILL");
  }

  /** Tells whether every mutation was noticed. */
  async tryAll(wanted: readonly Mutation[]): Promise<boolean> {
    const limits = await this.#timesAsIs(wanted);
    const killed = new Map<string, number>();
    const others: string[] = [];
    for (const mutation of wanted) {
      const path = join(this.#copy, "src", mutation.file);
      const text = await readFile(path, "utf8");
      const place = await placeOf(mutation);
      await writeFile(path, mutate(mutation, text));
      const unnoticed: string[] = [];
      let stuck = false;
      for (const [file, name] of Object.entries(mutation.tests)) {
        const { came } = await this.#run(file, name === "" ? [] : [name], mutation.gpu, limits.get(file)!);
        if (came === "passed") unnoticed.push(`${file} passes`);
        if (came === "broken") unnoticed.push(`${file} does not run`);
        if (came === "stuck") stuck = true;
      }
      await writeFile(path, text);
      const [part] = mutation.file.split("/") as [string];
      if (unnoticed.length === 0) killed.set(part, (killed.get(part) ?? 0) + 1);
      else others.push(`${place}  ${mutation.why}: ${unnoticed.join(", ")}\n    ${shown(mutation)}`);
      console.log(
        `${unnoticed.length > 0 ? "SURVIVED" : "killed  "}  ${place}  ${mutation.why}${stuck ? " (did not end)" : ""}`,
      );
    }
    console.log(`\n${[...killed].map(([part, count]) => `${part}: ${count} killed`).join("\n")}`);
    console.log(
      `\n${wanted.length - others.length} killed, ${others.length} survived${
        others.length > 0 ? `:\n\n${others.join("\n")}` : ""
      }`,
    );
    return others.length === 0;
  }

  /** How long the tests of each file may take, from what they take as things are. Throws where they fail already. */
  async #timesAsIs(wanted: readonly Mutation[]): Promise<ReadonlyMap<string, number>> {
    const names = new Map<string, { names: Set<string>; gpu: true | undefined }>();
    for (const { tests, gpu } of wanted) {
      for (const [file, name] of Object.entries(tests)) {
        const known = names.get(file) ?? { names: new Set(), gpu: undefined };
        names.set(file, known);
        known.names.add(name);
        known.gpu ??= gpu;
      }
    }
    const limits = new Map<string, number>();
    for (const [file, { names: parts, gpu }] of names) {
      const start = performance.now();
      const asIs = () => this.#run(file, parts.has("") ? [] : [...parts], gpu, 600_000);
      let { came, printed } = await asIs();
      // Once more: a machine may be short of memory.
      if (came !== "passed") ({ came, printed } = await asIs());
      if (came !== "passed") throw new Error(`${printed}\ntest/${file}.test.ts without any mutation: ${came}`);
      const milliseconds = performance.now() - start;
      console.log(`passes    test/${file}.test.ts  (${(milliseconds / 1000).toFixed(1)} s)`);
      limits.set(file, 60_000 + 5 * milliseconds);
    }
    console.log("");
    return limits;
  }

  /** Runs those tests of a file whose names contain one of these; all without names. Plans are in a folder of this run alone. */
  async #run(file: string, names: readonly string[], gpu: true | undefined, limit: number): Promise<Outcome> {
    const plans = join(this.#copy, ".cache/plans");
    await rm(plans, { recursive: true, force: true });
    const patterns = names.map((name) => `--test-name-pattern=${name.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")}`);
    const child = spawn(
      process.execPath,
      ["--import", "tsx", "--expose-gc", "--test-reporter=tap", ...patterns, `test/${file}.test.ts`],
      {
        cwd: this.#copy,
        env: {
          ...process.env,
          ...gpu === undefined ? {} : this.#gpu,
          SHARDWISE_CACHE: plans,
          SHARDWISE_TEST_DEVICES: gpu === undefined ? "cpu" : "cpu,gpu",
        },
        stdio: ["ignore", "pipe", "pipe"],
        detached: true,
      },
    );
    this.#running = child.pid;
    let printed = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => printed += text);
    }
    return await new Promise((resolve, reject) => {
      let stuck = false;
      const timer = setTimeout(() => {
        stuck = true;
        this.stop();
      }, limit);
      child.on("error", reject);
      child.on("close", () => {
        clearTimeout(timer);
        this.#running = undefined;
        const total = (name: string) => Number(new RegExp(`^# ${name} (\\d+)$`, "m").exec(printed)?.[1] ?? 0);
        const came = stuck
          ? "stuck"
          : total("fail") + total("cancelled") > 0
          ? "failed"
          : total("pass") > 0
          ? "passed"
          : "broken";
        resolve({ came, printed });
      });
    });
  }
}

/** The text with the change. Throws where what is changed does not stand there once. */
function mutate({ file, find, put }: Mutation, text: string): string {
  const parts = text.split(find);
  if (parts.length !== 2) throw new Error(`src/${file} has ${parts.length - 1} times ${find}`);
  return parts.join(put);
}

/** File and line. */
async function placeOf({ file, find }: Mutation): Promise<string> {
  const text = await readFile(join(project, "src", file), "utf8");
  return `${file}:${text.slice(0, text.indexOf(find)).split("\n").length}`;
}

function shown({ find, put, tests }: Mutation): string {
  const names = Object.entries(tests).map(([file, name]) => name === "" ? file : `${file} "${name}"`);
  return `${find.trim()}  >  ${put.trim() || "nothing"}  (${names.join(", ")})`;
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
});
