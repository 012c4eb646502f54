/**
 * WGSL of one kernel for many shapes. Kernels that differ only in numbers (bounds, strides, a mean's divisor) have one
 * form; spelled with the numbers that differ as values of a uniform, it serves all of them, and a shape that comes later
 * needs no compilation. Numbers that the form itself rests on (array lengths, sizes of workgroups, lanes) are spelled
 * without a suffix; all others have one.
 */

type Suffix = "u" | "i" | "f";

interface Literal {
  /** Where it stands in the source. */
  readonly start: number;
  readonly end: number;
  readonly suffix: Suffix;
  readonly text: string;
}

/** The source of a kernel taken apart. */
export interface Apart {
  /** The source without its numbers: equal for kernels of one form. */
  readonly form: string;
  /** The numbers as they are spelled, in order, with their suffixes. */
  readonly numbers: readonly string[];
}

const entry = "fn main(";

/**
 * An integer after a sign of division belongs to the form: drivers turn a division by a number that they know into a
 * multiplication.
 */
const pattern = /(?<![\w.])(?:(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(f)|(?<![/%]=? )(\d+)([ui]))\b/g;

function numbersIn(source: string): Literal[] {
  pattern.lastIndex = source.indexOf(entry);
  const found: Literal[] = [];
  for (let match = pattern.exec(source); match !== null; match = pattern.exec(source)) {
    const [, float, ofFloat, integer, ofInteger] = match;
    found.push({
      start: match.index,
      end: pattern.lastIndex,
      suffix: (ofFloat ?? ofInteger) as Suffix,
      text: (float ?? integer)!,
    });
  }
  return found;
}

export function takeApart(source: string): Apart {
  const numbers = numbersIn(source);
  const parts: string[] = [];
  let from = 0;
  for (const { start, end, suffix } of numbers) {
    parts.push(source.slice(from, start), suffix);
    from = end;
  }
  parts.push(source.slice(from));
  return { form: parts.join("#"), numbers: numbers.map(({ text, suffix }) => `${text}${suffix}`) };
}

/** Which numbers of a form a uniform holds: for each the index of its value, or -1 where it is spelled out. */
export type Lifted = readonly number[];

/** The kernel with its lifted numbers read from a uniform at `binding`. */
export function spellGeneric(source: string, lifted: Lifted, binding: number): string {
  const numbers = numbersIn(source);
  const suffixes = new Map<number, Suffix>();
  const parts: string[] = [];
  let from = 0;
  numbers.forEach(({ start, end, suffix }, i) => {
    const index = lifted[i]!;
    if (index < 0) return;
    suffixes.set(index, suffix);
    parts.push(source.slice(from, start), `n${index}`);
    from = end;
  });
  parts.push(source.slice(from));
  const values = [...suffixes].sort(([a], [b]) => a - b).map(([index, suffix]) => {
    const word = `numbers[${index >> 2}].${"xyzw"[index & 3]}`;
    return `  let n${index} = ${suffix === "u" ? word : `bitcast<${suffix}32>(${word})`};`;
  });
  const body = parts.join("");
  const head = body.indexOf("@compute");
  const start = body.indexOf("{\n", body.indexOf(entry)) + 2;
  const declaration = `@group(0) @binding(${binding}) var<uniform> numbers: array<vec4<u32>, ${
    Math.ceil(suffixes.size / 4)
  }>;\n`;
  return `${body.slice(0, head)}${declaration}${body.slice(head, start)}${values.join("\n")}\n${body.slice(start)}`;
}

/** What the uniform holds for a kernel with these numbers. */
export function valuesOf(numbers: Apart["numbers"], lifted: Lifted): Uint32Array<ArrayBuffer> {
  const count = Math.max(...lifted) + 1;
  const words = new Uint32Array(Math.ceil(count / 4) * 4);
  const floats = new Float32Array(words.buffer);
  numbers.forEach((number, i) => {
    const index = lifted[i]!;
    if (index < 0) return;
    (number.endsWith("f") ? floats : words)[index] = Number(number.slice(0, -1));
  });
  return words;
}
