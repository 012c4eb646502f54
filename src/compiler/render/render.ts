/** Kernel IR as text: what WGSL and JavaScript have in common. */
import type { DType } from "../../graph/dtype.ts";
import { type ReductionName, reductions } from "../../graph/ops.ts";
import type { Index, Variable } from "../kernel/index-arithmetic.ts";
import type { Accumulator, Expr, KernelIR, Scope, Statement } from "../kernel/ir.ts";
import { countUses } from "../kernel/uses.ts";

/** Walks a kernel and spells it. What a subclass gives is how its language says each thing. */
export abstract class Renderer {
  protected readonly ir: KernelIR;
  /** How often each expression is read; absent where it is not. */
  protected readonly uses: ReadonlyMap<Expr, number>;
  protected readonly lines: string[] = [];
  readonly #named = new Set<Expr>();
  #indent = "  ";

  constructor(ir: KernelIR) {
    this.ir = ir;
    this.uses = countUses(ir);
  }

  /** The words for a value that stays and for one that changes. */
  protected abstract readonly declare: { readonly fixed: string; readonly changing: string };
  /** A non-negative integer of index arithmetic; a negative one wraps where the language does. */
  protected abstract integer(value: number): string;
  protected abstract quotient(index: string, by: number): string;
  protected abstract minimum(index: string, limit: number): string;
  /** An i32 of the kernel in index arithmetic. */
  protected abstract indexOf(value: string): string;
  protected abstract literal(value: number, dtype: DType): string;
  protected abstract loopBound(extent: number): string;
  /** What an accumulator becomes when `value` joins it. */
  protected abstract combined(accumulator: Accumulator, value: string): string;
  /** A value as a buffer holds it. */
  protected abstract stored(value: Expr, dtype: DType): string;
  /** Everything that is no constant, bound test or accumulator. */
  protected abstract spellOther(expr: Exclude<Expr, { kind: "constant" | "within" | "accumulator" }>): string;
  /** Puts values into workgroup memory. */
  protected abstract stage(array: number, index: Index, values: readonly string[]): void;
  protected abstract combineAll(accumulators: readonly Accumulator[], columns: number, array: number): void;
  protected abstract prefix(accumulator: Accumulator, total: Accumulator): void;
  protected abstract barrier(): void;
  /** The statement that makes an element of a buffer the larger of itself and a value. */
  protected abstract mark(buffer: number, place: number, value: string): string;
  /** An index where it is compared, so signed. */
  protected abstract signed(index: string): string;

  /** An element of a buffer. */
  protected element(buffer: number, index: string): string {
    return `b${buffer}[${index}]`;
  }

  /** The statement that stores a value, as `stored` spelled it, in a buffer. */
  protected store(buffer: number, index: string, value: string): string {
    return `${this.element(buffer, index)} = ${value};`;
  }

