/** What a kernel loads and stores. */
import type { Index, Variable } from "./index-arithmetic.ts";
import type { Expr, KernelIR, Scope } from "./ir.ts";

/** A load or a store: what it is of, and where it stands. */
export interface Access {
  readonly buffer: number;
  readonly index: Index;
  readonly when: Expr | undefined;
  /** Its position in the body, then in the loop there, and so on. */
  readonly path: readonly number[];
  /** The loops around it, outermost first. */
  readonly loops: readonly Variable[];
}

/** A store; it may combine the value with what is there. */
export interface Store extends Access {
  readonly accumulates: boolean;
}

export interface Accesses {
  readonly loads: readonly Access[];
  readonly stores: readonly Store[];
}

/** All accesses of a kernel, in the order of its statements. */
export function accessesOf({ body }: KernelIR): Accesses {
  const loads: Access[] = [];
  const stores: Store[] = [];
  const visit = (scope: Scope, around: readonly number[], loops: readonly Variable[]): void => {
    for (const [i, statement] of scope.statements.entries()) {
      const path = [...around, i];
      if (statement.kind === "loop") {
        visit(statement.body, path, [...loops, statement.variable]);
      } else if (statement.kind === "let" && statement.expr.kind === "load") {
        const { buffer, index, when } = statement.expr;
        loads.push({ buffer, index, when, path, loops });
      } else if (statement.kind === "store") {
        const { buffer, index, when, accumulate } = statement;
        stores.push({ buffer, index, when, path, loops, accumulates: accumulate !== undefined });
      }
    }
  };
  visit(body, [], []);
  return { loads, stores };
}

/** An access in a loop. */
export interface LoopAccess extends Access {
  /** The innermost one around it. */
  readonly loop: Variable;
}

/** Those that are in loops. */
export function inLoops(accesses: readonly Access[]): LoopAccess[] {
  return accesses.flatMap((access) => {
    const loop = access.loops.at(-1);
    return loop === undefined ? [] : [{ ...access, loop }];
  });
}
