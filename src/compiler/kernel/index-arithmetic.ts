/**
 * Index arithmetic in canonical form: an integer expression is a sum of atoms with coefficients plus an offset, and
 * carries the range of its values, so that a division or remainder that does nothing is never spelled. Where a guard
 * makes some values impossible, the range says so and the expression may be wrong outside it.
 */

/** A loop or invocation counter: 0 … extent - 1. */
export interface Variable {
  readonly name: string;
  readonly extent: number;
}

export type Atom =
  | { readonly kind: "variable"; readonly key: string; readonly variable: Variable }
  /** Floor division and remainder by a positive constant, of a non-negative index. */
  | { readonly kind: "div" | "mod"; readonly key: string; readonly of: Index; readonly by: number }
  /** The smaller of an index and a constant: the clamped base of a tile at the edge. */
  | { readonly kind: "min"; readonly key: string; readonly of: Index; readonly limit: number }
  /** An i32 computed by the kernel; `name` identifies it there. */
  | { readonly kind: "value"; readonly key: string; readonly name: string };

export interface Term {
  readonly atom: Atom;
  readonly coefficient: number;
}

export interface Index {
  readonly terms: readonly Term[];
  readonly offset: number;
  readonly min: number;
  readonly max: number;
  /** Equal keys mean equal values. */
  readonly key: string;
}

function atomRange(atom: Atom): [number, number] {
  switch (atom.kind) {
    case "variable":
      return [0, Math.max(0, atom.variable.extent - 1)];
    case "div":
      return [Math.max(0, Math.floor(atom.of.min / atom.by)), Math.floor(atom.of.max / atom.by)];
    case "mod":
      return [0, Math.min(atom.by - 1, Math.max(0, atom.of.max))];
    case "min":
      return [Math.min(atom.of.min, atom.limit), Math.min(atom.of.max, atom.limit)];
    case "value":
      return [-2147483648, 2147483647];
  }
}

/**
 * Sums terms of equal atoms and sorts; joins c·k·(x div k) + c·(x mod k) into c·x, and
 * c·k·((x div k) mod m) + c·(x mod k) into c·(x mod k·m). Half of the time of compiling a graph is spent here, on sums of
 * a few terms: so it works on a short array.
 */
function normalize(terms: readonly Term[], offset: number): Index {
  const sums: Term[] = [];
  for (const { atom, coefficient } of terms) accumulate(sums, atom, coefficient);
  const total = sums.length > 1 ? offset + joinRemainders(sums) : offset;
  sortTerms(sums);
  let min = total;
  let max = total;
  let key = "";
  for (const { atom, coefficient } of sums) {
    const [low, high] = atomRange(atom);
    min += coefficient * (coefficient > 0 ? low : high);
    max += coefficient * (coefficient > 0 ? high : low);
    key += `${key === "" ? "" : "+"}${coefficient === 1 ? atom.key : `${coefficient}*${atom.key}`}`;
  }
  if (key === "" || total !== 0) key += `+${total}`;
  return { terms: sums, offset: total, min, max, key };
}

/** Adds a term to a sum of terms with distinct atoms. */
function accumulate(sums: Term[], atom: Atom, coefficient: number): void {
  for (let i = 0; i < sums.length; i++) {
    const term = sums[i]!;
    if (term.atom !== atom && term.atom.key !== atom.key) continue;
    const sum = term.coefficient + coefficient;
    if (sum === 0) sums.splice(i, 1);
    else sums[i] = { atom, coefficient: sum };
    return;
  }
  if (coefficient !== 0) sums.push({ atom, coefficient });
}

