/** What declared signatures say of wrong arguments: names that were meant, values as they are shown, kinds of values. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ArgumentError, DTypeError, ShardwiseError } from "../src/errors.ts";
import {
  boolean,
  callable,
  either,
  type Kind,
  listOf,
  number,
  oneOf,
  optional,
  options,
  required,
  rest,
  string,
} from "../src/signature/kinds.ts";
import { nearest } from "../src/signature/nearest.ts";
import { show } from "../src/signature/show.ts";
import { guard, rejects, takes } from "../src/signature/takes.ts";

test("nearest finds the name that was meant", () => {
  const legal = ["axis", "keepDims", "learningRate", "weightDecay", "stepTimeout", "devices"];
  const meant: Readonly<Record<string, string | undefined>> = {
    Axis: "axis", // The same but for upper case.
    keep_dims: "keepDims",
    "keep-dims": "keepDims",
    dim: "axis", // Another library's word.
    lr: "learningRate",
    wd: "weightDecay",
    st: "stepTimeout", // Initials.
    learn: "learningRate", // A beginning.
    devicesList: "devices",
    axes: "axis",
    axsi: "axis", // Neighbours that changed places.
    keepDim: "keepDims", // One letter left out,
    keepDimss: "keepDims", // one put in,
    keepDivs: "keepDims", // one replaced.
    stpTimeuot: "stepTimeout",
    verbose: undefined,
    "": undefined,
    _: undefined,
    x: undefined,
  };
  for (const [name, wanted] of Object.entries(meant)) assert.equal(nearest(name, legal), wanted, name);
  assert.equal(nearest("axis", []), undefined);
  assert.equal(nearest("float32", ["f32", "f16", "i32"]), "f32");
  assert.equal(nearest("float64", ["f32", "f16", "i32"]), "f32");
  assert.equal(nearest("int", ["f32", "f16", "i32"]), "i32");
});

test("nearest gives a legal name or none, the name itself for one that is legal, and one for any single slip in a long one", () => {
  const legal = ["axis", "keepDims", "learningRate", "snapshotEvery"];
  fc.assert(fc.property(fc.string(), (name) => {
    const found = nearest(name, legal);
    assert.ok(found === undefined || legal.includes(found));
  }));
  for (const name of legal) assert.equal(nearest(name, legal), name);
  fc.assert(
    fc.property(
      fc.constantFrom(...legal.filter((name) => name.length > 6)),
      fc.nat(),
      fc.constantFrom("q", "z", ""),
      (name, at, letter) => {
        const place = at % name.length;
        assert.equal(nearest(name.slice(0, place) + letter + name.slice(place + 1), legal), name);
      },
    ),
  );
});

test("show writes values short, and as they are told apart", () => {
  class Net {}
  class Engine {}
  const shown: readonly (readonly [unknown, string])[] = [
    [1, "1"],
    [-0.5, "-0.5"],
    [NaN, "NaN"],
    [undefined, "undefined"],
    [null, "null"],
    [true, "true"],
    ["a", '"a"'],
    ["1", '"1"'],
    [12n, "12n"],
    [Symbol("s"), "Symbol(s)"],
    [[1, "a", null], '[1, "a", null]'],
    [[[1], [2]], "[[…], […]]"],
    [[1, 2, 3, 4, 5, 6, 7, 8, 9], "[1, 2, 3, 4, 5, 6, 7, 8, …]"],
    [{ axis: 1, of: 2 }, "{ axis, of }"],
    [{}, "{}"],
    [Object.create(null), "{}"],
    [new Net(), "a Net"],
    [new Engine(), "an Engine"],
    [new Map(), "a Map"],
    [new Float32Array(2), "a Float32Array"],
    [Promise.resolve(), "a Promise"],
    [function sum() {}, "the function sum"],
    [(() => () => {})(), "a function"],
  ];
  for (const [value, text] of shown) assert.equal(show(value), text);
  fc.assert(
    fc.property(
      fc.anything(),
      (value) => assert.ok(show(value).length <= 80 || typeof value === "bigint" || typeof value === "symbol"),
    ),
  );
  assert.ok(show("x".repeat(1000)).length < 70 && show(new Array(1e6).fill("x".repeat(100))).length < 70);
});

interface Options {
  readonly axis?: number;
  readonly keepDims?: boolean;
  readonly how?: "fast" | "exact";
}
const axis: Kind<number> = { ...number, need: "the number of an axis" };
const typed: Kind<string> = { ...string, error: DTypeError };
const reduce = takes("reduce", {
  x: number,
  options: options<Options>({ axis, keepDims: boolean, how: oneOf("fast", "exact") }),
});

/** What a signature says of these arguments. */
function said(signature: { check(args: readonly unknown[]): void }, ...args: readonly unknown[]): string | undefined {
  try {
    signature.check(args);
    return undefined;
  } catch (error) {
    assert.ok(error instanceof ShardwiseError, String(error));
    return error.message;
  }
}

