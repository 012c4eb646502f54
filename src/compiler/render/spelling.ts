/** What is spelled as vectors: the buffers that can be read by them. */
import { addConstant, divide, type Index, isMultiple } from "../kernel/index-arithmetic.ts";
import { eachStatement, type Expr, type KernelIR, type Statement } from "../kernel/ir.ts";

/** A group of four neighbouring elements, and which of them an index is. */
export interface VectorElement {
  readonly vector: Index;
  readonly element: number;
}

export function vectorElement(index: Index): VectorElement | undefined {
  const element = ((index.offset % 4) + 4) % 4;
  const base = addConstant(index, -element);
  return isMultiple(base, 4) ? { vector: divide(base, 4), element } : undefined;
}

/** The buffers of which only whole, aligned groups of four are read and written: they can be bound as vectors. */
export function vectorBuffers(ir: KernelIR, uses: ReadonlyMap<Expr, number>): Set<number> {
  const groups = new Map<number, Map<string, number>>();
  const scalar = new Set<number>();
  const reference = (buffer: number, index: Index, tag: string) => {
    const place = vectorElement(index);
    if (place === undefined) {
      scalar.add(buffer);
      return;
    }
    const of = groups.get(buffer) ?? new Map<string, number>();
    groups.set(buffer, of);
    const key = `${tag}${place.vector.key}`;
    of.set(key, (of.get(key) ?? 0) | (1 << place.element));
  };
  eachStatement(ir.body, (statement) => {
    if (statement.kind === "let" && statement.expr.kind === "load" && uses.has(statement.expr)) {
      reference(statement.expr.buffer, statement.expr.index, `l${statement.expr.when?.id ?? ""}:`);
    } else if (statement.kind === "store") {
      if (statement.accumulate) scalar.add(statement.buffer);
      else reference(statement.buffer, statement.index, `s${statement.when?.id ?? ""}:`);
    }
  });
  const result = new Set<number>();
  for (const [buffer, of] of groups) {
    if (!scalar.has(buffer) && [...of.values()].every((lanes) => lanes === 15)) result.add(buffer);
  }
  return result;
}

/** Four stores that fill one vector, under one guard, follow each other in the scope; the last one writes them. */
export function vectorStores(
  statements: readonly Statement[],
  vectors: ReadonlySet<number>,
): Map<Statement, readonly (Statement & { kind: "store" })[]> {
  const pending = new Map<string, (Statement & { kind: "store" })[]>();
  const result = new Map<Statement, readonly (Statement & { kind: "store" })[]>();
  for (const statement of statements) {
    if (statement.kind !== "store" || !vectors.has(statement.buffer)) continue;
    const place = vectorElement(statement.index)!;
    const key = `${statement.buffer}:${statement.when?.id ?? ""}:${place.vector.key}`;
    const group = pending.get(key) ?? [];
    pending.set(key, group);
    group[place.element] = statement;
    const full = group.filter((store) => store !== undefined).length === 4;
    result.set(statement, full ? group : []);
    if (full) pending.delete(key);
  }
  return result;
}
