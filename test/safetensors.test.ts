/** The safetensors format: what is written is read, files of other programs, and headers that nobody means well with. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { ArgumentError, DTypeError, ShapeError } from "../src/errors.ts";
import { io, nn } from "../src/nn/index.ts";
import { parseStrict } from "../src/nn/io/strict-json.ts";
import { tensor, zeros } from "../src/tensor/create.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { onEachDevice } from "./harness.ts";

const numbers = async (x: Tensor): Promise<number[]> => Array.from(await x.data());

onEachDevice("what is saved is loaded: every dtype, any name, scalars and empty tensors", async (device) => {
  const tensors = {
    floats: tensor([[1.5, -0, 3e-40], [Infinity, -Infinity, NaN]], { device }),
    halves: tensor([1.5, -0, 6e-8, NaN, -Infinity], { dtype: "f16", device }),
    'flags "π" \ud800\0\n': tensor([true, false, true], { device }),
    ints: tensor([-1, 2147483647], { dtype: "i32", device }),
    words: tensor([4294967295], { dtype: "u32", device }),
    scalar: tensor(7, { device }),
    empty: zeros([0, 3], { device }),
    "": tensor(1, { device }),
    2: tensor(2, { device }),
    ["__proto__"]: tensor([3, 4], { device }),
    constructor: tensor([5], { device }),
    hasOwnProperty: tensor([6], { device }),
    toString: tensor([7], { device }),
  };
  const metadata = { ["__proto__"]: "kept", constructor: "too" };
  const file = await io.encode(tensors, { metadata });
  assert.deepEqual(await io.encode(Object.fromEntries(Object.entries(tensors).reverse()), { metadata }), file);
  const loaded = io.decode(file);
  assert.deepEqual(Object.keys(loaded).sort(), Object.keys(tensors).sort());
  assert.equal(Object.getPrototypeOf(loaded), Object.prototype);
  for (const [name, x] of Object.entries(tensors)) {
    const found = Object.getOwnPropertyDescriptor(loaded, name)!.value as Tensor;
    assert.deepEqual([found.shape, found.dtype], [x.shape, x.dtype], name);
    assert.deepEqual(await numbers(found), await numbers(x), name);
  }
  const text = new TextDecoder().decode(file);
  assert.ok(text.includes('"__proto__":"kept"') && text.includes('"constructor":"too"'));
  assert.equal(Object.keys(io.decode(await io.encode({}))).length, 0);
});

/** A module whose paths are names that every object has. */
class Inherited extends nn.Module {
  readonly layers = Object.fromEntries(
    ["__proto__", "constructor", "valueOf"].map((name, i) => [name, nn.linear(1, 2, { init: nn.init.constant(i) })]),
  );
  override forward(x: Tensor): Tensor {
    return x;
  }
}

test("modules under the names __proto__ and constructor", async () => {
  const model = new Inherited();
  assert.equal(Object.keys(model.stateDict()).length, 6);
  const other = new Inherited();
  for (const parameter of other.parameters()) parameter.assign(9);
  other.loadStateDict(io.decode(await io.encode(model)));
  for (const [path, value] of Object.entries(model.stateDict())) {
    assert.deepEqual(await numbers(other.stateDict()[path]!), await numbers(value), path);
  }
});

test("every type that the reference implementation writes and that 32 bits can hold", async () => {
  const loaded = await io.load(fileURLToPath(new URL("fixtures/types.safetensors", import.meta.url)));
  const types = Object.keys(loaded).filter((name) => !name.endsWith(".value"));
  assert.equal(types.length, 18);
  for (const type of types) {
    const [found, value] = [loaded[type]!, loaded[`${type}.value`]!];
    assert.equal(found.dtype, type === "F16" ? "f16" : type === "BOOL" ? "bool" : value.dtype, type);
    assert.deepEqual(await numbers(found), await numbers(value), type);
  }
});

/** A file with this header and so many bytes of data. */
function file(header: unknown, bytes: Uint8Array = new Uint8Array(0)): Uint8Array {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const result = new Uint8Array(8 + json.length + bytes.length);
  new DataView(result.buffer).setBigUint64(0, BigInt(json.length), true);
  result.set(json, 8);
  result.set(bytes, 8 + json.length);
  return result;
}

test("in what is written elements lie at multiples of their size, whatever the names", async () => {
  for (let more = 0; more < 8; more++) {
    const bytes = await io.encode({
      a: tensor([true, false, true]),
      b: tensor([1], { dtype: "f16" }),
      c: tensor([1, 2]),
      d: tensor([true]),
      e: tensor([1], { dtype: "i32" }),
      f: tensor([1], { dtype: "f16" }),
    }, { metadata: { more: "x".repeat(more) } });
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const text = new TextDecoder().decode(bytes.subarray(8, 8 + length));
    assert.match(text, /^\{.*\} {0,7}$/);
    assert.equal(length % 8, 0);
    interface Written {
      readonly shape: readonly number[];
      readonly data_offsets: readonly [number, number];
    }
    const { __metadata__: metadata, ...entries } = JSON.parse(text) as Record<string, Written>;
    assert.deepEqual(metadata, { more: "x".repeat(more) });
    assert.deepEqual(Object.keys(entries), ["c", "e", "b", "f", "a", "d"]);
    for (const { shape, data_offsets: [from, to] } of Object.values(entries)) {
      assert.equal((8 + length + from) % ((to - from) / shape[0]!), 0);
    }
  }
});

