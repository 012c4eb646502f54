/**
 * How contractions are computed: schedules as data, and those that each class of device starts from. Figures for GPUs are
 * from published results (llama.cpp's exhaustive runs, Apple's and Intel's guides); those for software adapters are measured.
 */
import type { DType } from "../../graph/dtype.ts";

/**
 * Which default schedules apply: `software` is a GPU API on the CPU (lavapipe, SwiftShader), `wasm` the cpu device, and `js` that
 * where it has no WebAssembly.
 */
export type DeviceClass = "software" | "discrete" | "integrated" | "wasm" | "js";

/** What a schedule must keep within. */
export interface Limits {
  /** Lanes of a subgroup; 0 where there are none to be used. */
  readonly subgroupSize: number;
  readonly maxInvocationsPerWorkgroup: number;
}

/**
 * A schedule of a contraction with results along m and n and a sum along k; m stands for all neighbouring axes along which
 * the operand with the columns does not change. Plain data.
 *  - `registerTile`: an invocation computes a block alone.
 *  - `subgroupOuter`: the lanes of a subgroup load rows and columns and broadcast the rows; the block is as many times
 *    `elements` as there are lanes, and takes `depth` terms at a time.
 *  - `workgroupTile`: a workgroup brings `depth` terms of both operands at a time to memory that it shares.
 *  - `panel`: on the cpu device, `elements[1]` lanes compute a panel of as many columns, `elements[0]` rows at a time, of a
 *    `block` of results along m and n. Both operands go to scratch memory, `depth` terms at most at a time; `direct`: they are
 *    read where they are, which is enough where there are few rows to share the columns.
 *  - `gemv`: for one short axis. `threads[1]` invocations walk the sum of the same results, `depth` terms each at a time, and
 *    add up what they have in a tree; all of the short axis, and `elements[1]` neighbours of the long one, are theirs.
 */
export type ContractionSchedule =
  & {
    /** Results of one invocation: along m and n; along the short axis (at most) and the long one. */
    readonly elements: readonly [number, number];
    /** Parts into which the sum is cut (split-k), which a second kernel adds up. */
    readonly parts: number;
  }
  & (
    | { readonly kind: "registerTile" }
    | { readonly kind: "subgroupOuter"; readonly subgroups: number; readonly depth: number }
    | {
      readonly kind: "workgroupTile";
      /** Invocations along m and n. */
      readonly threads: readonly [number, number];
      readonly depth: number;
      /** Neighbours that an invocation loads at a time. */
      readonly width: 1 | 4;
    }
    | {
      readonly kind: "panel";
      readonly block: readonly [m: number, n: number];
      readonly depth: number;
      readonly direct?: true;
    }
    | {
      readonly kind: "gemv";
      /** Invocations along the long axis and along k. */
      readonly threads: readonly [number, number];
      readonly depth: number;
    }
  );

export type WorkgroupTile = ContractionSchedule & { readonly kind: "workgroupTile" };
export type Panel = ContractionSchedule & { readonly kind: "panel" };
export type Gemv = ContractionSchedule & { readonly kind: "gemv" };

/** Along which index the neighbours of an operand lie in memory: its own one (m or n), or that of the sum. */
export type OperandLayout = "own" | "k" | "neither";

/** What is known of a contraction when its schedule is chosen. */
export interface Problem {
  readonly dtype: DType;
  /** Independent products. */
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** The operand that changes along m, and the one that changes along n. */
  readonly rows: OperandLayout;
  readonly columns: OperandLayout;
}

/** Workgroup memory of every WebGPU device, in bytes. */
const workgroupBytes = 16384;
/** Scratch memory of a panel on the cpu device, in bytes: what the caches near a core may hold. */
const panelBytes = 2 ** 20;
/** Results of one invocation: more of them do not fit into registers. */
const mostElements = 64;
/** The longest axis that counts as short. */
export const mostShort = 8;

export function isShort({ m, n }: Pick<Problem, "m" | "n">): boolean {
  return Math.min(m, n) <= mostShort;
}

