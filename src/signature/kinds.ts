/** What arguments and options may be, for `takes`. */
import type { ShardwiseError } from "../errors.ts";
import { elsewhereOnly, nearest } from "./nearest.ts";
import { show } from "./show.ts";

/** What is said of a value that is refused. */
export interface Refusal {
  readonly got: string;
  readonly need: string;
  /** What is thrown. By default ArgumentError. */
  readonly error?: Kind<unknown>["error"];
}

/** A kind of values; T is their type, for the type checker alone. */
export interface Kind<out T> {
  /** What is accepted, in the words of an error. */
  readonly need: string;
  accepts(x: unknown): boolean;
  /** More of what is wrong with a value that is not accepted. */
  refuse?(name: string, x: unknown): Refusal;
  /** Options by name that take these values, given by their place: as they would be written. Undefined where that is not plain. */
  readonly place?: ((values: readonly unknown[]) => string | undefined) | undefined;
  /** The kind that tells of a plain object what is wrong in it. */
  readonly record?: Kind<unknown> | undefined;
  /** By default ArgumentError. */
  readonly error?: (new (op: string, complaint: Refusal) => ShardwiseError) | undefined;
  /** Whether the argument may be left out. */
  readonly optional?: boolean;
  /** Whether it takes all arguments that are left. */
  readonly rest?: boolean;
  readonly type?: T;
}

export const number: Kind<number> = { need: "a number", accepts: (x) => typeof x === "number" };
export const boolean: Kind<boolean> = { need: "true or false", accepts: (x) => typeof x === "boolean" };
export const string: Kind<string> = { need: "a string", accepts: (x) => typeof x === "string" };
export const callable: Kind<never> = { need: "a function", accepts: (x) => typeof x === "function" };
export const anything: Kind<never> = { need: "a value", accepts: () => true };
/** An object that is no array. */
export const object: Kind<never> = {
  need: "an object",
  accepts: (x) => typeof x === "object" && x !== null && !Array.isArray(x),
};

/** One of some words. */
export function oneOf<const T extends string>(...words: readonly T[]): Kind<T> {
  const quoted = words.map((word) => JSON.stringify(word));
  return {
    need: quoted.join(" or "),
    accepts: (x) => words.includes(x as T),
    refuse: (name, x) => ({ got: `${name} ${show(x)}`, need: `${quoted.join(" or ")}${meant(x, words)}` }),
  };
}

/** What one of some kinds accepts. */
export function either<T extends readonly Kind<unknown>[]>(
  ...kinds: T
): Kind<T[number] extends Kind<infer X> ? X : never> {
  return {
    need: `${kinds.slice(0, -1).map(({ need }) => need).join(", ")} or ${kinds.at(-1)!.need}`,
    accepts: (x) => kinds.some((kind) => kind.accepts(x)),
    record: kinds.find(({ record }) => record !== undefined)?.record,
  };
}

/** A list of what a kind accepts. */
export function listOf<T>(kind: Kind<T>, need: string): Kind<readonly T[]> {
  return { need, accepts: (x) => Array.isArray(x) && x.every((one) => kind.accepts(one)) };
}

/** Instances of a class. */
export function instance<T>(of: abstract new (...args: never[]) => T, need: string): Kind<T> {
  return { need, accepts: (x) => x instanceof of };
}

/** An argument that may be left out. */
export function optional<T>(kind: Kind<T>): Kind<T | undefined> {
  return { ...kind, optional: true };
}

/** Any number of arguments. */
export function rest<T>(kind: Kind<T>): Kind<T> {
  return { ...kind, optional: true, rest: true };
}

/** The kinds of a record's fields; each may be left out. */
export type Fields<O> = { readonly [K in keyof O]-?: Kind<NonNullable<O[K]>> };

/** Options by name, where each may be left out; so may the whole. For O, which names them all. */
export function options<O extends object>(fields: Fields<O>): Kind<O | undefined> {
  return { ...named<O>(fields), optional: true };
}

