/** Saving and loading as files: what they hold when calls overlap, fail or are killed, and what is refused. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import fs from "node:fs";
import { mkdir, readdir, readFile, stat, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { compileGraph } from "../src/compiler/compile.ts";
import { readFlags, setFlags } from "../src/debug/flags.ts";
import { flushTrace, traceSpan } from "../src/debug/trace.ts";
import { ArgumentError, DTypeError, FileError, ShapeError, ShardwiseError } from "../src/errors.ts";
import * as g from "../src/graph/build.ts";
import { makeFolder } from "../src/host/files.ts";
import { platform, runtime } from "../src/host/host.ts";
import { data, io, nn, optim } from "../src/nn/index.ts";
import { tensor, zeros } from "../src/tensor/create.ts";
import * as random from "../src/tensor/random.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { compile } from "../src/tensor/transform/compile.ts";
import { withFolder } from "./folder.ts";
import { onEachDevice, testKinds, virtualDevices } from "./harness.ts";
import { runOf } from "./programs.ts";
import { cpuTarget } from "./targets.ts";

const numbers = async (x: Tensor): Promise<number[]> => Array.from(await x.data());
const valuesOf = async (model: nn.Module): Promise<number[][]> =>
  await Promise.all(Object.values(model.stateDict()).map(numbers));

/** Tensors that are `value` all over, so that a file of two saves shows. */
const content = (value: number, length = 5000): Record<string, Tensor> => ({
  a: tensor(new Float32Array(length).fill(value)),
  b: tensor(new Float32Array(7).fill(value)),
});

async function valueIn(path: string): Promise<number> {
  const values = (await Promise.all(Object.values(await io.load(path)).map(numbers))).flat();
  assert.equal(new Set(values).size, 1, "a file of one save");
  return values[0]!;
}

test("saves to one path take effect in the order of their calls, however it is spelled, and readers see whole files", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    await mkdir(join(folder, "below"));
    await symlink(folder, join(folder, "link"));
    const spellings = [path, join(folder, "link/x.safetensors"), `${folder}/below/../x.safetensors`];
    await io.save(path, content(-1));
    for (let round = 0; round < 100; round++) {
      // The first ones are longer, and would be done last.
      const saving = spellings.map((spelling, i) => io.save(spelling, content(3 * round + i, 30_000 >> 2 * i)));
      const loading = spellings.map(valueIn);
      await Promise.all(saving);
      for (const value of await Promise.all(loading)) {
        assert.ok(value >= 3 * round - 1 && value <= 3 * round + 2, String(value));
      }
      assert.equal(await valueIn(path), 3 * round + 2);
    }
    assert.deepEqual((await readdir(folder)).sort(), ["below", "link", "x.safetensors"]);
  }));

test("a save that fails holds none up, and those after it stay in order", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const results = await Promise.allSettled([
      io.save(path, content(1, 100_000)),
      io.save(path, { x: 5 as unknown as Tensor }),
      io.save(path, content(2)),
    ]);
    assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    assert.equal(await valueIn(path), 2);
  }));

onEachDevice(
  "a file holds what was there at the call: not what is assigned, put into the record or given back later",
  (device) =>
    withFolder(async (folder) => {
      const path = join(folder, "x.safetensors");
      const add = compile((x: Tensor) => x.assign(x.add(1)));
      for (const wait of [false, true]) {
        const [stored, computed, written] = [
          tensor([1, 2], { device }),
          tensor([1, 2], { device }).mul(3),
          zeros([2], { device }),
        ];
        if (wait) await Promise.all([stored, computed, written].map((x) => x.realize()));
        const record: Record<string, Tensor> = { stored, computed, written };
        const metadata: Record<string, string> = { step: "1" };
        const saving = io.save(path, record, { metadata });
        record["more"] = stored;
        delete record["stored"];
        metadata["step"] = "2";
        await add(written);
        stored.assign(7);
        computed.dispose();
        stored.dispose();
        await saving;
        const loaded = await io.load(path);
        assert.deepEqual(Object.keys(loaded).sort(), ["computed", "stored", "written"]);
        assert.deepEqual(await numbers(loaded["stored"]!), [1, 2]);
        assert.deepEqual(await numbers(loaded["computed"]!), [3, 6]);
        assert.deepEqual(await numbers(loaded["written"]!), [0, 0]);
        assert.match(await readFile(path, "latin1"), /"step":"1"/);
      }
    }),
);

