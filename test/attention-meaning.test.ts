/**
 * One op, one meaning: every way to compute attention (scores stored, online, weights looked at), for every kind of mask, below
 * and above the size from which scores are not stored, forward and backward, against one reference.
 */
import assert from "node:assert/strict";
import type { Device } from "../src/devices/device.ts";
import { type AttentionOptions, compile, explain, grad, nn, tensor, type Tensor } from "../src/index.ts";
import { attention, type Attended, type Gradients, type Matrix } from "./attention-reference.ts";
import { assertClose, onEachDevice } from "./harness.ts";

function noise(rows: number, columns: number, seed: number): number[][] {
  return Array.from({ length: rows }, (_, i) =>
    Array.from({ length: columns }, (_, j) => {
      const x = Math.sin(12.9898 * (i * columns + j + 1) + 78.233 * seed) * 43758.5453;
      return 2 * (x - Math.floor(x)) - 1;
    }));
}

/** The ways to compute it. "default" is the one that the size decides. */
type Form = "stored" | "online" | "onWeights" | "default";

const optionsOf: Readonly<Record<Form, AttentionOptions>> = {
  stored: { scores: "stored" },
  online: { scores: "online" },
  onWeights: { onWeights: (weights) => weights },
  default: {},
};

const least = -3.4028234663852886e38;

/** Elements of a mask at [i, j] of [t, s]. Query 1 sees nothing, or only what is far below all others; key 0 is seen by none of many. */
type Entry = (i: number, j: number, some: number) => boolean | number;
const numbers = (low: number): Entry => (i, j, some) => i === 1 || j === 0 || some > 0.4 ? low : some;

const masks: Readonly<Record<string, { readonly entry?: Entry; readonly causal?: boolean }>> = {
  none: {},
  causal: { causal: true },
  bool: { entry: (i, j, some) => i !== 1 && j !== 0 && some < 0.4 },
  "bool, causal": { entry: (i, j, some) => i !== 1 && j !== 0 && some < 0.4, causal: true },
  "number": { entry: (_i, _j, some) => 3 * some },
  "number, causal": { entry: (_i, _j, some) => 3 * some, causal: true },
  "-Infinity": { entry: numbers(-Infinity) },
  "-Infinity, causal": { entry: numbers(-Infinity), causal: true },
  "-1e9": { entry: numbers(-1e9) },
  "finfo.min": { entry: numbers(least) },
  // Neighbours are 64 apart there: what is equal has equal weights.
  "near 1e9": { entry: (_i, j) => 1e9 + 64 * (j % 2) },
  "near -1e30": { entry: () => -1e30 },
};

/** What is put where, so that it is hidden from all queries or from some. */
const poisons: Readonly<Record<string, (operands: { q: number[][]; k: number[][]; v: number[][]; g: number[][] }) => void>> = {
  "nothing": () => {},
  "a key and a value that are not numbers": ({ k, v }) => {
    k[0]![1] = NaN;
    v[0]![0] = Infinity;
    v[0]![1] = NaN;
  },
  "an infinite key, and a value that is NaN": ({ k, v }) => {
    k[0]![0] = Infinity;
    v.at(-1)![0] = NaN;
  },
  "a last key that is NaN": ({ k }) => void (k.at(-1)![0] = NaN),
  "a query that is NaN, and its cotangent": ({ q, g }) => {
    q[1]![0] = NaN;
    g[1]![1] = NaN;
  },
};

interface Case {
  readonly form: Form;
  readonly mask: string;
  readonly poison: string;
  readonly size: readonly [t: number, s: number];
}

const [d, e] = [3, 2];
const scale = 0.75;

function operandsOf({ mask, poison, size: [t, s] }: Case): Attended {
  const parts = { q: noise(t, d, 1), k: noise(s, d, 2), v: noise(s, e, 3), g: noise(t, e, 4) };
  poisons[poison]!(parts);
  const { entry, causal } = masks[mask]!;
  const some = noise(t, s, 5);
  const added = entry && some.map((row, i) => row.map((x, j) => entry(i, j, x)));
  // A mask of numbers is one in single precision.
  const rounded = added?.map((row) => row.map((x) => typeof x === "number" ? Math.fround(x) : x)) as Attended["mask"];
  return { ...parts, mask: rounded, causal, scale, round: Math.fround };
}

type Inputs = [q: Tensor, k: Tensor, v: Tensor, g: Tensor, mask?: Tensor];

function inputsOf(device: Device, { q, k, v, g, mask }: Attended): Inputs {
  const on = (matrix: Matrix | readonly (readonly boolean[])[]) => tensor(matrix.flat() as number[], { device }).reshape([matrix.length, matrix[0]!.length]);
  return [q, k, v, g, ...mask === undefined ? [] : [on(mask)]].map((x) => Array.isArray(x) ? on(x as Matrix) : x) as Inputs;
}

/** The result and its gradients by q, k, v and a mask of numbers. */
function evaluated(form: Form, causal: boolean | undefined) {
  return (q: Tensor, k: Tensor, v: Tensor, g: Tensor, mask?: Tensor): Tensor[] => {
    const options: AttentionOptions = { ...optionsOf[form], scale, causal: causal === true, ...(mask === undefined ? {} : { mask }) };
    const y = q.scaledDotProductAttention(k, v, options);
    return [y, ...grad(y, [q, k, v, ...mask?.dtype === "f32" ? [mask] : []], { cotangents: g })];
  };
}

const names = ["y", "dq", "dk", "dv", "dMask"] as const satisfies readonly (keyof Gradients)[];

/** What is not finite is not: which of NaN and the infinities it is depends on the order of a sum. */
const broken = (x: number) => Number.isFinite(x) ? x : NaN;

async function holds(actual: readonly Tensor[], expected: Gradients, message: string): Promise<void> {
  for (const [i, x] of actual.entries()) {
    const name = names[i]!;
    assertClose((await x.data() as Float32Array).map(broken), expected[name].flat().map(broken), { atol: 1e-5, rtol: 1e-4, message: `${message}: ${name}` });
  }
}

const described = ({ form, mask, poison, size }: Case) => `${form}, mask ${mask}, ${poison}, [${size}]`;

async function check(device: Device, one: Case): Promise<void> {
  const operands = operandsOf(one);
  await holds(evaluated(one.form, operands.causal)(...inputsOf(device, operands)), attention(operands), described(one));
}

onEachDevice("attention means one thing, for each form, mask, and what is not a number where it is hidden", async (device) => {
  for (const mask of Object.keys(masks)) {
    for (const form of ["stored", "online", "onWeights"] as const) {
      for (const poison of Object.keys(poisons)) {
        // More keys than queries, so that the first query sees some of them; and more queries than keys.
        for (const size of device.kind === "cpu" ? [[5, 7], [9, 6]] as const : [[5, 7]] as const) await check(device, { form, mask, poison, size });
      }
    }
  }
});

onEachDevice("compiled, attention means the same", async (device) => {
  for (const mask of ["none", "bool, causal", "-Infinity"]) {
    for (const form of ["stored", "online", "onWeights"] as const) {
      const step = compile(evaluated(form, masks[mask]!.causal));
      for (const poison of Object.keys(poisons)) {
        const one: Case = { form, mask, poison, size: [6, 8] };
        const operands = operandsOf(one);
        await holds(await step(...inputsOf(device, operands) as [Tensor, Tensor, Tensor, Tensor]), attention(operands), described(one));
      }
    }
  }
});
