/** Expressions of kernel IR as vectors of four lanes: loads, stores and ops. */
import { InternalError } from "../../errors.ts";
import type { DType } from "../../graph/dtype.ts";
import { toHalfBits } from "../../graph/half.ts";
import type { Lanes } from "../../graph/lanes.ts";
import { cast, elementwise, type ElementwiseOp } from "../../graph/ops.ts";
import { type Index, unguardedRange } from "../kernel/index-arithmetic.ts";
import type { Accumulator, Expr, KernelIR } from "../kernel/ir.ts";
import { bitsOfF32, type FunctionCode } from "./encode.ts";
import { elementBytes, Indices, type LaneCounters, type Region } from "./indices.ts";
import { LaneCode } from "./lane-code.ts";
import { hostIndex } from "./module.ts";

const zeros = [0, 0, 0, 0] as const;

export type Load = Expr & { readonly kind: "load" };

/** Values of one kernel. */
export abstract class LaneValues extends Indices {
  protected readonly v: LaneCode;
  /** The locals of expressions that have some: one for each vector, or one for all. */
  protected bound = new Map<Expr, readonly number[]>();
  protected readonly accumulators = new Map<Accumulator, readonly number[]>();

  constructor(ir: KernelIR, code: FunctionCode, lanes: LaneCounters) {
    super(ir, code, lanes);
    this.v = new LaneCode(code, hostIndex);
  }

  /** Computes an expression here, once for all that read it. */
  protected bind(expr: Expr): void {
    for (let u = 0; u < this.lanes.vectors; u++) this.bindVector(expr, u);
  }

  /** Vector `u` alone; what vectors have in common is computed with the first. */
  protected bindVector(expr: Expr, u: number): void {
    const varies = this.varies(expr);
    if (u > 0 && !varies) return;
    const locals = u === 0 ? [] : [...this.bound.get(expr)!];
    locals[u] = this.code.local("v128");
    this.code.scoped(() => {
      this.#spell(expr, u);
      this.code.set(locals[u]!);
    });
    this.bound.set(expr, locals);
  }

  /**
   * Loads of four neighbours in memory, at lanes that lie further apart: as rows of a square, whose columns they are. In a tail there are
   * no such rows for some lanes.
   */
  protected bindSquare(square: readonly Load[]): void {
    const { code } = this;
    const [first] = square;
    const stride = this.strideOf(first!.index)!;
    const locals = square.map(() => Array.from({ length: this.lanes.vectors }, () => code.local("v128")));
    for (let u = 0; u < this.lanes.vectors; u++) {
      code.scoped(() => {
        const at = code.local("i32");
        const offset = this.address(this.bufferRegion(first!.buffer), first!.index, u, stride);
        code.set(at);
        const rows = [0, 1, 2, 3].map((lane) =>
          this.v.keep(() => {
            code.get(at);
            code.memory("v128.load", offset + 4 * Math.abs(stride) * (stride < 0 ? 3 - lane : lane));
          })
        );
        const joined = (a: Lanes, b: Lanes, lanes: readonly [number, number, number, number]) =>
          this.v.keep(() => {
            a();
            b();
            code.shuffle(lanes);
          });
        const [low, high] = [[0, 4, 1, 5], [2, 6, 3, 7]] as const;
        for (const [pair, lanes] of [low, high].entries()) {
          const [a, b] = [joined(rows[0]!, rows[1]!, lanes), joined(rows[2]!, rows[3]!, lanes)];
          for (const [i, halves] of ([[0, 1, 4, 5], [2, 3, 6, 7]] as const).entries()) {
            a();
            b();
            code.shuffle(halves);
            code.set(locals[2 * pair + i]![u]!);
          }
        }
      });
    }
    square.forEach((load, i) => this.bound.set(load, locals[i]!));
  }

  protected override value(expr: Expr, u: number): void {
    const known = this.bound.get(expr);
    if (known === undefined) this.#spell(expr, u);
    else this.code.get(known[this.varies(expr) ? u : 0]!);
  }

  /** An elementwise op of lanes that are pushed. */
  protected combined(op: ElementwiseOp, x: readonly Lanes[], dtype: DType): void {
    op.wasm(this.v, x, dtype)();
  }

