/** The memory of the cpu device: blocks lie apart, what is given back is used again, and comes together. */
import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { Arena, type Piece } from "../src/devices/cpu/arena.ts";
import { OutOfMemoryError } from "../src/errors.ts";

const spare = 64;

/** Numbers that are the same each time. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

test("blocks that are in use lie apart, at multiples of 64, and keep what is written", () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.nat(3000), fc.nat(40)), { minLength: 1, maxLength: 200 }), (calls) => {
    const arena = new Arena(spare, false);
    const used: { piece: Piece; mark: number }[] = [];
    calls.forEach(([bytes, which], i) => {
      if (used.length > which) {
        const [{ piece, mark }] = used.splice(which, 1) as [typeof used[number]];
        for (const at of piece.bytes === 0 ? [] : [0, piece.bytes - 1]) {
          assert.equal(arena.bytes[piece.offset + at], mark);
        }
        arena.destroy(piece);
      }
      const piece = arena.create(bytes);
      assert.equal(piece.offset % 64, 0);
      for (const { piece: other } of used) {
        const apart = piece.offset + bytes + spare <= other.offset ||
          other.offset + other.bytes + spare <= piece.offset;
        assert.ok(apart, "two blocks have a byte in common");
      }
      arena.bytes.fill(i % 251, piece.offset, piece.offset + bytes);
      used.push({ piece, mark: i % 251 });
    });
  }));
});

test("a hundred thousand blocks of any size leave memory in one piece, and little more than was in use", () => {
  const arena = new Arena(spare, false);
  const random = numbers(7);
  const used: Piece[] = [];
  let live = 0;
  let most = 0;
  for (let i = 0; i < 100_000; i++) {
    if (used.length > 400 || (used.length > 0 && random() < 0.45)) {
      const at = Math.floor(random() * used.length);
      const piece = used[at]!;
      used[at] = used.at(-1)!;
      used.pop();
      live -= piece.bytes;
      arena.destroy(piece);
    } else {
      const piece = arena.create(Math.floor(2 ** (20 * random())));
      live += piece.bytes;
      most = Math.max(most, live);
      used.push(piece);
    }
  }
  assert.ok(arena.bytes.length < 1.5 * most + 2 ** 20, `${arena.bytes.length} bytes for ${most}`);
  for (const piece of used) arena.destroy(piece);
  const before = arena.bytes.length;
  // Nothing lies between the first page and the end any more.
  arena.destroy(arena.create(before - 65536 - spare));
  assert.equal(arena.bytes.length, before);
});

test("what does not fit is told, and nothing is lost by it", () => {
  const arena = new Arena(spare, false);
  const piece = arena.create(1000);
  assert.throws(() => arena.create(2 ** 32), OutOfMemoryError);
  arena.destroy(piece);
  arena.destroy(piece);
  assert.equal(arena.create(1000).offset, piece.offset);
});