/** Results of a workgroup along m and n. */
export function blockOf({ threads, elements }: WorkgroupTile): readonly [number, number] {
  return [threads[0] * elements[0], threads[1] * elements[1]];
}

/** Whether a schedule keeps the limits of a device, for contractions of any size. */
export function keepsLimits(schedule: ContractionSchedule, limits: Limits): boolean {
  switch (schedule.kind) {
    case "registerTile":
      return schedule.elements[0] * schedule.elements[1] <= mostElements;
    case "subgroupOuter":
      return limits.subgroupSize > 0 && limits.subgroupSize * schedule.subgroups <= limits.maxInvocationsPerWorkgroup &&
        schedule.elements[0] * schedule.elements[1] <= mostElements && schedule.depth <= mostElements;
    case "workgroupTile": {
      const { threads: [m, n], depth, width } = schedule;
      const block = blockOf(schedule);
      // All invocations bring equally many elements of each operand.
      const even = block.every((length) =>
        length % width === 0 && depth % width === 0 && (length * depth) % (width * m * n) === 0
      );
      return even && schedule.elements[1] > 1 && schedule.elements[0] * schedule.elements[1] <= mostElements &&
        m * n <= limits.maxInvocationsPerWorkgroup && 4 * depth * (block[0] + block[1]) <= workgroupBytes;
    }
    case "panel": {
      const { elements: [rows, columns], block: [m, n], depth } = schedule;
      return columns % 4 === 0 && rows * columns <= mostElements && m % rows === 0 && n % columns === 0 &&
        4 * (m * n + depth * (m + columns)) <= panelBytes;
    }
    case "gemv": {
      const { threads: [long, k], elements } = schedule;
      const isPower = (count: number) => Number.isInteger(Math.log2(count));
      return isPower(long) && isPower(k) && long * k <= limits.maxInvocationsPerWorkgroup && elements[0] <= mostShort &&
        4 * long * k * elements[0] * elements[1] <= workgroupBytes;
    }
  }
}

/** Whether a value has the form of a schedule, with numbers that make sense. */
export function isSchedule(value: unknown): value is ContractionSchedule {
  const { kind, elements, parts, ...rest } = Object(value) as Readonly<Record<string, unknown>>;
  const isCount = (x: unknown) => Number.isSafeInteger(x) && (x as number) >= 1 && (x as number) <= 2 ** 16;
  const isPair = (x: unknown) => Array.isArray(x) && x.length === 2 && x.every(isCount);
  if (!isPair(elements) || !isCount(parts)) return false;
  switch (kind) {
    case "registerTile":
      return true;
    case "subgroupOuter":
      return isCount(rest["subgroups"]) && isCount(rest["depth"]);
    case "workgroupTile":
      return isPair(rest["threads"]) && isCount(rest["depth"]) && (rest["width"] === 1 || rest["width"] === 4);
    case "panel":
      return isPair(rest["block"]) && isCount(rest["depth"]) && (rest["direct"] ?? true) === true;
    case "gemv":
      return isPair(rest["threads"]) && isCount(rest["depth"]);
    default:
      return false;
  }
}

/** A schedule that a class starts from, for problems that are like this. */
export interface Default {
  readonly schedule: ContractionSchedule;
  /** Fewer blocks leave the device idle: a smaller block is better. */
  readonly leastBlocks?: number;
  /** `computed`: of the operands, some are more than what is in memory. */
  readonly when?: (problem: Problem, computed: boolean) => boolean;
}

const outer = (rows: number, depth: number): ContractionSchedule => ({
  kind: "subgroupOuter",
  elements: [rows, 4],
  subgroups: 4,
  depth,
  parts: 1,
});

export function registerTile(edge: number): ContractionSchedule {
  return { kind: "registerTile", elements: [edge, edge], parts: 1 };
}

/** As many rows, each of whatever an invocation's lanes are. */
function rowsTile(rows: number): ContractionSchedule {
  return { kind: "registerTile", elements: [rows, 1], parts: 1 };
}

