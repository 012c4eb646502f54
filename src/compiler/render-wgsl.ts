/** Kernel IR as a WGSL module. */
import { type DType, dtypes } from "../graph/dtype.ts";
import { wgslHelpers } from "../graph/helpers.ts";
import { bitcast, cast, elementwise, type ElementwiseOp, reductions } from "../graph/ops.ts";
import type { Index } from "./affine.ts";
import type { Expr, KernelIR, Scope } from "./ir.ts";
import { countUses, vectorBuffers, vectorElement, vectorStores } from "./spelling.ts";

export interface WgslModule {
  readonly source: string;
  readonly workgroups: readonly [number, number, number];
}

export interface WgslOptions {
  readonly workgroupSize: number;
  readonly maxWorkgroups: number;
  /** Keeps the driver from unrolling loops: software adapters unroll up to 32 passes, and compile them for seconds. */
  readonly rollLoops: boolean;
}

/** Renders a kernel. Invocations that do not fill one dimension of workgroups go on in the second. */
export function renderWgsl(ir: KernelIR, { workgroupSize, maxWorkgroups, rollLoops }: WgslOptions): WgslModule {
  const renderer = new WgslRenderer(ir, rollLoops);
  const invocations = ir.parallel.reduce((n, variable) => n * variable.extent, 1);
  const perGroup = ir.workgroupSize ?? workgroupSize;
  const groups = Math.max(1, Math.ceil(invocations / perGroup));
  const x = Math.min(groups, maxWorkgroups);
  const y = Math.ceil(groups / x);
  return { source: renderer.module(invocations, perGroup, x, y), workgroups: [x, y, 1] };
}

class WgslRenderer {
  readonly #ir: KernelIR;
  readonly #uses: ReadonlyMap<Expr, number>;
  readonly #vectors: ReadonlySet<number>;
  readonly #helpers = new Set<keyof typeof wgslHelpers>();
  readonly #lines: string[] = [];
  /** Vectors loaded so far, with the scope that holds them. */
  readonly #loaded = new Map<string, { name: string; scope: Scope }>();
  readonly #rollLoops: boolean;
  #special = false;
  #subgroups = false;
  #indent = "  ";

  constructor(ir: KernelIR, rollLoops: boolean) {
    this.#ir = ir;
    this.#rollLoops = rollLoops;
    this.#uses = countUses(ir);
    this.#vectors = vectorBuffers(ir, this.#uses);
  }