  protected emit(line: string): void {
    this.lines.push(this.#indent + line);
  }

  /** Counters out of their joint number `id`; the last one varies fastest. */
  protected counters(parallel: readonly Variable[] = this.ir.parallel): void {
    const { fixed } = this.declare;
    const counters = parallel.filter((variable) => variable.extent > 1);
    let rest = "id";
    for (let i = counters.length - 1; i >= 0; i--) {
      const { name, extent } = counters[i]!;
      this.emit(`${fixed} ${name} = ${i === 0 ? rest : `${rest} % ${this.integer(extent)}`};`);
      if (i === 0) break;
      this.emit(`${fixed} ${name}_rest = ${this.quotient(rest, extent)};`);
      rest = `${name}_rest`;
    }
  }

  protected scope(scope: Scope): void {
    for (const statement of scope.statements) this.statement(statement, scope);
  }

  protected statement(statement: Statement, _scope: Scope): void {
    switch (statement.kind) {
      case "let":
        this.bind(statement.expr);
        break;
      case "declare": {
        const { name, dtype, op } = statement.accumulator;
        this.emit(`${this.declare.changing} ${name} = ${this.literal(reductions[op].identity(dtype), dtype)};`);
        break;
      }
      case "update":
        this.emit(
          `${statement.accumulator.name} = ${this.combined(statement.accumulator, this.text(statement.value))};`,
        );
        break;
      case "assign":
        this.emit(`${statement.accumulator.name} = ${this.text(statement.value)};`);
        break;
      case "loop": {
        const { name, extent } = statement.variable;
        const head = `for (${this.declare.changing} ${name} = ${this.integer(0)}; ${name} < ${
          this.loopBound(extent)
        }; ${name}++) {`;
        this.emit(extent === 1 ? "{" : head);
        const before = this.#indent;
        this.#indent += "  ";
        this.scope(statement.body);
        this.#indent = before;
        this.emit("}");
        break;
      }
      case "stop":
        this.emit(`if (${this.index(statement.index)} >= ${this.integer(statement.limit)}) { break; }`);
        break;
      case "stage":
        this.stage(statement.array, statement.index, statement.values.map((value) => this.text(value)));
        break;
      case "combine":
        this.combineAll(statement.accumulators, statement.columns, statement.array);
        break;
      case "prefix":
        this.prefix(statement.accumulator, statement.total);
        break;
      case "barrier":
        this.barrier();
        break;
      case "mark":
        this.emit(
          `if (${this.text(statement.when)}) { ${
            this.mark(statement.buffer, statement.place, this.text(statement.value))
          } }`,
        );
        break;
      case "store": {
        const index = this.index(statement.index);
        const { dtype } = this.ir.buffers[statement.buffer]!;
        const value = this.stored(statement.value, dtype);
        const line = this.store(
          statement.buffer,
          index,
          this.#accumulated(statement.accumulate, this.element(statement.buffer, index), value, dtype),
        );
        this.emit(statement.when === undefined ? line : `if (${this.text(statement.when)}) { ${line} }`);
        break;
      }
    }
  }

  #accumulated(op: ReductionName | undefined, element: string, value: string, dtype: DType): string {
    if (op === undefined) return value;
    return op === "sum" ? `${element} + ${value}` : this.combined({ name: element, dtype, op }, value);
  }

  /** Names an expression that is used more than once; loads of written buffers too, as a store may follow. */
  protected bind(expr: Expr): void {
    const uses = this.uses.get(expr) ?? 0;
    const written = expr.kind === "load" && this.ir.buffers[expr.buffer]!.access === "readWrite";
    if (uses === 0 || (uses === 1 && !written)) return;
    this.emit(`${this.declare.fixed} e${expr.id} = ${this.#spell(expr)};`);
    this.#named.add(expr);
  }

  /** The name of an expression, or its spelling where it has none. */
  protected text(expr: Expr): string {
    return this.#named.has(expr) ? `e${expr.id}` : this.#spell(expr);
  }

  #spell(expr: Expr): string {
    switch (expr.kind) {
      case "constant":
        return this.literal(expr.value, expr.dtype);
      case "accumulator":
        return expr.accumulator.name;
      case "within": {
        const { index, low, high } = expr;
        const at = this.signed(this.index(index));
        const tests = [
          ...(index.min < low ? [`${at} >= ${this.literal(low, "i32")}`] : []),
          ...(index.max >= high ? [`${at} < ${this.literal(high, "i32")}`] : []),
        ];
        return tests.length === 0 ? "true" : `(${tests.join(" && ")})`;
      }
      default:
        return this.spellOther(expr);
    }
  }

  protected index(index: Index): string {
    const parts: string[] = [];
    for (const { atom, coefficient } of index.terms) {
      let text: string;
      switch (atom.kind) {
        case "variable":
          text = atom.variable.name;
          break;
        case "value":
          text = this.indexOf(this.text(this.ir.values.get(atom.name)!));
          break;
        case "min":
          text = this.minimum(this.index(atom.of), atom.limit);
          break;
        case "div":
          text = `(${this.quotient(`(${this.index(atom.of)})`, atom.by)})`;
          break;
        case "mod":
          text = `((${this.index(atom.of)}) % ${this.integer(atom.by)})`;
          break;
      }
      const product = Math.abs(coefficient) === 1 ? text : `${text} * ${this.integer(Math.abs(coefficient))}`;
      parts.push(`${coefficient < 0 ? "- " : parts.length > 0 ? "+ " : ""}${product}`);
    }
    // Unsigned arithmetic has no negation, so what is subtracted comes behind the offset.
    if (parts.length === 0 || parts[0]!.startsWith("- ")) return [this.integer(index.offset), ...parts].join(" ");
    if (index.offset !== 0) parts.push(`${index.offset < 0 ? "-" : "+"} ${this.integer(Math.abs(index.offset))}`);
    return parts.join(" ");
  }
}