for (const kind of testKinds) {
  test(`${kind}: saves while fit runs have the weights of a step, each those of its own`, async (context) => {
    const all = await virtualDevices(kind, 2);
    if (all === undefined) return context.skip();
    await withFolder(async (folder) => {
      random.seed(3);
      const model = nn.sequential(nn.linear(8, 64), nn.relu(), nn.linear(64, 3));
      const trainer = nn.trainer(model, {
        loss: (output, batch) => nn.crossEntropy(output, batch.y),
        optimizer: optim.adam({ learningRate: 0.01 }),
        devices: all,
      });
      const x = data.array(Float32Array.from({ length: 256 * 8 }, (_, i) => Math.sin(12.9898 * i)), {
        shape: [256, 8],
      });
      const y = Int32Array.from({ length: 256 }, (_, i) => i % 3);
      const saving: Promise<void>[] = [];
      const weights: Promise<number[][]>[] = [valuesOf(model)];
      // Between steps, where there is more to come, and in the middle of them.
      const timer = setInterval(() => saving.push(io.save(join(folder, `any-${saving.length}`), model)), 1);
      await trainer.fit(data.batches({ x, y }, { batchSize: 32 }), {
        epochs: 2,
        progress: "none",
        onBatch: ({ step }) => {
          saving.push(io.save(join(folder, `step-${step}`), model));
          weights[step] = valuesOf(model);
        },
      });
      clearInterval(timer);
      await Promise.all(saving);
      const known = await Promise.all(weights);
      const texts = known.map((values) => JSON.stringify(values));
      const names = await readdir(folder);
      assert.equal(names.length, saving.length);
      for (const name of names) {
        const state = await io.load(join(folder, name));
        const found = await Promise.all(Object.keys(model.stateDict()).map((path) => numbers(state[path]!)));
        if (name.startsWith("step-")) assert.deepEqual(found, known[Number(name.slice("step-".length))]);
        else assert.ok(texts.includes(JSON.stringify(found)), `${name} has the weights of one step`);
      }
    });
  });
}

/** Makes one call of the file system fail while `body` runs. */
async function failing(call: "write" | "sync" | "close" | "rename", body: () => Promise<void>): Promise<void> {
  const { open, rename } = fs.promises;
  const fail = () => Promise.reject(Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" }));
  if (call === "rename") fs.promises.rename = fail;
  else {
    fs.promises.open = async (path, flag, mode) => {
      const handle = await open(path, flag, mode);
      const { close } = handle;
      if (flag !== "r") {
        Object.assign(handle, { [call]: call === "close" ? () => close.call(handle).then(fail) : fail });
      }
      return handle;
    };
  }
  try {
    await body();
  } finally {
    Object.assign(fs.promises, { open, rename });
  }
}

test("a write that fails leaves the old file and nothing else", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    await io.save(path, content(1));
    for (const call of ["write", "sync", "close", "rename"] as const) {
      await failing(call, async () => {
        const isFull = (error: unknown) =>
          error instanceof FileError && error.code === "ENOSPC" && error.message.includes(folder);
        await assert.rejects(() => io.save(path, content(2)), isFull);
        await assert.rejects(() => io.save(join(folder, "new"), content(2)), isFull);
      });
      assert.deepEqual(await readdir(folder), ["x.safetensors"]);
      assert.equal(await valueIn(path), 1);
    }
    await io.save(path, content(3));
    assert.equal(await valueIn(path), 3);
  }));

