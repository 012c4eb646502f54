/**
 * Tables of tuned schedules on disk, one for each model of adapter with its driver. Files are replaced as a whole and carry a
 * digest, so that processes may share them; a damaged one, or one of another generation, counts for nothing and is made
 * again.
 */
import { makePrivateFolder, readWithDigest, replaceFile, withDigest } from "../host/files.ts";
import { digest, stderrLine } from "../host/host.ts";
import { planFolder } from "./cache.ts";
import { type ContractionSchedule, isSchedule } from "./plan/contraction-schedules.ts";

/** To be raised when a schedule's fields, signatures or kernels come to mean something else: what was tuned before is void. */
const generation = 1;

/** What is known of an adapter. */
export interface TunedTable {
  /** By the signature of a contraction. */
  readonly schedules: Readonly<Record<string, ContractionSchedule>>;
  /** The highest rate that it was seen to reach, in 10⁹ operations a second. */
  readonly best: number;
}

export const emptyTable: TunedTable = { schedules: {}, best: 0 };

/** The table of an adapter; empty where there is none to be read. `adapter` says all that makes it and its driver. */
export function readTuned(adapter: string): TunedTable {
  const path = pathFor(adapter);
  const body = path === undefined ? undefined : readWithDigest(path);
  return body === undefined ? emptyTable : checked(JSON.parse(body));
}

/**
 * Adds to the table of an adapter what was tuned, and gives all of it; what other processes added before stays. Kept only
 * in this process where there is no folder for it, or none that can be written, which is told of.
 */
export function addTuned(adapter: string, added: TunedTable, before: TunedTable = emptyTable): Promise<TunedTable> {
  const adding = writing.then(() => addNow(adapter, added, before));
  writing = adding.catch(() => undefined);
  return adding;
}

let writing: Promise<unknown> = Promise.resolve();

async function addNow(adapter: string, { schedules, best }: TunedTable, before: TunedTable): Promise<TunedTable> {
  const known = readTuned(adapter);
  const table = {
    schedules: { ...before.schedules, ...known.schedules, ...schedules },
    best: Math.max(before.best, known.best, best),
  };
  const path = pathFor(adapter);
  if (path === undefined) return table;
  const body = JSON.stringify(table);
  try {
    makePrivateFolder(path.slice(0, path.lastIndexOf("/")));
    // Measured in minutes, not to be lost.
    await replaceFile(path, withDigest(body), { durable: true });
  } catch (error) {
    stderrLine(`shardwise: ${path} cannot be written, what was tuned ends with this process (${String(error)})`);
  }
  return table;
}

function pathFor(adapter: string): string | undefined {
  const folder = planFolder();
  const name = digest(`${generation}|${adapter}`);
  return folder === undefined || name === undefined ? undefined : `${folder}/${name}.tuned`;
}

/** What of a file can be used, whoever wrote it. */
function checked(value: unknown): TunedTable {
  const { schedules, best } = Object(value) as { readonly schedules?: unknown; readonly best?: unknown };
  const entries = Object.entries(Object(schedules) as Readonly<Record<string, unknown>>);
  return {
    schedules: Object.fromEntries(
      entries.filter((entry): entry is [string, ContractionSchedule] => isSchedule(entry[1])),
    ),
    best: typeof best === "number" && best >= 0 ? best : 0,
  };
}
