/** Which expressions of a kernel are read, and how often. */
import type { Index } from "./index-arithmetic.ts";
import { eachStatement, type Expr, type KernelIR, type Scope } from "./ir.ts";

/**
 * How many times each expression is read by others and by statements. A reader in an inner scope counts twice: the
 * expression must be named where it is known, lest it be computed in every pass of a loop. Unread ones are absent.
 */
export function countUses(ir: KernelIR): Map<Expr, number> {
  const uses = new Map<Expr, number>();
  const unvisited: Expr[] = [];
  const need = (expr: Expr | undefined, from: Scope) => {
    if (expr === undefined) return;
    const known = uses.get(expr);
    if (known === undefined) unvisited.push(expr);
    uses.set(expr, (known ?? 0) + (expr.scope === from ? 1 : 2));
  };
  eachStatement(ir.body, (statement, _times, scope) => {
    if (statement.kind === "update" || statement.kind === "assign") need(statement.value, scope);
    if (statement.kind === "stage") { for (const value of statement.values) need(value, scope); }
    if (statement.kind === "stop" || statement.kind === "stage") needValues(statement.index, ir, need, scope);
    if (statement.kind === "mark") {
      need(statement.value, scope);
      need(statement.when, scope);
    }
    if (statement.kind === "store") {
      need(statement.value, scope);
      need(statement.when, scope);
      needValues(statement.index, ir, need, scope);
    }
  });
  while (unvisited.length > 0) {
    const expr = unvisited.pop()!;
    if (expr.kind === "op" || expr.kind === "cast" || expr.kind === "bitcast" || expr.kind === "broadcast") {
      for (const arg of expr.args) {
        need(arg, expr.scope);
      }
    }
    if (expr.kind === "load") need(expr.when, expr.scope);
    if (expr.kind === "load" || expr.kind === "index" || expr.kind === "within" || expr.kind === "shared") {
      needValues(expr.index, ir, need, expr.scope);
    }
  }
  return uses;
}

function needValues(
  index: Index,
  ir: KernelIR,
  need: (expr: Expr | undefined, from: Scope) => void,
  from: Scope,
): void {
  for (const { atom } of index.terms) {
    // A value is spelled by its name, so it must have one: two uses keep it from being spelled in place.
    if (atom.kind === "value") { for (let i = 0; i < 2; i++) need(ir.values.get(atom.name), from); }
    else if (atom.kind !== "variable") needValues(atom.of, ir, need, from);
  }
}

/** Takes out what nothing reads, so that it does not count as loaded. */
export function dropUnread(ir: KernelIR): KernelIR {
  const uses = countUses(ir);
  const drop = ({ statements }: Scope) => {
    let kept = 0;
    for (const statement of statements) {
      if (statement.kind === "loop") drop(statement.body);
      if (statement.kind !== "let" || uses.has(statement.expr)) statements[kept++] = statement;
    }
    statements.length = kept;
  };
  drop(ir.body);
  return ir;
}
