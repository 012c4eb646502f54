/** Bytes of a WebAssembly module: as much of the format as kernels need. https://webassembly.github.io/spec/core/binary */
import { InternalError } from "../../errors.ts";
import { type LaneOp, laneOps } from "../../graph/lanes.ts";

export type ValueType = "i32" | "f64" | "v128";

const types: Readonly<Record<ValueType, number>> = { i32: 0x7f, f64: 0x7c, v128: 0x7b };

/** Instructions without immediates, of one byte. */
const plain = {
  "else": 0x05,
  "end": 0x0b,
  "return": 0x0f,
  "drop": 0x1a,
  "select": 0x1b,
  "i32.eqz": 0x45,
  "i32.eq": 0x46,
  "i32.ne": 0x47,
  "i32.lt_s": 0x48,
  "i32.lt_u": 0x49,
  "i32.gt_s": 0x4a,
  "i32.le_s": 0x4c,
  "i32.ge_s": 0x4e,
  "i32.add": 0x6a,
  "i32.sub": 0x6b,
  "i32.mul": 0x6c,
  "i32.div_s": 0x6d,
  "i32.div_u": 0x6e,
  "i32.rem_s": 0x6f,
  "i32.rem_u": 0x70,
  "i32.and": 0x71,
  "i32.or": 0x72,
  "i32.xor": 0x73,
  "i32.shl": 0x74,
  "i32.shr_s": 0x75,
  "i32.shr_u": 0x76,
  "f32.demote_f64": 0xb6,
  "f64.promote_f32": 0xbb,
} as const;

/** Vector instructions behind the prefix 0xfd whose operands are no lanes, or that have immediates. */
const special = {
  "i32x4.splat": 0x11,
  "i64x2.splat": 0x12,
  "f32x4.splat": 0x13,
  "v128.bitselect": 0x52,
  "v128.any_true": 0x53,
  "i32x4.all_true": 0xa3,
  "i32x4.shl": 0xab,
  "i32x4.shr_s": 0xac,
  "i32x4.shr_u": 0xad,
  "i64x2.shl": 0xcb,
  "i64x2.shr_s": 0xcc,
  "i64x2.shr_u": 0xcd,
  "f32x4.demote_f64x2_zero": 0x5e,
  "f64x2.promote_low_f32x4": 0x5f,
  "i32x4.extend_low_i16x8_u": 0xa9,
  "i16x8.narrow_i32x4_u": 0x86,
  "f32x4.relaxed_madd": 0x105,
} as const;

/** Loads and stores, and log2 of the alignment that they hint. */
const memory = {
  "v128.load": [0xfd, 0x00, 4],
  "v128.load32_splat": [0xfd, 0x09, 2],
  "v128.load16_splat": [0xfd, 0x08, 1],
  "v128.load64_zero": [0xfd, 0x5d, 3],
  "v128.store": [0xfd, 0x0b, 4],
  "i32.load": [0x28, undefined, 2],
  "i32.load16_u": [0x2f, undefined, 1],
  "i32.store": [0x36, undefined, 2],
  "i32.store16": [0x3b, undefined, 1],
  "i32.atomic.rmw.cmpxchg": [0xfe, 0x48, 2],
} as const;

/** Loads and stores of one lane. */
const laneMemory = {
  "v128.load32_lane": [0x56, 2],
  "v128.load16_lane": [0x55, 1],
  "v128.store16_lane": [0x59, 1],
  "v128.store32_lane": [0x5a, 2],
  "v128.store64_lane": [0x5b, 3],
} as const;

/** Reading and replacing one lane. */
const lane = {
  "i32x4.extract_lane": 0x1b,
  "i32x4.replace_lane": 0x1c,
  "f32x4.extract_lane": 0x1f,
  "f32x4.replace_lane": 0x20,
} as const;

export type Instruction = keyof typeof plain | keyof typeof special | LaneOp;

/** Bytes that grow. */
class Bytes {
  #data = new Uint8Array(256);
  length = 0;

