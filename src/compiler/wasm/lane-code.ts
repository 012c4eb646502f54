/** The lanes of `graph/lanes.ts` as code of a function. */
import type { HostFunction, LaneOp, LaneOps, Lanes } from "../../graph/lanes.ts";
import { bitsOfF32, type FunctionCode, wordsOfF64 } from "./encode.ts";

/** Emits code into a function. `host` gives the index of an imported function. */
export class LaneCode implements LaneOps {
  readonly #code: FunctionCode;
  readonly #host: (name: HostFunction) => number;

  constructor(code: FunctionCode, host: (name: HostFunction) => number) {
    this.#code = code;
    this.#host = host;
  }

  keep(x: Lanes): Lanes {
    const local = this.#code.local("v128");
    x();
    this.#code.set(local);
    return () => this.#code.get(local);
  }

  f32(value: number): Lanes {
    return this.bits(bitsOfF32(value));
  }

  bits(value: number): Lanes {
    return () => this.#code.words([value, value, value, value]);
  }

  op(name: LaneOp, ...x: readonly Lanes[]): Lanes {
    return () => {
      for (const operand of x) operand();
      this.#code.op(name);
    };
  }

  shift(name: "i32x4.shl" | "i32x4.shr_s" | "i32x4.shr_u", x: Lanes, by: number): Lanes {
    return () => {
      x();
      this.#code.i32(by);
      this.#code.op(name);
    };
  }

  select(mask: Lanes, a: Lanes, b: Lanes): Lanes {
    return () => {
      a();
      b();
      mask();
      this.#code.op("v128.bitselect");
    };
  }

  wide(f: (x: readonly Lanes[]) => Lanes, ...x: readonly Lanes[]): Lanes {
    const code = this.#code;
    const kept = x.map((operand) => this.keep(operand));
    const half = (high: boolean) => {
      const doubles = kept.map((operand) =>
        this.keep(() => {
          operand();
          if (high) {
            operand();
            code.shuffle([2, 3, 0, 1]);
          }
          code.op("f64x2.promote_low_f32x4");
        })
      );
      const result = f(doubles);
      return this.keep(() => {
        result();
        code.op("f32x4.demote_f64x2_zero");
      });
    };
    const low = half(false);
    const high = half(true);
    return () => {
      low();
      high();
      code.shuffle([0, 1, 4, 5]);
    };
  }

  f64(value: number): Lanes {
    return this.bits64(...wordsOfF64(value));
  }

  bits64(high: number, low: number): Lanes {
    return () => this.#code.words([low, high, low, high]);
  }

  shift64(name: "i64x2.shl" | "i64x2.shr_s" | "i64x2.shr_u", x: Lanes, by: number): Lanes {
    return () => {
      x();
      this.#code.i32(by);
      this.#code.op(name);
    };
  }

  rarely(mask: Lanes, name: HostFunction, operands: readonly Lanes[], x: Lanes): Lanes {
    const code = this.#code;
    const where = this.keep(mask);
    const kept = operands.map((operand) => this.keep(operand));
    const result = code.local("v128");
    x();
    code.set(result);
    where();
    code.op("v128.any_true");
    code.if();
    for (let lane = 0; lane < 4; lane++) {
      where();
      code.lane("i32x4.extract_lane", lane);
      code.if();
      code.get(result);
      for (const operand of kept) {
        operand();
        code.lane("f32x4.extract_lane", lane);
        code.op("f64.promote_f32");
      }
      code.call(this.#host(name));
      code.op("f32.demote_f64");
      code.lane("f32x4.replace_lane", lane);
      code.set(result);
      code.op("end");
    }
    code.op("end");
    return () => code.get(result);
  }

  divide(name: "div_s" | "div_u" | "rem_s" | "rem_u", a: Lanes, b: Lanes): Lanes {
    const code = this.#code;
    const [dividend, divisor] = [this.keep(a), this.keep(b)];
    const result = code.local("v128");
    const by = code.local("i32");
    code.words([0, 0, 0, 0]);
    code.set(result);
    for (let lane = 0; lane < 4; lane++) {
      divisor();
      code.lane("i32x4.extract_lane", lane);
      code.tee(by);
      code.if();
      code.get(result);
      if (name === "div_s") {
        // The least i32 by -1 would trap: it is itself.
        code.i32(0);
        dividend();
        code.lane("i32x4.extract_lane", lane);
        code.op("i32.sub");
        dividend();
        code.lane("i32x4.extract_lane", lane);
        code.get(by);
        code.i32(1);
        code.get(by);
        code.i32(-1);
        code.op("i32.ne");
        code.op("select");
        code.op("i32.div_s");
        code.get(by);
        code.i32(-1);
        code.op("i32.eq");
        code.op("select");
      } else {
        dividend();
        code.lane("i32x4.extract_lane", lane);
        code.get(by);
        code.op(`i32.${name}`);
      }
      code.lane("i32x4.replace_lane", lane);
      code.set(result);
      code.op("end");
    }
    return () => code.get(result);
  }

  shiftEach(name: "shl" | "shr_s" | "shr_u", x: Lanes, by: Lanes): Lanes {
    const code = this.#code;
    const [value, count] = [this.keep(x), this.keep(by)];
    const result = code.local("v128");
    code.words([0, 0, 0, 0]);
    code.set(result);
    for (let lane = 0; lane < 4; lane++) {
      code.get(result);
      value();
      code.lane("i32x4.extract_lane", lane);
      count();
      code.lane("i32x4.extract_lane", lane);
      code.op(`i32.${name}`);
      code.lane("i32x4.replace_lane", lane);
      code.set(result);
    }
    return () => code.get(result);
  }
}
