import assert from "node:assert/strict";
import { test } from "node:test";
import { readFlags } from "../src/debug/flags.ts";
import { numberedSource } from "../src/debug/listing.ts";
import { ArgumentError } from "../src/errors.ts";

const read = (variables: Record<string, string>) => readFlags((name) => variables[name]);

test("flags have defaults and are at most twelve", () => {
  const flags = read({});
  assert.deepEqual([flags.debug, flags.validate, flags.noFuse], [0, false, false]);
  assert.deepEqual([flags.device, flags.dump, flags.trace, flags.memoryBytes], Array(4).fill(undefined));
  assert.ok(Object.keys(flags).length <= 12);
});

test("flags are read", () => {
  const flags = read({
    SHARDWISE_DEBUG: "3",
    SHARDWISE_DEVICE: "llvmpipe",
    SHARDWISE_THREADS: "3",
    SHARDWISE_VALIDATE: "1",
    SHARDWISE_NOFUSE: "0",
    SHARDWISE_MEMORY: "512",
    SHARDWISE_DUMP: "",
  });
  assert.equal(flags.debug, 3);
  assert.equal(flags.device, "llvmpipe");
  assert.equal(flags.threads, 3);
  assert.equal(flags.validate, true);
  assert.equal(flags.noFuse, false);
  assert.equal(flags.memoryBytes, 512 * 2 ** 20);
  assert.equal(flags.dump, undefined);
});

test("bad values are refused with the legal ones", () => {
  for (
    const [name, value] of [
      ["DEBUG", "6"],
      ["DEBUG", "on"],
      ["VALIDATE", "yes"],
      ["NOFUSE", "2"],
      ["THREADS", "0"],
      ["THREADS", "257"],
      ["MEMORY", "-1"],
      [
        "MEMORY",
        "1GB",
      ],
    ]
  ) {
    assert.throws(() => read({ [`SHARDWISE_${name}`]: value ?? "" }), (error: unknown) => {
      assert.ok(error instanceof ArgumentError);
      assert.ok(error.message.startsWith(`SHARDWISE_${name}: got ${value}; need `), error.message);
      return true;
    });
  }
});

test("sources are listed with numbers, long ones around their marks", () => {
  assert.equal(numberedSource("a\nb\nc", [2]), "  1 | a\n> 2 | b\n  3 | c");
  const long = Array.from({ length: 1000 }, (_, index) => `line ${index + 1}`).join("\n");
  const shown = numberedSource(long, [500]).split("\n");
  assert.equal(shown.length, 27);
  assert.match(shown[0] ?? "", /487 lines/);
  assert.equal(shown[13], ">  500 | line 500");
  assert.match(shown[26] ?? "", /488 lines/);
});
