/** Random graphs for property tests, made from a tape of numbers so that fast-check can shrink and replay them. */
import fc from "fast-check";
import * as b from "../src/graph/build.ts";
import { type DType, isFloat } from "../src/graph/dtype.ts";
import type { Node } from "../src/graph/node.ts";
import type { ElementwiseName } from "../src/graph/ops.ts";
import { printGraph } from "../src/graph/print.ts";
import { broadcastShapes, type Shape, size, withoutAxes } from "../src/graph/shape.ts";

export interface RandomGraph {
  readonly roots: readonly Node[];
  /** The placeholders, in the order of their creation. */
  readonly inputs: readonly Node[];
  /** Values of the placeholders. */
  readonly given: ReadonlyMap<Node, readonly number[]>;
  /** How fast-check prints it. */
  readonly [fc.toStringMethod]: () => string;
}

export interface RandomGraphOptions {
  /** Only smooth functions of f32 with bounded values, so that finite differences hold. False by default. */
  readonly smooth?: boolean;
  /** Whether axes may be empty. True by default. */
  readonly empty?: boolean;
  /** Whether NaN, infinities, and -0 are among the values. False by default. */
  readonly special?: boolean;
  /** Whether sin, exp and the like may be used, whose values differ between platforms. True by default. */
  readonly transcendental?: boolean;
  /** Nodes made, at most. 12 by default. */
  readonly length?: number;
}

export function randomGraph(options: RandomGraphOptions = {}): fc.Arbitrary<RandomGraph> {
  const maxLength = 200 + 16 * (options.length ?? 12);
  // fast-check's bias towards short arrays and small numbers would give graphs of three nodes.
  return fc.noBias(fc.array(fc.nat(0xffff), { minLength: maxLength / 2, maxLength, size: "max" }))
    .map((tape) => new Builder(tape, options).build());
}

const exactUnary: readonly ElementwiseName[] = ["neg", "abs", "sign", "floor", "ceil", "trunc", "round", "relu"];
const transcendental: readonly ElementwiseName[] = ["sin", "cos", "exp", "tanh", "atan", "erf", "sqrt"];
const floatBinary: readonly ElementwiseName[] = ["add", "sub", "mul", "max", "min", "add", "mul", "div"];
const integerBinary: readonly ElementwiseName[] = [
  "add",
  "sub",
  "mul",
  "max",
  "min",
  "idiv",
  "irem",
  "and",
  "or",
  "xor",
  "shl",
  "shr",
];
const compare: readonly ElementwiseName[] = ["lt", "le", "eq", "ne"];
const logic: readonly ElementwiseName[] = ["and", "or", "xor", "eq", "ne"];
/** Elements of a node, at most; of a smooth graph fewer, as finite differences evaluate it for every element. */
const largest = { smooth: 64, other: 512 };

class Builder {
  readonly #tape: readonly number[];
  readonly #options: RandomGraphOptions;
  readonly #inputs: Node[] = [];
  readonly #given = new Map<Node, number[]>();
  readonly #pool: Node[] = [];
  #at = 0;

  constructor(tape: readonly number[], options: RandomGraphOptions) {
    this.#tape = tape;
    this.#options = options;
  }

