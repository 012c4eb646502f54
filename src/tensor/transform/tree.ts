/** Nested arrays and records of tensors. */
import { ArgumentError } from "../../errors.ts";
import { anything, boolean, callable, optional, options, string } from "../../signature/kinds.ts";
import { show } from "../../signature/show.ts";
import { takes } from "../../signature/takes.ts";
import { isTensor, type Tensor } from "../tensor.ts";

/** A tensor, or arrays and records of them. */
export type Tree = Tensor | readonly Tree[] | { readonly [key: string]: Tree };

/** Any tree with leaves of one kind. */
export type AnyTree<Leaf> = Leaf | readonly AnyTree<Leaf>[] | { readonly [key: string]: AnyTree<Leaf> };

/** A tree of the same form with other leaves. */
export type TreeOf<T, Leaf> = [Tree] extends [T] ? AnyTree<Leaf>
  : T extends Tensor ? Leaf
  : T extends readonly unknown[] ? { -readonly [K in keyof T]: TreeOf<T[K], Leaf> }
  : T extends object ? { -readonly [K in keyof T]: TreeOf<T[K], Leaf> }
  : T;

/** A tree of the same form, of tensors of the same dtypes. */
export type TensorsOf<T> = [Tree] extends [T] ? AnyTree<Tensor>
  : T extends Tensor<infer D> ? Tensor<D>
  : T extends object ? { -readonly [K in keyof T]: TensorsOf<T[K]> }
  : T;

/** A tree taken apart. */
export interface FlatTree {
  /** The tensors, in the order of the paths. */
  readonly leaves: readonly Tensor[];
  /** Where each leaf is, as in `layers[0].weight`; empty for a tree that is a leaf. */
  readonly paths: readonly string[];
  /** The form of the tree and its parts that are no tensors: equal keys, equal forms. */
  readonly key: string;
  /** The same tree with other leaves. Throws ArgumentError when their number differs. */
  rebuild(leaves: readonly unknown[]): unknown;
}

/** One part of a tree, in the order in which it is read. */
type Part =
  | { readonly kind: "leaf" }
  | { readonly kind: "static"; readonly value: unknown }
  | { readonly kind: "array"; readonly length: number }
  | { readonly kind: "record"; readonly keys: readonly string[] };

/** What a tree may have besides tensors. */
export interface FlattenTreeOptions {
  /** Whether it may have other values, as numbers, strings and functions. Default false. */
  readonly statics?: boolean | undefined;
}

/** How deep a tree may be nested: deeper ones are likely to contain themselves. */
export const deepest = 256;

const signatures = {
  flattenTree: takes("flattenTree", {
    op: string,
    tree: optional(anything),
    options: options<FlattenTreeOptions>({ statics: boolean }),
  }),
  mapTree: takes("mapTree", { tree: anything, f: callable }),
};

/**
 * Takes a tree apart: leaves by position and by key, in the order of insertion. Other values (numbers, strings,
 * functions, …) are kept as they are where `statics` allows them. Throws ArgumentError, which names `op`, for them otherwise,
 * for instances of classes, and for what is nested more than 256 deep.
 */
export function flattenTree(op: string, tree: unknown, options: FlattenTreeOptions = {}): FlatTree {
  signatures.flattenTree.check(arguments);
  const leaves: Tensor[] = [];
  const paths: string[] = [];
  const parts: Part[] = [];
  const visit = (part: unknown, path: string, depth: number): void => {
    if (depth > deepest) {
      throw new ArgumentError(op, {
        got: `a tree nested more than ${deepest} deep, or that contains itself`,
        need: "another one",
      });
    }
    if (isTensor(part)) {
      leaves.push(part);
      paths.push(path);
      parts.push({ kind: "leaf" });
    } else if (Array.isArray(part)) {
      parts.push({ kind: "array", length: part.length });
      for (let i = 0; i < part.length; i++) visit(part[i], `${path}[${i}]`, depth + 1);
    } else if (isRecord(part)) {
      const keys = Object.keys(part);
      parts.push({ kind: "record", keys });
      for (const key of keys) visit(part[key], path === "" ? key : `${path}.${key}`, depth + 1);
    } else if (options.statics === true && (typeof part !== "object" || part === null)) {
      parts.push({ kind: "static", value: part });
    } else {
      throw new ArgumentError(op, {
        got: `${describe(part)}${path === "" ? "" : ` at ${path}`}`,
        need: options.statics === true
          ? "tensors, plain values, and arrays and records of them"
          : "tensors, and arrays and records of them",
      });
    }
  };
  visit(tree, "", 0);
  const count = leaves.length;
  return { leaves, paths, key: parts.map(partKey).join(), rebuild: (values) => rebuild(op, parts, values, count) };
}

function rebuild(op: string, parts: readonly Part[], values: readonly unknown[], count: number): unknown {
  if (!Array.isArray(values) || values.length !== count) {
    throw new ArgumentError(op, {
      got: Array.isArray(values) ? `${values.length} leaves` : `${show(values)} as leaves`,
      need: `a list of ${count}`,
    });
  }
  let [nextPart, nextValue] = [0, 0];
  const make = (): unknown => {
    const part = parts[nextPart++]!;
    switch (part.kind) {
      case "leaf":
        return values[nextValue++];
      case "static":
        return part.value;
      case "array":
        return Array.from({ length: part.length }, make);
      case "record":
        return Object.fromEntries(part.keys.map((key) => [key, make()]));
    }
  };
  return make();
}

const identities = new WeakMap<object, number>();
const symbols = new Map<symbol, number>();
let nextIdentity = 0;

/** Functions and symbols are the same only when they are the same one. */
function identity(value: object | symbol): number {
  const known = typeof value === "symbol" ? symbols.get(value) : identities.get(value);
  if (known !== undefined) return known;
  const next = nextIdentity++;
  if (typeof value === "symbol") symbols.set(value, next);
  else identities.set(value, next);
  return next;
}

function partKey(part: Part): string {
  switch (part.kind) {
    case "leaf":
      return "*";
    case "array":
      return `[${part.length}]`;
    case "record":
      return `{${part.keys.map((key) => JSON.stringify(key)).join()}}`;
    case "static": {
      const { value } = part;
      if (typeof value === "string") return JSON.stringify(value);
      if (typeof value === "function" || typeof value === "symbol") return `#${identity(value)}`;
      return `${typeof value}:${Object.is(value, -0) ? "-0" : String(value)}`;
    }
  }
}

function isRecord(x: unknown): x is Record<string, unknown> {
  if (typeof x !== "object" || x === null) return false;
  const prototype: unknown = Object.getPrototypeOf(x);
  return prototype === Object.prototype || prototype === null;
}

function describe(x: unknown): string {
  if (x === null || typeof x !== "object") return `${x === undefined ? "undefined" : typeof x}`;
  return `an object of ${(x as { constructor?: { name?: string } }).constructor?.name ?? "no class"}`;
}

/** A tree of the same form with `f` of each leaf. */
export function mapTree<T extends Tree, R>(tree: T, f: (leaf: Tensor, path: string) => R): TreeOf<T, R> {
  signatures.mapTree.check(arguments);
  const flat = flattenTree("mapTree", tree);
  return flat.rebuild(flat.leaves.map((leaf, i) => f(leaf, flat.paths[i]!))) as TreeOf<T, R>;
}
