/**
 * What a team computes of each element of its row in one loop and again in a later one is kept in scratch memory on the cpu device, where
 * that costs less than computing it: a softmax takes one exponential of an element, not two. The value is the same, to the bit.
 */
import { elementwise } from "../../graph/ops.ts";
import { add, type Index, scale, strideOf, type Variable, variableIndex } from "../kernel/index-arithmetic.ts";
import { type Expr, type KernelIR, type Scope, type SharedArray, type Statement } from "../kernel/ir.ts";

/** Elements of the longest row that is kept: they stay in the caches near a core. */
const mostKept = 2 ** 15;

type Loop = Statement & { readonly kind: "loop" };

/** An expression of a loop that is put into scratch memory. */
interface Kept {
  readonly loop: Loop;
  readonly expr: Expr;
  array: number | undefined;
}

/** The kernel with such rows kept; itself where there are none. Its scopes are changed: no other kernel may have them. */
export function keptRows(ir: KernelIR): KernelIR {
  const member = ir.parallel.at(-1);
  if (!ir.together || member === undefined) return ir;
  const shared: SharedArray[] = [...ir.shared];
  const known = new Map<string, Kept>();
  /** Expressions that become loads, by their loops. */
  const replaced = new Map<Loop, Map<Expr, Kept>>();
  const stored = new Set<number>();
  for (const statement of ir.body.statements) {
    if (statement.kind === "loop" && statement.variable.extent * member.extent <= mostKept) {
      const before = new Set(stored);
      const within = new Set<Expr>();
      const row = rowOf(statement, member);
      // The last one that is costly has the others in it.
      for (const inner of statement.body.statements.toReversed()) {
        if (
          inner.kind !== "let" || inner.expr.kind !== "op" || elementwise[inner.expr.op].heavy !== true ||
          within.has(inner.expr)
        ) {
          continue;
        }
        const words = inWords(inner.expr, { loop: statement, row, stored: before });
        if (words === undefined) continue;
        const key = `${statement.variable.extent} ${row?.high} ${words}`;
        const first = known.get(key);
        if (first === undefined || first.loop === statement) {
          known.set(key, first ?? { loop: statement, expr: inner.expr, array: undefined });
          continue;
        }
        first.array ??= shared.push({
          dtype: inner.expr.dtype,
          length: statement.variable.extent * member.extent,
          vectors: false,
        }) - 1;
        noteParts(inner.expr, within);
        const own = replaced.get(statement) ?? new Map<Expr, Kept>();
        replaced.set(statement, own.set(inner.expr, first));
      }
    }
    noteStores(statement, stored);
  }
  if (replaced.size === 0) return ir;
  const place = (variable: Variable) => add(scale(variableIndex(variable), member.extent), variableIndex(member));
  const kept = [...known.values()].filter(({ array }) => array !== undefined);
  let id = -1; // Others count up.
  const statements = ir.body.statements.map((statement) => {
    if (statement.kind !== "loop") return statement;
    const index = place(statement.variable);
    const loads = new Map([...replaced.get(statement) ?? []].map(([expr, { array }]): [Expr, Expr] => [expr, {
      kind: "shared",
      array: array!,
      index,
      id: id--,
      dtype: expr.dtype,
      scope: statement.body,
    }]));
    const stages = kept.filter(({ loop }) => loop === statement);
    return loads.size + stages.length === 0 ? statement : withLoads(statement, loads, stages, index);
  });
  ir.body.statements.splice(0, statements.length, ...statements);
  return { ...ir, shared };
}

/** Where an expression stands: in which loop, which tells the elements of the row, after stores to which buffers. */
interface Placed {
  readonly loop: Loop;
  readonly row: Within | undefined;
  readonly stored: ReadonlySet<number>;
}

type Within = Expr & { readonly kind: "within" };

/** Whether there is an element of the row at a step, where a team's last step is not whole: all that it does there is guarded by it. */
function rowOf({ variable, body }: Loop, member: Variable): Within | undefined {
  const place = add(scale(variableIndex(variable), member.extent), variableIndex(member)).key;
  for (const statement of body.statements) {
    const expr = statement.kind === "let" ? statement.expr : undefined;
    if (expr?.kind === "within" && expr.low === 0 && expr.index.key === place) return expr;
  }
  return undefined;
}