export function workgroupTile(
  threads: readonly [number, number],
  elements: readonly [number, number],
  depth: number,
  width: 1 | 4 = 4,
): WorkgroupTile {
  return { kind: "workgroupTile", threads, elements, depth, width, parts: 1 };
}

export function gemv(threads: readonly [number, number], long: number, depth: number): Gemv {
  return { kind: "gemv", threads, elements: [mostShort, long], depth, parts: 1 };
}

export function panel(
  elements: readonly [number, number],
  block: readonly [number, number],
  depth: number,
): Panel {
  return { kind: "panel", elements, block, depth, parts: 1 };
}

/** A panel whose operands are read where they are: a few rows of so many columns, `depth` terms at a time. */
export function strip(elements: readonly [number, number], columns: number, depth: number): Panel {
  return { ...panel(elements, [4 * elements[0], columns], depth), direct: true };
}

/** The layout of the operand along the long axis of a contraction with a short one. */
export function layoutOfLong({ m, n, rows, columns }: Problem): OperandLayout {
  return m < n ? columns : rows;
}

const results = ({ batch, m, n }: Problem) => batch * m * n;
const isNarrow = (most: number, ...lengths: readonly number[]) => lengths.every((length) => length <= most);

/** Vectors of neighbours along the long axis, or of neighbours along the sum. */
const gemvs: readonly Default[] = [
  { schedule: gemv([16, 8], 4, 1), when: (p) => isShort(p) && layoutOfLong(p) === "own" },
  { schedule: gemv([1, 64], 1, 4), when: isShort },
];

/** Blocks for whatever is left, wide or narrow. */
const smallBlocks: readonly Default[] = [
  { schedule: workgroupTile([8, 8], [2, 2], 16), when: ({ m, n }) => isNarrow(16, m, n) },
  { schedule: workgroupTile([16, 4], [2, 4], 16), when: ({ n }) => isNarrow(16, n) },
  { schedule: workgroupTile([4, 16], [4, 2], 16), when: ({ m }) => isNarrow(16, m) },
  { schedule: workgroupTile([8, 8], [4, 4], 8) },
  { schedule: registerTile(4) },
];

/**
 * Whether what bringing both operands to scratch memory costs is less than what it saves: where the columns are read again and again
 * from beyond the nearest caches, or lane by lane, or where operands are computed. Narrow products do not earn back what packing the rows costs.
 */
function isWorthStaging({ m, n, k, columns }: Problem, computed: boolean): boolean {
  return m >= 16 && n >= 32 && k >= 16 && (n >= 512 || n * k >= 2 ** 19 || columns !== "own" || computed);
}

/** Columns of a strip, which are read in one piece, and rows of them that are read at a time: as many as can be fetched ahead. */
export const stripWidth = 1024;
export const stripDepth = 16;

/** Whether so many columns of so many terms do not stay in the nearest cache. */
export function isLongStrip(columns: number, terms: number): boolean {
  return columns >= 64 && terms >= 64 && columns * terms >= 2 ** 17;
}

/**
 * Whether a few rows read the columns from far away: by one column after the other they would come to a row of them in every step,
 * and to none of its neighbours for long.
 */
function isStrip({ m, n, k, columns }: Problem): boolean {
  return m <= 8 && isLongStrip(n, k) && columns === "own";
}