test("a signature takes what it declares, and says the first thing that is wrong", () => {
  for (
    const args of [[1], [1, undefined], [1, {}], [1, { axis: 0, keepDims: true, how: "fast" }], [1, {
      axis: undefined,
    }]]
  ) {
    assert.equal(said(reduce, ...args), undefined);
  }
  assert.equal(said(reduce), "reduce: got undefined as x; need a number");
  assert.equal(said(reduce, "1", 2), 'reduce: got "1" as x; need a number');
  assert.equal(
    said(reduce, 1, 2),
    "reduce: got 2 as options; need an object of axis, keepDims, how: did you mean { axis: 2 }?",
  );
  assert.equal(
    said(reduce, 1, "fast"),
    'reduce: got "fast" as options; need an object of axis, keepDims, how: did you mean { how: "fast" }?',
  );
  assert.equal(said(reduce, 1, null), "reduce: got null as options; need an object of axis, keepDims, how");
  assert.equal(said(reduce, 1, new Map()), "reduce: got a Map as options; need an object of axis, keepDims, how");
  assert.equal(
    said(reduce, 1, { dim: 0 }),
    'reduce: got the option "dim"; need one of axis, keepDims, how: did you mean axis?',
  );
  assert.equal(said(reduce, 1, { axis: null }), "reduce: got axis null; need the number of an axis");
  assert.equal(
    said(reduce, 1, { how: "exakt" }),
    'reduce: got how "exakt"; need "fast" or "exact": did you mean exact?',
  );
  assert.equal(said(reduce, 1, {}, 3), "reduce: got 3 arguments, with 3; need at most 2: x, options");
  assert.equal(said(takes("now", {}), 3), "now: got the argument 3; need none");
});

test("kinds: lists, one of several, options of which some are needed, any number of arguments", () => {
  const window = takes("window", {
    options: required<{ axis: number; length?: number }>(["axis"], { axis, length: number }),
  });
  assert.equal(said(window, { axis: 1 }), undefined);
  assert.equal(said(window, { length: 1 }), "window: got no axis; need axis: the number of an axis");
  assert.equal(said(window), "window: got undefined as options; need an object of axis, length");
  const parts = takes("parts", { parts: either(number, required<{ each: number }>(["each"], { each: number })) });
  assert.equal(said(parts, { each: 1 }), undefined);
  assert.equal(said(parts, { evry: 1 }), 'parts: got the option "evry"; need one of each');
  assert.equal(said(parts, "x"), 'parts: got "x" as parts; need a number or an object of each');
  const all = takes("all", { fn: callable, names: rest(string) });
  assert.equal(said(all, () => {}), undefined);
  assert.equal(said(all, () => {}, "a", "b"), undefined);
  assert.equal(said(all, () => {}, "a", 2), "all: got 2 as names; need a string");
  assert.equal(
    said(takes("of", { list: listOf(number, "a list of numbers") }), [1, "2"]),
    'of: got [1, "2"] as list; need a list of numbers',
  );
  assert.equal(said(takes("maybe", { x: optional(number) })), undefined);
  assert.equal(said(takes("maybe", { x: optional(number) }), null), "maybe: got null as x; need a number");
});

test("a kind may say what is thrown, as an argument and as an option", () => {
  assert.throws(() => takes("cast", { dtype: typed }).check([1]), DTypeError);
  assert.throws(
    () => takes("cast", { options: options<{ dtype?: string }>({ dtype: typed }) }).check([{ dtype: 1 }]),
    DTypeError,
  );
  assert.throws(
    () => takes("cast", { options: options<{ dtype?: string }>({ dtype: typed }) }).check([{ type: 1 }]),
    ArgumentError,
  );
});

test("guarded methods keep their name, length and this, throw, and reject where they give promises", async () => {
  class Box {
    value = 3;
    none(): number {
      return this.value;
    }
    one(a: number): number {
      return this.value + a;
    }
    two(a: number, o: Options = {}): number {
      return this.value + a + (o.axis ?? 0);
    }
    any(...list: number[]): number {
      return this.value + list.length;
    }
    later(a: number): Promise<number> {
      return Promise.resolve(this.value + a);
    }
  }
  guard("box.", Box.prototype, {
    none: {},
    one: { a: number },
    two: { a: number, o: options<Options>({ axis, keepDims: boolean, how: oneOf("fast", "exact") }) },
    any: { list: rest(number) },
    later: rejects({ a: number }),
  });
  const box = new Box();
  // deno-lint-ignore no-explicit-any
  const js = box as any;
  assert.deepEqual([box.none(), box.one(1), box.two(1), box.two(1, { axis: 2 }), box.any(1, 2), await box.later(1)], [
    3,
    4,
    4,
    6,
    5,
    4,
  ]);
  assert.deepEqual([Box.prototype.two.name, Box.prototype.two.length, Box.prototype.later.name], ["two", 1, "later"]);
  for (
    const wrong of [
      () => js.none(1),
      () => js.none(undefined),
      () => js.one(),
      () => js.one(1, 2),
      () => js.two(1, 2),
      () => js.two(1, {}, 3),
      () => js.any(1, "2"),
    ]
  ) {
    assert.throws(wrong, (error: unknown) => error instanceof ArgumentError && error.op.startsWith("box."));
  }
  await assert.rejects(js.later("1"), (error: unknown) => error instanceof ArgumentError && error.op === "box.later");
});
