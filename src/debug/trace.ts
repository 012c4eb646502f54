import { makeFolder } from "../host/files.ts";
import { onExit, paths, processId, syncFiles } from "../host/host.ts";
import { flags } from "./flags.ts";
import { writeAsked } from "./log.ts";

/**
 * A Chrome trace (chrome://tracing, Perfetto) of what ran when. The file is a JSON array that is appended to; the
 * format allows the closing bracket to be missing, so that a run that was cut off can still be looked at.
 */
interface TraceEvent {
  readonly name: string;
  readonly ph: "X" | "M" | "i";
  readonly pid: number;
  readonly tid: number;
  /** Microseconds. */
  readonly ts?: number;
  readonly dur?: number;
  readonly s?: "t";
  readonly args?: Readonly<Record<string, unknown>>;
}

const writtenAtOnce = 512;

let file: string | undefined;
let pending: string[] = [];
const tracks = new Map<string, number>();

const recordings = new Set<TraceEvent[]>();

/** Whether `SHARDWISE_TRACE` asks for a trace, or a part of the program is recorded. */
export function tracing(): boolean {
  return recordings.size > 0 || flags().trace !== undefined;
}

/** Records spans in memory from now on. `stop` gives them as the JSON of a Chrome trace. */
export function recordTrace(): { stop(): string } {
  const events: TraceEvent[] = [];
  recordings.add(events);
  return {
    stop() {
      recordings.delete(events);
      const used = new Set(events.map((event) => event.tid));
      const names = [...tracks].filter(([, tid]) => used.has(tid)).map(([name, tid]) => trackName(name, tid));
      return JSON.stringify([...names, ...events]);
    },
  };
}

/** Records that `name` took from `start` to `end` (milliseconds of `performance.now()`) on a track of its own. */
export function traceSpan(
  track: string,
  name: string,
  start: number,
  end: number,
  args: Readonly<Record<string, unknown>> = {},
): void {
  if (!tracing()) return;
  const ts = start * 1000;
  write({ name, ph: "X", pid: processId, tid: trackNumber(track), ts, dur: Math.max(0, end - start) * 1000, args });
}

/** Runs `body` and records the time it took. */
export function traced<T>(track: string, name: string, body: () => T): T {
  if (!tracing()) return body();
  const start = performance.now();
  try {
    return body();
  } finally {
    traceSpan(track, name, start, performance.now());
  }
}

/** Writes what is still in memory; happens by itself when the process ends. */
export function flushTrace(): void {
  const text = pending.join("");
  pending = [];
  if (file === undefined || text === "") return;
  const path = file;
  writeAsked("trace", path, () => syncFiles()?.appendFileSync(path, text));
}

function trackNumber(track: string): number {
  let number = tracks.get(track);
  if (number === undefined) {
    number = tracks.size + 1;
    tracks.set(track, number);
    // A file that is begun later gets the names of all tracks.
    if (file !== undefined && file === flags().trace) append(trackName(track, number));
  }
  return number;
}

function trackName(name: string, tid: number): TraceEvent {
  return { name: "thread_name", ph: "M", pid: processId, tid, args: { name } };
}

function write(event: TraceEvent): void {
  for (const events of recordings) events.push(event);
  const wanted = flags().trace;
  if (wanted === undefined) return;
  if (wanted !== file) begin(wanted);
  append(event);
}

function append(event: TraceEvent): void {
  pending.push(`${JSON.stringify(event)},\n`);
  if (pending.length >= writtenAtOnce) flushTrace();
}

function begin(path: string): void {
  const first = file === undefined;
  flushTrace();
  file = path;
  writeAsked("trace", path, () => {
    const files = syncFiles();
    if (files === undefined) return;
    const start = () => files.writeFileSync(path, "[\n");
    try {
      start();
    } catch (error) {
      if ((error as { readonly code?: unknown }).code !== "ENOENT") throw error;
      makeFolder(paths().dirname(path));
      start();
    }
  });
  for (const [name, tid] of tracks) append(trackName(name, tid));
  if (first) onExit(flushTrace);
}
