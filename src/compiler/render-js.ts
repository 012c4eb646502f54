/** Kernel IR as JavaScript, with the arithmetic of 32-bit types after every op. */
import { InternalError } from "../errors.ts";
import type { DType } from "../graph/dtype.ts";
import { jsHelpers } from "../graph/helpers.ts";
import { bitcast, cast, elementwise, type ElementwiseOp, reductions } from "../graph/ops.ts";
import type { Index } from "./affine.ts";
import type { Expr, KernelIR, Scope } from "./ir.ts";
import { countUses } from "./spelling.ts";

/** Ops whose f32 result is exact, so that rounding it would be in vain. */
const exact: ReadonlySet<string> = new Set(["neg", "abs", "sign", "floor", "ceil", "trunc", "round", "relu", "max", "min", "where"]);

/** The body of `function (buffers, begin, end)`, which runs invocations begin … end - 1. */
export function renderJs(ir: KernelIR): string {
  return new JsRenderer(ir).body();
}

class JsRenderer {
  readonly #ir: KernelIR;
  readonly #uses: ReadonlyMap<Expr, number>;
  readonly #helpers = new Set<keyof typeof jsHelpers>();
  readonly #lines: string[] = [];
  readonly #named = new Set<Expr>();
  #indent = "  ";

  constructor(ir: KernelIR) {
    this.#ir = ir;
    this.#uses = countUses(ir);
  }

  body(): string {
    this.#counters();
    this.#scope(this.#ir.body);
    const buffers = this.#ir.buffers.map((_, i) => `const b${i} = buffers[${i}];`);
    return [
      '"use strict";',
      ...[...this.#helpers].map((name) => jsHelpers[name]),
      ...buffers,
      "for (let id = begin; id < end; id++) {",
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
      this.#emit(`const ${name} = ${i === 0 ? rest : `${rest} % ${extent}`};`);
      if (i > 0) {
        this.#emit(`const ${name}_rest = ${rest} / ${extent} | 0;`);
        rest = `${name}_rest`;
      }
    }
  }

  #scope(scope: Scope): void {
    for (const statement of scope.statements) {
      switch (statement.kind) {
        case "let":
          this.#let(statement.expr);
          break;
        case "declare": {
          const { name, dtype, op } = statement.accumulator;
          this.#emit(`let ${name} = ${literal(reductions[op].identity(dtype), dtype)};`);
          break;
        }
        case "update": {
          const { name, dtype, op } = statement.accumulator;
          const { combine } = reductions[op];
          const record: ElementwiseOp = elementwise[combine];
          this.#emit(`${name} = ${rounded(record.js([name, this.#text(statement.value)], dtype), dtype, exact.has(combine))};`);
          break;
        }
        case "loop": {
          const { name, extent } = statement.variable;
          this.#emit(extent === 1 ? "{" : `for (let ${name} = 0; ${name} < ${extent}; ${name}++) {`);
          const before = this.#indent;
          this.#indent += "  ";
          this.#scope(statement.body);
          this.#indent = before;
          this.#emit("}");
          break;
        }
        case "store": {
          const place = `b${statement.buffer}[${this.#index(statement.index)}]`;
          const { dtype } = this.#ir.buffers[statement.buffer]!;
          const value = dtype === "bool" ? `(${this.#text(statement.value)} ? 1 : 0)` : this.#text(statement.value);
          // The array rounds what is stored to its own type.
          const line = `${place} = ${statement.accumulate ? `${place} + ${value}` : value};`;
          this.#emit(statement.when === undefined ? line : `if (${this.#text(statement.when)}) { ${line} }`);
          break;
        }
      }
    }
  }

