/**
 * One op, one meaning: every way to compute attention (scores stored, online, weights looked at), for every kind of mask, below
 * and above the size from which scores are not stored, forward and backward, against one reference.
 */
import assert from "node:assert/strict";
import type { Device } from "../src/devices/device/device.ts";
import { type AttentionOptions, compile, explain, grad, type Tensor, tensor, vjp } from "../src/index.ts";
import { type Attended, attention, type Gradients, type Matrix } from "./attention-reference.ts";
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
const poisons: Readonly<
  Record<string, (operands: { q: number[][]; k: number[][]; v: number[][]; g: number[][] }) => void>
> = {
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
  const on = (matrix: readonly (readonly (number | boolean)[])[]) =>
    tensor(matrix.flat() as number[], { device }).reshape([matrix.length, matrix[0]!.length]);
  const all = [on(q), on(k), on(v), on(g)] as const;
  return mask === undefined ? [...all] : [...all, on(mask)];
}

/** The result and its gradients by q, k, v and a mask of numbers. */
function evaluated(form: Form, causal: boolean | undefined) {
  return (q: Tensor, k: Tensor, v: Tensor, g: Tensor, mask?: Tensor): Tensor[] => {
    const options: AttentionOptions = {
      ...optionsOf[form],
      scale,
      causal: causal === true,
      ...(mask === undefined ? {} : { mask }),
    };
    const fn = (own: Tensor[]) =>
      own[0]!.scaledDotProductAttention(
        own[1]!,
        own[2]!,
        own[3] === undefined ? options : { ...options, mask: own[3] },
      );
    const [y, gradients] = vjp(fn, [q, k, v, ...mask?.dtype === "f32" ? [mask] : []], g);
    return [y, ...gradients];
  };
}

const names = ["y", "dq", "dk", "dv", "dMask"] as const satisfies readonly (keyof Gradients)[];

/** What is not finite is not: which of NaN and the infinities it is depends on the order of a sum. */
const broken = (x: number) => Number.isFinite(x) ? x : NaN;

async function holds(actual: readonly Tensor[], expected: Gradients, message: string): Promise<void> {
  for (const [i, x] of actual.entries()) {
    const name = names[i]!;
    assertClose((await x.data() as Float32Array).map(broken), expected[name].flat().map(broken), {
      atol: 1e-5,
      rtol: 1e-4,
      message: `${message}: ${name}`,
    });
  }
}

const described = ({ form, mask, poison, size }: Case) => `${form}, mask ${mask}, ${poison}, [${size}]`;

const forms = ["stored", "online", "onWeights"] as const;

/** Every mask with every poison, by a function that is compiled once for those that differ in numbers alone. */
async function table(
  device: Device,
  casesOf: (form: Form) => readonly string[],
  sizes: readonly Case["size"][],
  isCompiled: boolean,
): Promise<void> {
  for (const form of forms) {
    for (const causal of [false, true]) {
      const fn = evaluated(form, causal);
      const run = isCompiled ? compile(fn) : fn;
      for (const mask of casesOf(form).filter((name) => (masks[name]!.causal === true) === causal)) {
        for (
          const [poison, size] of Object.keys(poisons).flatMap((name) => sizes.map((size) => [name, size] as const))
        ) {
          const one = { form, mask, poison, size };
          const operands = operandsOf(one);
          await holds(await run(...inputsOf(device, operands)), attention(operands), described(one));
        }
      }
    }
  }
}

// More keys than queries, so that the first query sees some of them when masked causally; and more queries than keys.
const small = [[5, 7], [9, 6]] as const;

onEachDevice("attention means one thing, for each form and mask, whatever is where it is hidden", async (device) => {
  // Drivers compile slowly: on a GPU, stored scores are masked by "bool, causal" for both of its parts.
  const isPart = (mask: string) => mask === "causal" || mask === "bool";
  const casesOf = (form: Form) =>
    Object.keys(masks).filter((mask) => device.kind === "cpu" || form === "online" || !isPart(mask));
  await table(device, casesOf, device.kind === "cpu" ? small : small.slice(0, 1), true);
});

onEachDevice("as it is called, too", async (device) => {
  await table(
    device,
    () => device.kind === "cpu" ? Object.keys(masks) : ["bool, causal", "-Infinity"],
    small.slice(0, 1),
    false,
  );
});

