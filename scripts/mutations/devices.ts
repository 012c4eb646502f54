/** Memory, lifetimes, names, kernels for many shapes, the cpu device. */
import type { Mutation } from "./mutation.ts";

export const devices: readonly Mutation[] = [
  {
    file: "devices/device/family.ts",
    find: "const key = `${before < 0 ? this.#first[i] : before} ${number}`;",
    put: "const key = number;",
    tests: { "generic": "a kernel of a family is" },
    why: "numbers that are equal in one shape by chance are one value of the uniform",
  },
  {
    file: "devices/device/lifetime.ts",
    find: "for (const leave of this.#waiting) leave();",
    put: "",
    tests: { "devices": "who waits for a device" },
    why: "who waits for a device that is lost waits for ever",
  },
  {
    file: "devices/device/lifetime.ts",
    find: `this.#failure = undefined;
    if`,
    put: "if",
    tests: { "devices": "errors that WebGPU reports later" },
    why: "an error of a kernel is told by every call from then on",
  },
  {
    file: "devices/device/registry.ts",
    find: "if (device !== undefined && !device.isLost) return device;",
    put: "if (device !== undefined) return device;",
    tests: { "devices-discovery": "a lost device is replaced" },
    why: "a lost device is handed out again",
  },
  {
    file: "devices/device/registry.ts",
    find: "if (namesInUse.get(identity.name) === identity.id) namesInUse.delete(identity.name);",
    put: "",
    tests: { "devices": "a closed device refuses" },
    why: "names of closed devices are never used again",
  },
  {
    file: "devices/memory/bind.ts",
    find: "before !== undefined && before !== block",
    put: "false",
    tests: { "devices": "mistakes of the caller" },
    why: "one slot is given two buffers, and the last one counts",
  },
  {
    file: "devices/memory/pool.ts",
    find: "this.#trim(Math.max(alwaysKept, this.#peakBytes));",
    put: "this.#trim(Infinity);",
    tests: { "devices-pool": "what is kept for reuse is bounded" },
    why: "what was freed is kept for ever",
  },
  {
    file: "devices/memory/pool.ts",
    find: `    if (pooled.block === undefined) return;
`,
    put: `    if (pooled.block === undefined) throw new Error("freed before");
`,
    tests: { "devices": "freed memory is used again" },
    why: "a buffer that is freed twice is an error",
  },
  {
    file: "devices/memory/pool.ts",
    find: "Math.floor(Math.log2(bytes)) - 2",
    put: "Math.floor(Math.log2(bytes)) - 1",
    tests: { "devices-pool": "size classes hold the request" },
    why: "a third of a block is wasted",
  },
  {
    file: "devices/memory/pool.ts",
    find: "this.#trim(budget - this.#liveBytes - wanted);",
    put: "",
    tests: { "devices": "a budget bounds" },
    why: "what is kept for reuse and what is in use exceed the budget together",
  },
  {
    file: "devices/memory/scratch.ts",
    find: "const block = shelf.blocks[index] ?? this.#pool.take(size);",
    put: "const block = this.#pool.take(size);",
    tests: { "devices": "plans share their temporaries" },
    why: "each plan has temporaries of its own",
  },
  {
    file: "devices/memory/scratch.ts",
    find: "while (shelf.users.at(-1) === 0) {",
    put: "while (shelf.users.length > 0) {",
    tests: { "devices-pool": "plans share scratch memory" },
    why: "temporaries go back to the pool while other plans use them",
  },
  {
    file: "devices/cpu/cpu.ts",
    find: `lifetime.require("read"); // What`,
    put: "// What",
    tests: { "devices": "a closed device refuses" },
    why: "a read that comes late from a lost device resolves",
  },
  {
    file: "devices/cpu/cpu.ts",
    find: "    // Copied before the first await: later calls must not show in it.",
    put: "    await Promise.resolve();",
    tests: { "devices": "a read sees its moment" },
    why: "a read shows what later calls did",
  },
  {
    file: "devices/cpu/cpu.ts",
    find: "scratchStride: whole,",
    put: "scratchStride: 0,",
    tests: { "threads": "every kind of kernel" },
    why: "threads put what they pack into the same memory",
  },
  {
    file: "devices/cpu/crew.ts",
    find: "      this.#join();\n",
    put: "",
    tests: { "threads": "" },
    why: "a kernel has ended before the threads that help with it",
  },
  {
    file: "devices/cpu/crew-member.ts",
    find: "const column = chunk % across;",
    put: "const column = 0;",
    tests: { "threads": "every kind of kernel" },
    why: "of chunks side by side threads compute the first alone",
  },
  {
    file: "graph/collected.ts",
    find: "    young[next]?.age();\n",
    put: "",
    tests: { "realize-memory": "" },
    why: "what was dropped is watched by nobody, and its memory kept",
  },
];
