/** Files beneath `io`: what a path means, which processes can be seen, and what Deno does not allow. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import { mkdir, readdir, readFile, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { readFlags, setFlags } from "../src/debug/flags.ts";
import { flushTrace, traceSpan } from "../src/debug/trace.ts";
import { FileError } from "../src/errors.ts";
import { listFolder, withFile } from "../src/host/files.ts";
import { platform, processSpace, runtime } from "../src/host/host.ts";
import { io } from "../src/nn/index.ts";
import { tensor } from "../src/tensor/create.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { withFolder } from "./folder.ts";

const state = (value: number): Record<string, Tensor> => ({ x: tensor([value]) });
const valueIn = async (path: string): Promise<number> => (await (await io.load(path))["x"]!.data())[0]!;
const coded = (code: string) => (error: unknown): boolean => error instanceof FileError && error.code === code;

if (platform !== "win32") {
  test("a link to what is not there yet is followed, and stays", () =>
    withFolder(async (folder) => {
      await mkdir(join(folder, "real/deep"), { recursive: true });
      await symlink(join(folder, "real/deep"), join(folder, "way"));
      const links: [link: string, to: string, written: string][] = [
        ["latest", "run1", "run1"],
        ["chain", "latest2", "run2"],
        ["latest2", "./run2", "run2"],
        // As the system reads it: above the folder in which the link lies, not above that by which it is named.
        ["way/up", "../run3", "real/run3"],
        ["whole", join(folder, "made/run4"), "made/run4"],
      ];
      for (const [link, to] of links) await symlink(to, join(folder, link));
      for (const [i, [link, to, written]] of links.entries()) {
        await io.save(join(folder, link), state(i));
        assert.equal(await valueIn(join(folder, written)), i, link);
        assert.equal(await valueIn(join(folder, link)), i, link);
        assert.equal(await readlink(join(folder, link)), to);
      }
      await symlink("later", join(folder, "folder"));
      await io.save(join(folder, "folder/x"), state(9));
      assert.equal(await valueIn(join(folder, "later/x")), 9);
      // Two names of one file that is not there: in the order of the calls.
      await symlink("both", join(folder, "other"));
      await Promise.all([
        io.save(join(folder, "other"), { ...state(1), y: tensor([1]).mul(2) }),
        io.save(join(folder, "both"), state(2)),
      ]);
      assert.equal(await valueIn(join(folder, "both")), 2);
    }));

  test("links in a circle are refused, and stay", () =>
    withFolder(async (folder) => {
      const links = { loop: "loop", a: "b", b: "./a", into: "loop/x" };
      for (const [link, to] of Object.entries(links)) await symlink(to, join(folder, link));
      for (const path of ["loop", "a", "into", "loop/x", "a/x/y"]) {
        await assert.rejects(() => io.save(join(folder, path), state(1)), coded("ELOOP"), path);
      }
      for (const [link, to] of Object.entries(links)) assert.equal(await readlink(join(folder, link)), to);
      assert.equal((await readdir(folder)).length, 4);
    }));
}

test("a path that ends as a folder's is no file's", () =>
  withFolder(async (folder) => {
    const path = join(folder, "a");
    await io.save(path, state(1));
    for (const end of ["a/", "a//", "a/.", "a/..", "new/", "new/.", ".", ".."]) {
      await assert.rejects(() => io.save(`${folder}/${end}`, state(2)), coded("EISDIR"), end);
    }
    if (platform !== "win32") {
      await symlink("new/", join(folder, "link"));
      await assert.rejects(() => io.save(join(folder, "link"), state(2)), coded("EISDIR"));
      await io.save(join(folder, "link/x"), state(3));
      assert.equal(await valueIn(join(folder, "new/x")), 3);
    }
    for (const name of ["a.", "a..", "..."]) await io.save(join(folder, name), state(4));
    assert.equal(await valueIn(path), 1);
  }));

if (platform !== "win32") {
  test("what is no regular file is read, but neither replaced nor written to", () =>
    withFolder(async (folder) => {
      const [path, pipe] = [join(folder, "x"), join(folder, "pipe")];
      await io.save(path, { ...state(1), y: tensor([2, 3]) });
      assert.equal(spawnSync("mkfifo", [pipe]).status, 0);
      await assert.rejects(() => io.save(pipe, state(1)), coded("EINVAL"));
      assert.ok((await stat(pipe)).isFIFO());
      const load = async (options: io.LoadOptions) => {
        const writer = spawn("sh", ["-c", 'cat "$0" > "$1"', path, pipe], { stdio: "ignore" });
        const ended = new Promise((resolve) => writer.on("close", resolve));
        const loaded = await io.load(pipe, options);
        await ended;
        return loaded;
      };
      assert.deepEqual(Array.from(await (await load({ only: ["y"] }))["y"]!.data()), [2, 3]);
      assert.deepEqual(Object.keys(await load({})).sort(), ["x", "y"]);
      assert.deepEqual((await readdir(folder)).sort(), ["pipe", "x"]);
    }));
}

/** Has `change` look at every file that is opened while `body` runs. */
async function opening(
  change: (handle: fs.promises.FileHandle, path: string, flag: string) => unknown,
  body: () => Promise<void>,
): Promise<void> {
  const { open } = fs.promises;
  fs.promises.open = async (path, flag, mode) => {
    const handle = await open(path, flag, mode);
    try {
      await change(handle, String(path), String(flag));
    } catch (error) {
      await handle.close();
      throw error;
    }
    return handle;
  };
  try {
    await body();
  } finally {
    Object.assign(fs.promises, { open });
  }
}

