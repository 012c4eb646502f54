/**
 * Commands waiting to be submitted. What is recorded in one turn of the program goes to the queue in one
 * submission, and dispatches that follow each other share a pass, whichever plans they belong to: both cost far
 * more than a dispatch.
 */
export class Recorder {
  readonly #device: GPUDevice;
  readonly #submitted: (kernels: readonly string[]) => void;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #kernels: string[] = [];

  /** `submitted` is told the names of the kernels of each submission. */
  constructor(device: GPUDevice, submitted: (kernels: readonly string[]) => void) {
    this.#device = device;
    this.#submitted = submitted;
  }

  /** The open pass. */
  pass(): GPUComputePassEncoder {
    return this.#pass ??= this.#open().beginComputePass();
  }

  /** A pass of its own, which the caller ends. */
  separatePass(descriptor: GPUComputePassDescriptor): GPUComputePassEncoder {
    return this.encoder().beginComputePass(descriptor);
  }

  /** The encoder between passes, for copies. */
  encoder(): GPUCommandEncoder {
    this.#pass?.end();
    this.#pass = undefined;
    return this.#open();
  }

  /** Notes a kernel for the messages of errors. */
  note(kernel: string): void {
    this.#kernels.push(kernel);
  }

  /** Submits what was recorded. Must be called before anything that goes to the queue by another way. */
  flush(): void {
    const encoder = this.#encoder;
    if (encoder === undefined) return;
    this.#pass?.end();
    this.#pass = undefined;
    this.#encoder = undefined;
    const kernels = this.#kernels;
    this.#kernels = [];
    this.#device.queue.submit([encoder.finish()]);
    this.#submitted(kernels);
  }

  /** Forgets what was recorded. */
  drop(): void {
    this.#encoder = undefined;
    this.#pass = undefined;
    this.#kernels = [];
  }

  #open(): GPUCommandEncoder {
    if (this.#encoder === undefined) {
      this.#encoder = this.#device.createCommandEncoder();
      queueMicrotask(() => this.flush());
    }
    return this.#encoder;
  }
}