test("what is written is on disk before it takes the place of the old file", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const { open, rename } = fs.promises;
    const calls: string[] = [];
    fs.promises.open = async (name, flag, mode) => {
      const handle = await open(name, flag, mode);
      const { sync, write } = handle as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
      const told = (call: string, original: typeof sync) => (...args: unknown[]) => {
        if (calls.at(-1) !== call) calls.push(call);
        return original!.apply(handle, args);
      };
      return Object.assign(handle, { sync: told("sync", sync), write: told("write", write) });
    };
    fs.promises.rename = (from, to) => {
      calls.push("rename");
      return rename(from, to);
    };
    try {
      await io.save(path, content(1));
    } finally {
      Object.assign(fs.promises, { open, rename });
    }
    assert.deepEqual(calls, ["write", "sync", "rename", "sync"]);
  }));

test("what cannot be a file is refused at once, and harmed in no way", () =>
  withFolder(async (folder) => {
    const state = content(1);
    const refused = async (path: string, code?: string) => {
      const saying = (error: unknown) => error instanceof FileError && (code === undefined || error.code === code);
      await assert.rejects(() => io.save(path, state), saying, `save ${path}`);
      await assert.rejects(() => io.load(path), saying, `load ${path}`);
    };
    await writeFile(join(folder, "file"), "");
    await refused(folder, "EISDIR");
    await refused(join(folder, "file/below/x"), "ENOTDIR");
    await refused(join(folder, "file/x"), "ENOTDIR");
    await refused(`${folder}/${"x".repeat(300)}`);
    await refused(`${folder}/zero\0`);
    if (platform === "linux") {
      // Nothing can be made there, not even below folders that would have to be made first.
      await refused("/proc/shardwise/below/x", "ENOENT");
      await assert.rejects(() => io.save("/proc/version", state), FileError, "a file that may only be read");
      assert.throws(() => makeFolder("/proc/shardwise/below"), /ENOENT/);
    }
    await assert.rejects(() => io.load(join(folder, "absent")), (error) =>
      error instanceof FileError && error.code === "ENOENT");
    for (const path of ["", undefined, 5]) {
      await assert.rejects(() =>
        io.save(path as string, state), ArgumentError);
      await assert.rejects(() => io.load(path as string), ArgumentError);
    }
    for (const what of [undefined, null, 5, { x: 5 }, { x: undefined }, [1]]) {
      await assert.rejects(() => io.save(join(folder, "x"), what as unknown as io.Savable), ArgumentError);
    }
    for (const metadata of [{ a: 1 }, { a: undefined }, { a: null }]) {
      const options = { metadata } as unknown as io.SaveOptions;
      await assert.rejects(() => io.save(join(folder, "x"), state, options), ArgumentError);
    }
    await assert.rejects(() => io.save(join(folder, "x"), { __metadata__: state["a"]! }), ArgumentError);
    assert.deepEqual(await readdir(folder), ["file"]);
  }));

test("folders are made, links followed, and a file keeps its mode", () =>
  withFolder(async (folder) => {
    const path = join(folder, "a/b/c/x.safetensors");
    await io.save(path, content(1));
    assert.equal(await valueIn(path), 1);
    if (platform === "win32") return;
    await fs.promises.chmod(path, 0o660);
    await symlink(path, join(folder, "latest"));
    await io.save(join(folder, "latest"), content(2));
    assert.equal(await valueIn(path), 2);
    assert.equal((await stat(path)).mode & 0o777, 0o660);
    assert.ok(fs.lstatSync(join(folder, "latest")).isSymbolicLink());
    await symlink("loop", join(folder, "loop"));
    await assert.rejects(() => io.save(join(folder, "loop"), content(3)), (error) =>
      error instanceof FileError && error.code === "ELOOP");
    const longest = "é".repeat(120);
    await io.save(join(folder, longest), content(3));
    assert.deepEqual((await readdir(folder)).sort(), ["a", "latest", "loop", longest].sort());
  }));

const program = fileURLToPath(new URL("io-program.ts", import.meta.url));

