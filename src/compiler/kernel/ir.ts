/**
 * Kernel IR: what one invocation does, as scopes of statements over pure expressions. An expression lives in the
 * outermost scope in which all it depends on is known, so loop invariants are hoisted by construction; equal
 * expressions are one.
 */
import type { DType } from "../../graph/dtype.ts";
import type { Node } from "../../graph/node.ts";
import type { ElementwiseName, ReductionName } from "../../graph/ops.ts";
import { elementwise, hidden, reductions } from "../../graph/ops.ts";
import { eachLeaf, type Index, type Variable } from "./index-arithmetic.ts";

interface ExprBase {
  readonly id: number;
  readonly dtype: DType;
  readonly scope: Scope;
}
export type Expr =
  & ExprBase
  & (
    | { readonly kind: "constant"; readonly value: number }
    | { readonly kind: "index"; readonly index: Index }
    /** `when` guards the load: where it is false the result is undefined. */
    | { readonly kind: "load"; readonly buffer: number; readonly index: Index; readonly when: Expr | undefined }
    | { readonly kind: "op"; readonly op: ElementwiseName; readonly args: readonly Expr[] }
    | { readonly kind: "cast" | "bitcast"; readonly args: readonly [Expr] }
    /** low <= index < high, signed. */
    | { readonly kind: "within"; readonly index: Index; readonly low: number; readonly high: number }
    | { readonly kind: "accumulator"; readonly accumulator: Accumulator }
    /** The value that lane `lane` of the subgroup has of `args[0]`. */
    | { readonly kind: "broadcast"; readonly args: readonly [Expr]; readonly lane: number }
    /** An element of workgroup memory, as it is where the expression stands. */
    | { readonly kind: "shared"; readonly array: number; readonly index: Index }
  );

/** One element to compute: its indices, and what must hold for it to matter. */
export interface Lane {
  readonly indices: readonly Index[];
  readonly when: Expr | undefined;
}

/** The values of a node at some elements, in the same order. */
export type ValuesOf = (node: Node, lanes: readonly Lane[]) => readonly Expr[];

export interface Accumulator {
  readonly name: string;
  readonly dtype: DType;
  readonly op: ReductionName;
}

export type Statement =
  | { readonly kind: "let"; readonly expr: Expr }
  | { readonly kind: "declare"; readonly accumulator: Accumulator }
  | { readonly kind: "update"; readonly accumulator: Accumulator; readonly value: Expr }
  /** The accumulator becomes the value, of whatever it was before. */
  | { readonly kind: "assign"; readonly accumulator: Accumulator; readonly value: Expr }
  | { readonly kind: "loop"; readonly variable: Variable; readonly body: Scope }
  /** Ends the loop around it once the index reaches the limit. */
  | { readonly kind: "stop"; readonly index: Index; readonly limit: number }
  /** Puts an element into workgroup memory, or a whole vector of elements into an array of vectors. */
  | { readonly kind: "stage"; readonly array: number; readonly index: Index; readonly values: readonly Expr[] }
  /**
   * What the invocations of a workgroup have in each accumulator becomes their combination, in a fixed tree; by way of
   * `array`, which has room for all. Of `columns` numbered side by side, each is combined with those of its own column.
   */
  | {
    readonly kind: "combine";
    readonly accumulators: readonly Accumulator[];
    readonly columns: number;
    readonly array: number;
  }
  /**
   * What each invocation of a workgroup has in the accumulator becomes its combination with what those before it have, and with
   * `total`, which all have in common and which becomes that of the last one.
   */
  | { readonly kind: "prefix"; readonly accumulator: Accumulator; readonly total: Accumulator }
  /** All invocations of a workgroup come here before any of them goes on. */
  | { readonly kind: "barrier" }
  /** What the buffer holds becomes the value, or its combination with the value as in the reduction `accumulate`. */
  | {
    readonly kind: "store";
    readonly buffer: number;
    readonly index: Index;
    readonly value: Expr;
    readonly when: Expr | undefined;
    readonly accumulate: ReductionName | undefined;
  }
  /** A u32 of the buffer becomes the value where that is larger, whichever invocations do so at once. Seldom, so by atomics. */
  | {
    readonly kind: "mark";
    readonly buffer: number;
    readonly place: number;
    readonly value: Expr;
    readonly when: Expr;
  };

export interface Scope {
  readonly depth: number;
  readonly parent: Scope | undefined;
  readonly statements: Statement[];
}

/** One buffer that a kernel binds. */
export interface KernelBuffer {
  readonly slot: number;
  readonly dtype: DType;
  access: "read" | "readWrite";
}

/** Memory that the invocations of a workgroup share. */
export interface SharedArray {
  readonly dtype: DType;
  readonly length: number;
  /** Held as vectors of four; the length is a multiple of 4 then. Such an array is only stored to by whole vectors. */
  readonly vectors: boolean;
}

