/** Places in memory: index arithmetic as code, with pointers that grow in the place of sums that are made anew. */
import type { DType } from "../../graph/dtype.ts";
import {
  addConstant,
  eachLeaf,
  type Index,
  strideInGroup,
  strideOf,
  type Variable,
} from "../kernel/index-arithmetic.ts";
import type { Expr, KernelIR, Statement } from "../kernel/ir.ts";
import { countUses } from "../kernel/uses.ts";
import type { FunctionCode } from "./encode.ts";

/** Bytes of an element in memory. */
export function elementBytes(dtype: DType): number {
  return dtype === "f16" ? 2 : 4;
}

/** Memory that a kernel reaches: a buffer, or an array that its invocations share. */
export interface Region {
  /** The local variable with its address, and what is to be added to it. */
  readonly base: number;
  readonly offset: number;
  readonly dtype: DType;
}

/** Accesses whose addresses differ by constants: one pointer goes to the lowest of them. */
interface Pointer {
  readonly region: Region;
  readonly rest: Index;
  readonly stride: number;
  low: number;
  local: number;
}

/**
 * Which invocations are computed: the fastest counter goes by vectors of four, `vectors` of them side by side; the other counters one
 * by one. Invocations that work together are all side by side.
 */
export interface LaneCounters {
  readonly vector: Variable | undefined;
  readonly outer: readonly Variable[];
  readonly vectors: number;
}

/** Indices and addresses of one kernel. */
export abstract class Indices {
  protected readonly ir: KernelIR;
  protected readonly code: FunctionCode;
  protected readonly lanes: LaneCounters;
  /** How often each expression is read. */
  protected readonly uses: ReadonlyMap<Expr, number>;
  /** The locals with counters. */
  protected readonly counters = new Map<Variable, number>();
  /** Whether not all lanes of the vectors are to be stored, so that counters go beyond their end; the local with the end. */
  protected tail: number | undefined;
  /** The lane that an index is computed for; the first one by default. */
  #lane = 0;
  readonly #pointers: Map<string, Pointer>[] = [];
  readonly #varying = new Map<Expr, boolean>();

  constructor(ir: KernelIR, code: FunctionCode, lanes: LaneCounters) {
    this.ir = ir;
    this.code = code;
    this.lanes = lanes;
    this.uses = countUses(ir);
  }

  /** Pushes vector `u` of a value. */
  protected abstract value(expr: Expr, u: number): void;

  /** Whether lanes have different values. */
  protected varies(expr: Expr): boolean {
    if (this.lanes.vector === undefined) return false;
    let known = this.#varying.get(expr);
    if (known === undefined) {
      known = expr.kind === "accumulator" || ("index" in expr && this.indexVaries(expr.index)) ||
        (expr.kind === "load" && expr.when !== undefined && this.varies(expr.when)) ||
        ("args" in expr && expr.args.some((arg) => this.varies(arg)));
      this.#varying.set(expr, known);
    }
    return known;
  }

  protected indexVaries(index: Index): boolean {
    let found = false;
    eachLeaf(index, (leaf) => {
      found ||= leaf.kind === "variable" ? leaf.variable === this.lanes.vector : this.#valueVaries(leaf.name);
    });
    return found;
  }

