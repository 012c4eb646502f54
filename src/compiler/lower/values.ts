/** The values of nodes in a kernel. All lanes of an invocation are lowered together, so that they share loops and loads. */
import { InternalError } from "../../errors.ts";
import { isKind, type Node, type NodeOf, type ReductionNode } from "../../graph/node.ts";
import { type ElementwiseName, isElementwise, isReduction, reductions } from "../../graph/ops.ts";
import { size } from "../../graph/shape.ts";
import { isMovement, type StructuralOf } from "../../graph/structural.ts";
import { constantIndex, type Index, unflatten, valueIndex } from "../kernel/index-arithmetic.ts";
import { deeper, type Expr, type KernelBuilder, type Lane } from "../kernel/ir.ts";
import { locate, type Memory } from "../kernel/location.ts";
import { isContraction } from "../kernel/patterns.ts";
import { sourceIndices, termIndices } from "../kernel/source-indices.ts";
import type { Tile } from "../tile/tile.ts";
import type { Domain } from "./domain.ts";
import { gemvResults } from "./gemv.ts";
import { panelSums } from "./panel-contraction.ts";
import { isShareOfRow, isUnderMost } from "./known-ranges.ts";
import { reducedInLoops } from "./reduction-loops.ts";
import { blockProducts } from "./subgroup-contraction.ts";
import { stagedSums } from "./workgroup-contraction.ts";

/** Terms of a reduction that are written out. */
const mostUnrolled = 4;

export class Values {
  readonly #builder: KernelBuilder;
  readonly #memory: Memory;
  /** The values that the kernel is for: they are not read from memory. */
  readonly #roots: ReadonlySet<Node>;
  /** How reductions are walked; undefined in a kernel of an op's own, where each invocation does all of them. */
  readonly #domain: Domain | undefined;
  /** Terms of a reduction per pass of its loop, and how a contraction's loops are. */
  readonly #unrolled: number;
  readonly #axisLoops: boolean;
  readonly #knownRanges: boolean;
  readonly #known = new Map<string, readonly Expr[]>();

  constructor(
    builder: KernelBuilder,
    memory: Memory,
    roots: ReadonlySet<Node>,
    domain: Domain | undefined,
    { reduce, axisLoops, knownRanges }: Pick<Tile, "reduce" | "axisLoops" | "knownRanges">,
  ) {
    this.#builder = builder;
    this.#memory = memory;
    this.#roots = roots;
    this.#domain = domain;
    this.#unrolled = reduce;
    this.#axisLoops = axisLoops;
    this.#knownRanges = knownRanges;
  }