onEachDevice("on both sides of the size from which scores are not stored", async (device) => {
  const sides: readonly Pick<Case, "mask" | "poison" | "size">[] = [
    { mask: "bool", poison: "a key and a value that are not numbers", size: [1024, 1023] },
    { mask: "-1e9", poison: "nothing", size: [1024, 1024] },
    { mask: "bool, causal", poison: "a key and a value that are not numbers", size: [255, 256] },
    { mask: "-Infinity, causal", poison: "a key and a value that are not numbers", size: [256, 256] },
  ];
  // Sizes alone decide. Drivers of software adapters compile such kernels slowly: there, one side where scores are not stored.
  for (const part of device.kind === "cpu" ? sides : sides.slice(3)) {
    const one: Case = { form: "default", ...part };
    const operands = operandsOf(one);
    const run = compile(evaluated(one.form, operands.causal));
    await holds(await run(...inputsOf(device, operands)), attention(operands), described(one));
  }
});

/** Of Σ c (dq, dk, dv) by q, k, v, g and a mask of numbers, in differences of the reference. */
function secondByDifferences(operands: Attended, c: Pick<Gradients, "dq" | "dk" | "dv">): number[][] {
  const exact: Attended = { ...operands, round: (x) => x };
  const inner = () => {
    const first = attention(exact);
    return (["dq", "dk", "dv"] as const).reduce(
      (sum, name) => sum + first[name].flat().reduce((own, x, i) => own + x * c[name].flat()[i]!, 0),
      0,
    );
  };
  const { q, k, v, g, mask } = exact;
  const step = 1e-5;
  const isOfNumbers = mask !== undefined && typeof mask[0]![0] === "number";
  return [q, k, v, g, ...isOfNumbers ? [mask as Matrix] : []].map((matrix) =>
    (matrix as number[][]).flatMap((row) =>
      row.map((x, f) => {
        const at = (value: number) => {
          row[f] = value;
          return inner();
        };
        const slope = Number.isFinite(x) ? (at(x + step) - at(x - step)) / (2 * step) : 0;
        row[f] = x;
        return slope;
      })
    )
  );
}

onEachDevice("second gradients are those of the same meaning, and free of what nobody sees", async (device) => {
  const hiddenKey = "a key and a value that are not numbers";
  const cases = [["none", "nothing"], ["causal", "nothing"], ["number, causal", "nothing"], ["bool", hiddenKey], [
    "-Infinity",
    hiddenKey,
  ]] as const;
  // They are many kernels, which drivers compile slowly.
  for (const [mask, poison] of device.kind === "cpu" ? cases : cases.slice(4)) {
    const size = [4, 5] as const;
    const operands = operandsOf({ form: "stored", mask, poison, size });
    const c = { dq: noise(size[0], d, 6), dk: noise(size[1], d, 7), dv: noise(size[1], e, 8) };
    const expected = secondByDifferences(operands, c);
    const [, , , cotangent] = inputsOf(device, operands);
    const weights = [c.dq, c.dk, c.dv].map((own) =>
      tensor(own.flat(), { device }).reshape([own.length, own[0]!.length])
    );
    for (const form of forms) {
      const second = compile((q: Tensor, k: Tensor, v: Tensor, g: Tensor, added?: Tensor) => {
        const [, ...first] = evaluated(form, operands.causal)(q, k, v, g, added);
        const total = weights.map((own, i) => first[i]!.mul(own).sum()).reduce((a, b) => a.add(b));
        return grad(total, [q, k, v, g, ...added?.dtype === "f32" ? [added] : []]);
      });
      const [q, k, v, , added] = inputsOf(device, operands);
      const actual = await second(q, k, v, cotangent, added);
      for (const [i, x] of actual.entries()) {
        assertClose(await x.data(), expected[i]!, {
          atol: 2e-5,
          rtol: 2e-4,
          message: `${described({ form, mask, poison, size })}: operand ${i}`,
        });
      }
    }
  }
});

onEachDevice("a mask costs no kernel, forward or backward", async (device) => {
  const [q, k, v, g] = inputsOf(
    device,
    operandsOf({ form: "stored", mask: "none", poison: "nothing", size: [64, 48] }),
  );
  const kernels = async (form: Form, mask: string) => {
    const [, , , , added] = inputsOf(device, operandsOf({ form, mask, poison: "nothing", size: [64, 48] }));
    const report = await explain(
      evaluated(form, masks[mask]!.causal),
      ...added === undefined ? [q, k, v, g] as const : [q, k, v, g, added] as const,
    );
    return report.kernels.length;
  };
  for (const form of forms) {
    const plain = await kernels(form, "none");
    for (const mask of ["causal", "bool", "bool, causal"]) {
      assert.equal(await kernels(form, mask), plain, `${form}, ${mask}`);
    }
  }
});
