/**
 * Compiled plans on disk, so that a program that starts again does not compile what it compiled before. A plan is found by
 * the structure of its graph, the target and the compiler's own source: nothing is ever out of date, only unused. Files are
 * replaced as a whole and carry a digest, so that processes may share them, and a damaged one is made again.
 */
import { flags } from "../debug/flags.ts";
import { type Node, toposort } from "../graph/node.ts";
import {
  listFolder,
  makePrivateFolder,
  modified,
  readWithDigest,
  removeFile,
  removePartials,
  replaceFile,
  withDigest,
} from "../host/files.ts";
import { cacheFolder, digest, mayUseFolder, pathOfUrl, syncFiles } from "../host/host.ts";
import { compileGraph, type CompileRequest } from "./compile.ts";
import type { Plan, Program, ProgramCode, Target } from "./plan/plan.ts";

/** Smaller graphs compile in less time than it takes to look for them. */
const fewestNodes = 48;
/** Files beyond which the older half goes. */
const mostFiles = 1024;

/**
 * The plan of a graph: from disk where an earlier process compiled it, else compiled. Throws what `compileGraph` throws.
 * Debug output of the compiler's work takes a compilation, so that with it nothing is read.
 */
export function planOf(request: CompileRequest, target: Target): Plan {
  const { debug, dump } = flags();
  const path = debug >= 3 || dump !== undefined ? undefined : pathFor(request, target);
  const known = path === undefined ? undefined : readPlan(path);
  if (known !== undefined) return known;
  const plan = compileGraph(request, target);
  if (path !== undefined) keep(path, plan);
  return plan;
}

function pathFor(request: CompileRequest, target: Target): string | undefined {
  const folder = planFolder();
  if (folder === undefined) return undefined;
  const given = new Set(request.inputs);
  const order = toposort(rootsOf(request), (node) => !given.has(node));
  const source = order.length < fewestNodes ? undefined : compilerDigest();
  if (source === undefined) return undefined;
  const { noFuse, validate } = flags();
  const key = digest([source, JSON.stringify({ target, noFuse, validate }), structureOf(request)].join("\n"));
  return key === undefined ? undefined : `${folder}/${key}.plan`;
}

/** The folder of plans and of what was tuned; undefined where none are to be kept. */
export function planFolder(): string | undefined {
  const { cache } = flags();
  if (cache === false) return undefined;
  const folder = cache ?? cacheFolder()?.concat("/shardwise");
  return folder !== undefined && mayUseFolder(folder, { write: true }) ? folder : undefined;
}

/** A request in words: equal for requests that `compileGraph` makes equal plans of. */
export function structureOf(request: CompileRequest): string {
  const { inputs, roots, donate = [], common, watch } = request;
  const given = new Set(inputs);
  const order = toposort(rootsOf(request), (node) => !given.has(node));
  const numbers = new Map<Node, number>();
  const devices = new Map<number | undefined, number>();
  const regions = new Map<number, number>();
  const numberOf = (node: Node): number => {
    let number = numbers.get(node);
    if (number === undefined) numbers.set(node, number = numbers.size);
    return number;
  };
  const describe = (node: Node): string => {
    let device = devices.get(node.device);
    if (device === undefined) devices.set(node.device, device = devices.size);
    const head = `${numberOf(node)} ${node.dtype}[${node.shape}]@${device}`;
    if (given.has(node)) return head;
    if (node.op === "checkpoint" && !regions.has(node.attrs.region)) regions.set(node.attrs.region, regions.size);
    // Numbers of regions are the process's own.
    const own = node.op === "checkpoint" ? { ...node.attrs, region: regions.get(node.attrs.region)! } : node.attrs;
    const attributes = Object.values(own).map((value) => Object.is(value, -0) ? "-0" : String(value));
    return `${head} ${node.op} ${node.src.map(numberOf)} ${attributes.join(";")}`;
  };
  return [
    ...order.map(describe),
    `inputs ${inputs.map(describe).join("|")}`,
    `roots ${roots.map(numberOf)}`,
    `donate ${donate.map(({ input, output }) => `${input}>${output}`)}`,
    `common ${common ?? "-"}`,
    ...(watch === undefined
      ? []
      : [`watch ${
        watch.values.map(({ node, number, each }) => `${numberOf(node)}:${number}${each ? "+" : ""}`)
      } ${watch.boundary} ${watch.faults}`]),
  ].join("\n");
}

/** All values that kernels are made for. */
function rootsOf({ roots, watch }: CompileRequest): readonly Node[] {
  return watch === undefined ? roots : [...roots, ...watch.values.map(({ node }) => node)];
}

