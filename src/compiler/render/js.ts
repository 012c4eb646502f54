/** Kernel IR as JavaScript, with the arithmetic of 32-bit types after every op. */
import { InternalError } from "../../errors.ts";
import type { DType } from "../../graph/dtype.ts";
import { toHalfBits } from "../../graph/half.ts";
import { bitcast, cast, elementwise, type ElementwiseOp, reductions } from "../../graph/ops.ts";
import type { Accumulator, Expr, KernelIR } from "../kernel/ir.ts";
import { Renderer } from "./render.ts";

/** The body of `function (buffers, begin, end)`, which runs invocations begin … end - 1. */
export function renderJs(ir: KernelIR): string {
  return new JsRenderer(ir).body();
}

class JsRenderer extends Renderer {
  protected override readonly declare = { fixed: "const", changing: "let" } as const;
  /** The source of each function that is called. */
  readonly #helpers = new Set<string>();

  body(): string {
    this.counters();
    this.scope(this.ir.body);
    return [
      '"use strict";',
      ...this.#helpers,
      ...this.ir.buffers.map((_, i) => `const b${i} = buffers[${i}];`),
      "for (let id = begin; id < end; id++) {",
      ...this.lines,
      "}",
      "",
    ].join("\n");
  }

  protected override integer(value: number): string {
    return `${value}`;
  }

  protected override quotient(index: string, by: number): string {
    return `${index} / ${by} | 0`;
  }

  protected override minimum(index: string, limit: number): string {
    return `Math.min(${index}, ${limit})`;
  }

  protected override indexOf(value: string): string {
    return value;
  }

  protected override signed(index: string): string {
    return index;
  }

  protected override loopBound(extent: number): string {
    return `${extent}`;
  }

  protected override combined({ name, dtype, op }: Accumulator, value: string): string {
    const { combine } = reductions[op];
    const record: ElementwiseOp = elementwise[combine];
    return rounded(record.js([name, value], dtype), dtype, record.exact);
  }

  protected override stored(value: Expr, dtype: DType): string {
    // The array rounds what is stored to its own type.
    return dtype === "bool" ? `(${this.text(value)} ? 1 : 0)` : this.text(value);
  }

  protected override stage(): never {
    return refuseShared();
  }

  protected override combineAll(): never {
    return refuseShared();
  }

  protected override prefix(): never {
    return refuseShared();
  }

  protected override barrier(): never {
    return refuseShared();
  }

  protected override mark(buffer: number, place: number, value: string): string {
    return `b${buffer}[${place}] = Math.max(b${buffer}[${place}], ${value});`;
  }

  protected override literal(value: number, dtype: DType): string {
    if (dtype === "bool") return value !== 0 ? "true" : "false";
    if (dtype === "f16") return `${toHalfBits(value)}`;
    if (Object.is(value, -0)) return "(-0)";
    return value < 0 ? `(${value})` : `${value}`;
  }

  protected override spellOther(expr: Exclude<Expr, { kind: "constant" | "within" | "accumulator" }>): string {
    switch (expr.kind) {
      case "index":
        return expr.dtype === "f32" ? `Math.fround(${this.index(expr.index)})` : `(${this.index(expr.index)})`;
      case "load": {
        const element = `b${expr.buffer}[${this.index(expr.index)}]`;
        const value = expr.dtype === "bool" ? `(${element} !== 0)` : element;
        // Outside the array there is nothing to read, and V8 would give up on the loop.
        return expr.when === undefined
          ? value
          : `(${this.text(expr.when)} ? ${value} : ${expr.dtype === "bool" ? "false" : "0"})`;
      }
      case "cast": {
        const [arg] = expr.args;
        const helper = cast.jsHelper(arg.dtype, expr.dtype);
        if (helper !== undefined) this.#helpers.add(helper);
        return rounded(
          cast.js(this.text(arg), arg.dtype, expr.dtype),
          expr.dtype,
          arg.dtype === "bool" || helper !== undefined,
        );
      }
      case "bitcast": {
        const [arg] = expr.args;
        if (arg.dtype === "f32" || expr.dtype === "f32") this.#helpers.add(bitcast.jsHelper);
        return rounded(bitcast.js(this.text(arg), arg.dtype, expr.dtype), expr.dtype, expr.dtype === "f32");
      }
      case "broadcast":
      case "shared":
        return refuseShared();
      case "op": {
        const record: ElementwiseOp = elementwise[expr.op];
        if (record.jsHelper !== undefined) this.#helpers.add(record.jsHelper);
        const text = record.js(expr.args.map((arg) => this.text(arg)), expr.args[expr.args.length - 1]!.dtype);
        return rounded(text, expr.dtype, (record.exact && expr.dtype === "f32") || expr.op === "where");
      }
    }
  }
}

function refuseShared(): never {
  throw new InternalError("renderJs", { got: "invocations that work together", need: "a kernel for the cpu device" });
}

/** How a result of JavaScript's numbers becomes one of a dtype. */
const rounding: Readonly<Partial<Record<DType, (text: string) => string>>> = {
  f32: (text) => `Math.fround(${text})`,
  i32: (text) => `(${text} | 0)`,
  u32: (text) => `(${text} >>> 0)`,
};

function rounded(text: string, dtype: DType, isExact = false): string {
  if (isExact) return text;
  return rounding[dtype]?.(text) ?? text;
}