/** The first that suits is taken. */
export const defaults: Readonly<Record<DeviceClass, readonly Default[]>> = {
  discrete: [
    ...gemvs,
    { schedule: workgroupTile([16, 16], [8, 8], 8), leastBlocks: 256 },
    { schedule: workgroupTile([16, 16], [4, 4], 16), leastBlocks: 64 },
    ...smallBlocks,
  ],
  integrated: [
    ...gemvs,
    { schedule: workgroupTile([16, 16], [4, 4], 16), leastBlocks: 64 },
    ...smallBlocks,
  ],
  software: [
    // A large block takes the driver longer to compile, which a small problem does not earn back, nor short sums, which take
    // less time than loading and storing the block. Rows that are neighbours in memory are loaded as a vector, else
    // neighbouring terms of a row are.
    { schedule: outer(1, 2), when: (p) => p.k <= 32 && results(p) < 2 ** 17 },
    { schedule: outer(4, 4), when: (p) => p.rows === "k" && results(p) >= 2 ** 20 },
    { schedule: outer(2, 4), when: (p) => p.rows === "k" },
    { schedule: outer(4, 2), when: (p) => p.rows === "own" && results(p) >= 2 ** 17 },
    { schedule: outer(2, 2) },
    { schedule: registerTile(8), leastBlocks: 64 },
    { schedule: registerTile(4) },
  ],
  wasm: [
    { schedule: strip([2, 16], stripWidth, stripDepth), when: (p) => isStrip(p) && p.m <= 2 },
    { schedule: strip([4, 8], stripWidth, stripDepth), when: isStrip },
    { schedule: panel([4, 8], [128, 256], 256), when: isWorthStaging },
    { schedule: rowsTile(4) },
  ],
  js: [{ schedule: registerTile(4) }],
};

/** When a sum is cut: fewer than `blocks` blocks leave a device idle; no part is shorter than `leastTerms`. */
const splits: Readonly<Record<DeviceClass, { readonly blocks: number; readonly leastTerms: number } | undefined>> = {
  discrete: { blocks: 128, leastTerms: 256 },
  integrated: { blocks: 32, leastTerms: 256 },
  // Only for few results of very long sums: the gradient of a convolution's first kernel.
  software: { blocks: 16, leastTerms: 1024 },
  wasm: undefined,
  js: undefined,
};

/** Whether sums of contractions may be cut for a class at all. */
export function splitsSums(of: DeviceClass): boolean {
  return splits[of] !== undefined;
}

/** Into how many parts the sum of a contraction is cut, if nothing better is known. */
export function defaultParts(problem: Problem, of: DeviceClass): number {
  const rule = splits[of];
  if (rule === undefined) return 1;
  const { m, n, k } = problem;
  // The smallest workgroupTile, and a workgroup of a gemv.
  const block = !isShort(problem) ? 1024 : Math.min(m, n) * (layoutOfLong(problem) === "own" ? 64 : 1);
  return Math.max(
    1,
    Math.min(Math.ceil(rule.blocks / Math.ceil(results(problem) / block)), Math.floor(k / rule.leastTerms)),
  );
}

/** A number as its bucket: the power of two that is not below it. */
function bucket(length: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, length)));
}

/** Contractions of one signature share what was tuned: as in `f32 1x512x64x1024 rows own columns k` (batch, m, n, k). */
export function signatureOf({ dtype, batch, m, n, k, rows, columns }: Problem): string {
  return `${dtype} ${[batch, m, n, k].map(bucket).join("x")} rows ${rows} columns ${columns}`;
}

/** A schedule in words, as in `workgroupTile 16x16 threads of 4x4, 16 deep`. */
export function describeSchedule(schedule: ContractionSchedule): string {
  const { kind, elements, parts } = schedule;
  const cut = parts > 1 ? `, ${parts} parts` : "";
  const block = elements.join("x");
  switch (kind) {
    case "registerTile":
      return `${kind} ${block}${cut}`;
    case "subgroupOuter":
      return `${kind} ${block} a lane, ${schedule.subgroups} subgroups, ${schedule.depth} deep${cut}`;
    case "workgroupTile":
      return `${kind} ${
        schedule.threads.join("x")
      } threads of ${block}, ${schedule.depth} deep, by ${schedule.width}${cut}`;
    case "panel":
      return `${kind} ${block} of ${schedule.block.join("x")}, ${schedule.depth} deep${
        schedule.direct === true ? ", direct" : ""
      }${cut}`;
    case "gemv":
      return `${kind} ${schedule.threads.join("x")} threads of ${elements[1]}, ${schedule.depth} deep${cut}`;
  }
}
