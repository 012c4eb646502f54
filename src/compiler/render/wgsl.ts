/** Kernel IR as a WGSL module. */
import { InternalError } from "../../errors.ts";
import { type DType, dtypes } from "../../graph/dtype.ts";
import { toHalfBits } from "../../graph/half.ts";
import { nothing, zeroOver } from "../../graph/helpers.ts";
import { bitcast, cast, elementwise, type ElementwiseOp, reductions } from "../../graph/ops.ts";
import { divide, type Index } from "../kernel/index-arithmetic.ts";
import { type Accumulator, eachStatement, type Expr, type KernelIR, type Scope, type Statement } from "../kernel/ir.ts";
import type { Target } from "../plan/plan.ts";
import { type HalfStorage, halfStorage } from "./half-storage.ts";
import { Renderer } from "./render.ts";
import { vectorBuffers, vectorElement, vectorStores } from "./spelling.ts";

export interface WgslModule {
  readonly source: string;
  readonly workgroups: readonly [number, number, number];
}

export interface WgslOptions {
  readonly workgroupSize: number;
  readonly maxWorkgroups: number;
  /**
   * Keeps the driver from unrolling loops: software adapters unroll up to 32 passes, and compile them for seconds. `partly`
   * leaves them to know the most passes that there may be: products take somewhat less time then, though they compile longer.
   */
  readonly rollLoops: "no" | "partly" | "fully";
  readonly f16: Target["f16"];
  /** For kernels of varying shapes: bounds that this one does not need are spelled too. */
  readonly guarded?: boolean | undefined;
  /** In a plan for items: bytes from an item's part of each buffer to that of the next. */
  readonly strides?: readonly number[] | undefined;
}

/** Renders a kernel. Invocations that do not fill one dimension of workgroups go on in the second. */
export function renderWgsl(
  ir: KernelIR,
  { workgroupSize, maxWorkgroups, rollLoops, f16, guarded = false, strides }: WgslOptions,
): WgslModule {
  const renderer = new WgslRenderer(ir, { rollLoops, half: halfStorage[f16], guarded, strides });
  const invocations = ir.parallel.reduce((n, variable) => n * variable.extent, 1);
  const perGroup = ir.workgroupSize ?? workgroupSize;
  const groups = Math.max(1, Math.ceil(invocations / perGroup));
  const x = Math.min(groups, maxWorkgroups);
  const y = Math.ceil(groups / x);
  return { source: renderer.module(invocations, perGroup, x, y), workgroups: [x, y, 1] };
}

class WgslRenderer extends Renderer {
  protected override readonly declare = { fixed: "let", changing: "var" } as const;
  readonly #vectors: ReadonlySet<number>;
  /** The source of each function that is called. */
  readonly #helpers = new Set<string>();
  /** Vectors loaded so far, with the scope that holds them. */
  readonly #loaded = new Map<string, { name: string; scope: Scope }>();
  /** Of every scope met: the four stores that one vector store stands for. */
  readonly #vectorStores = new Map<Scope, ReturnType<typeof vectorStores>>();
  readonly #rollLoops: WgslOptions["rollLoops"];
  readonly #half: HalfStorage;
  readonly #guarded: boolean;
  readonly #strides: readonly number[];
  /** Buffers of u32 that many invocations mark. */
  readonly #marked = new Set<number>();
  #vectorCount = 0;
  #special = false;
  #usesHalves = false;
  #subgroups = false;
  #leaves = false;

