/**
 * Kernel IR as WebAssembly: an invocation is a lane. The fastest counter goes by vectors of four lanes, statement by statement;
 * invocations that work together are all in lockstep, so that a barrier is nothing and what they combine is a tree of vectors.
 */
import { InternalError } from "../../errors.ts";
import { elementwise, type ElementwiseOp, reductions } from "../../graph/ops.ts";
import { addConstant, eachLeaf, type Index, strideOf, type Variable } from "../kernel/index-arithmetic.ts";
import { type Accumulator, eachStatement, type Expr, type KernelIR, type Scope, type Statement } from "../kernel/ir.ts";
import type { ProgramCode } from "../plan/plan.ts";
import { FunctionCode } from "./encode.ts";
import { elementBytes, type LaneCounters, type Region } from "./indices.ts";
import { addressTable, kernelParameters } from "./module.ts";
import { constantBits, LaneValues, type Load } from "./values.ts";

/** Vectors side by side in kernels that add up: so many chains of additions depend on nothing of each other. */
const chains = 4;
/** Statements of a kernel that is long enough already: all are spelled for each vector. */
const mostForChains = 96;

/** Vectors of sums that registers hold beside the operands: with more of them V8 puts some into memory. */
const mostSums = 8;

const [begin, end, from, to, scratch] = [0, 1, 2, 3, 4] as const;

/** Behind arrays and buffers there are so many bytes that vectors may read. */
export const spareBytes = 128;

/** `relaxed`: products are added by an instruction that may round them first, or not. */
export function renderWasm(ir: KernelIR, relaxed = false): ProgramCode {
  const lanes = countersOf(ir);
  const kernel = new KernelCode(ir, new FunctionCode(kernelParameters), lanes, relaxed);
  return {
    body: kernel.body(),
    outer: lanes.outer.reduce((count, { extent }) => count * extent, 1),
    inner: lanes.vector?.extent ?? 1,
    width: 4 * lanes.vectors,
    scratch: kernel.scratch,
  };
}

function countersOf(ir: KernelIR): LaneCounters {
  const counters = ir.parallel.filter(({ extent }) => extent > 1);
  const vector = counters.at(-1);
  const outer = counters.slice(0, -1);
  if (vector === undefined) return { vector, outer, vectors: 1 };
  if (ir.together) {
    if (vector.extent % 4 !== 0) {
      throw new InternalError("wasm", { got: `${vector.extent} invocations together`, need: "a multiple of 4" });
    }
    return { vector, outer, vectors: vector.extent / 4 };
  }
  let sums = 0;
  let statements = 0;
  eachStatement(ir.body, ({ kind }) => {
    statements++;
    if (kind === "declare") sums++;
  });
  const most = sums === 0 || statements > mostForChains ? 1 : Math.floor(mostSums / sums);
  const vectors = Math.max(1, Math.min(chains, most));
  return { vector, outer, vectors: Math.min(vectors, Math.ceil(vector.extent / 4)) };
}

class KernelCode extends LaneValues {
  /** Bytes of the arrays that invocations share. */
  readonly scratch: number;
  readonly #arrays: readonly Region[];
  /** The locals with the addresses of buffers. */
  readonly #addresses: readonly number[];

  readonly #relaxed: boolean;

