/** Whether a kernel may write a value over another one that it reads, so that the two need only one memory. */
import { type Access, accessesOf } from "../kernel/accesses.ts";
import { eachLeaf, type Index, type Term, type Variable } from "../kernel/index-arithmetic.ts";
import type { Expr, KernelIR } from "../kernel/ir.ts";

/**
 * Whether every element that is loaded from buffer `from` is one that the same invocation stores to buffer `to` later on,
 * and never before: then both may be in one memory. `from` and `to` may be the same buffer.
 *
 * It is enough that each load has stores that come after it and run over its elements, at the same place in the same pass of
 * a loop, or in a loop that follows; and that no store comes before a load.
 */
export function overwritesWhatItRead(ir: KernelIR, from: number, to: number): boolean {
  const accesses = accessesOf(ir);
  const loads = accesses.loads.filter(({ buffer }) => buffer === from);
  const stores = accesses.stores.filter(({ buffer }) => buffer === to);
  if (!stores.every((store) => !store.accumulates && isOneToOne(store, ir.parallel))) return false;
  if (loads.some((load) => stores.some((store) => !follows(store, load)))) return false;
  return loads.every((load) => {
    const later = stores.filter((store) => follows(store, load));
    return later.some((store) => sameElements(load, store)) || later.some((store) => span(store, later, load));
  });
}

/** The same of slots. A kernel that is none writes over nothing. */
export function overwritesSlot(ir: KernelIR | undefined, from: number, to: number): boolean {
  if (ir === undefined) return false;
  const bufferOf = (slot: number) => ir.buffers.findIndex((buffer) => buffer.slot === slot);
  return overwritesWhatItRead(ir, bufferOf(from), bufferOf(to));
}

/** Whether each invocation, in each pass of its loops, stores to another element, as far as the index tells. */
function isOneToOne({ index, loops }: Access, parallel: readonly Variable[]): boolean {
  if (!isExact(index)) return false;
  const seen = new Set<Variable>();
  let known = true;
  eachLeaf(index, (leaf) => {
    if (leaf.kind === "variable") seen.add(leaf.variable);
    else known = false;
  });
  return known && [...parallel, ...loops].every((variable) => variable.extent <= 1 || seen.has(variable));
}

/** Whether nothing in an index is clamped: at the edge of a tile that leads to elements of the tile before. */
function isExact({ terms }: Index): boolean {
  return terms.every(({ atom }) =>
    atom.kind === "variable" || atom.kind === "value" || (atom.kind !== "min" && isExact(atom.of))
  );
}

/** Whether `later` comes after `earlier` in whatever both stand in. */
function follows(later: Access, earlier: Access): boolean {
  const apart = earlier.path.findIndex((position, depth) => position !== later.path[depth]);
  return earlier.path[apart]! < (later.path[apart] ?? -1);
}

/** Whether two accesses run over the same elements, those of the loops that both stand in pass by pass. */
function sameElements(a: Access, b: Access): boolean {
  const common = commonLoops(a, b);
  return pattern(a, common) === pattern(b, common);
}

function commonLoops(a: Access, b: Access): readonly Variable[] {
  return a.loops.filter((loop) => b.loops.includes(loop));
}

/** An index and its guard, with the loops of its own, that is, not in `common`, named by their order and number of passes. */
function pattern({ index, when, loops }: Access, common: readonly Variable[]): string {
  const names = new Map<Variable, string>();
  for (const loop of loops) {
    if (loop.extent > 1 && !common.includes(loop)) names.set(loop, `#${names.size}:${loop.extent}`);
  }
  return `${spell(index, names)} ${when === undefined ? "" : spellGuard(when, names)}`;
}

type Names = ReadonlyMap<Variable, string>;

function spellGuard(guard: Expr, names: Names): string {
  if (guard.kind === "within") return `${guard.low}<=${spell(guard.index, names)}<${guard.high}`;
  if (guard.kind === "op") return `${guard.op}(${guard.args.map((arg) => spellGuard(arg, names)).join()})`;
  return `e${guard.id}`;
}

function spell({ terms, offset }: Index, names: Names = new Map()): string {
  const parts = terms.map(({ atom, coefficient }) => {
    const text = atom.kind === "variable"
      ? names.get(atom.variable) ?? atom.key
      : atom.kind === "value"
      ? atom.key
      : `${atom.kind}(${spell(atom.of, names)},${atom.kind === "min" ? atom.limit : atom.by})`;
    return `${coefficient}*${text}`;
  });
  return `${parts.sort().join("+")}+${offset}`;
}

/** An index as a place that depends on loops in common, and what loops of its own add to it. */
interface Range {
  readonly place: string;
  /** Coefficients and numbers of passes of its own loops, the smallest coefficient first. */
  readonly steps: readonly { readonly by: number; readonly passes: number }[];
  readonly offset: number;
}

/** Undefined where its own loops do more than to add a multiple, and where it is guarded. */
function rangeOf({ index, when, loops }: Access, common: readonly Variable[]): Range | undefined {
  if (when !== undefined) return undefined;
  const own = (variable: Variable) => loops.includes(variable) && !common.includes(variable);
  const rest: Term[] = [];
  const steps: { by: number; passes: number }[] = [];
  for (const term of index.terms) {
    const { atom, coefficient } = term;
    let isOwn = false;
    eachLeaf({ ...index, terms: [term] }, (leaf) => isOwn ||= leaf.kind === "variable" && own(leaf.variable));
    if (!isOwn) rest.push(term);
    else if (atom.kind === "variable" && coefficient > 0) steps.push({ by: coefficient, passes: atom.variable.extent });
    else return undefined;
  }
  return {
    place: spell({ ...index, terms: rest, offset: 0 }),
    steps: steps.sort((a, b) => a.by - b.by),
    offset: index.offset,
  };
}

/** Whether `store`, with those of `others` that differ from it by an offset, leaves no gap where `load` runs. */
function span(store: Access, others: readonly Access[], load: Access): boolean {
  const common = commonLoops(store, load);
  const [stored, loaded] = [rangeOf(store, common), rangeOf(load, common)];
  if (stored === undefined || loaded === undefined || stored.place !== loaded.place) return false;
  const alike = others.map((other) => rangeOf(other, common))
    .filter((range) => range !== undefined && range.place === stored.place && sameSteps(range, stored)) as Range[];
  const offsets = new Set(alike.map(({ offset }) => offset));
  const begin = Math.min(...offsets);
  let length = 1;
  while (offsets.has(begin + length)) length++;
  if (length !== offsets.size) return false;
  for (const { by, passes } of stored.steps) {
    if (by !== length) return false;
    length *= passes;
  }
  const reach = loaded.steps.reduce((sum, { by, passes }) => sum + by * (passes - 1), 0);
  return loaded.offset >= begin && loaded.offset + reach < begin + length;
}

function sameSteps(a: Range, b: Range): boolean {
  return a.steps.length === b.steps.length &&
    a.steps.every(({ by, passes }, i) => by === b.steps[i]!.by && passes === b.steps[i]!.passes);
}
