/** One peer on one workload. */
import { Bench } from "tinybench";
import { count } from "./counters.ts";
import { relativeError } from "./errors.ts";
import type { OpenPeer, Peer, Prepared } from "./peers/peer.ts";
import { rates, type Result } from "./table.ts";
import type { AnyWorkload } from "./workloads/index.ts";

/** A repetition that takes longer than the first is repeated less often, one that takes longer than the second once. */
const slow = 1500;
const verySlow = 4000;

export async function measure(
  peer: Peer,
  engine: OpenPeer,
  workload: AnyWorkload,
  seconds: number,
): Promise<Result | undefined> {
  if (peer.takes?.(workload) === false) return undefined;
  const head = { workload: workload.name, target: peer.target, peer: peer.name };
  let prepared: Prepared | undefined;
  try {
    const start = performance.now();
    prepared = await engine.prepare(workload);
    let repetition = 0;
    let error = 0;
    /** Runs and checks one repetition; its time, without that of the reference. */
    const check = async (from: number, { output }: Prepared): Promise<number> => {
      const outputs = await output(repetition);
      const time = performance.now() - from;
      error = Math.max(error, relativeError(workload, repetition++, outputs));
      return time;
    };
    const first = await check(start, prepared);
    const second = await check(performance.now(), prepared);
    while (repetition < workload.sets.length && second < slow) await check(performance.now(), prepared);
    const { run } = prepared;
    const bench = new Bench({
      time: second < slow ? seconds * 1000 : 0,
      iterations: second < slow ? 3 : second < verySlow ? 2 : 1,
      warmup: second < slow,
      warmupTime: seconds * 200,
      warmupIterations: 1,
    });
    bench.add(workload.name, () => run(repetition++), { async: true });
    const [task] = await bench.run();
    const result = task?.result;
    if (result === undefined || result.state !== "completed") {
      return { ...head, failure: result?.state === "errored" ? message(result.error) : `tinybench: ${result?.state}` };
    }
    const counts = peer.target === "gpu" ? await count(() => run(repetition++)) : undefined;
    const least = workload.leastDispatches;
    if (counts !== undefined && least !== undefined && counts.dispatches < least) {
      return {
        ...head,
        failure: `${counts.dispatches} dispatches in a repetition, not ${least}: it did not do the work`,
      };
    }
    if (second < verySlow) await check(performance.now(), prepared);
    const { p50, p75, samplesCount } = result.latency;
    return {
      ...head,
      median: p50,
      p75,
      samples: samplesCount,
      first,
      error,
      wrong: !(error <= workload.tolerance),
      ...rates(workload, p50),
      ...(counts === undefined ? {} : { counts }),
    };
  } catch (error) {
    return { ...head, failure: message(error) };
  } finally {
    prepared?.dispose();
    (globalThis as { gc?: () => void }).gc?.();
  }
}

export function message(error: unknown): string {
  return error instanceof Error ? error.message.split("\n")[0]! : String(error);
}