  build(): RandomGraph {
    const leaves = 1 + this.#next(3);
    for (let i = 0; i < leaves; i++) this.#leaf();
    for (let made = 0; made < (this.#options.length ?? 12) && this.#at < this.#tape.length; made++) {
      const node = this.#options.smooth ? this.#smooth() : this.#step();
      if (size(node.shape) <= (this.#options.smooth ? largest.smooth : largest.other)) this.#pool.push(node);
    }
    const roots = [this.#pool.at(-1)!];
    if (this.#next(3) === 0) roots.push(this.#any());
    const given = this.#given;
    const values = () => [...given.values()].map((list) => `[${list.join(", ")}]`).join("; ");
    return {
      roots,
      inputs: this.#inputs,
      given,
      [fc.toStringMethod]: () => `\n${printGraph(roots)}\nvalues ${values()}\n`,
    };
  }

  /** A number below `n` from the tape; 0 past its end. */
  #next(n: number): number {
    return (this.#tape[this.#at++] ?? 0) % n;
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.#next(list.length)]!;
  }

  /** Half the time the newest node, so that graphs are deep as well as wide. */
  #any(): Node {
    return this.#next(2) === 0 ? this.#pool.at(-1)! : this.#pick(this.#pool);
  }

  #shape(): number[] {
    const lengths = this.#options.empty === false || this.#next(8) > 0 ? [1, 2, 3, 4] : [0, 1, 2, 3];
    return Array.from({ length: this.#next(4) }, () => this.#pick(lengths));
  }

  #leaf(): void {
    const dtype: DType = this.#options.smooth || this.#next(3) > 0 ? "f32" : this.#pick(["i32", "u32", "f16"] as const);
    const shape = this.#shape();
    const node = b.input(shape, dtype);
    this.#inputs.push(node);
    this.#given.set(node, Array.from({ length: size(shape) }, () => this.#value(dtype)));
    this.#pool.push(node);
  }

  #value(dtype: DType): number {
    const raw = this.#next(0x10000);
    if (this.#options.smooth) return (raw / 0x8000 - 1) * 1.5 + this.#at * 1e-3;
    if (this.#options.special && raw % 5 === 0) {
      return isFloat(dtype)
        ? this.#pick([NaN, Infinity, -Infinity, -0, 0])
        : dtype === "i32"
        ? this.#pick([-2147483648, 2147483647])
        : 4294967295;
    }
    if (isFloat(dtype)) return (raw % 64 - 32) / 8;
    return dtype === "i32" ? raw % 16 - 8 : raw % 16;
  }

  #smooth(): Node {
    const x = this.#any();
    const one = b.full(x.shape, 1, "f32");
    switch (this.#next(15)) {
      case 0:
        return b.elementwise(this.#pick(["sin", "cos", "tanh", "atan", "erf", "neg"] as const), x);
      case 1:
        return b.elementwise("exp", b.elementwise("tanh", x));
      case 2:
        return b.elementwise("log", b.elementwise("add", b.elementwise("mul", x, x), one));
      case 3:
        return b.elementwise("sqrt", b.elementwise("add", b.elementwise("mul", x, x), one));
      case 4:
      case 5:
      case 6: {
        const [left, right] = this.#pair(x);
        return b.elementwise("sin", b.elementwise(this.#pick(["add", "sub", "mul"] as const), left, right));
      }
      case 7:
        return b.elementwise("tanh", b.reduce("sum", x, this.#axes(x.shape)));
      case 8:
        // Factors below 1, as a product of hundreds would be too steep for finite differences.
        return b.elementwise("sin", b.reduce("prod", b.elementwise("tanh", x), this.#axes(x.shape)));
      case 9: {
        const [left, right] = this.#pair(x);
        return b.elementwise(
          "div",
          left,
          b.elementwise("add", b.elementwise("mul", right, right), b.full(left.shape, 1, "f32")),
        );
      }
      case 10:
        return this.#index(x);
      case 11:
        return b.elementwise("sin", this.#scan(x));
      default:
        return this.#move(x);
    }
  }

  #step(): Node {
    const x = this.#any();
    // A half is moved, chosen, or made an f32; a number of float64 would not be rounded to the half that a device gives.
    if (x.dtype === "f16") {
      return this.#next(3) === 0 ? b.cast(x, "f32") : this.#next(3) === 0 ? this.#select(x) : this.#move(x);
    }
    switch (this.#next(13)) {
      case 0:
      case 1:
        return this.#unary(x);
      case 2:
      case 3:
      case 4:
        return this.#binary(x);
      case 5:
        return x.dtype === "bool"
          ? this.#unary(x)
          : b.reduce(this.#pick(["sum", "prod", "amax", "amin"] as const), x, this.#axes(x.shape));
      case 6:
        return this.#select(x);
      case 7:
        return this.#index(x);
      case 8:
        return x.dtype === "bool" ? this.#unary(x) : this.#scan(x);
      default:
        return this.#move(x);
    }
  }

  #unary(x: Node): Node {
    if (x.dtype === "bool") return b.elementwise("not", x);
    if (this.#next(5) === 0) return this.#convert(x);
    if (x.dtype === "u32") return b.elementwise(this.#pick(["bitNot", "relu"] as const), x);
    if (x.dtype === "i32") return b.elementwise(this.#pick(["neg", "abs", "sign", "bitNot", "relu"] as const), x);
    const smooth = this.#options.transcendental !== false && this.#next(3) === 0;
    return b.elementwise(this.#pick(smooth ? transcendental : exactUnary), x);
  }

  #convert(x: Node): Node {
    const to = this.#pick(["f32", "i32", "u32", "bool"] as const);
    // f32 to 32 bits of an unrounded float64 differs from the device's; integers do not.
    return to !== "bool" && to !== "f32" && x.dtype !== "f32" && this.#next(3) === 0 ? b.bitcast(x, to) : b.cast(x, to);
  }

  #binary(x: Node): Node {
    const [left, right] = this.#pair(x);
    if (x.dtype === "bool") return b.elementwise(this.#pick(logic), left, right);
    if (this.#next(5) === 0) return b.elementwise(this.#pick(compare), left, right);
    const op = this.#pick(x.dtype === "f32" ? floatBinary : integerBinary);
    // A divisor of at least 1: a zero's sign, which is not kept, would show in a quotient by it.
    const divisor = () => b.elementwise("add", b.elementwise("mul", right, right), b.full(right.shape, 1, "f32"));
    return b.elementwise(op, left, op === "div" ? divisor() : right);
  }

  #scan(x: Node): Node {
    return x.shape.length === 0
      ? b.reshape(x, [1])
      : b.scan(this.#pick(["sum", "prod"] as const), x, this.#next(x.shape.length));
  }

  #select(x: Node): Node {
    const [left, right] = this.#pair(x);
    const compared = (y: Node) => b.cast(y, y.dtype === "f16" ? "f32" : y.dtype);
    const condition = b.elementwise(
      this.#pick(x.dtype === "bool" ? logic : compare),
      compared(left),
      compared(this.#next(2) === 0 ? right : b.full(left.shape, 1, left.dtype)),
    );
    return b.elementwise("where", condition, left, right);
  }

  /** `x` and another operand of its dtype, broadcast to one shape. */
  #pair(x: Node): [Node, Node] {
    const others = this.#pool.filter((y) => y.dtype === x.dtype && broadcastable(x.shape, y.shape));
    const choice = this.#next(others.length + 2);
    const constants = x.dtype === "bool" ? [0, 1] : x.dtype === "u32" ? [0, 1, 2] : [0, 1, -1, 2];
    const other = others[choice] ?? b.constant(this.#pick(constants), x.dtype);
    const shape = broadcastShapes("test", x.shape, other.shape);
    const pair: [Node, Node] = [b.broadcastTo(x, shape), b.broadcastTo(other, shape)];
    return this.#next(2) === 0 ? pair : [pair[1], pair[0]];
  }

  #axes(shape: Shape): number[] {
    const axes = [...shape.keys()].filter(() => this.#next(2) === 0);
    return axes.length > 0 || shape.length === 0 ? axes : [this.#next(shape.length)];
  }

  #window(x: Node): Node {
    if (x.shape.length === 0) return b.reshape(x, [1]);
    const axis = this.#next(x.shape.length);
    return b.window(x, { axis, length: 1 + this.#next(3), stride: 1 + this.#next(2), dilation: 1 + this.#next(2) });
  }

  /** Puts windows where they lie, most often of windows, and adds them up, most often. */
  #unwindow(x: Node): Node {
    if (x.shape.length < 2 || x.shape.at(-1) === 0) return this.#window(x);
    const axis = this.#next(x.shape.length - 1);
    const [stride, dilation] = [1 + this.#next(2), 1 + this.#next(2)];
    const reach = Math.max(0, x.shape[axis]! - 1) * stride + (x.shape.at(-1)! - 1) * dilation + 1;
    const parts = b.unwindow(x, { axis, length: reach + this.#next(2), stride, dilation });
    return x.dtype === "bool" || x.dtype === "f16" || this.#next(3) === 0
      ? parts
      : b.reduce("sum", parts, [x.shape.length - 1]);
  }

  #move(x: Node): Node {
    const { shape } = x;
    const each = (f: (length: number) => number) => shape.map(f);
    switch (this.#next(10)) {
      case 0: {
        const order = [...shape.keys()];
        for (let i = order.length - 1; i > 0; i--) {
          const j = this.#next(i + 1);
          [order[i], order[j]] = [order[j]!, order[i]!];
        }
        return b.permute(x, order);
      }
      case 1:
        return b.expand(x, each((n) => n === 1 ? this.#next(4) || 1 : n));
      case 2:
        return b.pad(x, each(() => this.#next(3)), each(() => this.#next(2)), this.#next(3) === 0 ? this.#next(2) : 0);
      case 3: {
        const step = each(() => this.#pick([1, 1, -1, 2, -2, 3]));
        const count = shape.map((n, axis) =>
          Math.min(n, 1 + this.#next(Math.max(1, Math.ceil(n / Math.abs(step[axis]!)))))
        );
        const start = shape.map((n, axis) => {
          const span = (count[axis]! - 1) * Math.abs(step[axis]!);
          const room = this.#next(Math.max(1, n - span));
          return count[axis] === 0 ? 0 : step[axis]! > 0 ? room : room + span;
        });
        return b.slice(x, start, count, step);
      }
      case 4:
        return b.reshape(x, this.#split(shape));
      case 5:
        return b.broadcastTo(x, [1 + this.#next(3), ...shape]);
      case 6: {
        if (shape.length === 0) return b.reshape(x, [1]);
        const axis = this.#next(shape.length);
        const same = this.#pool.filter((y) =>
          y.dtype === x.dtype && y.shape.length === shape.length &&
          withoutAxes(y.shape, [axis]).join() === withoutAxes(shape, [axis]).join()
        );
        return b.concat([x, this.#pick(same)], axis);
      }
      case 7:
        return this.#window(x);
      case 8:
        return this.#unwindow(x);
      default:
        return this.#options.smooth || this.#next(2) === 0 ? b.contiguous(x) : b.stopGradient(x);
    }
  }

  /** Another shape of as many elements. */
  #split(shape: Shape): number[] {
    const result: number[] = [];
    let open = 1;
    for (const length of shape) {
      open *= length;
      if (this.#next(2) === 0) {
        result.push(open);
        open = 1;
      }
    }
    result.push(open);
    if (this.#next(2) === 0) result.splice(this.#next(result.length + 1), 0, 1);
    return result;
  }

  #index(x: Node): Node {
    if (x.shape.length === 0 || x.dtype === "bool") return this.#move(x);
    const axis = this.#next(x.shape.length);
    const places = Array.from({ length: 1 + this.#next(3) }, () => b.full([1], this.#next(6) - 1, "i32"));
    const line = b.concat(places, 0);
    const column = x.shape.map((_, i) => i === axis ? places.length : 1);
    const index = (n: number) => {
      const shape = x.shape.map((length, i) => i === axis ? n : length);
      return b.expand(b.reshape(b.slice(line, [0], [n], [1]), column.map((c, i) => i === axis ? n : c)), shape);
    };
    const n = Math.min(places.length, x.shape[axis]!);
    if (this.#next(2) === 0 && n === x.shape[axis]) return b.scatterAdd(index(n), x, axis, 1 + this.#next(4));
    if (!this.#options.smooth && this.#next(4) === 0) return b.argsort(x);
    if (!this.#options.smooth && n === x.shape[axis] && this.#next(4) === 0) return b.scatterMax(x, index(n), x, axis);
    return b.gather(x, index(places.length), axis);
  }
}

function broadcastable(a: Shape, b: Shape): boolean {
  for (let i = 1; i <= Math.min(a.length, b.length); i++) {
    const [x, y] = [a.at(-i)!, b.at(-i)!];
    if (x !== y && x !== 1 && y !== 1) return false;
  }
  return true;
}