  push(byte: number): void {
    if (this.length === this.#data.length) this.#grow(this.length + 1);
    this.#data[this.length++] = byte;
  }

  /** LEB128 of a number that is not negative. */
  unsigned(value: number): void {
    let rest = value;
    for (; rest > 127; rest = Math.floor(rest / 128)) this.push(rest % 128 + 128);
    this.push(rest);
  }

  /** LEB128 of an i32. */
  signed(value: number): void {
    for (let rest = value | 0;;) {
      const byte = rest & 127;
      rest >>= 7;
      if ((rest === 0 && (byte & 64) === 0) || (rest === -1 && (byte & 64) !== 0)) return this.push(byte);
      this.push(byte | 128);
    }
  }

  append(other: Bytes | ArrayLike<number>): void {
    const data = other instanceof Bytes ? other.#data.subarray(0, other.length) : other;
    if (this.length + data.length > this.#data.length) this.#grow(this.length + data.length);
    this.#data.set(data, this.length);
    this.length += data.length;
  }

  /** With its length before it, as sections and bodies are. */
  sized(other: Bytes | ArrayLike<number>): void {
    this.unsigned(other.length);
    this.append(other);
  }

  text(text: string): void {
    this.sized(new TextEncoder().encode(text));
  }

  done(): Uint8Array<ArrayBuffer> {
    return this.#data.slice(0, this.length);
  }

  #grow(least: number): void {
    const data = new Uint8Array(Math.max(least, 2 * this.#data.length));
    data.set(this.#data.subarray(0, this.length));
    this.#data = data;
  }
}

const word = new DataView(new ArrayBuffer(8));

/** The bits of an f32. */
export function bitsOfF32(value: number): number {
  word.setFloat32(0, value);
  return word.getUint32(0);
}

/** The two words of an f64. */
export function wordsOfF64(value: number): readonly [high: number, low: number] {
  word.setFloat64(0, value);
  return [word.getUint32(0), word.getUint32(4)];
}

/** The code of one function, whose parameters are all i32 and which gives nothing. */
export class FunctionCode {
  readonly parameters: number;
  readonly #code = new Bytes();
  readonly #locals: ValueType[] = [];
  /** Locals of scopes that have ended, to be used again: V8's first compiler takes time for each that there is. */
  readonly #unused: Record<ValueType, number[]> = { i32: [], f64: [], v128: [] };
  /** The locals that the innermost scope has made. */
  #scope: number[] | undefined;
  /** Constants are set once, before all else: V8 was seen to make them anew in every pass of a loop. */
  readonly #constants = new Map<string, { readonly local: number; readonly words: readonly number[] }>();

  constructor(parameters: number) {
    this.parameters = parameters;
  }

  /** A local variable of the scope; its value is whatever was there. */
  local(type: ValueType): number {
    const local = this.#unused[type].pop() ?? this.parameters + this.#locals.push(type) - 1;
    this.#scope?.push(local);
    return local;
  }

  /** Emits code whose locals are used by nobody behind it. */
  scoped(emit: () => void): void {
    const outer = this.#scope;
    const own: number[] = [];
    this.#scope = own;
    emit();
    this.#scope = outer;
    for (const local of own) this.#unused[this.#locals[local - this.parameters]!].push(local);
  }

  get(local: number): void {
    this.#code.push(0x20);
    this.#code.unsigned(local);
  }

  set(local: number): void {
    this.#code.push(0x21);
    this.#code.unsigned(local);
  }

  tee(local: number): void {
    this.#code.push(0x22);
    this.#code.unsigned(local);
  }

  i32(value: number): void {
    this.#code.push(0x41);
    this.#code.signed(value);
  }

  /** Pushes four words as one vector. */
  words(words: readonly [number, number, number, number]): void {
    const key = words.map((part) => part >>> 0).join();
    let known = this.#constants.get(key);
    if (known === undefined) {
      // No scope's: it keeps its value.
      known = { local: this.parameters + this.#locals.push("v128") - 1, words };
      this.#constants.set(key, known);
    }
    this.get(known.local);
  }

  op(name: Instruction): void {
    const code = this.#code;
    if (name in plain) return code.push(plain[name as keyof typeof plain]);
    code.push(0xfd);
    code.unsigned(name in special ? special[name as keyof typeof special] : laneOps[name as LaneOp]);
  }

  /** A load or a store at the address on the stack plus `offset`. */
  memory(name: keyof typeof memory, offset: number): void {
    const [first, second, alignment] = memory[name];
    this.#code.push(first);
    if (second !== undefined) this.#code.unsigned(second);
    this.#code.unsigned(alignment);
    this.#offset(offset);
  }

  laneMemory(name: keyof typeof laneMemory, offset: number, of: number): void {
    const [opcode, alignment] = laneMemory[name];
    this.#code.push(0xfd);
    this.#code.unsigned(opcode);
    this.#code.unsigned(alignment);
    this.#offset(offset);
    this.#code.push(of);
  }

  lane(name: keyof typeof lane, of: number): void {
    this.#code.push(0xfd);
    this.#code.unsigned(lane[name]);
    this.#code.push(of);
  }

  /** Lanes 0 to 3 are those of the first operand, 4 to 7 those of the second. */
  shuffle(lanes: readonly [number, number, number, number]): void {
    this.#code.push(0xfd);
    this.#code.unsigned(0x0d);
    for (const of of lanes) for (let byte = 0; byte < 4; byte++) this.#code.push(4 * of + byte);
  }

  call(index: number): void {
    this.#code.push(0x10);
    this.#code.unsigned(index);
  }

  block(): void {
    this.#code.append([0x02, 0x40]);
  }

  loop(): void {
    this.#code.append([0x03, 0x40]);
  }

  /** Begins what is done where the i32 on the stack is not 0. */
  if(): void {
    this.#code.append([0x04, 0x40]);
  }

  br(depth: number): void {
    this.#code.push(0x0c);
    this.#code.unsigned(depth);
  }

  brIf(depth: number): void {
    this.#code.push(0x0d);
    this.#code.unsigned(depth);
  }

  /** Locals, then constants and code, as a body in the code section. */
  body(): Uint8Array<ArrayBuffer> {
    const body = new Bytes();
    const runs: [count: number, type: ValueType][] = [];
    for (const type of this.#locals) {
      const last = runs.at(-1);
      if (last?.[1] === type) last[0]++;
      else runs.push([1, type]);
    }
    body.unsigned(runs.length);
    for (const [count, type] of runs) {
      body.unsigned(count);
      body.push(types[type]);
    }
    for (const { local, words } of this.#constants.values()) {
      body.append([0xfd, 0x0c]);
      for (const part of words) for (let byte = 0; byte < 4; byte++) body.push(part >>> (8 * byte) & 255);
      body.push(0x21);
      body.unsigned(local);
    }
    body.append(this.#code);
    body.push(0x0b);
    return body.done();
  }

  #offset(offset: number): void {
    if (!Number.isInteger(offset) || offset < 0) {
      throw new InternalError("wasm", { got: `offset ${offset}`, need: "a whole number of at least 0" });
    }
    this.#code.unsigned(offset);
  }
}

export interface Imported {
  readonly name: string;
  readonly parameters: readonly ValueType[];
  readonly results: readonly ValueType[];
}

/** A function of a module: how many i32 it takes, and its body as `FunctionCode` gives it. */
export interface EncodedFunction {
  readonly parameters: number;
  readonly body: ArrayLike<number>;
}

/**
 * A module with these functions as the exports `k0`, `k1`, …, the memory `host.memory`, and functions of `host`, whose indices are
 * the first ones.
 */
export function encodeModule(
  functions: readonly EncodedFunction[],
  imported: readonly Imported[],
  { shared }: { readonly shared: boolean },
): Uint8Array<ArrayBuffer> {
  const out = new Bytes();
  out.append([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
  const section = (id: number, fill: (into: Bytes) => void) => {
    const content = new Bytes();
    fill(content);
    out.push(id);
    out.sized(content);
  };
  const signatures: string[] = [];
  const signature = (parameters: readonly ValueType[], results: readonly ValueType[]): number => {
    const key = `${parameters.join()}>${results.join()}`;
    return signatures.includes(key) ? signatures.indexOf(key) : signatures.push(key) - 1;
  };
  const ofImports = imported.map(({ parameters, results }) => signature(parameters, results));
  const ofFunctions = functions.map(({ parameters }) => signature(new Array<ValueType>(parameters).fill("i32"), []));
  section(1, (into) => {
    into.unsigned(signatures.length);
    for (const key of signatures) {
      into.push(0x60);
      for (const list of key.split(">").map((part) => part.split(",").filter((type) => type !== ""))) {
        into.unsigned(list.length);
        for (const type of list) into.push(types[type as ValueType]);
      }
    }
  });
  section(2, (into) => {
    into.unsigned(1 + imported.length);
    into.text("host");
    into.text("memory");
    into.append([2, shared ? 3 : 1, 0]);
    into.unsigned(65536);
    imported.forEach(({ name }, i) => {
      into.text("host");
      into.text(name);
      into.push(0);
      into.unsigned(ofImports[i]!);
    });
  });
  section(3, (into) => {
    into.unsigned(functions.length);
    for (const index of ofFunctions) into.unsigned(index);
  });
  section(7, (into) => {
    into.unsigned(functions.length);
    functions.forEach((_, i) => {
      into.text(`k${i}`);
      into.push(0);
      into.unsigned(imported.length + i);
    });
  });
  section(10, (into) => {
    into.unsigned(functions.length);
    for (const { body } of functions) into.sized(body);
  });
  return out.done();
}