export interface KernelIR {
  readonly name: string;
  /** The counters whose combinations are the invocations; the last one varies fastest. */
  readonly parallel: readonly Variable[];
  /** Invocations of a workgroup, where the kernel asks for a number; they divide all invocations. */
  readonly workgroupSize: number | undefined;
  /** Whether invocations of a workgroup work together, so that none can be run alone. */
  readonly together: boolean;
  readonly buffers: readonly KernelBuffer[];
  readonly shared: readonly SharedArray[];
  readonly body: Scope;
  /** The expression behind each `value` atom of an index. */
  readonly values: ReadonlyMap<string, Expr>;
}

/** Builds one kernel: creates each expression once and puts it where it belongs. */
export class KernelBuilder {
  readonly root: Scope = { depth: 0, parent: undefined, statements: [] };
  readonly buffers: KernelBuffer[] = [];
  readonly shared: SharedArray[] = [];
  readonly values: Map<string, Expr> = new Map();
  #exprs = new Map<string, Expr>();
  /** By dtype and length: see combiningArray. */
  #combiningArrays = new Map<string, number>();
  #scopes = new Map<Variable, Scope>();
  #nextId = 0;
  #nextName = 0;

  variable(prefix: string, extent: number): Variable {
    return { name: `${prefix}${this.#nextName++}`, extent };
  }

  /** A fresh body for a loop over `variable`, to be put into `parent` with `loop` once it is filled. */
  openLoop(parent: Scope, variable: Variable): Scope {
    const body: Scope = { depth: parent.depth + 1, parent, statements: [] };
    this.#scopes.set(variable, body);
    return body;
  }

  /** The index of `slot` among the kernel's buffers. */
  buffer(slot: number, dtype: DType, access: "read" | "readWrite"): number {
    const known = this.buffers.findIndex((buffer) => buffer.slot === slot && buffer.dtype === dtype);
    if (known >= 0) {
      if (access === "readWrite") this.buffers[known]!.access = access;
      return known;
    }
    this.buffers.push({ slot, dtype, access });
    return this.buffers.length - 1;
  }

  scopeOfIndex(index: Index): Scope {
    let scope = this.root;
    eachLeaf(index, (leaf) => {
      const own = leaf.kind === "variable" ? this.#scopes.get(leaf.variable) : this.values.get(leaf.name)?.scope;
      if (own !== undefined && own.depth > scope.depth) scope = own;
    });
    return scope;
  }

  /** Whether an index, or an expression, depends on a variable. */
  dependsOn(of: Index | Expr, variable: Variable): boolean {
    if ("terms" in of) {
      let depends = false;
      eachLeaf(of, (leaf) => {
        depends ||= leaf.kind === "variable"
          ? leaf.variable === variable
          : this.dependsOn(this.values.get(leaf.name)!, variable);
      });
      return depends;
    }
    return ("index" in of && this.dependsOn(of.index, variable)) ||
      (of.kind === "load" && of.when !== undefined && this.dependsOn(of.when, variable)) ||
      ("args" in of && of.args.some((arg) => this.dependsOn(arg, variable)));
  }