/** Joins remainders with the quotients that they go with, as long as there are any; what that adds to the offset. */
function joinRemainders(sums: Term[]): number {
  let offset = 0;
  for (let i = 0; i < sums.length; i++) {
    const { atom, coefficient } = sums[i]!;
    if (atom.kind !== "mod") continue;
    const wanted = coefficient * atom.by;
    const partner = sums.findIndex(({ atom: other, coefficient: factor }) =>
      factor === wanted && other.kind === "div" && other.by === atom.by && other.of.key === atom.of.key
    );
    const upper = partner >= 0 ? partner : upperPart(sums, atom.of, atom.by, wanted);
    if (upper < 0) continue;
    const other = sums[upper]!.atom;
    const joined = other.kind === "mod" ? remainder(atom.of, atom.by * other.by) : atom.of;
    sums.splice(Math.max(i, upper), 1);
    sums.splice(Math.min(i, upper), 1);
    for (const term of joined.terms) accumulate(sums, term.atom, term.coefficient * coefficient);
    offset += joined.offset * coefficient;
    i = -1;
  }
  return offset;
}

/** The term wanted·((of div by) mod m), for any m. */
function upperPart(sums: readonly Term[], of: Index, by: number, wanted: number): number {
  let whole: Index | undefined;
  return sums.findIndex(({ atom, coefficient }) =>
    coefficient === wanted && atom.kind === "mod" && atom.of.key === (whole ??= divide(of, by)).key
  );
}

/** By key. Nearly all sums are sorted already. */
function sortTerms(terms: Term[]): void {
  for (let i = 1; i < terms.length; i++) {
    const term = terms[i]!;
    let to = i;
    for (; to > 0 && terms[to - 1]!.atom.key > term.atom.key; to--) terms[to] = terms[to - 1]!;
    terms[to] = term;
  }
}

function atomKey(kind: "div" | "mod", of: Index, by: number): string {
  return `${kind}(${of.key},${by})`;
}

function ofAtom(atom: Atom): Index {
  return normalize([{ atom, coefficient: 1 }], 0);
}

export function constantIndex(value: number): Index {
  return normalize([], value);
}

export const zeroIndex: Index = constantIndex(0);

export function variableIndex(variable: Variable): Index {
  return variable.extent <= 1 ? zeroIndex : ofAtom({ kind: "variable", key: variable.name, variable });
}

/** An i32 value of the kernel as an index known to lie in 0 … extent - 1 where it is used. */
export function valueIndex(name: string, extent: number): Index {
  return within(ofAtom({ kind: "value", key: `value(${name})`, name }), 0, extent - 1);
}

export function add(a: Index, b: Index): Index {
  return keepRange(normalize([...a.terms, ...b.terms], a.offset + b.offset), a.min + b.min, a.max + b.max);
}

export function addConstant(a: Index, value: number): Index {
  return value === 0 ? a : keepRange(normalize(a.terms, a.offset + value), a.min + value, a.max + value);
}

export function scale(a: Index, factor: number): Index {
  if (factor === 1) return a;
  if (factor === 0) return zeroIndex;
  const terms = a.terms.map(({ atom, coefficient }) => ({ atom, coefficient: coefficient * factor }));
  // Adding 0 makes a negative zero positive.
  const ends = [a.min * factor + 0, a.max * factor + 0].sort((x, y) => x - y);
  return keepRange(normalize(terms, a.offset * factor + 0), ends[0]!, ends[1]!);
}

/** The same index, known to lie in low … high wherever its value matters. */
export function within(a: Index, low: number, high: number): Index {
  const min = Math.max(a.min, low);
  const max = Math.max(min, Math.min(a.max, high));
  return { terms: a.terms, offset: a.offset, min, max, key: a.key };
}

/** Ranges may be known better than the terms tell. */
function keepRange(a: Index, min: number, max: number): Index {
  return min <= a.min && max >= a.max ? a : within(a, min, max);
}

/** Splits an index into by·quotient + rest, with as much as possible in the quotient while rest stays non-negative. */
function splitMultiples(a: Index, by: number): { quotient: Index; rest: Index } {
  const multiples = a.terms.filter((term) => term.coefficient % by === 0);
  const others = a.terms.filter((term) => term.coefficient % by !== 0);
  const remainder = ((a.offset % by) + by) % by;
  let rest = normalize(others, remainder);
  if (rest.min < 0) return { quotient: zeroIndex, rest: a };
  if (multiples.length === 0 && a.offset === remainder) rest = keepRange(rest, a.min, a.max);
  const quotient = normalize(
    multiples.map(({ atom, coefficient }) => ({ atom, coefficient: coefficient / by })),
    (a.offset - remainder) / by,
  );
  return { quotient, rest };
}

