/**
 * Which nodes share a kernel. Walking from the roots down, every node learns from where and at which indices it is
 * read; from that it is either computed inside its readers' kernels or gets a kernel of its own:
 *  - elementwise and movement ops are computed where they are read, as long as no reduction is done twice for it;
 *  - a reduction takes in its readers (epilogue) when one kernel reads each element once, or joins a row kernel when
 *    its readers span the very row that it reduces (softmax, layer norm): there it is computed once per row;
 *  - a contraction (a sum of products of broadcast operands) reads operands that are data, not arithmetic.
 */
import { InternalError } from "../../errors.ts";
import { isKind, isReading, type Node, type NodeOf, type ReductionNode, toposort } from "../../graph/node.ts";
import { elementwise, type ElementwiseOp, isElementwise } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import {
  isFree,
  isMovement,
  isStored,
  kernelOf,
  readsMemory,
  type StructuralOf,
  type StructuralReading,
} from "../../graph/structural.ts";
import { eachLeaf, type Index, valueIndex, type Variable, variableIndex } from "../kernel/index-arithmetic.ts";
import { isContraction, isMarking, isProduct } from "../kernel/patterns.ts";
import { sourceIndices, termIndices } from "../kernel/source-indices.ts";
import type { Draft } from "./draft.ts";

/** One way in which a kernel reads a node. */
export interface Read {
  readonly draft: Draft;
  readonly indices: readonly Index[];
  /** The variables of the reduction in whose body the read is. */
  readonly loop: readonly Variable[];
  /** Read as an operand of a contraction, so once per element of the other operand. */
  readonly operand: boolean;
}

export interface Schedule {
  /** In the order of their roots' creation: sources first. */
  readonly drafts: readonly Draft[];
  /** How kernels read each node, whether it is in memory or computed there. */
  readonly reads: ReadonlyMap<Node, readonly Read[]>;
}

/** A row kernel walks a row serially: rows longer than this, or fewer than `minRows` of them, are not worth it. */
const maxSerialRow = 16384;
const minRows = 64;
const maxLoneRow = 4096;
/** Most terms of a reduction that is done again for each of several elements that read one result; more of them, at most twice. */
const mostRepeated = 16;
/** Most nodes of a test that is made again for each weight of what it is about. */
const maxTest = 24;
/** Longest chain of ops computed in one kernel. */
const maxDepth = 64;

export interface ScheduleOptions {
  readonly roots: readonly Node[];
  readonly given: ReadonlySet<Node>;
  /** Nodes that must be in memory, beyond those that the ops themselves ask for. */
  readonly stored: ReadonlySet<Node>;
  /** False: every op gets a kernel. */
  readonly fuse: boolean;
}

/** Nodes that have to be in memory whatever reads them. */
function storedNodes({ roots, given, stored, fuse }: ScheduleOptions, order: readonly Node[]): Set<Node> {
  const result = new Set<Node>([...roots, ...stored].filter((node) => !given.has(node)));
  for (const node of order) {
    if (given.has(node)) continue;
    if (isStored(node)) result.add(node);
    if (readsMemory(node)) { for (const source of node.src) if (!given.has(source)) result.add(source); }
    if (!fuse && computes(node)) result.add(node);
  }
  return result;
}

function computes(node: Node): boolean {
  return !isMovement(node) && kernelOf(node) !== "number";
}

/** Nodes at which chains of ops longer than a kernel should hold are to be cut. */
function tooDeep({ roots, given }: ScheduleOptions, { drafts }: Schedule): Node[] {
  const inMemory = new Set(drafts.map((draft) => draft.root));
  const depth = new Map<Node, number>();
  const cuts: Node[] = [];
  for (const node of toposort(roots, (node) => !given.has(node))) {
    let below = 0;
    for (const source of given.has(node) ? [] : node.src) below = Math.max(below, depth.get(source)!);
    const cut = below >= maxDepth && computes(node) && !inMemory.has(node);
    if (cut) cuts.push(node);
    depth.set(node, cut || inMemory.has(node) ? 0 : below + 1);
  }
  return cuts;
}

/** Decides the kernels of a graph. */
export function schedule(options: ScheduleOptions): Schedule {
  // Where the result of a contraction is stored shows only at the end of a pass, but how its readers fuse depends on it:
  // so try again with that known, until a pass finds no further one.
  const stored = new Set(options.stored);
  for (;;) {
    const result = schedulePass({ ...options, stored });
    const found = result.drafts.filter(({ root, contraction }) => contraction !== undefined && !stored.has(root)).map((
      { root },
    ) => root);
    if (found.length === 0) found.push(...tooDeep(options, result));
    if (found.length === 0) return result;
    for (const node of found) stored.add(node);
  }
}

