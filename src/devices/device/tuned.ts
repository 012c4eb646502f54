/**
 * Tuned schedules as devices use them. The table of an adapter is read once, and all devices of one model and driver have the
 * same one at the same time: what they compute has the same bits.
 */
import type { Target } from "../../compiler/plan/plan.ts";
import { addTuned, emptyTable, readTuned, type TunedTable } from "../../compiler/tuned.ts";
import { flags } from "../../debug/flags.ts";

interface Known {
  readonly table: TunedTable;
  /** What the table made of a target. */
  readonly targets: WeakMap<Target, Target>;
}

const known = new Map<string, Known>();

function of(key: string): Known {
  let entry = known.get(key);
  if (entry === undefined) known.set(key, entry = { table: readTuned(key), targets: new WeakMap() });
  return entry;
}

/** The table of the adapter with a key, as it is in this process. */
export function tableOf(key: string): TunedTable {
  return of(key).table;
}

/** Adds what was tuned to an adapter's table, on disk and in this process: plans that are compiled from now on use it. */
export async function learn(key: string, added: TunedTable): Promise<void> {
  const table = await addTuned(key, added, tableOf(key));
  known.set(key, { table, targets: new WeakMap() });
}

/** Reads tables from disk again. For tests. */
export function forgetTuned(): void {
  known.clear();
}

/** A target with the tuned schedules of its adapter. Software adapters have none: their schedules are measured and shipped. */
export function withTuned(target: Target, key: string): Target {
  if (target.class === "software" || target.language !== "wgsl" || flags().noTune) return target;
  const { table, targets } = of(key);
  if (table === emptyTable || Object.keys(table.schedules).length === 0) return target;
  let tuned = targets.get(target);
  if (tuned === undefined) targets.set(target, tuned = { ...target, tuned: table.schedules });
  return tuned;
}