/** Greatest number that divides `by` and every coefficient. */
function commonDivisor(a: Index, by: number): number {
  let g = by;
  for (const term of a.terms) {
    let x = Math.abs(term.coefficient);
    while (x !== 0) [g, x] = [x, g % x];
  }
  return g;
}

/** a / factor for an index whose coefficients are multiples of factor; the offset is floored. */
function shrink(a: Index, factor: number): Index {
  const terms = a.terms.map(({ atom, coefficient }) => ({ atom, coefficient: coefficient / factor }));
  return keepRange(
    normalize(terms, Math.floor(a.offset / factor)),
    Math.floor(a.min / factor),
    Math.floor(a.max / factor),
  );
}

/** Floor of a / by; `a` is not negative where its value matters. */
export function divide(a: Index, by: number): Index {
  if (by === 1) return a;
  if (a.min >= 0 && a.max < by) return zeroIndex;
  const { quotient, rest } = splitMultiples(a, by);
  if (rest.min >= 0 && rest.max < by) return keepRange(quotient, Math.floor(a.min / by), Math.floor(a.max / by));
  const g = commonDivisor(rest, by);
  const reduced = g === 1 ? rest : shrink(rest, g);
  return keepRange(add(quotient, divideAtom(reduced, by / g)), Math.floor(a.min / by), Math.floor(a.max / by));
}

function divideAtom(a: Index, by: number): Index {
  if (by === 1) return a;
  const [only] = a.terms;
  if (a.terms.length === 1 && a.offset === 0 && only!.coefficient === 1) {
    const atom = only!.atom;
    if (atom.kind === "div") return divide(atom.of, atom.by * by);
    if (atom.kind === "mod" && atom.by % by === 0) return remainder(divide(atom.of, by), atom.by / by);
  }
  return ofAtom({ kind: "div", key: atomKey("div", a, by), of: a, by });
}

/** a modulo by; `a` is not negative where its value matters. */
export function remainder(a: Index, by: number): Index {
  if (by === 1) return zeroIndex;
  if (a.min >= 0 && a.max < by) return a;
  const { rest } = splitMultiples(a, by);
  if (rest.min >= 0 && rest.max < by) return rest;
  const g = commonDivisor(rest, by);
  if (g === 1) return remainderAtom(rest, by);
  return addConstant(scale(remainderAtom(shrink(rest, g), by / g), g), ((rest.offset % g) + g) % g);
}

function remainderAtom(a: Index, by: number): Index {
  if (by === 1) return zeroIndex;
  if (a.min >= 0 && a.max < by) return a;
  const [only] = a.terms;
  if (
    a.terms.length === 1 && a.offset === 0 && only!.coefficient === 1 && only!.atom.kind === "mod" &&
    only!.atom.by % by === 0
  ) {
    return remainder(only!.atom.of, by);
  }
  return ofAtom({ kind: "mod", key: atomKey("mod", a, by), of: a, by });
}

/** The smaller of `a` and a constant. */
export function atMost(a: Index, limit: number, always = false): Index {
  if (a.max <= limit && !always) return a;
  return ofAtom({ kind: "min", key: `min(${a.key},${limit})`, of: a, limit });
}

/** Row-major position of `indices` in an array of `shape`. */
export function flatten(indices: readonly Index[], strides: readonly number[]): Index {
  return indices.reduce((sum, index, axis) => add(sum, scale(index, strides[axis]!)), zeroIndex);
}