/** Whether a reduction, or even a contraction, would be computed along with a node. */
type Reduces = "none" | "row" | "contraction";

function reducedBelow(
  order: readonly Node[],
  given: ReadonlySet<Node>,
  stored: ReadonlySet<Node>,
): Map<Node, Reduces> {
  const result = new Map<Node, Reduces>();
  for (const node of order) {
    let below: Reduces = "none";
    if (!given.has(node)) {
      for (const source of stored.has(node) && kernelOf(node) !== "reduction" ? [] : node.src) {
        const kind = stored.has(source) ? "none" : result.get(source) ?? "none";
        if (kind === "contraction" || below === "none") below = kind;
      }
      if (isContraction(node)) below = "contraction";
      else if (kernelOf(node) === "reduction" && below === "none") below = "row";
    }
    result.set(node, below);
  }
  return result;
}

function schedulePass(options: ScheduleOptions): Schedule {
  const { given, roots } = options;
  const order = toposort(roots, (node) => !given.has(node));
  const stored = storedNodes(options, order);
  const below = reducedBelow(order, given, stored);
  let variableCount = 0;
  const freshVariables = (extents: readonly number[]) =>
    extents.map((extent): Variable => ({ name: `s${variableCount++}`, extent }));
  const reads = new Map<Node, Read[]>();
  const drafts: Draft[] = [];
  const record = (node: Node, read: Read) => {
    const list = reads.get(node);
    if (list === undefined) reads.set(node, [read]);
    else if (!list.some((known) => sameRead(known, read))) list.push(read);
  };
  const descend = (node: Node, read: Read) => {
    for (const { source, ...step } of sourceReads(node, read, freshVariables)) {
      record(source, { ...read, ...step });
    }
  };

  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i]!;
    if (given.has(node)) continue;
    const own = reads.get(node) ?? [];
    if (stored.has(node) || !computedWhereRead(node, own, below, given, stored)) {
      stored.add(node);
      const variables = freshVariables(node.shape);
      const draft: Draft = { id: i, root: node, variables, outer: undefined, contraction: undefined };
      drafts.push(draft);
      if (isContraction(node)) draft.contraction = node as ReductionNode;
      if (!readsMemory(node)) {
        descend(node, { draft, indices: variables.map(variableIndex), loop: [], operand: false });
      } else {
        for (const source of node.src) {
          record(source, {
            draft,
            indices: source.shape.map((n) => variableIndex({ name: "any", extent: n })),
            loop: variables,
            operand: false,
          });
        }
      }
    } else {
      for (const read of own) descend(node, read);
    }
  }
  return { drafts: drafts.reverse(), reads };
}

function sameRead(a: Read, b: Read): boolean {
  return a.draft === b.draft && a.operand === b.operand &&
    a.indices.every((index, axis) => index.key === b.indices[axis]!.key);
}

/** A read, whichever kernel does it. */
type Place = Omit<Read, "draft">;
type SourcePlace = Place & { readonly source: Node };

/** Where a node that is computed for a read reads its sources. */
function sourceReads(
  node: Node,
  { indices, loop, operand }: Place,
  freshVariables: (extents: readonly number[]) => Variable[],
): SourcePlace[] {
  if (isKind(node, "reduction")) {
    const source = node.src[0];
    const { axes } = node.attrs;
    const along = freshVariables(axes.map((axis) => source.shape[axis]!));
    const term = termIndices(node, indices, along.map(variableIndex));
    return [{ source, indices: term, loop: along, operand: isContraction(node) }];
  }
  if (isKind(node, "lookup")) {
    const [x, index] = node.src;
    const name = `gather${node.id}[${indices.map((i) => i.key)}]`;
    const read = indices.map((i, axis) => axis === node.attrs.axis ? valueIndex(name, x.shape[axis]!) : i);
    return [{ source: x, indices: read, loop, operand }, { source: index, indices, loop, operand }];
  }
  if (isKind(node, "own")) return ownReads(node, indices, freshVariables);
  if (isMovement(node)) return [{ source: node.src[0], indices: sourceIndices(node, indices).indices, loop, operand }];
  if (operand && isMarking(node)) {
    // Weights are in memory; what is seen is told where they are loaded, if that is soon done.
    return node.src.map((source, i) => ({ source, indices, loop, operand: i === 1 || !isSoonDone(source) }));
  }
  if (kernelOf(node) === "inside") return node.src.map((source) => ({ source, indices, loop, operand }));
  if (kernelOf(node) === "number") return [];
  throw notInside(node);
}

