import { inLaterTurn } from "../../host/host.ts";
import type { Native } from "./native.ts";

/** A kernel that goes into a submission: its name, for the messages of errors, and its work. */
interface Noted {
  readonly name: string;
  readonly flops: number;
  readonly bytes: number;
}

/** Milliseconds from one run to the next within which the two follow each other, in whichever turns of the event loop. */
const following = 1;
/** The most dispatches that are gathered: by then what a submission costs is little beside them. */
const mostGathered = 32;
/** Operations and bytes from which on work is not small: a software adapter needs 0.1 ms for it. */
const worthSubmitting = 2 ** 19;

/**
 * Commands waiting to be submitted. What is recorded in one turn of the program goes to the queue in one
 * submission, and dispatches that follow each other share a pass, whichever plans they belong to: both cost far
 * more than a dispatch.
 *
 * A run is submitted as soon as its caller waits. Small runs that follow another one, in the same turn of the event loop
 * or soon after, are gathered: the device has work meanwhile, and if it has not, what it misses is small. They leave
 * together, 2, then 4, then more of them; when somebody reads; and at the latest when the event loop turns.
 */
export class Recorder {
  readonly #native: Native;
  readonly #submitted: (kernels: readonly string[]) => void;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #kernels: string[] = [];
  #work = 0;
  /** Whether a flush comes as soon as the caller waits. */
  #due = false;
  /** Whether the event loop has not turned since some run: when it does, a flush comes. */
  #turnGoesOn = false;
  #lastRun = -Infinity;
  /** Dispatches that make a submission while small runs follow each other. */
  #enough = 1;

  /** `submitted` is told the names of the kernels of each submission. */
  constructor(native: Native, submitted: (kernels: readonly string[]) => void) {
    this.#native = native;
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

  /** Notes a kernel that was dispatched for so many items. */
  note({ name, flops, bytes }: Noted, items: number): void {
    this.#kernels.push(name);
    this.#work += (flops + bytes) * items;
  }

  /** Notes a copy. */
  copied(bytes: number): void {
    this.#work += 2 * bytes;
  }

  /** Everything of a run is recorded. */
  ran(): void {
    const now = performance.now();
    if (!this.#turnGoesOn && now - this.#lastRun > following) this.#enough = 1;
    this.#lastRun = now;
    if (!this.#turnGoesOn) {
      this.#turnGoesOn = true;
      inLaterTurn(() => {
        this.#turnGoesOn = false;
        this.flush();
      });
    }
    if (this.#encoder === undefined || this.#due) return;
    if (this.#kernels.length < this.#enough && this.#work < worthSubmitting) return;
    this.#due = true;
    queueMicrotask(() => {
      this.#due = false;
      this.flush();
    });
  }

  /** Submits what was recorded. Must be called before anything that goes to the queue by another way. */
  flush(): void {
    const encoder = this.#encoder;
    if (encoder === undefined) return;
    this.#pass?.end();
    const kernels = this.#kernels;
    this.drop();
    this.#native.device.queue.submit([encoder.finish()]);
    this.#enough = Math.min(2 * this.#enough, mostGathered);
    this.#submitted(kernels);
  }

  /** Forgets what was recorded. */
  drop(): void {
    this.#encoder = undefined;
    this.#pass = undefined;
    this.#kernels = [];
    this.#work = 0;
  }

  #open(): GPUCommandEncoder {
    return this.#encoder ??= this.#native.device.createCommandEncoder();
  }
}