  constant(value: number, dtype: DType): Expr {
    return this.#make(
      `c${dtype}${Object.is(value, -0) ? "-0" : value}`,
      this.root,
      { kind: "constant", value, dtype },
      false,
    );
  }

  index(index: Index, dtype: DType): Expr {
    return this.#make(`i${dtype}${index.key}`, this.scopeOfIndex(index), { kind: "index", index, dtype });
  }

  load(buffer: number, index: Index, when: Expr | undefined): Expr {
    const { dtype } = this.buffers[buffer]!;
    const scope = deeper(this.scopeOfIndex(index), when?.scope);
    return this.#make(`l${buffer}[${index.key}]${when?.id ?? ""}`, scope, { kind: "load", buffer, index, when, dtype });
  }

  /** An element of a buffer that the kernel writes, as it is where the expression stands in `scope`: no earlier load is it. */
  loadNow(buffer: number, index: Index, scope: Scope): Expr {
    const { dtype } = this.buffers[buffer]!;
    return this.#make(`n${this.#nextId}`, scope, { kind: "load", buffer, index, when: undefined, dtype });
  }

  op(op: ElementwiseName, ...args: Expr[]): Expr {
    const last = args[args.length - 1]!;
    if (op === "gated") {
      // The test is of the weight alone, so that it is made once for all that are multiplied by it.
      const none = this.op("eq", args[0]!, this.constant(hidden, last.dtype));
      return this.op("mul", args[0]!, this.op("where", none, this.constant(0, last.dtype), last));
    }
    if (op === "where" && args[1] === last) return last;
    const gives = elementwise[op].gives;
    const dtype = gives === "same" ? last.dtype : gives;
    const scope = args.reduce((scope, arg) => deeper(scope, arg.scope), this.root);
    return this.#make(`${op}(${args.map((arg) => arg.id)})`, scope, { kind: "op", op, args, dtype });
  }

  /** Both conditions; undefined stands for one that always holds. */
  and(a: Expr | undefined, b: Expr | undefined): Expr | undefined {
    if (a === undefined || a === b) return b;
    return b === undefined ? a : this.op("and", a, b);
  }

  convert(kind: "cast" | "bitcast", arg: Expr, dtype: DType): Expr {
    return this.#make(`${kind}${dtype}(${arg.id})`, arg.scope, { kind, args: [arg], dtype });
  }

  within(index: Index, low: number, high: number): Expr {
    // Guards may tell equal indices apart by their ranges, and a test that one of them does not need another one does.
    const needed = `${index.min < low ? low : ""},${index.max >= high ? high : ""}`;
    return this.#make(`w(${index.key},${needed})`, this.scopeOfIndex(index), {
      kind: "within",
      index,
      low,
      high,
      dtype: "bool",
    });
  }

  broadcast(arg: Expr, lane: number): Expr {
    return this.#make(`b${lane}(${arg.id})`, arg.scope, { kind: "broadcast", args: [arg], lane, dtype: arg.dtype });
  }

  /** A new array in workgroup memory; gives its number. */
  sharedArray(dtype: DType, length: number, vectors: boolean): number {
    return this.shared.push({ dtype, length, vectors }) - 1;
  }

  /** Workgroup memory by way of which invocations combine what they have. One array serves all that come one after the other. */
  combiningArray(dtype: DType, length: number): number {
    const key = `${dtype} ${length}`;
    let array = this.#combiningArrays.get(key);
    if (array === undefined) this.#combiningArrays.set(key, array = this.sharedArray(dtype, length, false));
    return array;
  }

  sharedLoad(array: number, index: Index): Expr {
    return this.#make(`s${array}[${index.key}]`, this.scopeOfIndex(index), {
      kind: "shared",
      array,
      index,
      dtype: this.shared[array]!.dtype,
    });
  }

  /** An element of workgroup memory as it is where the expression stands in `scope`: it changes in the course of the kernel. */
  sharedLoadNow(array: number, index: Index, scope: Scope): Expr {
    const { dtype } = this.shared[array]!;
    return this.#make(`n${this.#nextId}`, scope, { kind: "shared", array, index, dtype });
  }

  /** Names an i32 expression so that an index may contain it. */
  nameValue(expr: Expr): string {
    const name = `e${expr.id}`;
    this.values.set(name, expr);
    return name;
  }

  accumulator(op: ReductionName, dtype: DType, scope: Scope): Accumulator {
    const accumulator = { name: `acc${this.#nextName++}`, dtype, op };
    scope.statements.push({ kind: "declare", accumulator });
    return accumulator;
  }

  /** The value of an accumulator after its loop, read in `scope`, which holds that loop; or as it is where it is spelled. */
  result(accumulator: Accumulator, scope: Scope): Expr {
    return this.#make(`${accumulator.name}@${scope.depth}`, scope, {
      kind: "accumulator",
      accumulator,
      dtype: accumulator.dtype,
    }, false);
  }

  combine(op: ReductionName, a: Expr, b: Expr): Expr {
    return this.op(reductions[op].combine, a, b);
  }

  finish(name: string, parallel: readonly Variable[], workgroupSize?: number, together = false): KernelIR {
    const { buffers, shared, root: body, values } = this;
    return { name, parallel, workgroupSize, together, buffers, shared, body, values };
  }

  #make(key: string, scope: Scope, parts: ExprParts, bind = true): Expr {
    const known = this.#exprs.get(key);
    if (known !== undefined) return known;
    const expr = { ...parts, id: this.#nextId++, scope } as Expr;
    this.#exprs.set(key, expr);
    if (bind) scope.statements.push({ kind: "let", expr });
    return expr;
  }
}

type ExprParts = Expr extends infer E ? E extends Expr ? Omit<E, "id" | "scope"> : never : never;

export function deeper(a: Scope, b: Scope | undefined): Scope {
  return b !== undefined && b.depth > a.depth ? b : a;
}

/** Calls `visit` for every statement, inner ones too, with how many times it runs per invocation and its scope. */
export function eachStatement(
  scope: Scope,
  visit: (statement: Statement, times: number, scope: Scope) => void,
  times = 1,
): void {
  for (const statement of scope.statements) {
    visit(statement, times, scope);
    if (statement.kind === "loop") eachStatement(statement.body, visit, times * statement.variable.extent);
  }
}
