/** Plans of a few hand-written kernels for tests of devices: in WGSL, and in JavaScript, which the cpu device runs in any case. */
import type { Plan, Program, Target } from "../src/compiler/plan/plan.ts";

function spoken(language: Target["language"]): "wgsl" | "js" {
  return language === "wgsl" ? "wgsl" : "js";
}

/** `y = a * x + b` over `count` elements of f32, bindings x and y. */
export function affine(of: Target["language"], count: number, a: number, b: number): Program {
  const language = spoken(of);
  const name = `affine_${count}_${a}_${b}`;
  const wgsl = `@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
  if (at.x < ${count}u) { y[at.x] = f32(${a}) * x[at.x] + f32(${b}); }
}`;
  const js = `const [x, y] = buffers;
for (let i = begin; i < end; i++) y[i] = Math.fround(Math.fround(${a} * x[i]) + ${b});`;
  return {
    key: `${language} ${name}`,
    name,
    language,
    source: language === "wgsl" ? wgsl : js,
    bindings: [{ access: "read", dtype: "f32" }, { access: "readWrite", dtype: "f32" }],
    workgroups: [Math.ceil(count / 64), 1, 1],
    invocations: count,
    flops: 2 * count,
    bytes: 8 * count,
  };
}

/** `x = x + 1` in place over `count` elements of u32. */
export function increment(of: Target["language"], count: number): Program {
  const language = spoken(of);
  const wgsl = `@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
  if (at.x < ${count}u) { x[at.x] = x[at.x] + 1u; }
}`;
  return {
    key: `${language} increment_${count}`,
    name: `increment_${count}`,
    language,
    source: language === "wgsl" ? wgsl : "const [x] = buffers; for (let i = begin; i < end; i++) x[i] += 1;",
    bindings: [{ access: "readWrite", dtype: "u32" }],
    workgroups: [Math.ceil(count / 64), 1, 1],
    invocations: count,
    flops: count,
    bytes: 8 * count,
  };
}

/** Counts x[1] up to x[2], or for ever where that is 0, on a GPU. */
export function counting(): Program {
  const wgsl = `@group(0) @binding(0) var<storage, read_write> x: array<atomic<u32>>;
@compute @workgroup_size(1)
fn main() {
  let end = atomicLoad(&x[2]);
  loop {
    if (atomicLoad(&x[0]) == 1u) { break; }
    if (atomicAdd(&x[1], 1u) + 1u == end && end > 0u) { break; }
  }
}`;
  return {
    key: "wgsl counting",
    name: "counting",
    language: "wgsl",
    source: wgsl,
    bindings: [{ access: "readWrite", dtype: "u32" }],
    workgroups: [1, 1, 1],
    invocations: 1,
    flops: 1,
    bytes: 16,
  };
}

/** A kernel that no compiler takes, with its mistake in line 3. */
export function broken(of: Target["language"]): Program {
  const language = spoken(of);
  const wgsl = `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(1)
fn main() { x[0] = not_there; }`;
  return {
    key: `${language} broken`,
    name: "broken_kernel",
    language,
    source: language === "wgsl" ? wgsl : "\n\nlet = = not_there;",
    bindings: [{ access: "readWrite", dtype: "f32" }],
    workgroups: [1, 1, 1],
    invocations: 1,
    flops: 0,
    bytes: 0,
  };
}

/** Runs the programs one after the other: the input through temporaries to the output, slots 0 and 1. */
export function chain(programs: readonly Program[], count: number): Plan {
  const bytes = 4 * count;
  const last = programs.length - 1;
  return {
    programs,
    steps: programs.map((_, index) => ({
      kind: "dispatch",
      program: index,
      slots: [index === 0 ? 0 : index + 1, index === last ? 1 : index + 2],
    })),
    slots: Array.from({ length: programs.length + 1 }, () => ({ bytes })),
    inputs: [0],
    outputs: [1],
    temporaries: Array.from({ length: last }, (_, index) => index + 2),
  };
}

/** Runs a one-binding program in place on the plan's only buffer. */
export function inPlace(program: Program, bytes: number): Plan {
  return {
    programs: [program],
    steps: [{ kind: "dispatch", program: 0, slots: [0] }],
    slots: [{ bytes }],
    inputs: [0],
    outputs: [0],
    temporaries: [],
  };
}
