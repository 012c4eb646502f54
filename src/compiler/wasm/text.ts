/** Kernel IR as text to be read: what a kernel in WebAssembly does, where the bytes say little. */
import type { DType } from "../../graph/dtype.ts";
import { reductions } from "../../graph/ops.ts";
import type { Index } from "../kernel/index-arithmetic.ts";
import type { Accumulator, Expr, KernelIR } from "../kernel/ir.ts";
import { Renderer } from "../render/render.ts";

/** A listing of a kernel; kernels with equal listings do the same. */
export function renderText(ir: KernelIR): string {
  return new TextRenderer(ir).listing();
}

class TextRenderer extends Renderer {
  protected override readonly declare = { fixed: "let", changing: "var" } as const;

  listing(): string {
    const { parallel, buffers, shared, together } = this.ir;
    this.scope(this.ir.body);
    return [
      ...buffers.map(({ dtype, access }, i) => `b${i}: ${dtype}${access === "readWrite" ? ", written" : ""}`),
      ...shared.map(({ dtype, length }, i) => `s${i}: ${dtype}[${length}], shared`),
      `for each ${parallel.map(({ name, extent }) => `${name} < ${extent}`).join(", ")}${
        together ? ", together" : ""
      }:`,
      ...this.lines,
      "",
    ].join("\n");
  }

  protected override integer(value: number): string {
    return `${value}`;
  }

  protected override quotient(index: string, by: number): string {
    return `${index} / ${by}`;
  }

  protected override minimum(index: string, limit: number): string {
    return `min(${index}, ${limit})`;
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

  protected override combined({ name, op }: Accumulator, value: string): string {
    return `${reductions[op].combine}(${name}, ${value})`;
  }

  protected override stored(value: Expr): string {
    return this.text(value);
  }

  protected override stage(array: number, index: Index, values: readonly string[]): void {
    this.emit(`s${array}[${this.index(index)}] = ${values.join(", ")};`);
  }

  protected override combineAll(accumulators: readonly Accumulator[], columns: number): void {
    for (const { name, op } of accumulators) {
      this.emit(`${name} = ${op} of all ${name}${columns > 1 ? ` in ${columns} columns` : ""};`);
    }
  }

  protected override prefix({ name, op }: Accumulator, total: Accumulator): void {
    this.emit(`${name}, ${total.name} = running ${op} of ${name} from ${total.name};`);
  }

  protected override barrier(): void {
    this.emit("barrier;");
  }

  protected override mark(buffer: number, place: number, value: string): string {
    return `b${buffer}[${place}] = max(b${buffer}[${place}], ${value});`;
  }

  protected override literal(value: number, dtype: DType): string {
    const text = Object.is(value, -0) ? "-0" : `${value}`;
    return dtype === "bool" ? `${value !== 0}` : dtype === "f32" ? text : `${text}${dtype}`;
  }

  protected override spellOther(expr: Exclude<Expr, { kind: "constant" | "within" | "accumulator" }>): string {
    switch (expr.kind) {
      case "index":
        return `${expr.dtype}(${this.index(expr.index)})`;
      case "load": {
        const element = `b${expr.buffer}[${this.index(expr.index)}]`;
        return expr.when === undefined ? element : `(${element} where ${this.text(expr.when)})`;
      }
      case "shared":
        return `s${expr.array}[${this.index(expr.index)}]`;
      case "broadcast":
        return `lane(${this.text(expr.args[0])}, ${expr.lane})`;
      case "cast":
      case "bitcast":
        return `${expr.kind === "cast" ? "" : "bits_"}${expr.dtype}(${this.text(expr.args[0])})`;
      case "op":
        return `${expr.op}(${expr.args.map((arg) => this.text(arg)).join(", ")})`;
    }
  }
}
