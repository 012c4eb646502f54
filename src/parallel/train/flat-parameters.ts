/** Many parameters side by side in one flat vector, of which each is a view: an update of all of them is one kernel. */
import { ArgumentError, DTypeError } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** Elements `start` to `end - 1` of the flat vector. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Elements that kernels load and store at one time, from positions that are multiples of it. */
const lanes = 4;

const flats = new WeakSet<Tensor>();

/** Whether parameters are views of a tensor: a function that uses such a parameter captures the flat one. */
export function isFlat(tensor: Tensor): boolean {
  return flats.has(tensor);
}

/** Where each parameter lies. */
export class FlatParameters {
  readonly parameters: readonly Tensor[];
  /** The elements that each parameter has. */
  readonly ranges: readonly Range[];
  /** Elements of all parameters together. */
  readonly used: number;
  /** Elements of the vector that holds them: if `aligned`, a few zeros follow. */
  readonly length: number;
  /** Before and behind this element, parameters lie in their own order. */
  readonly boundary: number;

  /**
   * One behind the other; if `aligned`, those of odd sizes come last, so that the others begin where kernels can load them
   * four elements at a time, and the vector can be loaded so to its end. Throws ArgumentError for no parameters or one listed
   * twice, DTypeError for one that is not f32.
   */
  constructor(op: string, parameters: readonly Tensor[], { aligned }: { readonly aligned: boolean }) {
    requireDistinctF32(op, parameters);
    this.parameters = [...parameters];
    const sizes = parameters.map(({ size }) => size);
    const { ranges, used, boundary } = aligned ? evenFirst(sizes) : inOrder(sizes);
    this.ranges = ranges;
    this.used = used;
    this.boundary = boundary;
    this.length = aligned ? lanes * Math.ceil(used / lanes) : used;
  }

  /** Where each parameter begins. */
  get offsets(): readonly number[] {
    return this.ranges.map(({ start }) => start);
  }

  /** Each parameter with its elements, in the order in which they are given. */
  *entries(): Iterable<readonly [parameter: Tensor, range: Range]> {
    for (const [i, range] of this.ranges.entries()) yield [this.parameters[i] as Tensor, range];
  }

  /** The parameters that lie in a range, in the order in which they lie. */
  within({ start, end }: Range): Tensor[] {
    return [...this.entries()]
      .filter(([, range]) => range.start >= start && range.start < end)
      .sort(([, a], [, b]) => a.start - b.start)
      .map(([parameter]) => parameter);
  }

  /** The position of the parameter that an element belongs to. */
  positionAt(element: number): number {
    return this.ranges.findIndex(({ start, end }) => element >= start && element < end);
  }

  /** Whether a tensor is one of the parameters. */
  has(tensor: Tensor): boolean {
    return this.parameters.includes(tensor);
  }

  /** Makes all parameters views of a flat tensor, those that are not. */
  showIn(flat: Tensor): void {
    flats.add(flat);
    for (const [parameter, { start }] of this.entries()) {
      if (!isViewAt(flat, start, parameter)) parameter.aliasOf(flat, start);
    }
  }

  /** Whether all parameters are views of a flat tensor, each at its place. */
  areViewsOf(flat: Tensor): boolean {
    return [...this.entries()].every(([parameter, { start }]) => isViewAt(flat, start, parameter));
  }
}

function requireDistinctF32(op: string, parameters: readonly Tensor[]): void {
  if (parameters.length === 0) throw new ArgumentError(op, { got: "no parameters", need: "at least one" });
  if (new Set(parameters).size < parameters.length) {
    throw new ArgumentError(op, { got: "a parameter listed twice", need: "each once: a tied weight is one parameter" });
  }
  for (const { dtype } of parameters) {
    if (dtype !== "f32") throw new DTypeError(op, { got: `a parameter of ${dtype}`, need: "f32" });
  }
}

function isViewAt(flat: Tensor, offset: number, { alias }: Tensor): boolean {
  return alias?.base === flat && alias.offset === offset;
}

interface Layout {
  readonly ranges: readonly Range[];
  readonly used: number;
  readonly boundary: number;
}

function inOrder(sizes: readonly number[]): Layout {
  let used = 0;
  const ranges = sizes.map((size) => ({ start: used, end: used += size }));
  return { ranges, used, boundary: used };
}

function evenFirst(sizes: readonly number[]): Layout {
  const ranges = new Array<Range>(sizes.length);
  let used = 0;
  let boundary = 0;
  for (const even of [true, false]) {
    boundary = used;
    sizes.forEach((size, i) => {
      if ((size % lanes === 0) !== even) return;
      ranges[i] = { start: used, end: used += size };
    });
  }
  return { ranges, used, boundary };
}