  #spell(expr: Expr, u: number): void {
    const { code } = this;
    switch (expr.kind) {
      case "constant":
        return this.v.bits(constantBits(expr.value, expr.dtype))();
      case "accumulator": {
        const locals = this.accumulators.get(expr.accumulator)!;
        return code.get(locals[locals.length === 1 ? 0 : u]!);
      }
      case "load":
        return this.#asLanes(expr.dtype, () => this.#load(this.bufferRegion(expr.buffer), expr.index, expr.when, u));
      case "shared":
        return this.#asLanes(expr.dtype, () => this.#load(this.sharedRegion(expr.array), expr.index, undefined, u));
      case "index":
        this.lanesOf(expr.index, u);
        if (expr.dtype === "f32") code.op("f32x4.convert_i32x4_s");
        return;
      case "within": {
        const { index, low, high } = expr;
        if (index.min >= low && index.max < high) return this.v.bits(-1)();
        const at = this.v.keep(() => this.lanesOf(index, u));
        const above = this.v.op("i32x4.ge_s", at, this.v.bits(low));
        const below = this.v.op("i32x4.lt_s", at, this.v.bits(high));
        if (index.min >= low) return below();
        return index.max < high ? above() : this.v.op("v128.and", above, below)();
      }
      case "cast":
        return cast.wasm(this.v, () => this.value(expr.args[0], u), expr.args[0].dtype, expr.dtype)();
      case "bitcast":
        return this.value(expr.args[0], u);
      case "op": {
        const { args } = expr;
        const dtype = args[args.length - 1]!.dtype;
        return this.combined(elementwise[expr.op], args.map((arg) => () => this.value(arg, u)), dtype);
      }
      case "broadcast":
        throw new InternalError("wasm", { got: "a broadcast in a subgroup", need: "a kernel for the cpu device" });
    }
  }

  /** What memory holds of a bool is 0 or 1, and a mask in lanes. */
  #asLanes(dtype: DType, push: () => void): void {
    push();
    if (dtype !== "bool") return;
    this.code.words(zeros);
    this.code.op("i32x4.ne");
  }

  /** An index at each lane, as i32. */
  protected lanesOf(index: Index, u: number): void {
    const { code } = this;
    const stride = this.strideOf(index);
    if (stride === undefined) {
      const result = code.local("v128");
      code.words(zeros);
      code.set(result);
      for (let lane = 0; lane < 4; lane++) {
        code.get(result);
        // What is pushed already stays on the stack.
        this.atLane(4 * u + lane, () => this.index(index));
        code.lane("i32x4.replace_lane", lane);
        code.set(result);
      }
      return code.get(result);
    }
    if (u === 0 || !this.indexVaries(index)) this.index(index);
    else this.atLane(4 * u, () => this.index(index));
    code.op("i32x4.splat");
    if (stride === 0) return;
    code.words([0, stride, 2 * stride, 3 * stride]);
    code.op("i32x4.add");
  }

  #load(region: Region, index: Index, when: Expr | undefined, u: number): void {
    if (when === undefined || isHarmless(index)) return this.#loadAll(region, index, u);
    const { code } = this;
    const result = code.local("v128");
    if (!this.varies(when)) {
      code.words(zeros);
      code.set(result);
      this.value(when, 0);
      code.lane("i32x4.extract_lane", 0);
      code.if();
      this.#loadAll(region, index, u);
      code.set(result);
      code.op("end");
      return code.get(result);
    }
    const mask = this.v.keep(() => this.value(when, u));
    if (this.strideOf(index) === 0) {
      code.words(zeros);
      code.set(result);
      mask();
      code.op("v128.any_true");
      code.if();
      this.#loadAll(region, index, u);
      code.set(result);
      code.op("end");
      return code.get(result);
    }
    mask();
    code.op("i32x4.all_true");
    code.if();
    this.#loadAll(region, index, u);
    code.set(result);
    code.op("else");
    code.words(zeros);
    code.set(result);
    for (let lane = 0; lane < 4; lane++) {
      mask();
      code.lane("i32x4.extract_lane", lane);
      code.if();
      this.#loadLane(region, index, 4 * u + lane, result);
      code.op("end");
    }
    code.op("end");
    code.get(result);
  }

  #loadAll(region: Region, index: Index, u: number): void {
    const { code } = this;
    const half = region.dtype === "f16";
    const stride = this.strideOf(index);
    if (stride === 0) {
      const offset = this.address(region, index, u, 0);
      code.memory(half ? "v128.load16_splat" : "v128.load32_splat", offset);
      if (half) this.#lowHalves();
      return;
    }
    if (stride === 1) {
      const offset = this.address(region, index, u, 1);
      code.memory(half ? "v128.load64_zero" : "v128.load", offset);
      if (half) code.op("i32x4.extend_low_i16x8_u");
      return;
    }
    const result = code.local("v128");
    code.words(zeros);
    code.set(result);
    if (stride !== undefined && this.tail === undefined && !half) {
      const at = code.local("i32");
      const offset = this.address(region, index, u, stride);
      code.set(at);
      for (let lane = 0; lane < 4; lane++) {
        code.get(at);
        code.get(result);
        code.laneMemory("v128.load32_lane", offset + 4 * Math.abs(stride) * (stride < 0 ? 3 - lane : lane), lane);
        code.set(result);
      }
    } else for (let lane = 0; lane < 4; lane++) this.#loadLane(region, index, 4 * u + lane, result);
    code.get(result);
  }

  #loadLane(region: Region, index: Index, lane: number, into: number): void {
    const { code } = this;
    const at = this.addressAt(lane, region, index);
    if (region.dtype === "f16") {
      code.get(into);
      code.get(at);
      code.memory("i32.load16_u", 0);
      code.lane("i32x4.replace_lane", lane & 3);
    } else {
      code.get(at);
      code.get(into);
      code.laneMemory("v128.load32_lane", 0, lane & 3);
    }
    code.set(into);
  }

  /** Of pairs of halves, the first ones. */
  #lowHalves(): void {
    this.code.words([0xffff, 0xffff, 0xffff, 0xffff]);
    this.code.op("v128.and");
  }

  /**
   * Stores vector `u` of a value, in the lanes that there are and for which `when` holds. With `onto` what is there is combined with
   * it, lane by lane: two lanes may have one place.
   */
  protected store(
    region: Region,
    index: Index,
    value: Expr,
    { when, onto, u }: {
      readonly when: Expr | undefined;
      readonly onto: ElementwiseOp | undefined;
      readonly u: number;
    },
  ): void {
    const { code } = this;
    const push = () => {
      this.value(value, u);
      if (value.dtype !== "bool") return;
      code.words([1, 1, 1, 1]);
      code.op("v128.and");
    };
    const stride = this.strideOf(index);
    if (stride === 1 && when === undefined && this.tail === undefined) {
      return this.#storeAll(region, index, this.#ontoAll(region, index, push, onto, u), u);
    }
    const stored = this.v.keep(push);
    const mask = when && this.v.keep(() => this.value(when, u));
    if (!this.indexVaries(index) && (onto === undefined || this.lanes.vector === undefined)) {
      // All lanes store to one place: those for which the guard holds have one value.
      if (u > 0 && !(when !== undefined && this.varies(when))) return;
      if (mask === undefined) return this.#storeLane(region, index, stored, onto, 4 * u);
    }
    if (stride === 1 && mask !== undefined && this.tail === undefined) {
      mask();
      code.op("i32x4.all_true");
      code.if();
      this.#storeAll(region, index, this.#ontoAll(region, index, stored, onto, u), u);
      code.op("else");
      this.#eachLane(region, index, stored, mask, onto, u);
      code.op("end");
      return;
    }
    this.#eachLane(region, index, stored, mask, onto, u);
  }

  /** What is there combined with what is stored, lanes being side by side. */
  #ontoAll(region: Region, index: Index, push: Lanes, onto: ElementwiseOp | undefined, u: number): Lanes {
    if (onto === undefined) return push;
    const there = this.v.keep(() => this.#loadAll(region, index, u));
    return onto.wasm(this.v, [there, push], region.dtype);
  }

  #storeAll(region: Region, index: Index, push: Lanes, u: number): void {
    const { code } = this;
    if (region.dtype !== "f16") {
      const offset = this.address(region, index, u, 1);
      push();
      return code.memory("v128.store", offset);
    }
    const at = code.local("i32");
    const offset = this.address(region, index, u, 1);
    code.set(at);
    const halves = this.v.keep(push);
    code.get(at);
    halves();
    halves();
    code.op("i16x8.narrow_i32x4_u");
    code.laneMemory("v128.store64_lane", offset, 0);
  }

  /** Stores lane by lane, where a lane is there and its guard holds. */
  #eachLane(
    region: Region,
    index: Index,
    stored: Lanes,
    mask: Lanes | undefined,
    onto: ElementwiseOp | undefined,
    u: number,
  ): void {
    const { code } = this;
    for (let lane = 0; lane < this.#lanesOfVector; lane++) {
      const guards = this.#pushGuards(mask, 4 * u + lane);
      if (guards) code.if();
      this.#storeLane(region, index, stored, onto, 4 * u + lane);
      if (guards) code.op("end");
    }
  }

  /** Without a vector there is one invocation. */
  get #lanesOfVector(): number {
    return this.lanes.vector === undefined ? 1 : 4;
  }

  /** Pushes whether a lane is there and its guard holds; false where there is nothing to be tested. */
  #pushGuards(mask: Lanes | undefined, lane: number): boolean {
    const { code } = this;
    if (mask !== undefined) {
      mask();
      code.lane("i32x4.extract_lane", lane & 3);
    }
    if (this.tail === undefined) return mask !== undefined;
    code.get(this.counters.get(this.lanes.vector!)!);
    code.i32(lane);
    code.op("i32.add");
    code.get(this.tail);
    code.op("i32.lt_s");
    if (mask !== undefined) code.op("i32.and");
    return true;
  }

  #storeLane(region: Region, index: Index, stored: Lanes, onto: ElementwiseOp | undefined, lane: number): void {
    const { code } = this;
    const half = region.dtype === "f16";
    const at = this.addressAt(lane, region, index);
    const value = onto === undefined ? stored : this.v.keep(onto.wasm(
      this.v,
      [() => {
        code.get(at);
        code.memory("v128.load32_splat", 0);
      }, stored],
      region.dtype,
    ));
    code.get(at);
    value();
    if (half) code.laneMemory("v128.store16_lane", 0, 2 * (lane & 3));
    else code.laneMemory("v128.store32_lane", 0, lane & 3);
  }

  /** Makes a u32 at a place of a buffer the larger of itself and the lanes of a value for which a guard holds. */
  protected mark(region: Region, place: number, value: Expr, when: Expr, u: number): void {
    const { code } = this;
    const mask = this.v.keep(() => this.value(when, u));
    const marked = this.v.keep(() => this.value(value, u));
    mask();
    code.op("v128.any_true");
    code.if();
    for (let lane = 0; lane < this.#lanesOfVector; lane++) {
      if (this.#pushGuards(mask, 4 * u + lane)) code.if();
      const own = code.local("i32");
      marked();
      code.lane("i32x4.extract_lane", lane);
      code.set(own);
      this.#raise(region, region.offset + elementBytes(region.dtype) * place, own);
      code.op("end");
    }
    code.op("end");
  }

  /** Makes a u32 the larger of itself and a local, whichever threads do so at once. */
  #raise(region: Region, offset: number, own: number): void {
    const { code } = this;
    const [there, seen] = [code.local("i32"), code.local("i32")];
    code.get(region.base);
    code.memory("i32.load", offset);
    code.set(there);
    code.block();
    code.loop();
    code.get(own);
    code.get(there);
    code.op("i32.lt_u");
    code.brIf(1);
    code.get(region.base);
    code.get(there);
    code.get(own);
    code.memory("i32.atomic.rmw.cmpxchg", offset);
    code.tee(seen);
    code.get(there);
    code.op("i32.eq");
    code.brIf(1);
    code.get(seen);
    code.set(there);
    code.br(0);
    code.op("end");
    code.op("end");
  }
}

/** Elements that may be read behind the last one. */
const mostBehind = 15;

/** Whether reading at an index does no harm where its guard does not hold, either: then it is near its range, as far as that is known. */
function isHarmless(index: Index): boolean {
  const range = unguardedRange(index);
  return range !== undefined && range.min >= 0 && range.max <= index.max + mostBehind;
}

/** The bits that each lane has of a constant. */
export function constantBits(value: number, dtype: DType): number {
  switch (dtype) {
    case "f32":
      return bitsOfF32(value);
    case "f16":
      return toHalfBits(value);
    case "bool":
      return value === 0 ? 0 : -1;
    default:
      return value;
  }
}