  #valueVaries(name: string): boolean {
    const value = this.ir.values.get(name);
    return value !== undefined && this.varies(value);
  }

  /** How much an index grows from lane to lane of one vector; undefined where that differs. */
  protected strideOf(index: Index): number | undefined {
    const { vector } = this.lanes;
    if (vector === undefined) return 0;
    let gathers = false;
    eachLeaf(index, (leaf) => {
      if (leaf.kind === "value" && this.#valueVaries(leaf.name)) gathers = true;
    });
    return gathers ? undefined : strideOf(index, vector) ?? strideInGroup(index, vector, 4);
  }

  /** Whether the stride is the same from vector to vector, too. */
  #isEven(index: Index): boolean {
    return this.lanes.vector === undefined || strideOf(index, this.lanes.vector) !== undefined;
  }

  /**
   * Pushes an address in a region and gives what is to be added to it for the index at the first lane of vector `u`. LaneCounters with a
   * negative stride lie below.
   */
  protected address(region: Region, index: Index, u: number, stride: number): number {
    const bytes = elementBytes(region.dtype);
    const even = this.#isEven(index);
    const lowest = stride < 0 ? addConstant(index, 3 * stride) : index;
    const shift = even ? 4 * u * stride : 0;
    const at = addConstant(lowest, shift);
    const pointer = this.#pointers.at(-1)?.get(pointerKey(region, at));
    if (pointer !== undefined && pointer.low <= at.offset) {
      this.code.get(pointer.local);
      return bytes * (at.offset - pointer.low);
    }
    if (!even) {
      this.atLane(4 * u, () => this.#plainAddress(region, lowest));
      return 0;
    }
    // An offset of the instruction costs nothing, but it must not make up for an address below the region.
    const rest = addConstant(at, -at.offset);
    const behind = at.offset > 0 && rest.min >= 0 ? at.offset : 0;
    this.#plainAddress(region, behind > 0 ? rest : at);
    return bytes * behind;
  }

  /** A local with the address of what one lane reaches. */
  protected addressAt(lane: number, region: Region, index: Index): number {
    const at = this.code.local("i32");
    this.atLane(lane, () => this.#plainAddress(region, index));
    this.code.set(at);
    return at;
  }

  #plainAddress(region: Region, index: Index): void {
    const { code } = this;
    code.get(region.base);
    if (index.terms.length > 0 || index.offset !== 0) {
      this.index(index);
      code.i32(region.dtype === "f16" ? 1 : 2);
      code.op("i32.shl");
      code.op("i32.add");
    }
    if (region.offset !== 0) {
      code.i32(region.offset);
      code.op("i32.add");
    }
  }

  /** Pushes the value of an index, as an i32. */
  protected index(index: Index): void {
    const { code } = this;
    let first = true;
    for (const { atom, coefficient } of index.terms) {
      switch (atom.kind) {
        case "variable":
          code.get(this.counters.get(atom.variable)!);
          break;
        case "value": {
          const value = this.ir.values.get(atom.name)!;
          const lane = this.varies(value) ? this.#lane : 0;
          this.value(value, lane >> 2);
          code.lane("i32x4.extract_lane", lane & 3);
          break;
        }
        case "min": {
          const of = code.local("i32");
          this.index(atom.of);
          code.tee(of);
          code.i32(atom.limit);
          code.get(of);
          code.i32(atom.limit);
          code.op("i32.lt_s");
          code.op("select");
          break;
        }
        default:
          this.index(atom.of);
          code.i32(atom.by);
          code.op(atom.kind === "div" ? "i32.div_u" : "i32.rem_u");
      }
      if (coefficient !== 1) {
        code.i32(coefficient);
        code.op("i32.mul");
      }
      if (!first) code.op("i32.add");
      first = false;
    }
    if (index.offset === 0 && !first) return;
    code.i32(index.offset);
    if (!first) code.op("i32.add");
  }

  /** Emits code in which the vector variable stands for one lane; in a tail, for the last one that there is at most. */
  protected atLane(lane: number, emit: () => void): void {
    const { vector } = this.lanes;
    const { code } = this;
    if (vector === undefined) return emit();
    const own = this.counters.get(vector)!;
    const before = this.#lane;
    this.#lane = lane;
    this.#pointers.push(new Map()); // Those that there are belong to the first lane.
    if (lane > 0) {
      const at = code.local("i32");
      code.get(own);
      code.i32(lane);
      code.op("i32.add");
      code.set(at);
      if (this.tail !== undefined) {
        code.get(at);
        code.get(this.tail);
        code.i32(1);
        code.op("i32.sub");
        code.get(at);
        code.get(this.tail);
        code.op("i32.lt_s");
        code.op("select");
        code.set(at);
      }
      this.counters.set(vector, at);
    }
    emit();
    this.counters.set(vector, own);
    this.#pointers.pop();
    this.#lane = before;
  }

  /**
   * Makes pointers for the accesses that stand right in the body of a loop and grow evenly with its counter. The counter
   * must have its first value. `step` emits what is to be done at the end of a pass, in which the counter grows by `by`.
   */
  protected withPointers(
    statements: readonly Statement[],
    variable: Variable,
    by: number,
    emit: (step: () => void) => void,
  ): void {
    const { code } = this;
    const pointers = new Map<string, Pointer>();
    for (const statement of statements) {
      const access = this.#accessOf(statement);
      if (access === undefined) continue;
      const { region, index } = access;
      const along = this.strideOf(index);
      const stride = strideOf(index, variable);
      if (along === undefined || stride === undefined || !this.#isEven(index) || hasValues(index)) continue;
      const lowest = addConstant(index, Math.min(0, (4 * this.lanes.vectors - 1) * along));
      const key = pointerKey(region, lowest);
      const known = pointers.get(key);
      if (known !== undefined) known.low = Math.min(known.low, lowest.offset);
      else {
        const rest = addConstant(lowest, -lowest.offset);
        pointers.set(key, { region, rest, stride, low: lowest.offset, local: code.local("i32") });
      }
    }
    for (const pointer of pointers.values()) {
      this.#plainAddress(pointer.region, addConstant(pointer.rest, pointer.low));
      code.set(pointer.local);
    }
    this.#pointers.push(pointers);
    emit(() => {
      for (const { region, stride, local } of pointers.values()) {
        if (stride === 0) continue;
        code.get(local);
        code.i32(elementBytes(region.dtype) * stride * by);
        code.op("i32.add");
        code.set(local);
      }
    });
    this.#pointers.pop();
  }

  protected abstract bufferRegion(buffer: number): Region;
  protected abstract sharedRegion(array: number): Region;

  #accessOf(statement: Statement): { readonly region: Region; readonly index: Index } | undefined {
    if (statement.kind === "store") return { region: this.bufferRegion(statement.buffer), index: statement.index };
    if (statement.kind === "stage") return { region: this.sharedRegion(statement.array), index: statement.index };
    if (statement.kind !== "let" || !this.uses.has(statement.expr)) return undefined;
    const { expr } = statement;
    if (expr.kind === "load") return { region: this.bufferRegion(expr.buffer), index: expr.index };
    if (expr.kind === "shared") return { region: this.sharedRegion(expr.array), index: expr.index };
    return undefined;
  }
}

function pointerKey(region: Region, index: Index): string {
  return `${region.base}:${region.offset}:${addConstant(index, -index.offset).key}`;
}

function hasValues(index: Index): boolean {
  let found = false;
  eachLeaf(index, (leaf) => {
    if (leaf.kind === "value") found = true;
  });
  return found;
}
