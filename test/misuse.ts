/**
 * Calls functions in the ways in which they may be called wrongly, and asserts that each is told: a typed error of the
 * function's name, with what was given and what is needed; a promise that rejects with it where the function gives promises.
 */
import assert from "node:assert/strict";
import { isTensor, ShardwiseError } from "../src/index.ts";

/** A function, and arguments with which it works. */
export interface Usage {
  /** With options where it takes some: they are told by being a plain object. */
  readonly args: readonly unknown[];
  /** Positions at which any value is allowed, as those of trees: what is wrong there is a matter of their own. */
  readonly free?: readonly number[];
  /** Positions of trees of tensors, which may as well be records. */
  readonly trees?: readonly number[];
  /** Whether it takes any number of arguments of the last one's kind. */
  readonly rest?: boolean;
  /** Whether it gives a promise. */
  readonly promise?: boolean;
  /** What errors name. */
  readonly op?: string;
}

type Called = (...args: unknown[]) => unknown;

class Stranger {}

/** Values that are taken for one of the kind of `sample` nowhere. */
function wrongFor(sample: unknown): unknown[] {
  const always = [null, new Stranger(), new Date(0), Symbol("s")];
  if (isTensor(sample)) return [...always, [1, 2], "x", {}, () => 1, 1n];
  if (typeof sample === "number" || typeof sample === "boolean") return [...always, "1", {}, () => 1, 1n];
  if (typeof sample === "function") return [...always, "x", 1, [1], {}];
  if (typeof sample === "string") return [...always, 1, true, [1], {}, () => 1];
  if (Array.isArray(sample)) return [...always, "x", () => 1, new Map()];
  if (isPlain(sample)) return [...always, "x", () => 1, [1], new Map([["axis", 1]]), Promise.resolve({})];
  return [...always, "x", 1, [1], {}, () => 1];
}

function isPlain(x: unknown): x is Record<string, unknown> {
  return typeof x === "object" && x !== null && Object.getPrototypeOf(x) === Object.prototype;
}

/** Asserts that a call is told that it is wrong. */
async function assertTold(
  name: string,
  call: Called,
  args: readonly unknown[],
  { op = name, promise = false }: Usage,
): Promise<void> {
  const shown = `${name}(${args.map(shownAs).join(", ")})`;
  let error: unknown;
  try {
    const result = call(...args);
    if (promise) {
      assert.ok(result instanceof Promise, `${shown} gives no promise`);
      error = await result.then(() => undefined, (reason: unknown) => reason);
    }
  } catch (thrown) {
    assert.ok(!promise, `${shown} throws, where it gives a promise otherwise: ${String(thrown)}`);
    error = thrown;
  }
  assert.ok(error !== undefined, `${shown} passes silently`);
  assert.ok(error instanceof ShardwiseError, `${shown} ends in ${String(error)}`);
  assert.equal(error.op, op, `${shown}: ${error.message}`);
  assert.ok(
    error.got !== "" && error.need !== "" && !error.message.includes("undefined undefined"),
    `${shown}: ${error.message}`,
  );
}

function shownAs(x: unknown): string {
  if (typeof x === "function" || typeof x === "symbol" || typeof x === "bigint") return typeof x;
  if (typeof x !== "object" || x === null) return JSON.stringify(x);
  return isPlain(x)
    ? `{ ${Object.entries(x).map(([key, value]) => `${key}: ${shownAs(value)}`).join(", ")} }`
    : x.constructor.name;
}

/** Asserts that a function works with its arguments, and tells of every single thing that is wrong in others. */
export async function assertGuarded(name: string, call: Called, usage: Usage): Promise<void> {
  const { args, free = [], trees = [], rest = false } = usage;
  const result = call(...args);
  if (usage.promise === true) assert.ok(result instanceof Promise, `${name} gives no promise`);
  await result;
  const told = (wrong: readonly unknown[]) => assertTold(name, call, wrong, usage);
  for (const [i, sample] of args.entries()) {
    if (free.includes(i)) continue;
    const others = (value: unknown) => args.map((arg, j) => j === i ? value : arg);
    for (const wrong of wrongFor(sample)) if (!(trees.includes(i) && isPlain(wrong))) await told(others(wrong));
    if (!isPlain(sample)) continue;
    await told(others({ ...sample, thisOptionIsUnknown: 1 }));
    for (const [key, value] of Object.entries(sample)) {
      for (const wrong of wrongFor(value)) await told(others({ ...sample, [key]: wrong }));
    }
  }
  if (rest) {
    if (!free.includes(args.length - 1)) await told([...args, new Stranger()]);
  } else await told([...args, 1]);
}
