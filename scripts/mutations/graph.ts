/** Dtypes, shapes, the builder, the table of ops and the interpreter. */
import type { Mutation } from "./mutation.ts";

export const graph: readonly Mutation[] = [
  {
    file: "graph/build.ts",
    find: "if (device !== undefined && device !== node.device) {",
    put: "if (false) {",
    tests: { "tensor": "tensors travel" },
    why: "tensors of two devices are mixed without a word",
  },
  {
    file: "graph/build.ts",
    find: "(extent - (length - 1) * dilation - 1) / stride",
    put: "(extent - length) / stride",
    tests: { "conv": "windows: overlapping" },
    why: "windows with holes reach beyond the axis",
  },
  {
    file: "graph/dtype.ts",
    find: `return higher === "f16" && dtypes[lower].kind === "int" ? "f32" : higher;`,
    put: "return higher;",
    tests: { "half": "arithmetic gives f32" },
    why: "an f16 and an integer that it may not hold meet in f16",
  },
  {
    file: "graph/dtype.ts",
    find: "value !== 0 ? 1 : 0, // NaN",
    put: "value > 0 || value < 0 ? 1 : 0, // NaN",
    tests: { "tensor": "data in: nested arrays" },
    why: "NaN becomes false",
  },
  {
    file: "graph/dtype.ts",
    find: "!Number.isFinite(value) || Number.isFinite(roundToHalf(value))",
    put: "true",
    tests: { "half": "arithmetic gives f32" },
    why: "a number that f16 makes infinite is taken beside an f16",
  },
  {
    file: "graph/half.ts",
    find: " + (size >> 13 & 1)",
    put: "",
    tests: { "half": "on the host every half" },
    why: "halfway cases go down instead of to the even half",
  },
  {
    file: "graph/half.ts",
    find: "rounded === 0 ? value * 0 : rounded",
    put: "rounded",
    tests: { "half": "on the host every half" },
    why: "what rounds to 0 loses its sign",
  },
  {
    file: "graph/interpret.ts",
    find: ": Number(Number.isNaN(a)) - Number(Number.isNaN(b))",
    put: ": 0",
    tests: { "graph-interpret": "gather, scatterAdd, scatterMax and argsort" },
    why: "the oracle sorts NaN anywhere",
  },
  {
    file: "graph/ops.ts",
    find: `if (rest !== 0.5) return Math.round(x);
`,
    put: `return Math.round(x);
`,
    tests: { "graph-interpret": "float arithmetic" },
    why: "halves are rounded up instead of to the even integer",
  },
  {
    file: "graph/ops.ts",
    find: "seen !== 0 ? w * x : 0",
    put: "w * x",
    tests: { "autograd-rules": "heed and weigh agree" },
    why: "what is not seen shows in what the oracle computes",
  },
  {
    file: "graph/shape.ts",
    find: "n <= mostElements",
    put: "n <= 2 * mostElements",
    tests: { "surface": "what is too large is refused" },
    why: "more elements than can be counted are taken",
  },
  {
    file: "graph/shape.ts",
    find: "const axis = rank - shape.length + i;",
    put: "const axis = i;",
    tests: { "ops": "the interpreter agrees" },
    why: "shapes are aligned from the first axis",
  },
];
