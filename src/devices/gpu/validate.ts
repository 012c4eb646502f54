import type { Program } from "../../compiler/plan/plan.ts";
import { debugLine } from "../../debug/log.ts";
import { InternalError } from "../../errors.ts";
import { asWords } from "../../graph/words.ts";
import { stderrLine } from "../../host/host.ts";
import type { Lifetime } from "../device/lifetime.ts";
import { type Block, mebibytes, type MemoryPool } from "../memory/pool.ts";
import { References } from "../memory/references.ts";
import type { Recorder } from "./recorder.ts";
import { mapForReading } from "./usage.ts";

/** What of a device its validator uses. */
export interface ValidatorParts {
  readonly name: string;
  readonly recorder: Recorder;
  /** Memory that can be mapped for reading. */
  readonly staging: MemoryPool<GPUBuffer>;
  readonly lifetime: Lifetime;
}

/**
 * Copies that wait to be compared, in bytes. `run` cannot wait, so what would need more while others wait is passed
 * over.
 */
const mostWaiting = 2 ** 30;

/** The content of a block at one moment of a run. */
interface Snapshot {
  readonly staging: Block<GPUBuffer>;
  readonly bytes: number;
}

interface Check {
  readonly program: Program;
  readonly items: number;
  /** For each binding. */
  readonly before: readonly Snapshot[];
  /** For each binding; undefined for those that are only read. */
  readonly after: readonly (Snapshot | undefined)[];
}

/**
 * Runs every kernel of a device again as JavaScript, on copies of the buffers that it was given, and compares what
 * the two have written, for `SHARDWISE_VALIDATE=1`. A difference is kept as InternalError for the next call that
 * waits.
 */
export class Validator {
  readonly parts: ValidatorParts;
  readonly #references = new References();
  #checked: Promise<void> = Promise.resolve();
  #waitingBytes = 0;
  #waiting = 0;
  #validated = 0;
  #differing = 0;
  #withoutReference = 0;
  #beyondMemory = 0;
  #reported = "";

  constructor(parts: ValidatorParts) {
    this.parts = parts;
  }

  /** Resolves when the dispatches so far are compared. Never rejects: the device's lifetime has the failure. */
  get checked(): Promise<void> {
    return this.#checked;
  }

  /** Kernels validated and passed over so far, in words. */
  get summary(): string {
    const parts = [
      `validated ${this.#validated} kernels (${this.#differing} differ)`,
      `passed over ${this.#withoutReference} without a reference`,
    ];
    if (this.#beyondMemory > 0) parts.push(`${this.#beyondMemory} for want of memory for copies`);
    if (this.#waiting > 0) parts.push(`${this.#waiting} not compared yet`);
    return parts.join(", ");
  }

  /** Prints the summary for `SHARDWISE_DEBUG=1`, if it has changed. */
  report(): void {
    const { summary } = this;
    if (summary === this.#reported) return;
    this.#reported = summary;
    debugLine(1, () => `shardwise: ${this.parts.name} ${summary}`);
  }

  /** Watches one run of a plan. */
  begin(): ValidatedRun {
    return new ValidatedRun(this);
  }

  /** Whether a dispatch can be validated that needs `bytes` more of copies; counts those that cannot. */
  admits(program: Program, bytes: number): boolean {
    if (program.reference === undefined) {
      this.#withoutReference++;
      return false;
    }
    if (this.#waitingBytes > 0 && this.#waitingBytes + bytes > mostWaiting) {
      if (this.#beyondMemory++ === 0) {
        stderrLine(
          `shardwise: ${this.parts.name} cannot validate all kernels: ` +
            `${mebibytes(this.#waitingBytes)} of copies wait; read or sync more often`,
        );
      }
      return false;
    }
    return true;
  }

  /** Records a copy of what is in a block now. */
  copy({ memory, bytes }: Block<GPUBuffer>): Snapshot {
    const { recorder, staging } = this.parts;
    const snapshot = { staging: staging.take(bytes), bytes };
    this.#waitingBytes += bytes;
    recorder.encoder().copyBufferToBuffer(memory, 0, snapshot.staging.memory, 0, bytes);
    return snapshot;
  }

  /** Compares what one run has recorded, when the runs before it are done. */
  enqueue(checks: readonly Check[], snapshots: readonly Snapshot[]): void {
    const { recorder, staging, lifetime } = this.parts;
    this.#waiting += checks.length;
    recorder.flush();
    const mapped = Promise.allSettled(
      snapshots.map(({ staging: { memory }, bytes }) => memory.mapAsync(mapForReading, 0, bytes)),
    );
    const compare = async (): Promise<void> => {
      const failure = (await mapped).find((outcome) => outcome.status === "rejected");
      if (lifetime.isLost) return; // Some runtimes resolve the maps of a device that is gone.
      if (failure !== undefined) throw failure.reason;
      const content = new Map(snapshots.map((snapshot) => [
        snapshot,
        snapshot.staging.memory.getMappedRange(0, snapshot.bytes),
      ]));
      for (const check of checks) this.#compare(check, content);
      for (const snapshot of snapshots) {
        snapshot.staging.memory.unmap();
        staging.give(snapshot.staging);
      }
    };
    this.#checked = this.#checked.then(compare).catch((cause: unknown) => {
      if (lifetime.isLost) return;
      lifetime.fail(new InternalError("run", { got: String(cause), need: "copies of the buffers to compare", cause }));
    }).finally(() => {
      for (const { bytes } of snapshots) this.#waitingBytes -= bytes;
    });
  }

  #compare({ program, items, before, after }: Check, content: ReadonlyMap<Snapshot, ArrayBuffer>): void {
    this.#waiting--;
    const contents = program.bindings.map((_, binding) => contentOf(content, before[binding]));
    // What is only read may be shared with other checks and is not copied.
    const buffers = program.bindings.map(({ dtype }, binding) =>
      asWords(dtype, after[binding] === undefined ? contents[binding]! : contents[binding]!.slice(0))
    );
    const written = program.bindings.map(({ dtype }, binding) => {
      const snapshot = after[binding];
      return snapshot && asWords(dtype, contentOf(content, snapshot));
    });
    const failure = this.#references.compare({
      program,
      device: this.parts.name,
      items,
      before: buffers,
      after: written,
    });
    if (failure?.found === "difference") this.#differing++;
    if (failure?.found !== "error") this.#validated++;
    if (failure !== undefined) this.parts.lifetime.fail(failure.error);
  }
}