/**
 * An expression with the counter of its loop left out, so that the same one of another loop has equal words; undefined where that
 * would not tell all.
 */
function inWords(expr: Expr, at: Placed): string | undefined {
  const { loop, row, stored } = at;
  if (expr.scope !== loop.body) return `e${expr.id}`;
  const placed = (index: Index) => {
    const stride = strideOf(index, loop.variable);
    if (stride === undefined || index.terms.some(({ atom }) => atom.kind === "value")) return undefined;
    const rest = add(index, scale(variableIndex(loop.variable), -stride));
    return `[${rest.key} by ${stride}]`;
  };
  const joined = (head: string, parts: readonly (string | undefined)[]) =>
    parts.includes(undefined) ? undefined : `${head}(${parts.join()})`;
  switch (expr.kind) {
    case "load":
      if (stored.has(expr.buffer)) return undefined;
      return joined(`load ${expr.buffer}`, [
        placed(expr.index),
        expr.when === undefined || expr.when === row ? "" : inWords(expr.when, at),
      ]);
    case "index":
      return joined(`index ${expr.dtype}`, [placed(expr.index)]);
    case "within":
      return joined(`within ${expr.low} ${expr.high}`, [placed(expr.index)]);
    case "op":
      return joined(expr.op, expr.args.map((arg) => inWords(arg, at)));
    case "cast":
    case "bitcast":
      return joined(`${expr.kind} ${expr.dtype}`, [inWords(expr.args[0], at)]);
    default:
      return undefined;
  }
}

/** Notes what an expression is made of. */
function noteParts(expr: Expr, into: Set<Expr>): void {
  if (!("args" in expr)) return;
  for (const arg of expr.args) {
    into.add(arg);
    noteParts(arg, into);
  }
}

function noteStores(statement: Statement, stored: Set<number>): void {
  if (statement.kind === "store") stored.add(statement.buffer);
  if (statement.kind === "loop") { for (const inner of statement.body.statements) noteStores(inner, stored); }
}

/** A loop with other expressions in the place of some, which also puts some into scratch memory. */
function withLoads(
  { variable, body }: Loop,
  loads: ReadonlyMap<Expr, Expr>,
  stages: readonly Kept[],
  index: Index,
): Loop {
  const known = new Map(loads);
  const of = (expr: Expr): Expr => {
    let other = known.get(expr);
    if (other === undefined) known.set(expr, other = rewritten(expr));
    return other;
  };
  const rewritten = (expr: Expr): Expr => {
    if (expr.scope !== body) return expr;
    if ("args" in expr) {
      const args = expr.args.map(of);
      return args.every((arg, i) => arg === expr.args[i]) ? expr : { ...expr, args } as Expr;
    }
    if (expr.kind !== "load" || expr.when === undefined) return expr;
    const when = of(expr.when);
    return when === expr.when ? expr : { ...expr, when };
  };
  const statements: Statement[] = [];
  for (const statement of body.statements) {
    statements.push(replacedIn(statement, of));
    const stage = statement.kind === "let" ? stages.find(({ expr }) => expr === statement.expr) : undefined;
    if (stage !== undefined) statements.push({ kind: "stage", array: stage.array!, index, values: [of(stage.expr)] });
  }
  const scope: Scope = body;
  scope.statements.splice(0, scope.statements.length, ...statements);
  return { kind: "loop", variable, body: scope };
}

function replacedIn(statement: Statement, of: (expr: Expr) => Expr): Statement {
  switch (statement.kind) {
    case "let":
      return { kind: "let", expr: of(statement.expr) };
    case "update":
    case "assign":
      return { ...statement, value: of(statement.value) };
    case "stage":
      return { ...statement, values: statement.values.map(of) };
    case "store":
    case "mark":
      return { ...statement, value: of(statement.value), when: statement.when && of(statement.when) } as Statement;
    default:
      return statement;
  }
}
