/**
 * Kernels for argsort: one workgroup a row runs Batcher's bitonic network on positions, in the form in which every
 * comparison goes upward, so that a missing partner beyond the end counts as the largest and is left alone
 * (Knuth, The Art of Computer Programming 3, 5.3.4). Equal keys are ordered by position, which makes the order stable.
 */
import type { DType } from "../../graph/dtype.ts";
import type { NodeOf } from "../../graph/node.ts";
import { size } from "../../graph/shape.ts";
import type { Program, Target } from "../plan/plan.ts";

export function argsortProgram({ src: [keys], shape }: NodeOf<"argsort">, target: Target): Program {
  const { dtype } = keys!;
  const length = shape[shape.length - 1]!;
  const rows = size(shape) / length;
  const name = `argsort_${rows}x${length}`;
  const bindings = [{ access: "read", dtype }, { access: "readWrite", dtype: "i32" }] as const;
  const stages = Math.max(0, Math.ceil(Math.log2(length)));
  const costs = { flops: rows * length * stages * (stages + 1) / 2, bytes: 8 * rows * length };
  if (target.language !== "wgsl") {
    const source = jsSource(length, dtype);
    return {
      key: `${rows}|${dtype}|${source}`,
      name,
      language: "js",
      source,
      bindings,
      workgroups: [1, 1, 1],
      invocations: rows,
      ...costs,
    };
  }
  const x = Math.min(rows, target.maxWorkgroupsPerDimension);
  const y = Math.ceil(rows / x);
  const source = wgslSource(rows, length, dtype, Math.min(256, target.maxInvocationsPerWorkgroup), x);
  return {
    key: `${x},${y}|${source}`,
    name,
    language: "wgsl",
    source,
    bindings,
    workgroups: [x, y, 1],
    invocations: rows,
    ...costs,
  };
}

/** Maps a key to a u32 of the same order; NaN to the largest. -0 and 0 are equal, as they compare. */
function wgslKey(dtype: DType): string {
  switch (dtype) {
    case "f32":
      return `let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  if ((bits & 0x7fffffffu) == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);`;
    case "i32":
      return "return bitcast<u32>(x) ^ 0x80000000u;";
    default:
      return "return u32(x);";
  }
}

function wgslSource(rows: number, length: number, dtype: DType, lanes: number, perRow: number): string {
  const padded = 2 ** Math.ceil(Math.log2(Math.max(1, length)));
  return `@group(0) @binding(0) var<storage, read> keys: array<${dtype === "bool" ? "u32" : dtype}>;
@group(0) @binding(1) var<storage, read_write> order: array<i32>;
fn sortable(x: ${dtype === "bool" ? "u32" : dtype}) -> u32 {
  ${wgslKey(dtype)}
}
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x + group.y * ${perRow}u;
  let base = row * ${length}u;
  let here = row < ${rows}u;
  if (here) { for (var i = lane; i < ${length}u; i += ${lanes}u) { order[base + i] = i32(i); } }
  storageBarrier();
  for (var block = 2u; block <= ${padded}u; block *= 2u) {
    for (var span = block / 2u; span > 0u; span /= 2u) {
      if (here) {
        for (var pair = lane; pair < ${padded / 2}u; pair += ${lanes}u) {
          let first = (pair / span) * span * 2u + pair % span;
          // The first step of a merge mirrors one half, so that all steps can go upward.
          let low = select(first, (pair / span) * block + pair % span, span * 2u == block);
          let high = select(low + span, (pair / span) * block + block - 1u - pair % span, span * 2u == block);
          if (high < ${length}u) {
            let a = order[base + low];
            let b = order[base + high];
            let x = sortable(keys[base + u32(a)]);
            let y = sortable(keys[base + u32(b)]);
            if (x > y || (x == y && a > b)) {
              order[base + low] = b;
              order[base + high] = a;
            }
          }
        }
      }
      storageBarrier();
    }
  }
}
`;
}

function jsSource(length: number, dtype: DType): string {
  const compare = dtype === "f32"
    ? `const x = keys[base + a], y = keys[base + b];
    if (x < y) return -1;
    if (x > y) return 1;
    if (x === y) return a - b;
    const n = x !== x, m = y !== y;
    return n === m ? a - b : n ? 1 : -1;`
    : "const x = keys[base + a], y = keys[base + b]; return x < y ? -1 : x > y ? 1 : a - b;";
  return `"use strict";
const keys = buffers[0], order = buffers[1];
for (let row = begin; row < end; row++) {
  const base = row * ${length};
  const positions = order.subarray(base, base + ${length});
  for (let i = 0; i < ${length}; i++) positions[i] = i;
  positions.sort((a, b) => {
    ${compare}
  });
}
`;
}