function start(...args: string[]): ChildProcess {
  return spawn(process.execPath, [...runOf(program), ...args], { stdio: ["pipe", "pipe", "inherit"] });
}

const ended = (child: ChildProcess): Promise<number | null> => new Promise((resolve) => child.on("close", resolve));
const said = (child: ChildProcess): Promise<unknown> => new Promise((resolve) => child.stdout!.once("data", resolve));

test("two processes save to one path: every reader finds one whole file", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    await io.save(path, content(1));
    const ends = ["1", "2"].map((value) => ended(start(path, "60", value)));
    let running = true;
    const codes = Promise.all(ends).finally(() => running = false);
    while (running) {
      const value = await valueIn(path);
      assert.ok(value === 1 || value === 2);
    }
    assert.deepEqual(await codes, [0, 0]);
    assert.deepEqual(await readdir(folder), ["x.safetensors"]);
  }));

if (runtime === "deno") {
  test("a folder that may be read and written is all that a save needs to be allowed", () =>
    withFolder(async (folder) => {
      const project = fileURLToPath(new URL("..", import.meta.url));
      const rights = ["--no-prompt", `--allow-read=${project},${folder}`, `--allow-write=${folder}`];
      const path = join(folder, "a/x.safetensors");
      const child = spawn(process.execPath, ["run", "--no-check", ...rights, program, path, "2", "5"], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      assert.equal(await ended(child), 0);
      assert.equal(await valueIn(path), 5);
      assert.deepEqual(await readdir(join(folder, "a")), ["x.safetensors"]);
    }));
}

test("what a killed process left is removed by the next save to its path, what a running one writes is not", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    await io.save(path, content(1));
    const partials = async () => (await readdir(folder)).filter((name) => name.endsWith(".partial"));
    assert.notEqual(await ended(start(path, "die", "2")), 0);
    const [left] = await partials();
    assert.ok(left !== undefined && left.startsWith("x.safetensors."));
    assert.equal(await valueIn(path), 1);
    await io.save(join(folder, "y.safetensors"), content(1));
    assert.deepEqual(await partials(), [left], "of another path");

    const running = start(path, "wait", "3");
    const end = ended(running);
    await said(running);
    // The running one has done it already.
    const [itsOwn, ...others] = await partials();
    assert.deepEqual(others, []);
    assert.notEqual(itsOwn, left);
    // Of a machine or a container whose processes cannot be seen from here, and what only looks alike.
    const foreign = `x.safetensors.00000000-${process.pid}-00000000.partial`;
    const mine = ["x.safetensors.partial", "x.safetensors.1.partial", "xx.safetensors.00000000-1-00000000.partial"];
    for (const name of [foreign, ...mine]) await writeFile(join(folder, name), "");
    const old = Date.now() / 1000 - 7200;
    for (const name of mine) await utimes(join(folder, name), old, old);
    await io.save(path, content(4));
    assert.deepEqual((await partials()).sort(), [itsOwn, foreign, ...mine].sort());
    await utimes(join(folder, foreign), old, old);
    await io.save(path, content(5));
    assert.deepEqual((await partials()).sort(), [itsOwn, ...mine].sort());

    running.stdin!.write("go on\n");
    assert.equal(await end, 0);
    assert.equal(await valueIn(path), 3, "the last to complete");
    assert.deepEqual((await partials()).sort(), mine.sort());
  }));

test("a trace or a dump that cannot be written stops no program", async () => {
  const x = g.input([3], "f32");
  const request = { roots: [g.elementwise("exp", x)], inputs: [x] };
  await withFolder(async (folder) => {
    await writeFile(join(folder, "file"), "");
    const bad = [join(folder, "file/x"), ...platform === "linux" ? ["/proc/shardwise/below/x"] : []];
    for (const path of [...bad, join(folder, "made/x")]) {
      setFlags({ ...readFlags(() => undefined), trace: `${path}.json`, dump: path });
      for (let i = 0; i < 2000; i++) traceSpan("track", "span", i, i + 1);
      flushTrace();
      for (let i = 0; i < 2; i++) compileGraph(request, cpuTarget);
    }
    const text = await readFile(join(folder, "made/x.json"), "utf8");
    const events = JSON.parse(`${text.replace(/,\n$/, "")}]`) as unknown[];
    assert.ok(events.length >= 2000);
    assert.equal((await readdir(join(folder, "made/x"))).length, 2);
  }).finally(() => setFlags(undefined));
});