function notInside(node: Node): InternalError {
  return new InternalError("schedule", {
    got: `${node.op} inside a kernel`,
    need: "an op that is computed in others' kernels",
  });
}

/** What a kernel of its own reads for one element of a node. */
function ownReads(
  node: NodeOf<StructuralOf<"own">>,
  indices: readonly Index[],
  freshVariables: (extents: readonly number[]) => Variable[],
): SourcePlace[] {
  if (!isReading(node, "axis")) return attentionReads(node, indices, freshVariables);
  const { axis } = node.attrs;
  // Sources of one length are read side by side.
  const lengths = [...new Set(node.src.map((source) => source.shape[axis]!))];
  const variables = freshVariables(lengths);
  return node.src.map((source) => {
    const along = variables[lengths.indexOf(source.shape[axis]!)]!;
    return {
      source,
      indices: indices.map((index, i) => i === axis ? variableIndex(along) : index),
      loop: [along],
      operand: false,
    };
  });
}

/** All that an attention reads for one of its elements: features of one query, of all keys. The bias may be computed there. */
function attentionReads(
  node: NodeOf<StructuralReading<"matrices">>,
  indices: readonly Index[],
  freshVariables: (extents: readonly number[]) => Variable[],
): SourcePlace[] {
  const batch = indices.slice(0, -2);
  const hasBias = node.src.length === (node.op === "attention" ? 4 : 7);
  const [t, s] = [node.src[0]!.shape.at(-1)!, node.src[1]!.shape.at(-1)!];
  const positions = freshVariables([t, s]);
  return node.src.map((source, i) => {
    if (hasBias && i === node.src.length - 1) {
      return { source, indices: [...batch, ...positions.map(variableIndex)], loop: positions, operand: false };
    }
    const features = freshVariables([source.shape.at(-2)!]);
    const loop = [...features, positions[i === 1 || i === 2 ? 1 : 0]!];
    return { source, indices: [...batch, ...loop.map(variableIndex)], loop, operand: true };
  });
}

/** Whether `node` is computed inside the kernels that read it. */
function computedWhereRead(
  node: Node,
  reads: readonly Read[],
  reduced: ReadonlyMap<Node, Reduces>,
  given: ReadonlySet<Node>,
  stored: ReadonlySet<Node>,
): boolean {
  if (isMovement(node) || kernelOf(node) === "number") return true;
  if (isKind(node, "reduction")) return joinReaders(node, reads);
  if (kernelOf(node) !== "inside" && kernelOf(node) !== "lookup") throw notInside(node);
  // What is to be in memory is the f16 itself.
  if (node.op === "cast" && node.src[0].dtype === "f16") return true;
  const first = reads[0];
  if (first === undefined) return true;
  const several = reads.some((read) => read.draft !== first.draft);
  // An operand of a contraction is read again and again: anything but a conversion is computed once and stored.
  if (
    !isConversion(node) && !isMarking(node) && reads.some((read) => read.operand) && !isInsideContraction(node, reads)
  ) return false;
  const below = reduced.get(node) ?? "none";
  if (below === "contraction" && several) return false;
  if (below !== "none" && reads.some((read) => isHostile(node, read, given, stored))) return false;
  // Two passes over a row (the sum of a softmax, and its quotients) are worth a second computation; three are not.
  const perDraft = reads.filter((read) => read.draft === first.draft).length;
  return perDraft <= 2 || (below === "none" && !isHeavy(node));
}

/** Rounding to f16 is arithmetic, and what it gives is smaller in memory; the others are an instruction at most. */
function isConversion(node: Node): boolean {
  return node.op === "cast" && node.dtype !== "f16";
}

/** Whether a value is a few light ops of what is in memory, or of positions. */
function isSoonDone(node: Node): boolean {
  const stack = [node];
  for (let count = 0; stack.length > 0; count++) {
    const x = stack.pop()!;
    const light = isFree(x) || (kernelOf(x) === "inside" && !isHeavy(x));
    if (count === maxTest || !light) return false;
    stack.push(...x.src);
  }
  return true;
}

/** The product of a contraction is read as its operand too, once per term of the sum. */
function isInsideContraction(node: Node, reads: readonly Read[]): boolean {
  if (!isProduct(node)) return false;
  return reads.every((read) => {
    if (!read.operand) return true;
    const variables = variablesOf(read.indices)?.variables;
    const loops = [...read.draft.variables, ...read.loop].filter((variable) => variable.extent > 1);
    return variables !== undefined && loops.every((variable) => variables.has(variable));
  });
}

function isHeavy(node: Node): boolean {
  if (!isElementwise(node.op)) return false;
  const record: ElementwiseOp = elementwise[node.op];
  return record.heavy === true;
}

