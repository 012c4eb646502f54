/** The legal name that was meant by a wrong one. */

/** Names that other libraries have for the same thing. */
const elsewhere: Readonly<Record<string, readonly string[]>> = {
  axis: ["dim", "dims", "axes"],
  keepDims: ["keepdim", "keep_dims"],
  learningRate: ["lr", "stepsize"],
  weightDecay: ["wd", "l2", "decay"],
  kernel: ["kernelsize", "filtersize", "windowsize", "poolsize", "size"],
  descending: ["reverse"],
  shape: ["size"],
  dtype: ["type"],
  correction: ["ddof", "unbiased"],
  ord: ["p"],
  init: ["kernelinitializer", "initializer"],
  bias: ["usebias"],
  epsilon: ["eps"],
  low: ["min", "minval", "from"],
  high: ["max", "maxval", "to"],
  mean: ["avg", "average"],
  size: ["poolsize", "kernel", "kernelsize"],
  start: ["begin"],
  end: ["stop"],
  virtual: ["count", "number", "n"],
  clipNorm: ["gradclip", "clipgrad", "clipgradnorm", "gradclipnorm", "maxgradnorm", "clipvalue"],
  gpu: ["cuda", "webgpu", "vulkan", "metal"],
  momentum: ["beta"],
  f32: ["float", "float32", "single", "double", "float64", "number"],
  f16: ["half", "float16"],
  i32: ["int", "int32", "long", "int64"],
  u32: ["uint", "uint32"],
  bool: ["boolean"],
};

/** Options of other libraries that are no options here. */
const notHere: Readonly<Record<string, string>> = {
  activation: "activations are layers of their own, such as nn.relu()",
  requiresgrad: "there is no need: grad(loss, tensors) gives gradients by any tensors",
  callbacks: "onBatch and onEpoch are told of what happens",
  verbose: 'progress: "none" writes nothing',
  validationsplit: "validation takes batches: data.batches(…) of the rows that you keep back",
  classweight: "weights of the loss are by row: table.take(labels)",
  reduction: "a loss has .sum, .count and .mean",
  kernelregularizer: "add nn.penalty(…) to the loss, or use optim.adamw",
  inputshape: "the sizes of a layer's inputs are its first arguments",
};

/** What is said of an option of another library that there is not; undefined for all others. */
export function elsewhereOnly(name: string): string | undefined {
  const plain = plainly(name);
  return Object.hasOwn(notHere, plain) ? notHere[plain] : undefined;
}

/**
 * The name among `legal` that is nearest to `name`: another library's word for it, the same but for upper case, a beginning
 * or the initials of it, else one within a third of its letters by the distance of Damerau and Levenshtein. Undefined where
 * none is near: of two letters, none is that is not the same.
 */
export function nearest(name: string, legal: readonly string[]): string | undefined {
  const plain = plainly(name);
  if (plain === "") return undefined;
  const known = legal.find((one) => elsewhere[one]?.includes(plain));
  const same = legal.find((one) => plainly(one) === plain);
  if (same !== undefined || known !== undefined) return same ?? known;
  const initials = legal.find((one) => plain.length > 1 && initialsOf(one) === plain);
  if (initials !== undefined) return initials;
  let best: string | undefined;
  let least = Infinity;
  for (const one of legal) {
    const other = plainly(one);
    const begins = Math.min(plain.length, other.length) >= 3 && (other.startsWith(plain) || plain.startsWith(other));
    const distance = begins ? 0.5 : distanceOf(plain, other);
    if (distance < least && (begins || distance <= Math.floor(Math.max(plain.length, other.length) / 3))) {
      least = distance;
      best = one;
    }
  }
  return best;
}

function plainly(name: string): string {
  return name.replaceAll(/[_\s-]/g, "").toLowerCase();
}

function initialsOf(name: string): string {
  return (name[0]! + name.slice(1).replaceAll(/[^A-Z]/g, "")).toLowerCase();
}

/** The number of letters that are put in, left out, replaced, or that changed places with their neighbour. */
function distanceOf(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next[j] = Math.min(replaced, row[j]! + 1, next[j - 1]! + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        next[j] = Math.min(next[j]!, before[j - 2]! + 1);
      }
    }
    [before, row] = [row, next];
  }
  return row[b.length]!;
}