let ofCompiler: { readonly digest: string | undefined } | undefined;

/** Stands for all code that makes plans; undefined where its source cannot be read, as in a browser. */
function compilerDigest(): string | undefined {
  ofCompiler ??= { digest: digestOfSources() };
  return ofCompiler.digest;
}

function digestOfSources(): string | undefined {
  const files = syncFiles();
  const own = pathOfUrl(import.meta.url);
  if (files === undefined || own === undefined) return undefined;
  try {
    // In a bundle all code is in one file.
    const sources = compilerSources(own) ?? [["bundle", own]];
    if (!sources.every(([, path]) => mayUseFolder(path, { write: false }))) return undefined;
    return digest(sources.flatMap(([name, path]) => [name, files.readFileSync(path, "utf8")]).join("\n"));
  } catch {
    return undefined;
  }
}

/**
 * Name and path of each file of the compiler and of the graph's language, however deep in their folders, in order of name; `own`
 * is the path of this one. Undefined in a bundle. Throws where the folders cannot be read.
 */
export function compilerSources(own: string): readonly (readonly [name: string, path: string])[] | undefined {
  const root = /^(.*[/\\])compiler[/\\](?:.*[/\\])?cache\.[jt]s$/.exec(own)?.[1];
  if (root === undefined) return undefined;
  return ["compiler", "graph"].flatMap((part) => {
    const names = mayUseFolder(`${root}${part}`, { write: false })
      ? syncFiles()!.readdirSync(`${root}${part}`, { recursive: true })
      : undefined;
    if (names === undefined) throw new Error("no permission");
    return names.filter((name) => /(?<!\.d)\.[jt]s$/.test(name)).map((name) =>
      [`${part}/${name.replaceAll("\\", "/")}`, `${root}${part}/${name}`] as const
    );
  }).sort(([a], [b]) => a < b ? -1 : 1);
}

/** Most keys of programs end with their source, which need not be there twice. Bytes of code are in base64. */
type StoredProgram =
  & Omit<Program, "key" | "code">
  & { readonly code?: Omit<ProgramCode, "body"> & { readonly body: string } }
  & ({ readonly key: string } | { readonly beforeSource: string });

function stored({ key, code, ...program }: Program): StoredProgram {
  const { source } = program;
  const named = key.endsWith(source) ? { beforeSource: key.slice(0, key.length - source.length) } : { key };
  return { ...program, ...named, ...code && { code: { ...code, body: toBase64(code.body) } } };
}

function restored({ code, ...stored }: StoredProgram): Program {
  const ofCode = code && { code: { ...code, body: fromBase64(code.body) } };
  if ("key" in stored) return { ...stored, ...ofCode };
  const { beforeSource, ...program } = stored;
  return { key: beforeSource + program.source, ...program, ...ofCode };
}

function toBase64(bytes: Uint8Array): string {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function readPlan(path: string): Plan | undefined {
  const body = readWithDigest(path);
  if (body === undefined) return undefined;
  const plan = JSON.parse(body) as Omit<Plan, "programs"> & { readonly programs: readonly StoredProgram[] };
  return { ...plan, programs: plan.programs.map(restored) };
}

function keep(path: string, plan: Plan): void {
  const body = JSON.stringify({ ...plan, programs: plan.programs.map(stored) });
  const folder = path.slice(0, path.lastIndexOf("/"));
  // A plan that cannot be kept is compiled again by the next process.
  writing = writing.then(() => makePrivateFolder(folder))
    .then(() => replaceFile(path, withDigest(body), { durable: false }))
    .then(() => prune(folder))
    .catch(() => undefined);
}

let writing: Promise<unknown> = Promise.resolve();
const pruned = new Set<string>();

/** Resolves when all plans so far are on disk. For tests. */
export async function plansKept(): Promise<void> {
  await writing;
}

/** Once for each folder and process: what was left half written goes, and of too many files those that were written first. */
async function prune(folder: string): Promise<void> {
  if (pruned.has(folder)) return;
  pruned.add(folder);
  await removePartials(folder);
  const names = (await listFolder(folder)).filter((name) => name.endsWith(".plan"));
  if (names.length <= mostFiles) return;
  const files = await Promise.all(names.map(async (name) => {
    const path = `${folder}/${name}`;
    return { path, time: await modified(path).catch(() => 0) };
  }));
  files.sort((a, b) => a.time - b.time);
  await Promise.all(files.slice(0, names.length - mostFiles / 2).map(({ path }) => removeFile(path)));
}
