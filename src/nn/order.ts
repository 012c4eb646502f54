/** The order in which an epoch visits the rows of a data set. */
import { threefry2x32 } from "../graph/ops.ts";

/**
 * A permutation of 0 to rows - 1 that depends on (seed, epoch) only, the same in every runtime: a Fisher-Yates shuffle
 * whose i-th draw is threefry(seed, epoch, i). Draws are uniform to within rows / 2^32.
 */
export function shuffledRows(rows: number, seed: number, epoch: number): Uint32Array {
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
