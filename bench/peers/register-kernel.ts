import { offerWebGPU } from "./navigator.ts";
import type { OpenPeer, Peer, Prepared } from "./peer.ts";

/**
 * Not an engine but a yardstick: the matrix product as a first careful kernel writes it, 4x4 results in registers of
 * each invocation, vec4 loads, workgroups of 8x8. Raw WebGPU, one dispatch; m, n and k are multiples of 32 and 4.
 */
const source = `
@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> product: array<vec4f>;
@group(0) @binding(3) var<uniform> form: vec4u; // m, k, n

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3u) {
  let k4 = form.y / 4u;
  let n4 = form.z / 4u;
  let column = at.x;
  let row = at.y * 4u;
  var sum0 = vec4f();
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  for (var i = 0u; i < k4; i++) {
    let b0 = b[(4u * i) * n4 + column];
    let b1 = b[(4u * i + 1u) * n4 + column];
    let b2 = b[(4u * i + 2u) * n4 + column];
    let b3 = b[(4u * i + 3u) * n4 + column];
    let a0 = a[row * k4 + i];
    let a1 = a[(row + 1u) * k4 + i];
    let a2 = a[(row + 2u) * k4 + i];
    let a3 = a[(row + 3u) * k4 + i];
    sum0 += a0.x * b0 + a0.y * b1 + a0.z * b2 + a0.w * b3;
    sum1 += a1.x * b0 + a1.y * b1 + a1.z * b2 + a1.w * b3;
    sum2 += a2.x * b0 + a2.y * b1 + a2.z * b2 + a2.w * b3;
    sum3 += a3.x * b0 + a3.y * b1 + a3.z * b2 + a3.w * b3;
  }
  product[row * n4 + column] = sum0;
  product[(row + 1u) * n4 + column] = sum1;
  product[(row + 2u) * n4 + column] = sum2;
  product[(row + 3u) * n4 + column] = sum3;
}`;

export const registerKernel: Peer = {
  name: "4x4 kernel",
  target: "gpu",
  takes: (workload) => workload.name === "matmul 1024",
  async open() {
    const runsOn = await offerWebGPU();
    const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
    if (adapter === null) throw new Error("no WebGPU adapter");
    const device = await adapter.requestDevice();
    const module = device.createShaderModule({ code: source });
    const pipeline = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
    return {
      version: () => Promise.resolve("none"),
      runsOn,
      prepare: (workload) => prepare(device, pipeline, workload),
      close: () => device.destroy(),
    };
  },
};

function prepare(
  device: GPUDevice,
  pipeline: GPUComputePipeline,
  workload: Parameters<OpenPeer["prepare"]>[0],
): Promise<Prepared> {
  if (workload.kind !== "matmul") throw new Error(`the register kernel multiplies matrices: ${workload.kind}`);
  const storage = (data: Float32Array | Uint32Array, usage: number): GPUBuffer => {
    const buffer = device.createBuffer({ size: data.byteLength, usage: usage | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  };
  const [m, k] = workload.sets[0]!.a.shape as [number, number];
  const n = workload.sets[0]!.b.shape[1]!;
  const bytes = 4 * m * n;
  const product = device.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const staging = device.createBuffer({ size: bytes, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const form = storage(Uint32Array.of(m, k, n, 0), GPUBufferUsage.UNIFORM);
  const sets = workload.sets.map(({ a, b }) => [a, b].map(({ data }) => storage(data, GPUBufferUsage.STORAGE)));
  const groups = sets.map((set) =>
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [...set, product, form].map((buffer, binding) => ({ binding, resource: { buffer } })),
    })
  );
  const submit = (repetition: number, read: boolean): void => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, groups[repetition % groups.length]!);
    pass.dispatchWorkgroups(n / 32, m / 32);
    pass.end();
    if (read) encoder.copyBufferToBuffer(product, 0, staging, 0, bytes);
    device.queue.submit([encoder.finish()]);
  };
  return Promise.resolve({
    async run(repetition) {
      submit(repetition, false);
      await device.queue.onSubmittedWorkDone();
    },
    async output(repetition) {
      submit(repetition, true);
      await staging.mapAsync(GPUMapMode.READ);
      const read = new Float32Array(staging.getMappedRange().slice(0));
      staging.unmap();
      return { product: read };
    },
    dispose() {
      for (const buffer of [product, staging, form, ...sets.flat()]) buffer.destroy();
    },
  });
}