/** The loop variables that indices depend on; undefined where they depend on data. */
function variablesOf(indices: readonly Index[]): { variables: Set<Variable> } | undefined {
  const variables = new Set<Variable>();
  let data = false;
  for (const index of indices) {
    eachLeaf(index, (leaf) => {
      if (leaf.kind === "variable") variables.add(leaf.variable);
      else data = true;
    });
  }
  return data ? undefined : { variables };
}

/** The variables to which a reduction read so can be hoisted in a row kernel, if that kernel can take it. */
function rowVariables(reduction: ReductionNode, read: Read): Set<Variable> | undefined {
  const { draft } = read;
  if (draft.contraction !== undefined || isContraction(reduction)) return undefined;
  const outer = variablesOf(read.indices)?.variables;
  if (outer === undefined) return undefined;
  for (const variable of outer) if (!draft.variables.includes(variable)) return undefined;
  if (draft.outer !== undefined && !(draft.outer.size === outer.size && [...outer].every((v) => draft.outer!.has(v)))) {
    return undefined;
  }
  const rows = [...outer].reduce((n, variable) => n * variable.extent, 1);
  const source = reduction.src[0];
  const length = reduction.attrs.axes.reduce((n, axis) => n * source.shape[axis]!, 1);
  // Where rows are laid out flat with what is computed of them, each element would redo the reduction.
  if (length > mostRepeated && rows > 2 * size(reduction.shape)) return undefined;
  // What remains of the kernel runs serially within a row, too.
  const rest = draft.variables.reduce((n, variable) => outer.has(variable) ? n : n * variable.extent, 1);
  const row = Math.max(length, rest);
  return row <= (rows >= minRows ? maxSerialRow : maxLoneRow) ? outer : undefined;
}

/** Puts a reduction into its readers' kernels if that repeats no work; says whether it did. */
function joinReaders(reduction: ReductionNode, reads: readonly Read[]): boolean {
  const [only] = reads;
  if (only === undefined) return false;
  if (reads.length === 1 && only.loop.length === 0 && !only.operand) {
    const { draft } = only;
    const variables = variablesOf(only.indices)?.variables;
    const each = draft.variables.every((variable) => variable.extent <= 1 || variables?.has(variable));
    const contraction = isContraction(reduction);
    if (variables !== undefined && each && size(reduction.shape) === size(draft.root.shape)) {
      if (!contraction && draft.contraction === undefined) {
        if (draft.outer === undefined) draft.outer = variables;
        return true;
      }
      if (contraction && draft.contraction === undefined && draft.outer === undefined) {
        draft.contraction = reduction;
        return true;
      }
    }
  }
  const rows = reads.map((read) => rowVariables(reduction, read));
  if (rows.includes(undefined)) return false;
  // Two reads from one kernel must agree on what its rows are.
  const chosen = new Map<Draft, Set<Variable>>();
  for (let i = 0; i < reads.length; i++) {
    const known = chosen.get(reads[i]!.draft);
    if (known !== undefined && (known.size !== rows[i]!.size || [...known].some((v) => !rows[i]!.has(v)))) return false;
    chosen.set(reads[i]!.draft, rows[i]!);
  }
  for (const [draft, outer] of chosen) draft.outer = outer;
  return true;
}

/**
 * Whether computing `node` for `read` would redo a reduction of its own size in every pass of a loop. Then the node
 * itself is stored; a larger node is computed there, and the question asked again further down.
 */
function isHostile(node: Node, read: Read, given: ReadonlySet<Node>, stored: ReadonlySet<Node>): boolean {
  const stack: { node: Node; at: Place }[] = [{ node, at: read }];
  const seen = new Set<string>();
  while (stack.length > 0) {
    const { node: current, at } = stack.pop()!;
    if (given.has(current) || (stored.has(current) && current !== node)) continue;
    const key = `${current.id}:${at.indices.map((index) => index.key)}`;
    if (seen.has(key)) continue;
    seen.add(key);
    if (isKind(current, "reduction")) {
      if (size(current.shape) !== size(node.shape)) continue;
      const asEpilogue = read.loop.length === 0 && !read.operand && isBijective(at.indices, read.draft);
      if (!asEpilogue && rowVariables(current, { ...read, ...at }) === undefined) return true;
      continue;
    }
    for (const { source, ...next } of sourceReads(current, at, () => [])) stack.push({ node: source, at: next });
  }
  return false;
}

function isBijective(indices: readonly Index[], draft: Draft): boolean {
  const variables = variablesOf(indices)?.variables;
  return variables !== undefined &&
    draft.variables.every((variable) => variable.extent <= 1 || variables.has(variable));
}