/** Options of which none is proposed for a value in their place: elsewhere that is something else. */
export function unplaced<K extends Kind<unknown>>(kind: K): K {
  return { ...kind, place: undefined };
}

/** Options by name, of which some must be there. */
export function required<O extends object>(needed: readonly (keyof O & string)[], fields: Fields<O>): Kind<O> {
  return named<O>(fields, needed);
}

function named<O extends object>(fields: Fields<O>, needed: readonly string[] = []): Kind<O> {
  const table = new Map(Object.entries(fields) as [string, Kind<unknown>][]);
  const names = [...table.keys()];
  const all = names.length === 0 ? "an object without options" : `an object of ${names.join(", ")}`;
  const kind: Kind<O> = {
    need: all,
    get record() {
      return kind;
    },
    accepts(x) {
      if (typeof x !== "object" || x === null || Array.isArray(x)) return false;
      let isEmpty = true;
      for (const name in x) {
        isEmpty = false;
        const kind = table.get(name);
        if (kind === undefined) return false;
        const value = (x as Record<string, unknown>)[name];
        if (value !== undefined && !kind.accepts(value)) return false;
      }
      for (let i = 0; i < needed.length; i++) {
        if ((x as Record<string, unknown>)[needed[i]!] === undefined) return false;
      }
      // A Map, a Date or a promise has no names.
      return !isEmpty || !isInstance(x);
    },
    place(values) {
      const takes = (name: string | undefined, x: unknown) =>
        name !== undefined && table.get(name) !== anything && table.get(name)!.accepts(x);
      const places = values.length === 1
        ? [[...needed, ...names].find((name) => takes(name, values[0]))]
        : names.slice(0, values.length);
      if (values.length === 0 || values.length > names.length || !values.every((x, i) => takes(places[i], x))) {
        return undefined;
      }
      return `{ ${values.map((x, i) => `${places[i]}: ${show(x)}`).join(", ")} }`;
    },
    refuse(name, x) {
      if (!isPlain(x)) return { got: `${show(x)} as ${name}`, need: all };
      for (const key of Object.keys(x as object)) {
        const kind = table.get(key);
        if (kind === undefined) {
          const need = names.length === 0 ? "no options" : `one of ${names.join(", ")}`;
          return { got: `the option ${JSON.stringify(key)}`, need: `${need}${meant(key, names)}` };
        }
        const value = (x as Record<string, unknown>)[key];
        if (value !== undefined && !kind.accepts(value)) return refusalOf(kind, key, value);
      }
      const missing = needed.find((key) => (x as Record<string, unknown>)[key] === undefined)!;
      return { got: `no ${missing}`, need: `${missing}: ${table.get(missing)!.need}` };
    },
  };
  return kind;
}

/** What a kind says of a value that it does not accept: an argument, or an option. */
export function refusalOf(kind: Kind<unknown>, name: string, x: unknown, argument = false): Refusal {
  return { error: kind.error, ...complaintOf(kind, name, x, argument) };
}

function complaintOf(kind: Kind<unknown>, name: string, x: unknown, argument: boolean): Refusal {
  if (x === undefined) return { got: `undefined as ${name}`, need: kind.need };
  const of = kind.refuse === undefined && isPlain(x) ? kind.record ?? kind : kind;
  return of.refuse?.(name, x) ?? { got: argument ? `${show(x)} as ${name}` : `${name} ${show(x)}`, need: kind.need };
}

function isPlain(x: unknown): boolean {
  return typeof x === "object" && x !== null && !Array.isArray(x) && !isInstance(x);
}

/** Whether an object is of a class of its own. */
function isInstance(x: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(x);
  return prototype !== null && prototype !== Object.prototype && Object.getPrototypeOf(prototype) !== null;
}

function meant(x: unknown, legal: readonly string[]): string {
  if (typeof x !== "string") return "";
  const advice = elsewhereOnly(x);
  const found = advice === undefined ? nearest(x, legal) : undefined;
  return advice !== undefined ? `: ${advice}` : found === undefined ? "" : `: did you mean ${found}?`;
}