  module(invocations: number, workgroupSize: number, x: number, y: number): string {
    this.#emit(y > 1 ? `let id = gid.x + gid.y * ${x * workgroupSize}u;` : "let id = gid.x;");
    if (invocations !== x * y * workgroupSize) this.#emit(`if (id >= ${invocations}u) { return; }`);
    this.#counters();
    this.#scope(this.#ir.body);
    const bindings = this.#ir.buffers.map((buffer, i) => {
      const element = dtypes[buffer.dtype].storage;
      const type = this.#vectors.has(i) ? `vec4<${element}>` : element;
      return `@group(0) @binding(${i}) var<storage, ${buffer.access === "read" ? "read" : "read_write"}> b${i}: array<${type}>;`;
    });
    return [
      ...(this.#subgroups ? ["enable subgroups;"] : []),
      ...bindings,
      ...(this.#special ? ["var<private> special_bits: u32;"] : []),
      ...[...this.#helpers].map((name) => wgslHelpers[name]),
      `@compute @workgroup_size(${workgroupSize})`,
      "fn main(@builtin(global_invocation_id) gid: vec3<u32>) {",
      ...this.#lines,
      "}",
      "",
    ].join("\n");
  }

  #emit(line: string): void {
    this.#lines.push(this.#indent + line);
  }

  #counters(): void {
    const counters = this.#ir.parallel.filter((variable) => variable.extent > 1);
    let rest = "id";
    for (let i = counters.length - 1; i >= 0; i--) {
      const { name, extent } = counters[i]!;
      this.#emit(`let ${name} = ${i === 0 ? rest : `${rest} % ${extent}u`};`);
      if (i > 0) {
        this.#emit(`let ${name}_rest = ${rest} / ${extent}u;`);
        rest = `${name}_rest`;
      }
    }
  }

  #scope(scope: Scope): void {
    const stores = vectorStores(scope.statements, this.#vectors);
    for (const statement of scope.statements) {
      switch (statement.kind) {
        case "let":
          this.#let(statement.expr);
          break;
        case "declare": {
          const { name, dtype, op } = statement.accumulator;
          this.#emit(`var ${name} = ${this.#literal(reductions[op].identity(dtype), dtype)};`);
          break;
        }
        case "update": {
          const { name, dtype, op } = statement.accumulator;
          const combine: ElementwiseOp = elementwise[reductions[op].combine];
          this.#emit(`${name} = ${combine.wgsl([name, this.#text(statement.value)], dtype)};`);
          break;
        }
        case "loop": {
          const { name, extent } = statement.variable;
          // A bound that the driver cannot know: arrays are never empty.
          const bound = this.#rollLoops && extent > 4 && extent <= 32 ? `min(${extent}u, arrayLength(&b0) * ${extent}u)` : `${extent}u`;
          this.#emit(extent === 1 ? "{" : `for (var ${name} = 0u; ${name} < ${bound}; ${name}++) {`);
          const before = this.#indent;
          this.#indent += "  ";
          this.#scope(statement.body);
          this.#indent = before;
          this.#emit("}");
          break;
        }
        case "store": {
          const { buffer } = statement;
          const { dtype } = this.#ir.buffers[buffer]!;
          const group = stores.get(statement);
          if (group !== undefined) {
            if (group.length === 0) break;
            const values = group.map((store) => this.#stored(store.value, dtype)).join(", ");
            const { vector } = vectorElement(statement.index)!;
            this.#emit(`b${buffer}[${this.#index(vector)}] = vec4<${dtypes[dtype].storage}>(${values});`);
            break;
          }
          const place = `b${buffer}[${this.#index(statement.index)}]`;
          const value = this.#stored(statement.value, dtype);
          const line = `${place} = ${statement.accumulate ? `${place} + ${value}` : value};`;
          this.#emit(statement.when === undefined ? line : `if (${this.#text(statement.when)}) { ${line} }`);
          break;
        }
      }
    }
  }

  #stored(value: Expr, dtype: DType): string {
    return dtype === "bool" ? `select(0u, 1u, ${this.#text(value)})` : this.#text(value);
  }

  /** Names an expression that is used more than once; loads of written buffers too, as a store may follow. */
  #let(expr: Expr): void {
    const uses = this.#uses.get(expr) ?? 0;
    if (uses === 0) return;
    // A vector is loaded where its first element is bound; other expressions used once are spelled in place.
    if (expr.kind === "load" && this.#vectors.has(expr.buffer) && expr.dtype !== "bool") {
      this.#text(expr);
      return;
    }
    const written = expr.kind === "load" && this.#ir.buffers[expr.buffer]!.access === "readWrite";
    if (uses === 1 && !written) return;
    this.#emit(`let e${expr.id} = ${this.#spell(expr)};`);
    this.#named.add(expr);
  }

  readonly #named = new Set<Expr>();

  #text(expr: Expr): string {
    if (this.#named.has(expr)) return `e${expr.id}`;
    return this.#spell(expr);
  }

  #spell(expr: Expr): string {
    switch (expr.kind) {
      case "constant":
        return this.#literal(expr.value, expr.dtype);
      case "index":
        return expr.dtype === "u32" ? `(${this.#index(expr.index)})` : `${expr.dtype}(${this.#index(expr.index)})`;
      case "within": {
        const { index, low, high } = expr;
        const at = `i32(${this.#index(index)})`;
        const tests = [...(index.min < low ? [`${at} >= ${low}`] : []), ...(index.max >= high ? [`${at} < ${high}`] : [])];
        return tests.length === 0 ? "true" : `(${tests.join(" && ")})`;
      }
      case "accumulator":
        return expr.accumulator.name;
      case "load":
        return this.#load(expr.buffer, expr.index, expr.dtype, expr.scope);
      case "cast": {
        const [arg] = expr.args;
        const helper = cast.wgslHelper(arg.dtype, expr.dtype);
        if (helper !== undefined) this.#helpers.add(helper);
        return cast.wgsl(this.#text(arg), arg.dtype, expr.dtype);
      }
      case "bitcast":
        return bitcast.wgsl(this.#text(expr.args[0]), expr.args[0].dtype, expr.dtype);
      case "broadcast":
        this.#subgroups = true;
        return `subgroupBroadcast(${this.#text(expr.args[0])}, ${expr.lane}u)`;
      case "op": {
        const record: ElementwiseOp = elementwise[expr.op];
        if (record.wgslHelper !== undefined) this.#helpers.add(record.wgslHelper);
        return record.wgsl(expr.args.map((arg) => this.#text(arg)), expr.args[expr.args.length - 1]!.dtype);
      }
    }
  }

  #load(buffer: number, index: Index, dtype: DType, scope: Scope): string {
    let text: string;
    if (this.#vectors.has(buffer)) {
      const { vector, element } = vectorElement(index)!;
      const key = `${buffer}:${vector.key}`;
      const known = this.#loaded.get(key);
      let name = known?.name;
      if (name === undefined || known!.scope !== scope) {
        name = `v${this.#loaded.size}`;
        this.#emit(`let ${name} = b${buffer}[${this.#index(vector)}];`);
        this.#loaded.set(key, { name, scope });
      }
      text = `${name}.${"xyzw"[element]}`;
    } else {
      text = `b${buffer}[${this.#index(index)}]`;
    }
    return dtype === "bool" ? `(${text} != 0u)` : text;
  }

  /** u32 arithmetic, modulo 2^32: exact wherever the index is in range. */
  #index(index: Index): string {
    const parts: string[] = [];
    for (const { atom, coefficient } of index.terms) {
      const text = atom.kind === "variable"
        ? atom.variable.name
        : atom.kind === "value"
        ? `u32(${this.#text(this.#ir.values.get(atom.name)!)})`
        : atom.kind === "min"
        ? `min(${this.#index(atom.of)}, ${atom.limit}u)`
        : `(${this.#index(atom.of)}) ${atom.kind === "div" ? "/" : "%"} ${atom.by}u`;
      const wrapped = atom.kind === "div" || atom.kind === "mod" ? `(${text})` : text;
      const product = Math.abs(coefficient) === 1 ? wrapped : `${wrapped} * ${Math.abs(coefficient)}u`;
      parts.push(`${coefficient < 0 ? "- " : parts.length > 0 ? "+ " : ""}${product}`);
    }
    if (parts.length === 0) return `${index.offset >>> 0}u`;
    if (parts[0]!.startsWith("- ")) {
      const offset = `${index.offset >>> 0}u `;
      return offset + parts.join(" ");
    }
    if (index.offset !== 0) parts.push(`${index.offset < 0 ? "-" : "+"} ${Math.abs(index.offset)}u`);
    return parts.join(" ");
  }

  #literal(value: number, dtype: DType): string {
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
    }
  }
}