  #let(expr: Expr): void {
    const uses = this.#uses.get(expr) ?? 0;
    const written = expr.kind === "load" && this.#ir.buffers[expr.buffer]!.access === "readWrite";
    if (uses === 0 || (uses === 1 && !written)) return;
    this.#emit(`const e${expr.id} = ${this.#spell(expr)};`);
    this.#named.add(expr);
  }

  #text(expr: Expr): string {
    return this.#named.has(expr) ? `e${expr.id}` : this.#spell(expr);
  }

  #spell(expr: Expr): string {
    switch (expr.kind) {
      case "constant":
        return literal(expr.value, expr.dtype);
      case "index":
        return expr.dtype === "f32" ? `Math.fround(${this.#index(expr.index)})` : `(${this.#index(expr.index)})`;
      case "within": {
        const { index, low, high } = expr;
        const at = this.#index(index);
        const tests = [...(index.min < low ? [`${at} >= ${low}`] : []), ...(index.max >= high ? [`${at} < ${high}`] : [])];
        return tests.length === 0 ? "true" : `(${tests.join(" && ")})`;
      }
      case "accumulator":
        return expr.accumulator.name;
      case "load": {
        const element = `b${expr.buffer}[${this.#index(expr.index)}]`;
        const value = expr.dtype === "bool" ? `(${element} !== 0)` : element;
        // Outside the array there is nothing to read, and V8 would give up on the loop.
        return expr.when === undefined ? value : `(${this.#text(expr.when)} ? ${value} : ${expr.dtype === "bool" ? "false" : "0"})`;
      }
      case "cast": {
        const [arg] = expr.args;
        return rounded(cast.js(this.#text(arg), arg.dtype, expr.dtype), expr.dtype, arg.dtype === "bool");
      }
      case "bitcast": {
        const [arg] = expr.args;
        if (arg.dtype === "f32" || expr.dtype === "f32") this.#helpers.add(bitcast.jsHelper);
        return rounded(bitcast.js(this.#text(arg), arg.dtype, expr.dtype), expr.dtype, expr.dtype === "f32");
      }
      case "broadcast":
        throw new InternalError("renderJs", { got: "a subgroup operation", need: "a kernel for the cpu device" });
      case "op": {
        const record: ElementwiseOp = elementwise[expr.op];
        if (record.jsHelper !== undefined) this.#helpers.add(record.jsHelper);
        const text = record.js(expr.args.map((arg) => this.#text(arg)), expr.args[expr.args.length - 1]!.dtype);
        return rounded(text, expr.dtype, exact.has(expr.op) && expr.dtype === "f32" || expr.op === "where");
      }
    }
  }

  #index(index: Index): string {
    const parts: string[] = [];
    for (const { atom, coefficient } of index.terms) {
      const text = atom.kind === "variable"
        ? atom.variable.name
        : atom.kind === "value"
        ? this.#text(this.#ir.values.get(atom.name)!)
        : atom.kind === "min"
        ? `Math.min(${this.#index(atom.of)}, ${atom.limit})`
        : atom.kind === "div"
        ? `((${this.#index(atom.of)}) / ${atom.by} | 0)`
        : `((${this.#index(atom.of)}) % ${atom.by})`;
      const product = Math.abs(coefficient) === 1 ? text : `${text} * ${Math.abs(coefficient)}`;
      parts.push(`${coefficient < 0 ? "- " : parts.length > 0 ? "+ " : ""}${product}`);
    }
    if (parts.length === 0) return `${index.offset}`;
    if (index.offset !== 0) parts.push(`${index.offset < 0 ? "-" : "+"} ${Math.abs(index.offset)}`);
    return parts.join(" ");
  }
}

function rounded(text: string, dtype: DType, isExact: boolean): string {
  if (isExact) return text;
  return dtype === "f32" ? `Math.fround(${text})` : dtype === "i32" ? `(${text} | 0)` : dtype === "u32" ? `(${text} >>> 0)` : text;
}

function literal(value: number, dtype: DType): string {
  if (dtype === "bool") return value !== 0 ? "true" : "false";
  if (Object.is(value, -0)) return "(-0)";
  return value < 0 ? `(${value})` : `${value}`;
}