test("names and metadata beyond what a header may have are refused when they are written", async () => {
  const metadata = { a: "x".repeat(100_000_001 - '{"__metadata__":{"a":""}}'.length) };
  await assert.rejects(
    () => io.encode({}, { metadata }),
    (error) => error instanceof ArgumentError && error.op === "io.save" && error.message.includes("100000001 bytes"),
  );
});

test("64-bit integers: the last that 32 bits hold are read, the next are refused with name, element and value", async () => {
  const of = (dtype: string, ...values: bigint[]) => {
    const bytes = new Uint8Array(8 * values.length + 4);
    const view = new DataView(bytes.buffer);
    values.forEach((value, i) => view.setBigInt64(8 * i, value, true));
    view.setFloat32(8 * values.length, 2.5, true);
    const end = 8 * values.length;
    return file({
      "ids.long": { dtype, shape: [values.length], data_offsets: [0, end] },
      rest: { dtype: "F32", shape: [], data_offsets: [end, end + 4] },
    }, bytes);
  };
  const [most, least] = [2n ** 31n - 1n, -(2n ** 31n)];
  assert.deepEqual(await numbers(io.decode(of("I64", most, least, -1n))["ids.long"]!), [2147483647, -2147483648, -1]);
  assert.deepEqual(await numbers(io.decode(of("U64", 2n ** 32n - 1n))["ids.long"]!), [4294967295]);
  for (
    const [dtype, value] of [["I64", most + 1n], ["I64", least - 1n], ["I64", 2n ** 63n - 1n], [
      "U64",
      2n ** 32n,
    ]] as const
  ) {
    const bytes = of(dtype, 1n, value);
    assert.throws(
      () => io.decode(bytes, "model"),
      (error) =>
        error instanceof DTypeError &&
        ["model", "ids.long", dtype, `${value} as element 1`].every((part) => error.message.includes(part)),
    );
    assert.deepEqual(await numbers(io.decode(bytes, "model", { only: ["rest"] })["rest"]!), [2.5]);
  }
});

test("a tensor of a type that is not read matters only where it is wanted", async () => {
  for (const dtype of ["F4", "F6_E2M3", "C64", "Q4_0", "constructor", "__proto__", ""]) {
    const bytes = file({
      odd: { dtype, shape: [4], data_offsets: [4, 7] },
      x: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
    }, new Uint8Array(7));
    assert.throws(
      () => io.decode(bytes),
      (error) => error instanceof DTypeError && error.message.includes(`odd of ${dtype}`),
    );
    assert.throws(() => io.decode(bytes, "x", { only: ["x", "odd"] }), DTypeError);
    assert.deepEqual(await numbers(io.decode(bytes, "x", { only: ["x"] })["x"]!), [0]);
  }
});

