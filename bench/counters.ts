/** Counts what an engine asks of WebGPU. */

export interface Counts {
  /** Dispatches, that is, kernels run. */
  readonly dispatches: number;
  /** Calls of `queue.submit` with something in them. */
  readonly submissions: number;
}

/** What `run` dispatches and submits, whichever instance of WebGPU its engine uses. */
export async function count(run: () => Promise<void>): Promise<Counts> {
  const { GPUComputePassEncoder: Pass, GPUQueue: Queue } = await classes();
  const counts = { dispatches: 0, submissions: 0 };
  const { dispatchWorkgroups, dispatchWorkgroupsIndirect } = Pass.prototype;
  const { submit } = Queue.prototype;
  Pass.prototype.dispatchWorkgroups = function (...groups) {
    counts.dispatches++;
    return dispatchWorkgroups.apply(this, groups);
  };
  Pass.prototype.dispatchWorkgroupsIndirect = function (...from) {
    counts.dispatches++;
    return dispatchWorkgroupsIndirect.apply(this, from);
  };
  Queue.prototype.submit = function (buffers) {
    const list = [...buffers];
    if (list.length > 0) counts.submissions++;
    return submit.call(this, list);
  };
  try {
    await run();
  } finally {
    Object.assign(Pass.prototype, { dispatchWorkgroups, dispatchWorkgroupsIndirect });
    Queue.prototype.submit = submit;
  }
  return counts;
}

/** Follows the bytes of storage buffers that were made and not destroyed, from the call on. */
export async function watchBuffers(): Promise<
  { readonly live: () => number; readonly peak: () => number; reset(): void }
> {
  const { GPUDevice: Device, GPUBuffer: Buffer } = await classes();
  const bytes = new Map<GPUBuffer, number>(); // holds them: a collected buffer counts until it is destroyed
  let [live, peak] = [0, 0];
  const { createBuffer } = Device.prototype;
  const { destroy } = Buffer.prototype;
  Device.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    if (descriptor.usage & GPUBufferUsage.STORAGE) {
      bytes.set(buffer, descriptor.size);
      peak = Math.max(peak, live += descriptor.size);
    }
    return buffer;
  };
  Buffer.prototype.destroy = function () {
    live -= bytes.get(this) ?? 0;
    bytes.delete(this);
    return destroy.call(this);
  };
  return {
    live: () => live,
    peak: () => peak,
    reset() {
      peak = live;
    },
  };
}

/** The classes of WebGPU: the runtime's own, or those of the package that stands in for it. */
async function classes(): Promise<
  Pick<typeof globalThis, "GPUComputePassEncoder" | "GPUQueue" | "GPUDevice" | "GPUBuffer">
> {
  if (!("GPUQueue" in globalThis)) Object.assign(globalThis, (await import("webgpu")).globals);
  return globalThis;
}
