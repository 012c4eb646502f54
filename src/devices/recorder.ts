import { nextTurn } from "../host/host.ts";

/** Dispatches that wait for a submission in a turn of the event loop, at most. */
const mostWaiting = 64;

/**
 * Commands waiting to be submitted. What is recorded until the program awaits something goes to the queue in one
 * submission, and dispatches that follow each other share a pass, whichever plans they belong to: both cost far
 * more than a dispatch. A program that awaits again and again without letting the event loop turn (a small tensor
 * realized after another) has its first dispatch submitted at once, and then twice as many with each submission, so
 * that the device neither waits long nor is told of each one.
 */
export class Recorder {
  readonly #device: GPUDevice;
  readonly #submitted: (kernels: readonly string[]) => void;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #kernels: string[] = [];
  /** Dispatches that make a submission due before the event loop turns; 0 for the first one. */
  #due = 0;
  #scheduled = false;

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
    this.#schedule();
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

  /** Submits what is due, once the program awaits something. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (this.#encoder === undefined || this.#kernels.length < this.#due) return;
      if (this.#due === 0) void nextTurn().then(() => this.#turn());
      this.#due = Math.min(Math.max(1, 2 * this.#due), mostWaiting);
      this.flush();
    });
  }

  /** The event loop has turned. */
  #turn(): void {
    this.#due = 0;
    this.flush();
  }

  #open(): GPUCommandEncoder {
    if (this.#encoder === undefined) {
      this.#encoder = this.#device.createCommandEncoder();
      this.#schedule();
    }
    return this.#encoder;
  }
}
