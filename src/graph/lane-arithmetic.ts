/** Arithmetic of lanes by the same names for f32 and f64, for functions that are written in it. */
import type { LaneOps, Lanes } from "./lanes.ts";

/** Four lanes of f32, or two of f64. */
export class Floats {
  readonly v: LaneOps;
  readonly #of: "f32x4" | "f64x2";

  constructor(v: LaneOps, of: "f32x4" | "f64x2") {
    this.v = v;
    this.#of = of;
  }

  number(value: number): Lanes {
    return this.#of === "f32x4" ? this.v.f32(value) : this.v.f64(value);
  }

  add(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.add`, a, b);
  }

  sub(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.sub`, a, b);
  }

  mul(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.mul`, a, b);
  }

  div(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.div`, a, b);
  }

  sqrt(x: Lanes): Lanes {
    return this.v.op(`${this.#of}.sqrt`, x);
  }

  abs(x: Lanes): Lanes {
    return this.v.op(`${this.#of}.abs`, x);
  }

  trunc(x: Lanes): Lanes {
    return this.v.op(`${this.#of}.trunc`, x);
  }

  /** The smaller; `a` where either is NaN. */
  min(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.pmin`, a, b);
  }

  /** The larger; `a` where either is NaN. */
  max(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.pmax`, a, b);
  }

  lt(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.lt`, a, b);
  }

  le(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.le`, a, b);
  }

  eq(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.eq`, a, b);
  }

  ne(a: Lanes, b: Lanes): Lanes {
    return this.v.op(`${this.#of}.ne`, a, b);
  }

  and(a: Lanes, b: Lanes): Lanes {
    return this.v.op("v128.and", a, b);
  }

  /** `a` but for the bits of `b`. */
  andnot(a: Lanes, b: Lanes): Lanes {
    return this.v.op("v128.andnot", a, b);
  }

  or(a: Lanes, b: Lanes): Lanes {
    return this.v.op("v128.or", a, b);
  }

  xor(a: Lanes, b: Lanes): Lanes {
    return this.v.op("v128.xor", a, b);
  }

  /** The bit of the sign. */
  sign(x: Lanes): Lanes {
    return this.and(x, this.#of === "f32x4" ? this.v.bits(0x80000000) : this.v.bits64(0x80000000, 0));
  }

  /** The polynomial of these coefficients, that of the highest power first, by Horner's scheme. `x` is kept. */
  poly(x: Lanes, [first, ...rest]: readonly number[]): Lanes {
    return rest.reduce((sum, c) => this.add(this.mul(sum, x), this.number(c)), this.number(first ?? 0));
  }

  /** The same by Estrin's scheme: more products, and a shorter way through them. */
  estrin(x: Lanes, coefficients: readonly number[]): Lanes {
    let terms = coefficients.map((c) => this.number(c)).reverse();
    for (let power = x; terms.length > 1;) {
      const of = power;
      terms = terms.flatMap((low, i) => {
        if (i % 2 === 1) return [];
        const high = terms[i + 1];
        return [high === undefined ? low : this.add(this.mul(high, of), low)];
      });
      if (terms.length > 1) power = this.v.keep(this.mul(of, of));
    }
    return terms[0]!;
  }
}
