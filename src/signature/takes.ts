/**
 * What a public function takes, declared once and checked at every call: JavaScript passes over an argument too many, a
 * misspelt option and a wrong type, and the result would be another one than was asked for.
 */
import { ArgumentError, InternalError } from "../errors.ts";
import { type Kind, refusalOf } from "./kinds.ts";
import { show } from "./show.ts";

/** The parameters of a function by name, in their order. */
export type Parameters = Readonly<Record<string, Kind<unknown>>>;

/** What a function takes. */
export class Signature {
  readonly op: string;
  readonly names: readonly string[];
  readonly kinds: readonly Kind<unknown>[];
  readonly #rest: Kind<unknown> | undefined;

  constructor(op: string, parameters: Parameters) {
    this.op = op;
    this.names = Object.keys(parameters);
    this.kinds = Object.values(parameters);
    const last = this.kinds.at(-1);
    this.#rest = last?.rest === true ? last : undefined;
  }

  /** Throws ArgumentError, or what the kind of an argument says, unless these are arguments of the function. */
  check(args: ArrayLike<unknown>): void {
    const { kinds } = this;
    const count = Math.max(args.length, kinds.length);
    for (let i = 0; i < count; i++) {
      const kind = i < kinds.length ? kinds[i]! : this.#rest;
      if (kind === undefined || !(args[i] === undefined ? kind.optional === true : kind.accepts(args[i]))) {
        this.refuse(args);
      }
    }
  }

  /** What `check` throws, as a promise that rejects; undefined where it throws nothing. */
  rejection(args: ArrayLike<unknown>): Promise<never> | undefined {
    try {
      this.check(args);
      return undefined;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Throws for the first argument that is not as it should be. */
  refuse(args: ArrayLike<unknown>): never {
    const { op, kinds, names } = this;
    for (const [i, kind] of kinds.entries()) {
      const given = kind.rest === true ? Array.from(args).slice(i) : [args[i]];
      for (const x of given) {
        if (x === undefined ? kind.optional === true : kind.accepts(x)) continue;
        const refusal = refusalOf(kind, names[i]!, x, true);
        const meant = i === kinds.length - 1
          ? kind.place?.(Array.from(args).slice(i).filter((one) => one !== undefined))
          : undefined;
        const need = meant === undefined ? refusal.need : `${refusal.need}: did you mean ${meant}?`;
        throw new (refusal.error ?? ArgumentError)(op, { ...refusal, need });
      }
    }
    const surplus = show(args[kinds.length]);
    throw new ArgumentError(op, {
      got: args.length === 1 ? `the argument ${surplus}` : `${args.length} arguments, with ${surplus}`,
      need: kinds.length === 0 ? "none" : `at most ${kinds.length}: ${names.join(", ")}`,
    });
  }
}

/** What a function takes: its name, and its parameters in their order. */
export function takes(op: string, parameters: Parameters): Signature {
  return new Signature(op, parameters);
}

type Method = (...args: never[]) => unknown;

/** The parameters of a method that returns a promise: it rejects where others throw. */
export class Rejecting {
  readonly parameters: Parameters;

  constructor(parameters: Parameters) {
    this.parameters = parameters;
  }
}

export function rejects(parameters: Parameters): Rejecting {
  return new Rejecting(parameters);
}

/** The parameters of all methods of a class, but for `Internal` ones. */
export type Methods<C, Internal = never> = {
  readonly [K in keyof C as K extends string ? K extends Internal ? never : C[K] extends Method ? K : never : never]-?:
    C[K] extends (...args: never[]) => PromiseLike<unknown> ? Rejecting : Parameters;
};

type Called = (this: unknown, ...args: unknown[]) => unknown;

/**
 * Lets the methods of a class, inherited ones as well, check what they are given. An error names the method, with `prefix`
 * before it.
 */
export function guard(
  prefix: string,
  prototype: object,
  methods: Readonly<Record<string, Parameters | Rejecting>>,
): void {
  for (const [name, declared] of Object.entries(methods)) {
    const descriptor = descriptorOf(prototype, name);
    const method = descriptor.value as Called;
    const value = declared instanceof Rejecting
      ? rejecting(new Signature(prefix + name, declared.parameters), method)
      : throwing(new Signature(prefix + name, declared), method);
    Object.defineProperties(value, { name: { value: name }, length: { value: method.length } });
    Object.defineProperty(prototype, name, { ...descriptor, value });
  }
}

function descriptorOf(prototype: object, name: string): PropertyDescriptor {
  for (let owner: object | null = prototype; owner !== null; owner = Object.getPrototypeOf(owner) as object | null) {
    const descriptor = Object.getOwnPropertyDescriptor(owner, name);
    if (descriptor !== undefined) return descriptor;
  }
  throw new InternalError("guard", { got: `no method ${name}`, need: "a method of the class" });
}

/** The method, after a check. Most ops have few parameters: lists of arguments are not made for those. */
function throwing(signature: Signature, method: Called): Called {
  const { kinds } = signature;
  const [first, second] = kinds;
  if (kinds.some(({ rest }) => rest === true) || kinds.length > 2) {
    return function (...args) {
      signature.check(args);
      return method.apply(this, args);
    };
  }
  if (first === undefined) {
    return function () {
      if (arguments.length > 0) signature.refuse(arguments);
      return method.call(this);
    };
  }
  const mayLack = first.optional === true;
  if (second === undefined) {
    return function (a) {
      if (arguments.length > 1 || !(a === undefined ? mayLack : first.accepts(a))) signature.refuse(arguments);
      return method.call(this, a);
    };
  }
  const mayLackSecond = second.optional === true;
  return function (a, b) {
    if (
      arguments.length > 2 || !(a === undefined ? mayLack : first.accepts(a)) ||
      !(b === undefined ? mayLackSecond : second.accepts(b))
    ) signature.refuse(arguments);
    return method.call(this, a, b);
  };
}

function rejecting(signature: Signature, method: Called): Called {
  return function (...args) {
    return signature.rejection(args) ?? method.apply(this, args);
  };
}
