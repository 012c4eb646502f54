import { mapForReading, usage } from "./usage.ts";

/** Invocations of the probe's workgroups: several subgroups of any size in use. */
const invocations = 128;

const source = `enable subgroups;
@group(0) @binding(0) var<storage, read_write> seen: array<vec3<u32>>;
@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  seen[group.x * ${invocations}u + index] = vec3<u32>(size, lane, subgroupBroadcastFirst(index));
}`;
const workgroups = 4;
/** A vec3<u32> takes the room of four. */
const stride = 4;

const known = new Map<string, Promise<number>>();

/**
 * Lanes of a subgroup of this adapter, where all subgroups have as many and invocation i is lane i % lanes; else 0.
 * WGSL guarantees neither, so a kernel tries it out, once for each adapter of the process.
 */
export function probeSubgroups(key: string, adapter: GPUAdapter, device: GPUDevice): Promise<number> {
  if (!device.features.has("subgroups")) return Promise.resolve(0);
  const { subgroupMinSize, subgroupMaxSize } = adapter.info;
  // Where sizes differ, another kernel may get another one than the probe got.
  if (subgroupMinSize !== subgroupMaxSize) return Promise.resolve(0);
  let size = known.get(key);
  if (size === undefined) known.set(key, size = probe(device).catch(() => 0));
  return size;
}

async function probe(device: GPUDevice): Promise<number> {
  const bytes = workgroups * invocations * stride * 4;
  const seen = device.createBuffer({ size: bytes, usage: usage.storage | usage.copySource });
  const staging = device.createBuffer({ size: bytes, usage: usage.mapRead | usage.copyDestination });
  try {
    const module = device.createShaderModule({ label: "subgroup probe", code: source });
    const pipeline = await device.createComputePipelineAsync({
      label: "subgroup probe",
      layout: "auto",
      compute: { module, entryPoint: "main" },
    });
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: seen } }],
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(workgroups);
    pass.end();
    encoder.copyBufferToBuffer(seen, 0, staging, 0, bytes);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(mapForReading);
    return linearSize(new Uint32Array(staging.getMappedRange()));
  } finally {
    seen.destroy();
    staging.destroy();
  }
}

/** The size that all invocations saw, if their lanes follow their index; else 0. */
function linearSize(seen: Uint32Array): number {
  const size = seen[0] ?? 0;
  if (size === 0 || invocations % size !== 0) return 0;
  for (let invocation = 0; invocation < workgroups * invocations; invocation++) {
    const index = invocation % invocations;
    const [itsSize, lane, first] = seen.subarray(invocation * stride);
    if (itsSize !== size || lane !== index % size || first !== index - (index % size)) return 0;
  }
  return size;
}