  /** The values of a node at some elements; equal elements are computed once. Recursion is bounded by the scheduler's depth. */
  readonly of = (node: Node, at: readonly Lane[]): readonly Expr[] => {
    const lanes = isReduction(node.op) ? at.map((lane) => this.#withoutInnerGuard(lane)) : at;
    const keys = lanes.map((lane) => `${lane.indices.map((index) => index.key).join()}?${lane.when?.id ?? ""}`);
    const distinct = new Map<string, number>();
    const unique: Lane[] = [];
    lanes.forEach((lane, i) => {
      if (distinct.has(keys[i]!)) return;
      distinct.set(keys[i]!, unique.length);
      unique.push(lane);
    });
    const key = `${node.id}@${[...distinct.keys()].join(";")}`;
    let values = this.#known.get(key);
    if (values === undefined) this.#known.set(key, values = this.#compute(node, unique));
    return keys.map((key) => values[distinct.get(key)!]!);
  };

  /**
   * The lane of a reduction for all passes of a loop, or all members of a team, that only its guard tells apart: so that it is
   * computed once, before the loop, and by the team together.
   */
  #withoutInnerGuard(lane: Lane): Lane {
    const { indices, when } = lane;
    if (when === undefined) return lane;
    const depth = Math.max(0, ...indices.map((index) => this.#builder.scopeOfIndex(index).depth));
    const ofMember = this.#isOfMember(indices);
    const all = conditions(when);
    const kept = all.filter((condition) =>
      condition.scope.depth <= depth && (ofMember || !this.#isOfMember([condition]))
    );
    return kept.length === all.length ? lane : { indices, when: this.#all(kept) };
  }

  /** Whether members of a team, if there is one, have different ones. */
  #isOfMember(of: readonly (Index | Expr)[]): boolean {
    const domain = this.#domain;
    return domain?.kind === "team" && of.some((one) => this.#builder.dependsOn(one, domain.member));
  }

  #all(conditions: readonly Expr[]): Expr | undefined {
    return conditions.reduce<Expr | undefined>((all, condition) => this.#builder.and(all, condition), undefined);
  }

  #compute(node: Node, lanes: readonly Lane[]): readonly Expr[] {
    return this.#loaded(node, lanes) ?? this.#computed(node, lanes);
  }

  /** Undefined where it is not in memory before the kernel runs. */
  #loaded(node: Node, lanes: readonly Lane[]): readonly Expr[] | undefined {
    const location = this.#roots.has(node) ? undefined : this.#memory.source(node);
    if (location === undefined) return undefined;
    const buffer = this.#builder.buffer(location.slot, node.dtype, "read");
    return lanes.map((lane) => this.#builder.load(buffer, locate(location, lane.indices), lane.when));
  }

  #computed(node: Node, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    if (isKind(node, "reduction")) return this.#reduction(node, lanes);
    if (isElementwise(node.op)) {
      const sources = node.src.map((source) => this.of(source, lanes));
      if (this.#knownRanges && isShareOfRow(node)) {
        const one = builder.constant(1, node.dtype);
        return lanes.map((_, i) => builder.op("mul", sources[0]![i]!, builder.op("div", one, sources[1]![i]!)));
      }
      const op = this.#knownRanges && isUnderMost(node) ? "expUnder" : node.op as ElementwiseName;
      return lanes.map((_, i) => builder.op(op, ...sources.map((values) => values[i]!)));
    }
    switch (node.op) {
      case "const":
        return lanes.map(() => builder.constant(node.attrs.value, node.dtype));
      case "iota":
        return lanes.map((lane) => builder.index(lane.indices[0]!, node.dtype));
      case "cast":
      case "bitcast":
        return this.of(node.src[0], lanes).map((value) =>
          builder.convert(node.op as "cast" | "bitcast", value, node.dtype)
        );
      case "gather":
        return this.#gather(node.src[0], node.src[1], node.attrs.axis, lanes);
      default:
        if (isMovement(node)) return this.#movement(node, lanes);
        throw new InternalError("lower", {
          got: `${node.op} inside a kernel`,
          need: "an op that can be computed there",
        });
    }
  }

  #movement(node: NodeOf<StructuralOf<"moved" | "same">>, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    const moved = lanes.map((lane) => {
      const { indices, bounds } = sourceIndices(node, lane.indices);
      const inside = bounds.reduce<Expr | undefined>(
        (all, { index, low, high }) => builder.and(all, builder.within(index, low, high)),
        undefined,
      );
      const never = bounds.some(({ index, low, high }) => index.max < low || index.min >= high);
      return { inside, never, lane: { indices, when: builder.and(lane.when, inside) } };
    });
    const filler = () => builder.constant(node.op === "pad" ? node.attrs.value : 0, node.dtype);
    const possible = moved.filter((entry) => !entry.never);
    const values = this.of(node.src[0], possible.map((entry) => entry.lane));
    let next = 0;
    return moved.map((entry) => {
      if (entry.never) return filler();
      const value = values[next++]!;
      return entry.inside === undefined ? value : builder.op("where", entry.inside, value, filler());
    });
  }

  #gather(x: Node, index: Node, axis: number, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    const length = x.shape[axis]!;
    if (length === 0) return lanes.map(() => builder.constant(0, x.dtype));
    const positions = this.of(index, lanes);
    const found = lanes.map((lane, i) => {
      const position = positions[i]!;
      const name = builder.nameValue(position);
      const inside = builder.op(
        "and",
        builder.op("le", builder.constant(0, "i32"), position),
        builder.op("lt", position, builder.constant(length, "i32")),
      );
      const indices = lane.indices.map((own, a) => a === axis ? valueIndex(name, length) : own);
      return { inside, lane: { indices, when: builder.and(lane.when, inside) } };
    });
    const values = this.of(x, found.map((entry) => entry.lane));
    return found.map((entry, i) => builder.op("where", entry.inside, values[i]!, builder.constant(0, x.dtype)));
  }

  /** As the domain is walked, or by loops where that is of other elements. */
  #reduction(node: ReductionNode, lanes: readonly Lane[]): readonly Expr[] {
    const builder = this.#builder;
    const domain = this.#domain;
    const source = node.src[0];
    const contraction = isContraction(node);
    const terms = size(node.attrs.axes.map((axis) => source.shape[axis]!));
    if (terms === 0) return lanes.map(() => this.#identity(node));
    if (contraction && domain?.kind === "staged") return stagedSums(builder, node, lanes, domain, this.of);
    if (domain?.kind === "panel" && (contraction || domain.walk.direct)) {
      return panelSums(builder, node, lanes, domain, this.of);
    }
    if (!contraction && terms <= mostUnrolled) return this.#fewTerms(node, lanes, terms);
    // The loops go where all that the lanes depend on is known.
    const parent = lanes.reduce((scope, lane) => {
      const own = lane.indices.reduce((s, index) => deeper(s, builder.scopeOfIndex(index)), scope);
      return deeper(own, lane.when?.scope);
    }, builder.root);
    if (domain?.kind === "gemv" && parent === builder.root) return gemvResults(builder, node, lanes, domain, this.of);
    const subgroup = contraction && domain?.kind === "subgroup" ? domain : undefined;
    return reducedInLoops(builder, node, lanes, {
      parent,
      unrolled: this.#unrolled,
      axisLoops: contraction && this.#axisLoops,
      // A contraction has enough lanes.
      partial: !contraction,
      // In a loop, and where it is of a member, the invocations of a team are at different elements.
      team: domain?.kind === "team" && parent === builder.root && !contraction &&
          !lanes.some(({ indices }) => this.#isOfMember(indices))
        ? domain
        : undefined,
      computed: lanes.length - (subgroup?.loadedOnly ?? 0),
      terms: (steps, factor) =>
        subgroup === undefined
          ? this.of(source, steps).entries()
          : blockProducts(builder, source, steps, factor, subgroup, this.of),
    });
  }

  /** A reduction without a loop: what it reads is loaded once for all that need it. */
  #fewTerms(node: ReductionNode, lanes: readonly Lane[], terms: number): readonly Expr[] {
    const source = node.src[0];
    const extents = node.attrs.axes.map((axis) => source.shape[axis]!);
    const steps = Array.from({ length: terms }, (_, term) => {
      const along = unflatten(constantIndex(term), extents);
      return lanes.map((lane): Lane => ({ indices: termIndices(node, lane.indices, along), when: lane.when }));
    });
    const values = this.of(source, steps.flat());
    const identity = this.#identity(node);
    return lanes.map((_, i) =>
      steps.reduce(
        (sum, _, term) => this.#builder.combine(node.op, sum, values[term * lanes.length + i]!),
        identity,
      )
    );
  }

  #identity({ op, dtype }: ReductionNode): Expr {
    return this.#builder.constant(reductions[op].identity(dtype), dtype);
  }
}

/** What must hold for a guard to hold. */
function conditions(guard: Expr): readonly Expr[] {
  return guard.kind === "op" && guard.op === "and" ? guard.args.flatMap(conditions) : [guard];
}
