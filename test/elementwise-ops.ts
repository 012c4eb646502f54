/** What the tests must be told of each elementwise op: how near its results are, and where its gradients can be checked. */
import { type ElementwiseName, hidden } from "../src/graph/ops.ts";
import { ulp } from "./batch.ts";
import type { Tolerance } from "./harness.ts";

/** What is promised of an op's f32 results; integers and bools are exact. */
export interface Promised extends Tolerance {
  /** For which operands a result is promised. All by default. */
  readonly when?: (...x: number[]) => boolean;
  readonly zeroSigns?: boolean;
}

/** The smallest normal f32: below it devices may flush to 0. */
export const least = 1.2e-38;
const exact: Promised = {};
const signed: Promised = { zeroSigns: true };
const number = (...x: number[]) => !x.some(Number.isNaN);
const finite = (...x: number[]) => x.every(Number.isFinite);
/** Correctly rounded or the other neighbour, as WGSL has it. */
const rounded: Promised = { rtol: ulp, atol: least };

interface Tested {
  readonly promised: Promised;
  /** Where an op with a gradient is smooth: the range of each operand. Those with a condition have tests of their own. */
  readonly smooth?: readonly (readonly [number, number])[];
}

export const tested: Readonly<Record<ElementwiseName, Tested>> = {
  neg: { promised: signed, smooth: [[-2, 2]] },
  abs: { promised: signed, smooth: [[0.1, 2]] },
  sign: { promised: exact },
  // Of a negative number there is no root, and drivers differ in what they give instead.
  sqrt: { promised: { rtol: 2 * ulp, atol: least, when: (x) => x >= 0 }, smooth: [[0.2, 3]] },
  // A step of Newton's method at the end, whose quotient may be off by 2.5 ulp, of which it takes a third each twice.
  cbrt: { promised: { rtol: 4 * ulp, atol: least, zeroSigns: true }, smooth: [[0.3, 3]] },
  // WGSL promises 3 + 2|x| ulp; lavapipe needs 63 at 87, where the exponent's low bits are lost.
  exp: {
    promised: { rtol: 180 * ulp, atol: least, when: (x) => !(Math.abs(x) > 87 && Math.abs(x) < 100) && number(x) },
    smooth: [[-2, 2]],
  },
  // Of what is at most 0, or infinite.
  expUnder: {
    promised: { rtol: 180 * ulp, atol: least, when: (x) => (x <= 0 || x === Infinity) && !(x < -87 && x > -100) },
  },
  // From 0.25 on it is exp(x) - 1, which multiplies the error of exp by 5.
  expm1: { promised: { rtol: 180 * ulp, atol: least, when: (x) => !(x > 87 && x < 100) }, smooth: [[-2, 2]] },
  // WGSL: 2^-21 absolutely between 0.5 and 2, 3 ulp elsewhere.
  log: { promised: { rtol: 4 * ulp, atol: 2 ** -21 }, smooth: [[0.3, 3]] },
  // From 0.0625 on it is log(1 + x): rounding 1 + x alone costs 2^-24 / 0.06; beyond that the error of log.
  log1p: { promised: { rtol: 16 * ulp, atol: 2 ** -21 }, smooth: [[-0.6, 2]] },
  // WGSL: 2^-11 absolutely between -π and π. Drivers keep that to 64, and beyond we take turns off.
  sin: { promised: { atol: 2 ** -11 }, smooth: [[-3, 3]] },
  cos: { promised: { atol: 2 ** -11 }, smooth: [[-3, 3]] },
  // The quotient of the two.
  tan: {
    promised: { atol: 2 ** -10, rtol: 2 ** -8, when: (x) => !(Math.abs(Math.cos(x)) <= 0.1) },
    smooth: [[-1.1, 1.1]],
  },
  // Polynomials and roots of our own.
  asin: { promised: { rtol: 8 * ulp }, smooth: [[-0.8, 0.8]] },
  acos: { promised: { rtol: 8 * ulp }, smooth: [[-0.8, 0.8]] },
  // WGSL: 4096 ulp.
  atan: { promised: { rtol: 4096 * ulp, atol: least }, smooth: [[-3, 3]] },
  // The error of exp; near 0 a polynomial.
  sinh: { promised: { rtol: 180 * ulp }, smooth: [[-2, 2]] },
  cosh: { promised: { rtol: 180 * ulp }, smooth: [[-2, 2]] },
  // A polynomial near 0, a quotient of exponentials beyond: no relative accuracy is lost anywhere.
  tanh: { promised: { rtol: 16 * ulp }, smooth: [[-2, 2]] },
  // Abramowitz and Stegun 7.1.26: 1.5e-7 absolutely, and the rounding of a sum near 1.
  erf: { promised: { atol: 5e-7 }, smooth: [[-2, 2]] },
  floor: { promised: exact },
  ceil: { promised: exact },
  trunc: { promised: exact },
  round: { promised: exact },
  relu: { promised: { when: number }, smooth: [[0.1, 2]] },
  not: { promised: exact },
  bitNot: { promised: exact },
  add: { promised: rounded, smooth: [[-2, 2], [-2, 2]] },
  sub: { promised: rounded, smooth: [[-2, 2], [-2, 2]] },
  mul: { promised: { ...rounded, zeroSigns: true }, smooth: [[-2, 2], [-2, 2]] },
  // WGSL: 2.5 ulp.
  div: { promised: { rtol: 2.5 * ulp, atol: least, zeroSigns: true }, smooth: [[-2, 2], [0.5, 2]] },
  idiv: { promised: exact },
  irem: { promised: exact },
  frem: { promised: exact, smooth: [[2.1, 2.9], [0.95, 1.01]] },
  // exp2(y log2(x)): the error of the logarithm times its size, which is 128 at most.
  pow: {
    promised: {
      rtol: 512 * ulp,
      atol: least,
      when: (x, y) =>
        !number(x, y) || (finite(x, y) && x !== 0 && (x ** y === 0 || Number.isNaN(x ** y) || inRange(x ** y))),
    },
    smooth: [[0.4, 2], [-2, 3]],
  },
  max: { promised: { when: number }, smooth: [[-1, 1], [1.1, 2]] },
  min: { promised: { when: number }, smooth: [[-1, 1], [1.1, 2]] },
  // WGSL: 4096 ulp; nothing at the origin.
  atan2: {
    promised: { rtol: 4096 * ulp, atol: least, when: (y, x) => finite(y, x) && x !== 0 && y !== 0 },
    smooth: [[-2, 2], [0.3, 2]],
  },
  and: { promised: exact },
  or: { promised: exact },
  xor: { promised: exact },
  shl: { promised: exact },
  shr: { promised: exact },
  lt: { promised: exact },
  le: { promised: exact },
  eq: { promised: exact },
  ne: { promised: exact },
  where: { promised: signed },
  // Where not seen, heed is of no meaning, and weigh 0 whatever is there.
  heed: { promised: { ...rounded, when: (seen, ...x) => seen !== 0 && inRange(x[0]! * x[1]!) } },
  weigh: { promised: { ...rounded, when: (seen, ...x) => seen === 0 || inRange(x[0]! * x[1]!) } },
  gated: { promised: { ...rounded, when: (w, x) => w === hidden || inRange(w * x) } },
  threefry: { promised: exact },
};

function inRange(x: number): boolean {
  return Math.abs(x) > least && Math.abs(x) < 1e38;
}