/** Takes the copies for one run of a plan. */
export class ValidatedRun {
  readonly #validator: Validator;
  readonly #checks: Check[] = [];
  readonly #snapshots: Snapshot[] = [];
  /** Snapshots that still show what is in their blocks: one serves all kernels until the next write. */
  readonly #current = new Map<Block<GPUBuffer>, Snapshot>();

  constructor(validator: Validator) {
    this.#validator = validator;
  }

  /**
   * Records a dispatch of `program` by calling `record`, between copies of its buffers. All of a block is compared,
   * not only what the plan uses, so that stores beyond the end are found.
   */
  dispatch(
    program: Program,
    bound: readonly (Block<GPUBuffer> | undefined)[],
    items: number,
    record: () => void,
  ): void {
    const blocks = bound.filter((block) => block !== undefined);
    if (blocks.length < bound.length) return record(); // Which refuses it.
    const written = program.bindings.flatMap(({ access }, binding) => {
      const block = blocks[binding];
      return access === "readWrite" && block !== undefined ? [block] : [];
    });
    const missing = new Set(blocks.filter((block) => !this.#current.has(block)));
    const bytes = [...missing, ...written].reduce((sum, block) => sum + block.bytes, 0);
    if (!this.#validator.admits(program, bytes)) {
      record();
      for (const block of written) this.changed(block);
      return;
    }
    const before = blocks.map((block) => this.#snapshot(block));
    record();
    for (const block of written) this.changed(block);
    const after = program.bindings.map(({ access }, binding) => {
      const block = blocks[binding];
      return access === "readWrite" && block !== undefined ? this.#snapshot(block) : undefined;
    });
    this.#checks.push({ program, items, before, after });
  }

  /** Tells that something wrote to a block. */
  changed(block: Block<GPUBuffer> | undefined): void {
    if (block !== undefined) this.#current.delete(block);
  }

  /** Hands the copies over, to be compared once they are there. */
  end(): void {
    if (this.#snapshots.length > 0) this.#validator.enqueue(this.#checks, this.#snapshots);
  }

  #snapshot(block: Block<GPUBuffer>): Snapshot {
    let snapshot = this.#current.get(block);
    if (snapshot === undefined) {
      snapshot = this.#validator.copy(block);
      this.#current.set(block, snapshot);
      this.#snapshots.push(snapshot);
    }
    return snapshot;
  }
}

function contentOf(content: ReadonlyMap<Snapshot, ArrayBuffer>, snapshot: Snapshot | undefined): ArrayBuffer {
  const bytes = snapshot === undefined ? undefined : content.get(snapshot);
  if (bytes === undefined) {
    throw new InternalError("run", { got: "a binding without a copy", need: "a copy of each buffer bound" });
  }
  return bytes;
}
