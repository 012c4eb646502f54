/**
 * What the shards of a step deliver, and what is made of it on the host: their scores decide whether there is an update; their
 * gradients are added, bucket by bucket as they arrive, and the sums go to every replica. The devices divide them, in the update.
 */
import type { Device } from "../../devices/device/device.ts";
import { scoreLength } from "../decompose/scores.ts";
import type { Fleet } from "../run/fleet.ts";
import type { Bucket } from "./buckets.ts";
import { GradientCheck } from "./faults.ts";
import type { Judged } from "./judge.ts";
import type { Clock } from "./phases.ts";
import type { Replicas } from "./replicas.ts";
import { sumOf, sumOfFew, sumShards } from "./shard-sums.ts";
import type { Step } from "./step.ts";
import { type LoadedUpdate, totalsLength } from "./training-graphs.ts";
import { Vectors } from "./vectors.ts";

/** What is read of a shard. */
interface Landing {
  readonly scores: Float32Array;
  readonly buckets: readonly Float32Array[];
}

/** A read of an output of a shard: output 0 are its scores, output b + 1 the gradients of bucket b. */
export interface ShardRead {
  readonly index: number;
  readonly output: number;
  readonly into: Float32Array;
}

/** Host memory for what is read of the shards of a step; kept as long as steps are alike. */
export class LandingMemory {
  #known: { readonly key: string; readonly vectors: Vectors; readonly landings: readonly Landing[] } | undefined;

  /** Memory for at least so many shards. */
  for(
    step: Step,
    shards: number,
    buckets: readonly Bucket[],
  ): { readonly vectors: Vectors; readonly landings: readonly Landing[] } {
    const { groups } = step.layout;
    const key = [scoreLength(step.layout), groups, step.penalty, ...buckets.map(({ end }) => end)].join();
    const known = this.#known;
    if (known !== undefined && known.key === key && known.landings.length >= shards) return known;
    const sizes = buckets.map(({ start, end }) => end - start);
    const ofShard = (index: number) => {
      const copies = groups + (index === 0 && step.penalty ? 1 : 0);
      return [scoreLength(step.layout), ...sizes.map((size) => copies * size)];
    };
    const lengths = Array.from({ length: shards }, (_, index) => ofShard(index));
    const vectors = new Vectors(lengths.flat());
    const landings = lengths.map((of, index): Landing => {
      const [scores, ...sums] = vectors.all.slice(index * of.length, (index + 1) * of.length);
      return { scores: scores!, buckets: sums };
    });
    this.#known = { key, vectors, landings };
    return this.#known;
  }
}

interface ReductionOptions {
  readonly step: Step;
  readonly shards: number;
  readonly buckets: readonly Bucket[];
  readonly memory: LandingMemory;
  readonly fleet: Fleet;
  readonly replicas: Replicas;
  /** The update on each device. */
  readonly updates: ReadonlyMap<Device, LoadedUpdate>;
  readonly clock: Clock;
  /** Told the scores of the whole step as soon as they are known. */
  readonly judge: (scores: readonly number[]) => Judged;
}

/** The host's part in one step. */
export class Reduction {
  readonly #options: ReductionOptions;
  readonly #vectors: Vectors;
  readonly #landings: readonly Landing[];
  readonly #check: GradientCheck;
  /** The shards whose scores are there, and for each bucket those whose gradients are. */
  readonly #scored = new Set<number>();
  readonly #arrived: readonly Set<number>[];
  #judged: Judged | undefined;
  #counts: readonly number[] = [];

  constructor(options: ReductionOptions) {
    const { step, shards, buckets, memory, replicas } = options;
    const { vectors, landings } = memory.for(step, shards, buckets);
    this.#options = options;
    this.#vectors = vectors;
    this.#landings = landings.slice(0, shards);
    this.#check = new GradientCheck(replicas.layout);
    this.#arrived = buckets.map(() => new Set<number>());
  }

  /** What was judged of the step; undefined until all scores are there. */
  get judged(): Judged | undefined {
    return this.#judged;
  }

  /**
   * What is still to be read of a shard. What came from a device that failed afterwards may be part of a sum already: it is not read
   * again. A shard of a loss that is a penalty alone has no gradients of its own: `withSums` is false.
   */
  missing(index: number, withSums: boolean): ShardRead[] {
    if (!withSums) { for (const shards of this.#arrived) shards.add(index); }
    const { scores, buckets } = this.#landings[index]!;
    return [scores, ...withSums ? buckets : []].map((into, output) => ({ index, output, into })).filter(({ output }) =>
      !(output === 0 ? this.#scored : this.#arrived[output - 1]!).has(index)
    );
  }

  /** To be called when a read is done. Throws what `judge` throws. */
  arrived({ index, output }: ShardRead): void {
    if (output === 0) return this.#scoresArrived(index);
    this.#arrived[output - 1]!.add(index);
    this.#reduceWhenThere(output - 1);
  }

  /** The position of the first parameter whose gradient is not finite, once all is there. */
  faulty(): number | undefined {
    const { buckets, step } = this.#options;
    const sums = buckets.map((bucket, b) => ({ ...bucket, sums: this.#landings[0]!.buckets[b]! }));
    return this.#check.faulty(sums, this.#counts, step.penalty);
  }

  /** Judges the step when all scores are there, and gives the totals to the devices. */
  #scoresArrived(index: number): void {
    this.#scored.add(index);
    if (this.#judged !== undefined || this.#scored.size < this.#landings.length) return;
    const { step, fleet, updates, buckets, judge } = this.#options;
    const scores = this.#landings.map((landing) => landing.scores);
    const totals = sumOfFew(scores, totalsLength(step.layout.groups));
    // Metrics may count more than f32 holds exactly.
    this.#judged = judge([...totals, ...sumOf(scores).slice(totals.length)]);
    if (!this.#judged.updated) return;
    this.#counts = [...totals.subarray(0, step.layout.groups)];
    fleet.each(step.number, "update", (device) => device.write(updates.get(device)!.totals, totals));
    buckets.forEach((_, b) => this.#reduceWhenThere(b));
  }

  /** Adds a bucket of all shards and gives the sums to the devices, once all are there and there is to be an update. */
  #reduceWhenThere(b: number): void {
    if (this.#judged?.updated !== true || this.#arrived[b]!.size < this.#landings.length) return;
    const { step, fleet, updates, buckets, replicas, clock } = this.#options;
    const { start, end } = buckets[b]!;
    const size = end - start;
    const parts = this.#landings.map((landing) => landing.buckets[b]!);
    const [sums] = parts as [Float32Array];
    const added = step.layout.groups * size;
    clock.time("reduce", () => {
      this.#check.note(sumShards(this.#vectors, parts, added));
      // Of the penalty there is one gradient, with nothing to be added to it.
      if (sums.length > added) this.#check.note(this.#vectors.largest(sums, added, sums.length - added));
    });
    clock.time("broadcast", () =>
      fleet.each(step.number, "update", (device) => {
        const into = updates.get(device)!.sums;
        for (let row = 0; row * size < sums.length; row++) {
          device.write(into, sums.subarray(row * size, (row + 1) * size), 4 * (row * replicas.layout.length + start));
        }
      }));
  }
}