test("a file that may not be written to is not replaced, though its folder would allow that", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x");
    await io.save(path, state(1));
    // As the system does for all but root.
    const deny = (_: unknown, opened: string, flag: string) => {
      if (opened === path && flag !== "r") {
        throw Object.assign(new Error("EACCES: permission denied"), { code: "EACCES" });
      }
    };
    await opening(deny, () => assert.rejects(() => io.save(path, state(2)), coded("EACCES")));
    await fs.promises.chmod(path, 0o444);
    if (process.getuid?.() !== 0) await assert.rejects(() => io.save(path, state(2)), FileError);
    assert.equal(await valueIn(path), process.getuid?.() === 0 ? 1 : 1);
    assert.deepEqual(await readdir(folder), ["x"]);
  }));

test("a file that becomes shorter while it is read is refused, not filled up with zeros", () =>
  withFolder(async (folder) => {
    const path = join(folder, "x");
    await io.save(path, { x: tensor(new Float32Array(1000).fill(1)) });
    await opening(
      (handle) => {
        const { read } = handle;
        let reads = 0;
        Object.assign(handle, {
          async read(...args: Parameters<typeof read>) {
            // The header is two reads.
            if (reads++ === 2) await fs.promises.truncate(path, 2000);
            return await read.apply(handle, args);
          },
        });
      },
      () => assert.rejects(() => io.load(path), (error) => error instanceof FileError && /shorter/.test(error.message)),
    );
    await assert.rejects(() => withFile(path, ({ read }) => read(1990, 20)), /shorter than 2010/);
  }));

test("in a folder that is gone, and where there are no files, saves and loads are refused and leave nothing behind", async () => {
  const unhandled: unknown[] = [];
  const listener = (error: unknown) => void unhandled.push(error);
  process.on("unhandledRejection", listener);
  const refused = async () => {
    for (const what of [state(1), { x: 5 } as unknown as Record<string, Tensor>]) {
      await assert.rejects(() => io.save("x", what), FileError);
      await assert.rejects(() => io.load("x"), FileError);
    }
  };
  const host = process as unknown as { getBuiltinModule: unknown };
  const [folder, builtin] = [process.cwd(), host.getBuiltinModule];
  try {
    if (platform === "linux") {
      await withFolder(async (temporary) => {
        const gone = join(temporary, "gone");
        await mkdir(gone);
        process.chdir(gone);
        await rm(gone, { recursive: true });
        await refused();
        process.chdir(folder);
      });
    }
    host.getBuiltinModule = () => undefined;
    await refused();
    await new Promise((resolve) => setTimeout(resolve, 10));
    assert.deepEqual(unhandled, []);
  } finally {
    host.getBuiltinModule = builtin;
    process.chdir(folder);
    process.off("unhandledRejection", listener);
  }
});