test("files that are not well-formed are refused", () => {
  const four = new Uint8Array(4);
  const entry = (changes: object) => file({ x: { dtype: "F32", shape: [1], data_offsets: [0, 4], ...changes } }, four);
  assert.equal(io.decode(entry({}))["x"]!.size, 1);
  const whole = entry({});
  for (let bytes = 0; bytes < whole.length; bytes++) {
    assert.throws(() => io.decode(whole.subarray(0, bytes)), ArgumentError);
  }
  assert.throws(() => io.decode(Uint8Array.of(...whole, 0)), ArgumentError, "more than the header tells of");
  for (
    const text of [
      "{",
      "",
      "[]",
      "null",
      "5",
      '"x"',
      "{}}",
      "{} x",
      "\ufeff{}",
      " {}",
      '{"x":1,}',
      '{"x":NaN}',
      "{'x':1}",
    ]
  ) {
    assert.throws(() => io.decode(file(text)), ArgumentError, text);
  }
  const invalid = file({ x: 1 });
  invalid[10] = 0xff;
  assert.throws(() => io.decode(invalid), ArgumentError, "not UTF-8");
  for (const length of [2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 100_000_001n]) {
    const bytes = file({});
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    assert.throws(() => io.decode(bytes), ArgumentError, String(length));
  }
  const bad = [null, 5, "x", [], {}, [["dtype", "F32"]], { dtype: "F32" }, { dtype: 5 }, { dtype: "F32", shape: [1] }];
  for (const value of bad) {
    assert.throws(() => io.decode(file({ x: value }, four)), ArgumentError, JSON.stringify(value));
  }
  const shapes = [[-1], [1.5], "1", null, ["1"], [null], [[1]], [2 ** 53], { length: 1, 0: 1 }];
  for (const shape of shapes) assert.throws(() => io.decode(entry({ shape })), ArgumentError, JSON.stringify(shape));
  assert.throws(() => io.decode(file('{"x":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}')), ArgumentError);
  for (const shape of [[2], [0], [], [2 ** 40, 2 ** 40], Array(400).fill(2 ** 50), [...Array(400).fill(2 ** 50), 0]]) {
    const decode = () => io.decode(entry({ shape }));
    if (shape.length === 0) decode();
    else assert.throws(decode, ShapeError, JSON.stringify(shape));
  }
  for (const offsets of [[4, 0], [-4, 0], [0], [0, 4, 4], [0, 4.5], [0, 2 ** 53], [0, 2 ** 52], "04", null, [4, 8]]) {
    assert.throws(
      () => io.decode(entry({ data_offsets: offsets })),
      (error) => error instanceof ArgumentError || error instanceof ShapeError,
    );
  }
  const pair = (first: number[], second: number[]) =>
    file(
      { x: { dtype: "U8", shape: [2], data_offsets: first }, y: { dtype: "U8", shape: [2], data_offsets: second } },
      four,
    );
  assert.equal(Object.keys(io.decode(pair([2, 4], [0, 2]))).length, 2);
  for (const [first, second] of [[[0, 2], [0, 2]], [[0, 2], [1, 3]], [[1, 3], [2, 4]]] as const) {
    assert.throws(() => io.decode(pair([...first], [...second])), /no gap and no overlap/);
  }
  assert.throws(() => io.decode(pair([0, 2], [4, 6])), ArgumentError);
  for (const metadata of [5, "x", [], { a: 1 }, { a: null }, { a: {} }, { ["__proto__"]: {} }]) {
    assert.throws(() => io.decode(file({ __metadata__: metadata })), ArgumentError, JSON.stringify(metadata));
  }
  for (const metadata of [null, {}, { a: "", ["__proto__"]: "b" }]) io.decode(file({ __metadata__: metadata }));
});

test("headers of any depth are refused or read, and never bring the program down", () => {
  const nested = (open: string, close: string, depth: number, inner = "") =>
    open.repeat(depth) + inner + close.repeat(depth);
  for (const depth of [200, 20_000, 2_000_000]) {
    const values = [nested("[", "]", depth), nested('{"a":', "}", depth, "1"), nested('[{"a":', "}]", depth >> 1, "1")];
    for (const value of values) {
      for (
        const text of [
          value,
          `{"x":${value}}`,
          `{"x":{"dtype":"F32","shape":${value},"data_offsets":[0,4]}}`,
          `{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":${value}}}`,
          `{"__metadata__":${value}}`,
          `{"x":${value.slice(0, depth)}`,
        ]
      ) {
        assert.throws(
          () => io.decode(file(text, new Uint8Array(4))),
          (error) => error instanceof ArgumentError && error.message.length < 1000,
        );
      }
    }
  }
  for (const [open, close] of [["[", "]"], ['{"a":', "}"]] as const) {
    assert.doesNotThrow(() => parseStrict(nested(open, close, 7, "1"), 7));
    assert.throws(() => parseStrict(nested(open, close, 8, "1"), 7), SyntaxError);
  }
  // Fields that the format does not have are passed over.
  const more = nested("[", "]", 50);
  io.decode(file(`{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1],"more":${more}}}`, new Uint8Array(1)));
  // Brackets and quotes in names are no structure.
  const name = '[{"\\'.repeat(300);
  assert.deepEqual(Object.keys(io.decode(file({ [name]: { dtype: "U8", shape: [0], data_offsets: [0, 0] } }))), [name]);
});

test("a name that stands twice is refused, however it is spelled", () => {
  const entry = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}';
  const one = new Uint8Array(1);
  for (
    const names of [
      '"a":E,"a":E',
      '"a":E,"\\u0061" : E',
      '"b":E,"a":E,"a"\n:E',
      '"__proto__":E,"__proto__":E',
      '"":E,"":E',
    ]
  ) {
    assert.throws(() => io.decode(file(`{${names.replaceAll("E", entry)}}`, one)), /twice/, names);
  }
  assert.throws(
    () => io.decode(file('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', one)),
    /twice/,
  );
  assert.throws(() => io.decode(file('{"__metadata__":{"a":"1","a":"2"}}')), /twice/);
  assert.throws(() => io.decode(file('{"__metadata__":{},"__metadata__":{}}')), /twice/);
  // Equal names in different places are not.
  io.decode(
    file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
  );
  io.decode(
    file(
      '{"__metadata__":{"a":"a","b":"a","__metadata__":"{\\"a\\":1}"},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    ),
  );
});