test("of a file beyond all limits of one call, what is wanted is read alone", () =>
  withFolder(async (folder) => {
    const path = join(folder, "large.safetensors");
    const [large, end] = [2 ** 32 + 2 ** 20, 2 ** 32 + 2 ** 20 + 8];
    const json = JSON.stringify({
      large: { dtype: "F32", shape: [large / 4], data_offsets: [0, large] },
      small: { dtype: "F32", shape: [2], data_offsets: [large, end] },
    });
    const head = new Uint8Array(8 + json.length);
    new DataView(head.buffer).setBigUint64(0, BigInt(json.length), true);
    head.set(new TextEncoder().encode(json), 8);
    await writeFile(path, head);
    // Without content: it takes no room.
    await truncate(path, head.length + end);
    assert.deepEqual(await numbers((await io.load(path, { only: ["small"] }))["small"]!), [0, 0]);
    await assert.rejects(
      () => io.load(path, { only: [] }).then(() => truncate(path, head.length + end - 1)).then(() => io.load(path)),
      ArgumentError,
    );
  }));

test("some tensors of a file alone, and into a module that does not have all of them", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const model = nn.linear(2, 2);
    await io.save(path, { ...model.stateDict(), step: tensor([3], { dtype: "i32" }) });
    assert.deepEqual(Object.keys(await io.load(path, { only: ["step", "bias", "step"] })), ["step", "bias"]);
    await assert.rejects(() => io.load(path, { only: ["step", "stop"] }), /without \[stop\]/);
    await assert.rejects(() => io.load(path, { only: "step" as unknown as string[] }), ArgumentError);
    const other = nn.linear(2, 2);
    await assert.rejects(() => io.loadInto(other, path), /unexpected \[step\]/);
    assert.equal(await io.loadInto(other, path, { unexpected: "ignore" }), other);
    assert.deepEqual(await valuesOf(other), await valuesOf(model));
    await assert.rejects(() => io.loadInto(nn.linear(2, 3), path, { unexpected: "ignore" }), ShapeError);
    await assert.rejects(() => io.loadInto(nn.layerNorm(2), path, { unexpected: "ignore" }), ShardwiseError);
    const unexpected = "drop" as "ignore";
    await assert.rejects(() => io.loadInto(other, path, { unexpected }), ArgumentError);
    await io.save(path, { ...model.stateDict(), bias: tensor([1, 2], { dtype: "i32" }) });
    await assert.rejects(() => io.loadInto(other, path), DTypeError);
    assert.deepEqual(await valuesOf(other), await valuesOf(model));
  }));