/** The indices of a row-major position in an array of `shape`. */
export function unflatten(position: Index, shape: readonly number[]): Index[] {
  const result = new Array<Index>(shape.length);
  let rest = position;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    result[axis] = axis === 0 ? rest : remainder(rest, shape[axis]!);
    rest = divide(rest, shape[axis]!);
  }
  return result.map((index, axis) => within(index, 0, Math.max(0, shape[axis]! - 1)));
}

/** Calls `visit` with every variable and value that the index is made of. */
export function eachLeaf(a: Index, visit: (atom: Atom & { kind: "variable" | "value" }) => void): void {
  for (const { atom } of a.terms) {
    if (atom.kind === "variable" || atom.kind === "value") visit(atom);
    else eachLeaf(atom.of, visit);
  }
}

/** The range of an index where nothing is known but its counters; undefined where it is made of values. */
export function unguardedRange(a: Index): { readonly min: number; readonly max: number } | undefined {
  let [min, max] = [a.offset, a.offset];
  for (const { atom, coefficient } of a.terms) {
    const range = atomRangeUnguarded(atom);
    if (range === undefined) return undefined;
    min += coefficient * (coefficient > 0 ? range.min : range.max);
    max += coefficient * (coefficient > 0 ? range.max : range.min);
  }
  return { min, max };
}

function atomRangeUnguarded(atom: Atom): { readonly min: number; readonly max: number } | undefined {
  if (atom.kind === "variable") return { min: 0, max: Math.max(0, atom.variable.extent - 1) };
  const of = atom.kind === "value" ? undefined : unguardedRange(atom.of);
  // Quotients and remainders are of what is not negative.
  if (of === undefined || atom.kind === "value" || (atom.kind !== "min" && of.min < 0)) return undefined;
  switch (atom.kind) {
    case "div":
      return { min: Math.floor(of.min / atom.by), max: Math.floor(of.max / atom.by) };
    case "mod":
      return { min: 0, max: Math.min(atom.by - 1, of.max) };
    case "min":
      return { min: Math.min(of.min, atom.limit), max: Math.min(of.max, atom.limit) };
  }
}

/** How much the index grows when `variable` grows by 1, where that is the same everywhere; else undefined. */
export function strideOf(a: Index, variable: Variable): number | undefined {
  let stride = 0;
  for (const { atom, coefficient } of a.terms) {
    if (atom.kind === "variable") {
      if (atom.variable === variable) stride += coefficient;
    } else if (atom.kind !== "value") {
      let inside = false;
      eachLeaf(atom.of, (leaf) => {
        if (leaf.kind === "variable" && leaf.variable === variable) inside = true;
      });
      if (inside) return undefined;
    }
  }
  return stride;
}

/**
 * How much the index grows from one to the next of `group` neighbouring values of `variable`, the first of which is a multiple
 * of `group`, where that is the same everywhere; else undefined.
 */
export function strideInGroup(a: Index, variable: Variable, group: number): number | undefined {
  let stride = 0;
  for (const { atom, coefficient } of a.terms) {
    if (atom.kind === "variable") {
      if (atom.variable === variable) stride += coefficient;
    } else if (atom.kind !== "value") {
      const inner = strideInGroup(atom.of, variable, group);
      if (inner === 0) continue;
      // A group that begins at a multiple of its size lies within one period.
      const rest = atom.of.terms.filter((term) => term.atom.kind !== "variable" || term.atom.variable !== variable);
      const aligned = inner === 1 && atom.kind !== "min" && atom.by % group === 0 &&
        isMultiple({ ...atom.of, terms: rest }, group);
      if (!aligned) return undefined;
      if (atom.kind === "mod") stride += coefficient;
    }
  }
  return stride;
}

/** Whether `a` is a multiple of `factor` for all values of its atoms. */
export function isMultiple(a: Index, factor: number): boolean {
  return a.offset % factor === 0 && a.terms.every(({ atom, coefficient }) => {
    if (coefficient % factor === 0) return true;
    return atom.kind === "min" && (coefficient * atom.limit) % factor === 0 &&
      isMultiple(scale(atom.of, coefficient), factor);
  });
}
