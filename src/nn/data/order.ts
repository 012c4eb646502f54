/** The order in which an epoch visits the rows of a data set. */
import { ArgumentError } from "../../errors.ts";
import { threefry2x32 } from "../../graph/ops.ts";
import { number } from "../../signature/kinds.ts";
import { takes } from "../../signature/takes.ts";

const op = "data.shuffledRows";
const signature = takes(op, { rows: number, seed: number, epoch: number });

/**
 * A permutation of 0 to rows - 1 that depends on (seed, epoch) only, the same in every runtime: a Fisher-Yates shuffle
 * whose i-th draw is threefry(seed, epoch, i). Draws are uniform to within rows / 2^32. Throws ArgumentError unless all three are
 * integers of at least 0, and there are less than 2^32 rows.
 */
export function shuffledRows(rows: number, seed: number, epoch: number): Uint32Array {
  signature.check(arguments);
  for (const [name, value] of Object.entries({ rows, seed, epoch })) {
    if (Number.isSafeInteger(value) && value >= 0 && (name !== "rows" || value < 2 ** 32)) continue;
    throw new ArgumentError(op, { got: `${name} ${value}`, need: "an integer of at least 0" });
  }
  const order = new Uint32Array(rows);
  for (let i = 0; i < rows; i++) order[i] = i;
  for (let i = rows - 1; i > 0; i--) {
    const draw = threefry2x32(seed >>> 0, epoch >>> 0, i, Math.floor(seed / 2 ** 32) >>> 0);
    const j = Math.floor(draw / 2 ** 32 * (i + 1));
    const held = order[i]!;
    order[i] = order[j]!;
    order[j] = held;
  }
  return order;
}