if (platform === "linux") {
  test("processes are seen only where the machine, its start and the namespace are known", async () => {
    const boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
    assert.equal(processSpace(), [hostname(), boot, await readlink("/proc/self/ns/pid")].join("|"));
    const { readFileSync, readlinkSync } = fs;
    const fail = () => {
      throw new Error("not allowed");
    };
    try {
      Object.assign(fs, { readlinkSync: fail });
      assert.equal(processSpace(), undefined);
      Object.assign(fs, { readlinkSync, readFileSync: fail });
      assert.equal(processSpace(), undefined);
    } finally {
      Object.assign(fs, { readlinkSync, readFileSync });
    }
  });
}

test("that a trace or a dump cannot be written is told once", () =>
  withFolder(async (folder) => {
    await writeFile(join(folder, "file"), "");
    const lines: string[] = [];
    const { write } = process.stderr;
    process.stderr.write = ((line: string) => lines.push(line)) as unknown as typeof write;
    try {
      for (const name of ["a", "b", "a"]) {
        setFlags({ ...readFlags(() => undefined), trace: join(folder, "file", name) });
        for (let i = 0; i < 2000; i++) traceSpan("track", "span", i, i + 1);
        flushTrace();
      }
    } finally {
      process.stderr.write = write;
      setFlags(undefined);
    }
    assert.equal(lines.length, 2, lines.join(""));
    for (const [i, name] of ["a", "b"].entries()) {
      assert.ok(
        lines[i]!.startsWith(`shardwise: no trace, ${join(folder, "file", name)} cannot be written (ENOTDIR`),
        lines[i],
      );
    }
  }));

if (runtime === "deno") {
  const project = fileURLToPath(new URL("..", import.meta.url));
  const program = fileURLToPath(new URL("io-program.ts", import.meta.url));

  /** Ends with the code, the signal and what was said. */
  const running = (cwd: string, rights: readonly string[], ...args: string[]) => {
    const child = spawn(process.execPath, ["run", "--no-check", "--no-prompt", ...rights, ...args], { cwd });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => text += String(data));
    return new Promise<{ code: number | null; text: string }>((resolve) =>
      child.on("close", (code) => resolve({ code, text }))
    );
  };

  test("where a folder may be written to but not read, nothing is written", () =>
    withFolder(async (folder) => {
      const rights = [`--allow-read=${project}`, `--allow-write=${folder}`];
      const { code, text } = await running(project, rights, program, join(folder, "made/x"), "1", "5");
      assert.notEqual(code, 0);
      assert.match(text, /FileError: io.save: .*may not be read and written/);
      assert.deepEqual(await listFolder(folder), []);
    }));

  test("a process that cannot tell its space from others' takes none for ended", () =>
    withFolder(async (folder) => {
      const path = join(folder, "x");
      const rights = [`--allow-read=${project},${folder}`, `--allow-write=${folder}`, "--allow-run"];
      assert.notEqual((await running(project, rights, program, path, "die", "1")).code, 0);
      const [left] = await listFolder(folder);
      assert.ok(left?.endsWith(".partial"));
      const { code, text } = await running(project, rights, program, path, "1", "2");
      assert.equal(code, 0, text);
      assert.deepEqual((await listFolder(folder)).sort(), ["x", left]);
    }));

  test("a trace needs no permission but for its file", () =>
    withFolder(async (folder) => {
      const trace = fileURLToPath(new URL("../src/debug/trace.ts", import.meta.url));
      const script = join(folder, "script.ts");
      await writeFile(
        script,
        `import { flushTrace, traceSpan } from ${JSON.stringify(trace)};
        traceSpan("track", "span", 0, 1);
        flushTrace();`,
      );
      process.env["SHARDWISE_TRACE"] = "t.json";
      try {
        const rights = ["--allow-env", `--allow-read=${project}`, `--allow-write=${join(folder, "t.json")}`];
        const { code, text } = await running(folder, rights, script);
        assert.equal(code, 0, text);
        assert.equal(text, "");
      } finally {
        delete process.env["SHARDWISE_TRACE"];
      }
      assert.match(await readFile(join(folder, "t.json"), "utf8"), /"span"/);
    }));
}