  constructor(ir: KernelIR, code: FunctionCode, lanes: LaneCounters, relaxed: boolean) {
    super(ir, code, lanes);
    this.#relaxed = relaxed;
    let bytes = 0;
    this.#arrays = ir.shared.map(({ dtype, length }) => {
      const offset = bytes;
      bytes += Math.ceil((elementBytes(dtype) * length + spareBytes) / 64) * 64;
      return { base: scratch, offset, dtype };
    });
    this.scratch = bytes;
    this.#addresses = ir.buffers.map(() => code.local("i32"));
  }

  body(): Uint8Array<ArrayBuffer> {
    const { code, lanes } = this;
    this.#addresses.forEach((local, buffer) => {
      code.i32(0);
      code.memory("i32.load", addressTable + 4 * buffer);
      code.set(local);
    });
    const id = code.local("i32");
    for (const variable of lanes.outer) this.counters.set(variable, code.local("i32"));
    if (lanes.vector !== undefined) this.counters.set(lanes.vector, code.local("i32"));
    code.get(begin);
    code.set(id);
    code.block();
    code.get(id);
    code.get(end);
    code.op("i32.ge_s");
    code.brIf(0);
    code.loop();
    this.#outerCounters(id);
    const before = this.bound;
    this.bound = new Map(before);
    this.#vectors(this.#hoisted());
    this.bound = before;
    this.#next(id, 1, () => code.get(end));
    code.op("end");
    code.op("end");
    return code.body();
  }

  protected override bufferRegion(buffer: number): Region {
    return { base: this.#addresses[buffer]!, offset: 0, dtype: this.ir.buffers[buffer]!.dtype };
  }

  protected override sharedRegion(array: number): Region {
    return this.#arrays[array]!;
  }

  /** The outer counters out of their joint number. */
  #outerCounters(id: number): void {
    const { code } = this;
    let rest = id;
    for (let i = this.lanes.outer.length - 1; i >= 0; i--) {
      const variable = this.lanes.outer[i]!;
      code.get(rest);
      if (i > 0) {
        code.i32(variable.extent);
        code.op("i32.rem_u");
      }
      code.set(this.counters.get(variable)!);
      if (i === 0) break;
      const next = code.local("i32");
      code.get(rest);
      code.i32(variable.extent);
      code.op("i32.div_u");
      code.set(next);
      rest = next;
    }
  }

  /** Computes what all lanes have in common before the loop over vectors; gives the statements that are left. */
  #hoisted(): readonly Statement[] {
    const { statements } = this.ir.body;
    if (this.lanes.vector === undefined) return statements;
    return statements.filter((statement) => {
      if (statement.kind !== "let" || !this.uses.has(statement.expr) || this.varies(statement.expr)) return true;
      if (this.#changes(statement.expr)) return true;
      this.bind(statement.expr);
      return false;
    });
  }

  /** Whether an expression depends on memory that the kernel writes. */
  #changes(expr: Expr): boolean {
    if (expr.kind === "load" && this.ir.buffers[expr.buffer]!.access === "readWrite") return true;
    let changes = "args" in expr && expr.args.some((arg) => this.#changes(arg));
    if ("index" in expr) {
      eachLeaf(expr.index, (leaf) => {
        if (leaf.kind === "value") changes ||= this.#changes(this.ir.values.get(leaf.name)!);
      });
    }
    return changes;
  }

  /** The statements for all lanes of one combination of the outer counters. */
  #vectors(statements: readonly Statement[]): void {
    const { code, lanes: { vector, vectors } } = this;
    if (vector === undefined) return this.#pass(statements);
    const at = this.counters.get(vector)!;
    const width = 4 * vectors;
    code.get(from);
    code.set(at);
    if (this.ir.together) return this.#pass(statements);
    const last = code.local("i32");
    code.get(to);
    code.i32(width);
    code.op("i32.sub");
    code.set(last);
    this.withPointers(statements, vector, width, (step) => {
      code.block();
      code.get(at);
      code.get(last);
      code.op("i32.gt_s");
      code.brIf(0);
      code.loop();
      this.#pass(statements);
      step();
      code.get(at);
      code.i32(width);
      code.op("i32.add");
      code.tee(at);
      code.get(last);
      code.op("i32.le_s");
      code.brIf(0);
      code.op("end");
      code.op("end");
      if (vector.extent % width === 0) return;
      code.get(at);
      code.get(to);
      code.op("i32.lt_s");
      code.if();
      this.tail = to;
      this.#pass(statements);
      this.tail = undefined;
      code.op("end");
    });
  }

  /** Statements, after which what they bound is forgotten. */
  #pass(statements: readonly Statement[]): void {
    const before = this.bound;
    this.bound = new Map(before);
    this.code.scoped(() => {
      const squares = this.tail === undefined ? this.#squares(statements) : [];
      for (let i = 0; i < statements.length;) {
        const square = squares.find((loads) => loads.some((load) => load === letOf(statements[i]!)));
        if (square !== undefined) {
          if (!this.bound.has(square[0]!)) this.bindSquare(square);
          i++;
          continue;
        }
        const apart = this.#apartFrom(statements, i);
        if (apart.length > 1) {
          for (let u = 0; u < this.lanes.vectors; u++) for (const statement of apart) this.#ofVector(statement, u);
          i += apart.length;
          continue;
        }
        const statement = statements[i++]!;
        if (statement.kind === "let") this.#let(statement.expr);
        else if (statement.kind === "declare") this.#declare(statement.accumulator);
        else this.code.scoped(() => this.#statement(statement));
      }
    });
    this.bound = before;
  }

  /** Loads that are four neighbours in memory, at lanes that are further apart. */
  #squares(statements: readonly Statement[]): readonly (readonly Load[])[] {
    const rows = new Map<string, Load[]>();
    for (const statement of statements) {
      const expr = letOf(statement);
      if (expr?.kind !== "load" || expr.when !== undefined || !this.uses.has(expr)) continue;
      if (expr.dtype === "bool" || expr.dtype === "f16" || this.ir.buffers[expr.buffer]!.access !== "read") continue;
      const { vector } = this.lanes;
      const stride = vector && strideOf(expr.index, vector);
      if (stride === undefined || Math.abs(stride) < 2) continue;
      const key = `${expr.buffer} ${addConstant(expr.index, -expr.index.offset).key}`;
      rows.set(key, [...rows.get(key) ?? [], expr]);
    }
    const squares: Load[][] = [];
    for (const loads of rows.values()) {
      const sorted = loads.toSorted((a, b) => a.index.offset - b.index.offset);
      for (let i = 0; i + 4 <= sorted.length;) {
        const square = sorted.slice(i, i + 4);
        const adjacent = square.every((load, k) => load.index.offset === square[0]!.index.offset + k);
        if (adjacent) squares.push(square);
        i += adjacent ? 4 : 1;
      }
    }
    return squares;
  }

  /**
   * The statements from one on in which no vector waits for another one: they may be spelled for one vector after the other. That is
   * worth it where there is much to be computed: side by side the vectors would not have enough registers.
   */
  #apartFrom(statements: readonly Statement[], from: number): readonly Apart[] {
    if (this.lanes.vectors === 1) return [];
    const apart: Apart[] = [];
    let heavy = false;
    for (const statement of statements.slice(from)) {
      if (!isApart(statement)) break;
      apart.push(statement);
      heavy ||= statement.kind === "let" && statement.expr.kind === "op" &&
        elementwise[statement.expr.op].heavy === true;
    }
    return heavy ? apart : [];
  }

  #let(expr: Expr): void {
    if (this.#isNamed(expr)) this.bind(expr);
  }

  /** Whether an expression gets a local: it is read more than once, or where its value could have changed. */
  #isNamed(expr: Expr): boolean {
    const uses = this.uses.get(expr) ?? 0;
    const written = expr.kind === "load" && this.ir.buffers[expr.buffer]!.access === "readWrite";
    // What lanes have in common would be computed for each vector.
    const common = this.lanes.vectors > 1 && !this.varies(expr);
    return uses > 1 || (uses === 1 && (written || common));
  }

  #ofVector(statement: Apart, u: number): void {
    if (statement.kind === "let") {
      if (this.#isNamed(statement.expr)) this.bindVector(statement.expr, u);
    } else this.code.scoped(() => this.#vectorOf(statement, u));
  }

  #declare(accumulator: Accumulator): void {
    const { dtype, op } = accumulator;
    const locals = Array.from({ length: this.lanes.vectors }, () => this.code.local("v128"));
    this.accumulators.set(accumulator, locals);
    for (const local of locals) {
      this.v.bits(constantBits(reductions[op].identity(dtype), dtype))();
      this.code.set(local);
    }
  }

  #statement(statement: Exclude<Statement, { kind: "let" | "declare" }>): void {
    if (isApart(statement)) {
      for (let u = 0; u < this.lanes.vectors; u++) this.#vectorOf(statement, u);
      return;
    }
    switch (statement.kind) {
      case "combine":
        if (statement.columns !== 1) {
          throw new InternalError("wasm", { got: `${statement.columns} columns`, need: "one that all combine" });
        }
        for (const accumulator of statement.accumulators) this.#combine(accumulator);
        return;
      case "prefix":
        return this.#prefix(statement.accumulator, statement.total);
      case "barrier":
        return;
      case "loop":
        return this.#loop(statement.variable, statement.body);
      case "stop":
        return this.#stop(statement.index, statement.limit);
      case "store": {
        const region = this.bufferRegion(statement.buffer);
        const { accumulate, index, value, when } = statement;
        const onto: ElementwiseOp | undefined = accumulate && elementwise[reductions[accumulate].combine];
        for (let u = 0; u < this.lanes.vectors; u++) this.store(region, index, value, { when, onto, u });
        return;
      }
      case "mark":
        for (let u = 0; u < this.lanes.vectors; u++) {
          this.mark(this.bufferRegion(statement.buffer), statement.place, statement.value, statement.when, u);
        }
    }
  }

  /** One vector of a statement in which none waits for another one. */
  #vectorOf(statement: Exclude<Apart, { kind: "let" }>, u: number): void {
    const { code } = this;
    if (statement.kind === "stage") return this.#stage(statement, u);
    const { accumulator, kind, value } = statement;
    const local = this.accumulators.get(accumulator)![u]!;
    if (kind === "assign") this.value(value, u);
    else if (this.#relaxed && accumulator.op === "sum" && isProduct(value) && !this.bound.has(value)) {
      for (const factor of value.args) this.value(factor, u);
      code.get(local);
      code.op("f32x4.relaxed_madd");
    } else this.#join(accumulator, () => code.get(local), () => this.value(value, u));
    code.set(local);
  }

  #join({ op, dtype }: Accumulator, a: () => void, b: () => void): void {
    this.combined(elementwise[reductions[op].combine], [a, b], dtype);
  }

  /** All lanes become the combination of all, in a fixed tree. */
  #combine(accumulator: Accumulator): void {
    const { code } = this;
    const locals = this.accumulators.get(accumulator)!;
    let count = locals.length;
    const first = locals[0]!;
    const join = (into: number, b: () => void) => {
      this.#join(accumulator, () => code.get(into), b);
      code.set(into);
    };
    while (count > 1) {
      const half = Math.ceil(count / 2);
      for (let u = 0; u + half < count; u++) join(locals[u]!, () => code.get(locals[u + half]!));
      count = half;
    }
    for (const turn of [[2, 3, 0, 1], [1, 0, 3, 2]] as const) {
      join(first, () => {
        code.get(first);
        code.get(first);
        code.shuffle(turn);
      });
    }
    for (const local of locals.slice(1)) {
      code.get(first);
      code.set(local);
    }
  }

  /** Each vector becomes its running combination; what comes before it is joined to all of its lanes then. */
  #prefix(accumulator: Accumulator, total: Accumulator): void {
    const { code } = this;
    const { op, dtype } = accumulator;
    const locals = this.accumulators.get(accumulator)!;
    const totals = this.accumulators.get(total)!;
    const identity = this.v.bits(constantBits(reductions[op].identity(dtype), dtype));
    const join = (into: number, a: () => void, b: () => void) => {
      this.#join(accumulator, a, b);
      code.set(into);
    };
    const get = (local: number) => () => code.get(local);
    const last = (local: number) => () => {
      code.get(local);
      code.get(local);
      code.shuffle([3, 3, 3, 3]);
    };
    for (const local of locals) {
      for (const lanes of [[3, 4, 5, 6], [2, 3, 4, 5]] as const) {
        join(local, get(local), () => {
          identity();
          code.get(local);
          code.shuffle(lanes);
        });
      }
    }
    // The total waits for one addition a step, whatever the number of vectors: what is before each is added up beside it.
    const before = code.local("v128");
    const all = totals[0]!;
    const sums = code.local("v128");
    locals.forEach((local, u) => {
      const own = code.local("v128");
      last(local)();
      code.set(own);
      if (u > 0) join(before, get(all), get(sums));
      join(local, get(u > 0 ? before : all), get(local));
      if (u > 0) join(sums, get(sums), get(own));
      else {
        code.get(own);
        code.set(sums);
      }
    });
    join(all, get(all), get(sums));
    for (const other of totals.slice(1)) {
      code.get(all);
      code.set(other);
    }
  }

  #loop(variable: Variable, body: Scope): void {
    const { code } = this;
    if (variable.extent === 0) return;
    const counter = code.local("i32");
    this.counters.set(variable, counter);
    code.i32(0);
    code.set(counter);
    const stops = body.statements.some(({ kind }) => kind === "stop");
    this.withPointers(body.statements, variable, 1, (step) => {
      if (stops) code.block();
      code.loop();
      this.#pass(body.statements);
      step();
      this.#next(counter, 1, () => code.i32(variable.extent));
      code.op("end");
      if (stops) code.op("end");
    });
  }

  /** Leaves the loop where all lanes are to: what the others do there until then comes to nothing. */
  #stop(index: Index, limit: number): void {
    const { code } = this;
    const count = this.indexVaries(index) ? this.lanes.vectors : 1;
    for (let u = 0; u < count; u++) {
      this.v.op("i32x4.ge_s", () => this.lanesOf(index, u), this.v.bits(limit))();
      code.op("i32x4.all_true");
      if (u > 0) code.op("i32.and");
    }
    code.brIf(1);
  }

  /** Raises a counter, and goes back to the loop's begin while it is below a limit. */
  #next(counter: number, by: number, limit: () => void): void {
    const { code } = this;
    code.get(counter);
    code.i32(by);
    code.op("i32.add");
    code.tee(counter);
    limit();
    code.op("i32.lt_s");
    code.brIf(0);
  }

  #stage({ array, index, values }: Statement & { readonly kind: "stage" }, u: number): void {
    if (values.length !== 1) {
      throw new InternalError("wasm", { got: "a vector put into shared memory", need: "one element" });
    }
    this.store(this.sharedRegion(array), index, values[0]!, { when: undefined, onto: undefined, u });
  }
}

function letOf(statement: Statement): Expr | undefined {
  return statement.kind === "let" ? statement.expr : undefined;
}

function isProduct(expr: Expr): expr is Expr & { readonly kind: "op" } {
  return expr.kind === "op" && expr.op === "mul" && expr.dtype === "f32";
}

type Apart = Statement & { readonly kind: "let" | "update" | "assign" | "stage" };

function isApart(statement: Statement): statement is Apart {
  const { kind } = statement;
  return kind === "let" || kind === "update" || kind === "assign" || kind === "stage";
}