test("wrong arguments are refused as such, and harm no file", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const [state, model] = [content(1), nn.linear(2, 2)];
    await io.save(path, model);
    const before = new Uint8Array(await readFile(path));
    const bare = Object.create(null) as object;
    const thrower = {
      get a(): never {
        throw new Error("mine");
      },
    };
    class State {
      readonly a = state["a"];
    }
    const wrong = (call: () => unknown, what: string) =>
      assert.rejects(async () => await call(), (error) => {
        assert.ok(error instanceof ArgumentError, `${what}: ${String(error)}`);
        return true;
      });
    const none = [null, 5, "x", Symbol("x"), [1], new Map([["a", state["a"]]]), new Date(), new State(), () => 5];
    for (const value of [...none, [state["a"]], state["a"], undefined, thrower]) {
      const what = value as unknown as io.Savable;
      await wrong(() => io.save(path, what), "save");
      await wrong(() => io.encode(what), "encode");
    }
    for (const value of [...none, thrower]) {
      const options = value as unknown as Record<string, never>;
      await wrong(() => io.save(path, state, options), "options of save");
      await wrong(() => io.save(path, state, { metadata: options }), "metadata");
      await wrong(() => io.encode(state, options), "options of encode");
      await wrong(() => io.load(path, options), "options of load");
      await wrong(() => io.loadInto(model, path, options), "options of loadInto");
      await wrong(() => io.decode(before, "x", options), "options of decode");
    }
    for (const value of [null, "x", bare, [Symbol("x")], [5], [, "weight"], new Set(["weight"])]) {
      const only = value as unknown as string[];
      await wrong(() => io.load(path, { only }), "only");
      await wrong(() => io.decode(before, "x", { only }), "only of decode");
    }
    for (const value of [bare, Symbol("x"), null, "", 5, [path]]) {
      const odd = value as unknown as string;
      await wrong(() => io.save(odd, state), "path of save");
      await wrong(() => io.load(odd), "path of load");
      await wrong(() => io.loadInto(model, odd), "path of loadInto");
      await wrong(() => io.loadInto(odd as unknown as nn.Module, path), "module");
      await wrong(() => io.decode(odd as unknown as Uint8Array), "bytes");
      await wrong(() => io.loadInto(model, path, { unexpected: odd as "ignore" }), "unexpected");
      if (value !== "") await wrong(() => io.decode(before, odd), "name of decode");
    }
    for (const value of [{}, model.stateDict()]) {
      await wrong(() => io.loadInto(value as unknown as nn.Module, path), "module");
    }
    for (
      const value of [before.buffer, "abc", Array.from(before), new DataView(before.buffer), Int8Array.from(before)]
    ) {
      await wrong(() => io.decode(value as unknown as Uint8Array), "bytes");
    }
    assert.deepEqual(new Uint8Array(await readFile(path)), before);
    assert.deepEqual(await readdir(folder), ["x.safetensors"]);
    // What JSON and Object.create give is plain, too.
    await io.save(path, Object.assign(Object.create(null) as Record<string, Tensor>, state));
    assert.equal(await valueIn(path), 1);
  }));

test("a tensor that no memory holds is refused by name, and may be passed over", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const bytes = 2 ** 36;
    const json = JSON.stringify({
      huge: { dtype: "U8", shape: [bytes], data_offsets: [0, bytes] },
      none: { dtype: "U8", shape: [0], data_offsets: [bytes, bytes] },
    });
    const head = new Uint8Array(8 + json.length);
    new DataView(head.buffer).setBigUint64(0, BigInt(json.length), true);
    head.set(new TextEncoder().encode(json), 8);
    await writeFile(path, head);
    await truncate(path, head.length + bytes);
    await assert.rejects(() => io.load(path), (error) =>
      error instanceof ArgumentError && error.message.includes(`huge of ${bytes} bytes`));
    assert.deepEqual(Object.keys(await io.load(path, { only: ["none"] })), ["none"]);
  }));

test("that a type cannot be read is said before anything is read", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const json =
      '{"first":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"odd":{"dtype":"C64","shape":[1],"data_offsets":[8,16]}}';
    await writeFile(path, `${String.fromCharCode(json.length)}${"\0".repeat(7)}${json}${"\0".repeat(16)}`, "latin1");
    const { open } = fs.promises;
    const ends: number[] = [];
    fs.promises.open = async (name, flag, mode) => {
      const handle = await open(name, flag, mode);
      const read = handle.read as (...args: unknown[]) => Promise<unknown>;
      return Object.assign(handle, {
        read(...args: [Uint8Array, number, number, number]) {
          ends.push(args[2] + args[3]);
          return read.apply(handle, args);
        },
      });
    };
    try {
      await assert.rejects(() => io.load(path), DTypeError);
    } finally {
      Object.assign(fs.promises, { open });
    }
    assert.deepEqual(ends, [8, 8 + json.length]);
  }));
