/**
 * argsort as WebAssembly: a radix sort of the keys' order as u32, from the lowest digit up, which is stable (Knuth, The Art of Computer
 * Programming 3, 5.2.5). A row is a combination of the outer counters.
 */
import type { DType } from "../../graph/dtype.ts";
import type { ProgramCode } from "../plan/plan.ts";
import { FunctionCode } from "./encode.ts";
import { addressTable, kernelParameters } from "./module.ts";

const [begin, end, , , scratch] = [0, 1, 2, 3, 4] as const;

/** Bits of a digit: the counts of longer digits take longer to clear than short rows to sort. */
const digits: readonly { readonly upTo: number; readonly bits: number }[] = [{ upTo: 2048, bits: 8 }, {
  upTo: Infinity,
  bits: 11,
}];

/** The code for rows of a length, of keys of this dtype; NaN is the largest, and zeros are equal, as in `argsort`'s other programs. */
export function argsortCode(rows: number, length: number, dtype: DType): ProgramCode {
  const { bits } = digits.find(({ upTo }) => length <= upTo)!;
  const passes = Math.ceil(32 / bits);
  const bins = 2 ** bits;
  const column = 4 * Math.ceil(length / 16) * 16;
  const code = new FunctionCode(kernelParameters);
  const [row, from, to, i, at, key, place, sum] = Array.from({ length: 8 }, () => code.local("i32")) as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const [keys, otherKeys, places, counts] = Array.from({ length: 4 }, () => code.local("i32")) as [
    number,
    number,
    number,
    number,
  ];
  const setTo = (local: number, offset: number, base: number) => {
    code.get(base);
    code.i32(offset);
    code.op("i32.add");
    code.set(local);
  };
  const grow = (local: number, by: number) => setTo(local, by, local);
  /** A loop of at least one pass over a counter from 0, of bytes: `i` goes up by 4. */
  const each = (count: number, body: () => void) => {
    code.i32(0);
    code.set(i);
    code.loop();
    body();
    grow(i, 4);
    code.get(i);
    code.i32(4 * count);
    code.op("i32.lt_u");
    code.brIf(0);
    code.op("end");
  };
  const pushAt = (base: number) => {
    code.get(base);
    code.get(i);
    code.op("i32.add");
  };
  /** Puts the address of a pass's count for `key` into `at`. */
  const countOf = (pass: number) => {
    code.get(key);
    code.i32(pass * bits);
    code.op("i32.shr_u");
    code.i32(bins - 1);
    code.op("i32.and");
    code.i32(2);
    code.op("i32.shl");
    code.get(counts);
    code.op("i32.add");
    code.set(at);
  };
  setTo(keys, 0, scratch);
  setTo(otherKeys, column, scratch);
  setTo(places, 2 * column, scratch);
  setTo(counts, 3 * column, scratch);
  code.get(begin);
  code.set(row);
  code.block();
  code.get(row);
  code.get(end);
  code.op("i32.ge_s");
  code.brIf(0);
  code.loop();
  for (const [buffer, local] of [from, to].entries()) {
    code.i32(0);
    code.memory("i32.load", addressTable + 4 * buffer);
    code.get(row);
    code.i32(4 * length);
    code.op("i32.mul");
    code.op("i32.add");
    code.set(local);
  }
  // How often each digit comes, of all passes at once.
  each(passes * bins, () => {
    pushAt(counts);
    code.i32(0);
    code.memory("i32.store", 0);
  });
  each(length, () => {
    pushAt(from);
    code.memory("i32.load", 0);
    code.set(key);
    makeSortable(code, key, at, dtype);
    pushAt(keys);
    code.get(key);
    code.memory("i32.store", 0);
    for (let pass = 0; pass < passes; pass++) {
      countOf(pass);
      code.get(at);
      code.get(at);
      code.memory("i32.load", 4 * pass * bins);
      code.i32(1);
      code.op("i32.add");
      code.memory("i32.store", 4 * pass * bins);
    }
  });
  for (let pass = 0; pass < passes; pass++) {
    // Where the first key of each digit goes, in bytes.
    code.i32(0);
    code.set(sum);
    each(bins, () => {
      pushAt(counts);
      code.tee(at);
      code.memory("i32.load", 4 * pass * bins);
      code.set(place);
      code.get(at);
      code.get(sum);
      code.memory("i32.store", 4 * pass * bins);
      code.get(sum);
      code.get(place);
      code.i32(2);
      code.op("i32.shl");
      code.op("i32.add");
      code.set(sum);
    });
    const [sourceKeys, targetKeys] = pass % 2 === 0 ? [keys, otherKeys] : [otherKeys, keys];
    const [source, target] = (passes - 1 - pass) % 2 === 0 ? [places, to] : [to, places];
    each(length, () => {
      pushAt(sourceKeys);
      code.memory("i32.load", 0);
      code.set(key);
      countOf(pass);
      code.get(at);
      code.memory("i32.load", 4 * pass * bins);
      code.set(place);
      code.get(at);
      code.get(place);
      code.i32(4);
      code.op("i32.add");
      code.memory("i32.store", 4 * pass * bins);
      if (pass < passes - 1) {
        code.get(targetKeys);
        code.get(place);
        code.op("i32.add");
        code.get(key);
        code.memory("i32.store", 0);
      }
      code.get(target);
      code.get(place);
      code.op("i32.add");
      if (pass === 0) {
        code.get(i);
        code.i32(2);
        code.op("i32.shr_u");
      } else {
        pushAt(source);
        code.memory("i32.load", 0);
      }
      code.memory("i32.store", 0);
    });
  }
  grow(row, 1);
  code.get(row);
  code.get(end);
  code.op("i32.lt_s");
  code.brIf(0);
  code.op("end");
  code.op("end");
  return { body: code.body(), outer: rows, inner: 1, width: 1, scratch: 3 * column + 4 * passes * bins };
}

/** Makes a key a u32 of the same order. `free` is a local that may be used. */
function makeSortable(code: FunctionCode, key: number, free: number, dtype: DType): void {
  if (dtype !== "f32" && dtype !== "i32") return;
  if (dtype === "i32") {
    code.get(key);
    code.i32(0x80000000);
    code.op("i32.xor");
    code.set(key);
    return;
  }
  code.get(key);
  code.i32(0x7fffffff);
  code.op("i32.and");
  code.set(free);
  // Of a negative number all bits change, of another one that of the sign.
  code.get(key);
  code.get(key);
  code.i32(31);
  code.op("i32.shr_s");
  code.i32(0x80000000);
  code.op("i32.or");
  code.op("i32.xor");
  // -0 is 0.
  code.i32(0x80000000);
  code.get(free);
  code.op("select");
  code.set(key);
  code.i32(-1);
  code.get(key);
  code.i32(0x7f800000);
  code.get(free);
  code.op("i32.lt_u");
  code.op("select");
  code.set(key);
}
