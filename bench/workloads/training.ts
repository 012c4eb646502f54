/** Training steps of two small networks. */
import { adam as adamUpdate, type Doubles, sgd, type Update } from "../reference/dense.ts";
import { cnn, type LabelledBatch, type LossAndGradients, mlp } from "../reference/networks.ts";
import { all, oneHot, times, uniform, weights } from "./inputs.ts";
import { adam, cnnLearningRate, type Expected, type HostInput, sgdLearningRate, type Workload } from "./workload.ts";

const setsOfTraining = 4;

export function mlpStep(batch: number, widths: readonly [number, number, number], name: string) {
  const [inputs, hidden, classes] = widths;
  const sets = times(
    setsOfTraining,
    (set) => ({ x: uniform([batch, inputs], 60 + set, 0, 1), y: oneHot(batch, classes, 70 + set) }),
  );
  const constants = {
    w1: uniform([inputs, hidden], 80, -0.08, 0.08),
    b1: uniform([hidden], 81, 0, 0),
    w2: uniform([hidden, classes], 82, -0.28, 0.28),
    b2: uniform([classes], 83, 0, 0),
  };
  const common = {
    sets,
    constants,
    flops: 2 * batch * (2 * inputs * hidden + 3 * hidden * classes),
    bytes: 4 * (batch * inputs + 3 * (inputs * hidden + hidden * classes)),
    lengths: { loss: 1, ...lengths(constants) },
    tolerance: 1e-4,
  };
  return {
    sgd: (): Workload<"mlpSgd"> => ({
      name,
      kind: "mlpSgd",
      ...common,
      reference: training(mlp, sets, constants, sgd(sgdLearningRate), 8),
    }),
    adam: (): Workload<"mlpAdam"> => ({
      name,
      kind: "mlpAdam",
      ...common,
      reference: training(mlp, sets, constants, adamUpdate(adam), 8),
    }),
  };
}

/** On square images of one channel; the widths are the channels after each convolution, and the classes. */
export function cnnStep(
  batch: number,
  side: number,
  widths: readonly [number, number, number],
  name: string,
): Workload<"cnnSgd"> {
  const [first, second, classes] = widths;
  const features = (side / 4) ** 2 * second;
  const sets = times(
    setsOfTraining,
    (set) => ({ x: uniform([batch, side, side, 1], 90 + set, 0, 1), y: oneHot(batch, classes, 95 + set) }),
  );
  const constants = {
    k1: weights([3, 3, 1, first], 100, 9),
    b1: uniform([first], 101, 0, 0),
    k2: weights([3, 3, first, second], 102, 9 * first),
    b2: uniform([second], 103, 0, 0),
    w3: weights([features, classes], 104, features),
    b3: uniform([classes], 105, 0, 0),
  };
  const products = side ** 2 * 9 * first * 2 + (side / 2) ** 2 * 9 * first * second * 3 + features * classes * 3;
  return {
    name,
    kind: "cnnSgd",
    sets,
    constants,
    flops: 2 * batch * products,
    bytes: 4 * batch * side ** 2 * first * 4, // the first convolution's values and their gradients, written and read
    lengths: { loss: 1, ...lengths(constants) },
    tolerance: 1e-4,
    reference: training(cnn, sets, constants, sgd(cnnLearningRate), 2),
  };
}

function lengths<Name extends string>(inputs: Readonly<Record<Name, HostInput>>): Record<Name, number> {
  const entries = Object.entries<HostInput>(inputs).map(([name, { data }]) => [name, data.length]);
  return Object.fromEntries(entries) as Record<Name, number>;
}

/**
 * Losses of the first `checked` steps, and the weights after the very first. Later ones depend on every rounding so
 * far, which may decide a relu or the largest of a window; only the first have one right answer.
 */
function training<Weight extends string>(
  network: (weights: Readonly<Record<Weight, Doubles>>, batch: LabelledBatch) => LossAndGradients<Weight>,
  sets: readonly LabelledBatch[],
  start: Readonly<Record<Weight, HostInput>>,
  update: Update,
  checked: number,
): (repetition: number) => Expected {
  const names = Object.keys(start) as Weight[];
  const current = Object.fromEntries(names.map((name) => [name, Float64Array.from(start[name].data)])) as Record<
    Weight,
    Doubles
  >;
  const losses: number[] = [];
  let first: Record<Weight, Doubles> | undefined;
  return function* (repetition) {
    if (repetition >= checked) return;
    while (losses.length <= repetition) {
      const { loss, gradients } = network(current, sets[losses.length % sets.length]!);
      losses.push(loss);
      for (const name of names) update(name, current[name], gradients[name]);
      first ??= Object.fromEntries(names.map((name) => [name, current[name].slice()])) as Record<Weight, Doubles>;
    }
    yield ["loss", 0, losses[repetition]!];
    if (repetition === 0) { for (const name of names) yield* all(name, first![name]); }
  };
}
