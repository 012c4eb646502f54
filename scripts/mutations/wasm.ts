/** Mutations of src/compiler/wasm, of the memory in which that computes, and of the functions of lanes. */
import type { Mutation } from "./mutation.ts";

export const wasm: readonly Mutation[] = [
  {
    file: "compiler/kernel/ir.ts",
    find: 'index.max >= high ? high : ""',
    put: '""',
    tests: { "wasm-kernels": "of two guards around one index" },
    why: "a guard lacks a bound that another one around the same index has no need of",
  },
  {
    file: "compiler/lower/known-ranges.ts",
    find: "const same = kept.every((index, i) => index.key === element.indices[i]?.key);",
    put: "const same = kept.length > 0;",
    tests: { "schedules": "an exponential of what is at most 0" },
    why: "the largest of another row is taken for that of the own one",
  },
  {
    file: "compiler/lower/known-ranges.ts",
    find: "axes.every((axis) => sum.attrs.axes.includes(axis))",
    put: "axes.length > 0",
    tests: { "schedules": "an exponential of what is at most 0" },
    why: "a sum of other elements than those of the row may be 0, and is taken for at least 1",
  },
  {
    file: "compiler/wasm/values.ts",
    find: "range !== undefined && range.min >= 0 && range.max <= index.max + mostBehind",
    put: "range === undefined || range.max <= index.max + mostBehind",
    tests: { "conv": "conv2d and its gradients against loops" },
    why: "what a guard hides is read, wherever it lies",
  },
  {
    file: "compiler/wasm/values.ts",
    find: "if (u === 0 || !this.indexVaries(index)) this.index(index);",
    put: "if (u === 0 || stride === 0) this.index(index);",
    tests: { "conformance-structural": ": what it gives" },
    why: "indices of later vectors are those of the first where lanes of one have the same",
  },
  {
    file: "compiler/wasm/render.ts",
    find: "if (vector.extent % width === 0) return;",
    put: "if (vector.extent % 4 === 0) return;",
    tests: { "wasm-kernels": "columns, rows and elements" },
    why: "results behind the last whole group of vectors are not computed",
  },
  {
    file: "compiler/wasm/render.ts",
    find: `code.op("i32x4.all_true");
      if (u > 0)`,
    put: `code.op("v128.any_true");
      if (u > 0)`,
    tests: { "attention": "" },
    why: "a walk ends for all lanes where it ends for one",
  },
  {
    file: "compiler/wasm/render.ts",
    find: "if (u > 0) join(sums, get(sums), get(own));",
    put: "if (u > 1) join(sums, get(sums), get(own));",
    tests: { "conformance-structural": "scan" },
    why: "a running sum along lanes lacks what the vectors before have",
  },
  {
    file: "compiler/lower/scan.ts",
    find: "const mostTerms = 32;",
    put: "const mostTerms = 2 ** 24;",
    tests: { "wasm-kernels": "running sums lose no more digits" },
    why: "running sums are added up one after another, however many there are",
  },
  {
    file: "compiler/lower/scan.ts",
    find: "const end = add(begin, constantIndex(part.length - rest));",
    put: "const end = add(begin, constantIndex(part.length - rest - 1));",
    tests: { "conformance-structural": "scan" },
    why: "what is behind the last whole block is read one element too early",
  },
  {
    file: "compiler/wasm/render.ts",
    find: "[[2, 3, 0, 1], [1, 0, 3, 2]]",
    put: "[[2, 3, 0, 1], [2, 3, 0, 1]]",
    tests: { "conformance-reductions": "reductions over every set of axes" },
    why: "of lanes that combine two are counted twice",
  },
  {
    file: "compiler/wasm/indices.ts",
    find: "const behind = at.offset > 0 && rest.min >= 0 ? at.offset : 0;",
    put: "const behind = at.offset > 0 ? at.offset : 0;",
    tests: { "wasm-kernels": "a long tensor that is read backwards" },
    why: "addresses go below 0 and come back by an offset",
  },
  {
    file: "compiler/wasm/encode.ts",
    find: 'known = { local: this.parameters + this.#locals.push("v128") - 1, words };',
    put: 'known = { local: this.local("v128"), words };',
    tests: { "conformance-elementwise": "every elementwise op" },
    why: "a constant's local is used for something else",
  },
  {
    file: "devices/cpu/arena.ts",
    find: "if (this.#free.has(offset + bytes)) bytes += this.#take(offset + bytes);",
    put: "",
    tests: { "arena": "a hundred thousand blocks" },
    why: "free blocks do not join what is free behind them",
  },
  {
    file: "devices/cpu/arena.ts",
    find: "if (this.#bytes.length !== this.#pages * page) ",
    put: "if (this.#bytes === undefined) ",
    tests: { "arena": "a hundred thousand blocks" },
    why: "a view of memory that has grown is used still",
  },
  {
    file: "graph/wide-functions.ts",
    find: "0.6931472057396849",
    put: "0.69314",
    tests: { "wasm-functions": "" },
    why: "functions lose their last digits",
  },
];