  constructor(
    ir: KernelIR,
    { rollLoops, half, guarded, strides = [] }: Pick<WgslOptions, "rollLoops" | "strides"> & {
      readonly half: HalfStorage;
      readonly guarded: boolean;
    },
  ) {
    super(ir);
    this.#rollLoops = rollLoops;
    this.#half = half;
    this.#guarded = guarded;
    this.#strides = strides;
    this.#vectors = vectorBuffers(ir, this.uses);
    eachStatement(ir.body, (statement) => statement.kind === "mark" && this.#marked.add(statement.buffer));
  }

  module(invocations: number, workgroupSize: number, x: number, y: number): string {
    const { shared } = this.ir;
    const inStep = shared.length > 0;
    const { parallel } = this.ir;
    if (inStep) {
      // The last counter is the place in the workgroup. The others are the same for all of it, and seen to be so: loops whose
      // end depends on them may contain barriers.
      const place = parallel[parallel.length - 1]!;
      if (place.extent !== workgroupSize) {
        throw new InternalError("renderWgsl", {
          got: `${place.extent} places in a workgroup of ${workgroupSize}`,
          need: "equal numbers",
        });
      }
      this.emit(y > 1 ? `let id = group.x + group.y * ${x}u;` : "let id = group.x;");
      // Only whole workgroups may leave before a barrier.
      const groups = invocations / workgroupSize;
      if (groups !== x * y) this.emit(`if (id >= ${groups}u) { return; }`);
      this.emit(`let ${place.name} = local;`);
      this.counters(parallel.slice(0, -1));
    } else {
      this.emit(y > 1 ? `let id = gid.x + gid.y * ${x * workgroupSize}u;` : "let id = gid.x;");
      // Workgroups of a size of the kernel's own are always full.
      if (invocations !== x * y * workgroupSize || (this.#guarded && this.ir.workgroupSize === undefined)) {
        this.#leaves = true;
        this.emit(`if (id >= ${invocations}u) { return; }`);
      }
      this.counters();
    }
    // Where the item's part of each buffer begins.
    this.#strides.forEach((bytes, i) => {
      const unit = dtypes[this.ir.buffers[i]!.dtype].bytes * (this.#vectors.has(i) ? 4 : 1);
      if (bytes > 0) this.emit(`let o${i} = ${inStep ? "group" : "gid"}.z * ${bytes / unit}u;`);
    });
    this.scope(this.ir.body);
    const bindings = this.ir.buffers.map((buffer, i) => {
      const type = this.#elementType(i);
      return `@group(0) @binding(${i}) var<storage, ${
        buffer.access === "read" ? "read" : "read_write"
      }> b${i}: array<${type}>;`;
    });
    return [
      ...(this.#subgroups ? ["enable subgroups;"] : []),
      ...(this.#usesHalves && this.#half.enable !== undefined ? [this.#half.enable] : []),
      // All lanes of a subgroup leave a loop, or the kernel, at once, which the compiler of WGSL cannot see.
      ...(this.#subgroups && this.#leaves ? ["diagnostic(off, subgroup_uniformity);"] : []),
      ...bindings,
      ...shared.map(({ dtype, length, vectors }, i) => {
        const element = dtypes[dtype].storage;
        return `var<workgroup> s${i}: array<${vectors ? `vec4<${element}>, ${length / 4}` : `${element}, ${length}`}>;`;
      }),
      ...(this.#special ? ["var<private> special_bits: u32;"] : []),
      ...this.#helpers,
      `@compute @workgroup_size(${workgroupSize})`,
      inStep
        ? "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {"
        : "fn main(@builtin(global_invocation_id) gid: vec3<u32>) {",
      ...this.lines,
      "}",
      "",
    ].join("\n");
  }

  #elementType(buffer: number): string {
    const { dtype, access } = this.ir.buffers[buffer]!;
    const vector = this.#vectors.has(buffer);
    if (dtype === "f16") {
      this.#usesHalves = true;
      return vector ? this.#half.vector : access === "readWrite" ? this.#half.written : this.#half.scalar;
    }
    if (this.#marked.has(buffer)) return "atomic<u32>";
    return vector ? `vec4<${dtypes[dtype].storage}>` : dtypes[dtype].storage;
  }

  protected override element(buffer: number, index: string): string {
    return super.element(buffer, this.#ofItem(buffer, index));
  }

  /** An index in the item's part of a buffer as one in the buffer. */
  #ofItem(buffer: number, index: string): string {
    return (this.#strides[buffer] ?? 0) > 0 ? `o${buffer} + ${index}` : index;
  }

  protected override store(buffer: number, index: string, value: string): string {
    const { dtype } = this.ir.buffers[buffer]!;
    return dtype === "f16"
      ? this.#half.store(`b${buffer}`, this.#ofItem(buffer, index), value)
      : super.store(buffer, index, value);
  }

  // Index arithmetic is u32, modulo 2^32: exact wherever the index is in range.
  protected override integer(value: number): string {
    return `${value >>> 0}u`;
  }

  protected override quotient(index: string, by: number): string {
    return `${index} / ${by}u`;
  }

  protected override minimum(index: string, limit: number): string {
    return `min(${index}, ${limit}u)`;
  }

  protected override indexOf(value: string): string {
    // Not u32(): Deno's compiler refuses the conversion of a negative constant.
    return `bitcast<u32>(${value})`;
  }

  protected override signed(index: string): string {
    return `i32(${index})`;
  }

  protected override loopBound(extent: number): string {
    if (this.#rollLoops === "no" || extent <= 4 || extent > 32) return `${extent}u`;
    // Bounds that the driver cannot know: arrays are never empty. No product is beyond 2^32.
    return this.#rollLoops === "partly"
      ? `min(${extent}u, min(arrayLength(&b0), 32u) * ${extent}u)`
      : `${extent}u * min(1u, arrayLength(&b0))`;
  }

  protected override combined({ name, dtype, op }: Accumulator, value: string): string {
    const combine: ElementwiseOp = elementwise[reductions[op].combine];
    return combine.wgsl([name, value], dtype);
  }

  protected override stored(value: Expr, dtype: DType): string {
    return dtype === "bool" ? `select(0u, 1u, ${this.text(value)})` : this.text(value);
  }

  protected override statement(statement: Statement, scope: Scope): void {
    let groups = this.#vectorStores.get(scope);
    if (groups === undefined) this.#vectorStores.set(scope, groups = vectorStores(scope.statements, this.#vectors));
    const group = groups.get(statement);
    if (statement.kind === "stop") this.#leaves = true;
    if (statement.kind !== "store" || group === undefined) return super.statement(statement, scope);
    if (group.length === 0) return;
    const { buffer, index, when } = statement;
    const { dtype } = this.ir.buffers[buffer]!;
    const values = group.map((store) => this.stored(store.value, dtype));
    const vector = dtype === "f16"
      ? this.#half.toVector(values)
      : `vec4<${dtypes[dtype].storage}>(${values.join(", ")})`;
    const line = `${this.element(buffer, this.index(vectorElement(index)!.vector))} = ${vector};`;
    this.emit(when === undefined ? line : `if (${this.text(when)}) { ${line} }`);
  }

  protected override bind(expr: Expr): void {
    // A vector is loaded where its first element is bound.
    const vector = (expr.kind === "shared" && this.ir.shared[expr.array]!.vectors) ||
      (expr.kind === "load" && this.#vectors.has(expr.buffer) && expr.dtype !== "bool");
    if (!vector) super.bind(expr);
    else if (this.uses.has(expr)) this.text(expr);
  }

  protected override spellOther(expr: Exclude<Expr, { kind: "constant" | "within" | "accumulator" }>): string {
    switch (expr.kind) {
      case "index":
        return expr.dtype === "u32" ? `(${this.index(expr.index)})` : `${expr.dtype}(${this.index(expr.index)})`;
      case "load": {
        if (this.#vectors.has(expr.buffer)) {
          const { vector, element } = this.#loadVector(
            `b${expr.buffer}`,
            (at) => this.element(expr.buffer, at),
            expr.index,
            expr.scope,
          );
          if (expr.dtype === "f16") return this.#half.ofVector(vector, element);
          const text = `${vector}.${"xyzw"[element]}`;
          return expr.dtype === "bool" ? `(${text} != 0u)` : text;
        }
        const index = this.index(expr.index);
        if (expr.dtype === "f16") {
          return this.#half.load(
            `b${expr.buffer}`,
            this.#ofItem(expr.buffer, index),
            this.ir.buffers[expr.buffer]!.access === "readWrite",
          );
        }
        const text = this.element(expr.buffer, index);
        return expr.dtype === "bool" ? `(${text} != 0u)` : text;
      }
      case "cast": {
        const [arg] = expr.args;
        if (arg.dtype === "f16") return this.#half.toFloat(this.text(arg));
        if (expr.dtype === "f16") {
          this.#usesHalves = true;
          this.#helpers.add(this.#half.helper);
          return this.#half.fromFloat(this.text(arg));
        }
        const helper = cast.wgslHelper(arg.dtype, expr.dtype);
        if (helper !== undefined) this.#helpers.add(helper);
        return cast.wgsl(this.text(arg), arg.dtype, expr.dtype);
      }
      case "bitcast":
        return bitcast.wgsl(this.text(expr.args[0]), expr.args[0].dtype, expr.dtype);
      case "shared": {
        if (!this.ir.shared[expr.array]!.vectors) return `s${expr.array}[${this.index(expr.index)}]`;
        const { vector, element } = this.#loadVector(
          `s${expr.array}`,
          (at) => `s${expr.array}[${at}]`,
          expr.index,
          expr.scope,
        );
        return `${vector}.${"xyzw"[element]}`;
      }
      case "broadcast":
        this.#subgroups = true;
        // Without a suffix: a lane is no number that shapes may differ in (see shape-uniforms.ts).
        return `subgroupBroadcast(${this.text(expr.args[0])}, ${expr.lane})`;
      case "op": {
        const vanishing = this.#vanishing(expr);
        if (vanishing !== undefined) return vanishing;
        const record: ElementwiseOp = elementwise[expr.op];
        if (record.wgslHelper !== undefined) this.#helpers.add(record.wgslHelper);
        return record.wgsl(expr.args.map((arg) => this.text(arg)), expr.args[expr.args.length - 1]!.dtype);
      }
    }
  }

  /** What drivers make 0 without a look at x: x * 0, x - x and 0 / x, which may be NaN, are told by x's bits. */
  #vanishing({ op, args, dtype }: Expr & { readonly kind: "op" }): string | undefined {
    if (dtype !== "f32" || args.length !== 2) return undefined;
    const [a, b] = args as readonly [Expr, Expr];
    const zero = (x: Expr) => x.kind === "constant" && x.value === 0;
    const spelled = (helper: string, name: string, x: Expr) => {
      this.#helpers.add(helper);
      return `${name}(${this.text(x)})`;
    };
    if (op === "mul" && (zero(a) || zero(b))) return spelled(nothing, "sw_nothing", zero(a) ? b : a);
    if (op === "sub" && a === b) return spelled(nothing, "sw_nothing", a);
    return op === "div" && zero(a) ? spelled(zeroOver, "sw_zero_over", b) : undefined;
  }

  /** The vector that holds an element of an array of vectors, loaded once for all four, and the element's place in it. */
  #loadVector(
    array: string,
    at: (index: string) => string,
    index: Index,
    scope: Scope,
  ): { vector: string; element: number } {
    const { vector, element } = vectorElement(index)!;
    const key = `${array}:${vector.key}`;
    let known = this.#loaded.get(key);
    if (known?.scope !== scope) {
      known = { name: `v${this.#vectorCount++}`, scope };
      this.emit(`let ${known.name} = ${at(this.index(vector))};`);
      this.#loaded.set(key, known);
    }
    return { vector: known.name, element };
  }

  protected override stage(array: number, index: Index, values: readonly string[]): void {
    const { dtype, vectors } = this.ir.shared[array]!;
    if (!vectors) this.emit(`s${array}[${this.index(index)}] = ${values[0]};`);
    else {this.emit(
        `s${array}[${this.index(divide(index, 4))}] = vec4<${dtypes[dtype].storage}>(${values.join(", ")});`,
      );}
  }

  protected override prefix(): never {
    throw new InternalError("renderWgsl", {
      got: "running sums of a workgroup",
      need: "reductions: see scansInBlocks",
    });
  }

  protected override combineAll(accumulators: readonly Accumulator[], columns: number, array: number): void {
    const s = `s${array}`;
    const invocations = this.ir.shared[array]!.length / accumulators.length;
    const place = (i: number, index: string) => `${s}[${index}${i === 0 ? "" : ` + ${i * invocations}u`}]`;
    accumulators.forEach(({ name }, i) => this.emit(`${place(i, "local")} = ${name};`));
    this.barrier();
    const [first] = accumulators as [Accumulator];
    if (accumulators.length === 1) {
      for (let half = invocations / 2; half >= columns; half /= 2) {
        const value = this.combined({ ...first, name: `${s}[local]` }, `${s}[local + ${half}u]`);
        this.emit(`if (local < ${half}u) { ${s}[local] = ${value}; }`);
        this.barrier();
      }
    } else {
      // Spelled once: with many accumulators the text would be long.
      const value = this.combined({ ...first, name: `${s}[at]` }, `${s}[at + half]`);
      this.emit(`for (var half = ${invocations / 2}u; half >= ${columns}u; half /= 2u) {`);
      this.emit(
        `  if (local < half) { for (var at = local; at < ${
          invocations * accumulators.length
        }u; at += ${invocations}u) { ${s}[at] = ${value}; } }`,
      );
      this.barrier();
      this.emit("}");
    }
    accumulators.forEach(({ name }, i) =>
      this.emit(`${name} = ${place(i, columns === 1 ? "0u" : `local % ${columns}u`)};`)
    );
    this.barrier(); // The array is used again.
  }

  protected override barrier(): void {
    this.emit("workgroupBarrier();");
  }

  protected override mark(buffer: number, place: number, value: string): string {
    return `atomicMax(&b${buffer}[${this.#ofItem(buffer, `${place}u`)}], ${value});`;
  }

  protected override literal(value: number, dtype: DType): string {
    switch (dtype) {
      case "bool":
        return value !== 0 ? "true" : "false";
      case "i32":
        return value === -2147483648 ? "(-2147483647i - 1i)" : `${value}i`;
      case "u32":
        return `${value}u`;
      case "f32": {
        if (Number.isFinite(value)) {
          if (Object.is(value, -0)) return "bitcast<f32>(0x80000000u)";
          const text = `${value}f`;
          return value < 0 ? `(${text})` : text;
        }
        // A constant that is not finite does not compile; bits that the compiler does not know do.
        this.#special = true;
        const bits = Number.isNaN(value) ? "0x7fc00000u" : value > 0 ? "0x7f800000u" : "0xff800000u";
        return `bitcast<f32>(special_bits | ${bits})`;
      }
      case "f16":
        this.#usesHalves = true;
        return this.#half.literal(toHalfBits(value), this.literal(value, "f32"));
    }
  }
}
