/** Runs a graph on a device, below the level of tensors. */
import { compileGraph, type CompileRequest } from "../src/compiler/compile.ts";
import type { Target } from "../src/compiler/plan/plan.ts";
import type { Device } from "../src/devices/device/device.ts";
import * as g from "../src/graph/build.ts";
import type { Node } from "../src/graph/node.ts";
import { size } from "../src/graph/shape.ts";
import { asWords, fromWords, toWords } from "../src/graph/words.ts";

/** Compiles, runs and reads a graph on a device; with the schedules of another kind of device, if `target` is given. */
export async function evaluate(
  device: Device,
  request: CompileRequest,
  data: readonly ArrayLike<number>[],
  target: Target = device.target,
): Promise<ArrayLike<number>[]> {
  const plan = compileGraph(request, target);
  const executable = await device.load(plan);
  const buffer = (node: Node) => device.alloc(Math.max(4, g.byteLength(node)));
  const inputs = request.inputs.map(buffer);
  request.inputs.forEach((node, i) => {
    if (size(node.shape) > 0) device.write(inputs[i]!, toWords(node.dtype, data[i]!));
  });
  const outputs = request.roots.map((root, output) => {
    const donated = request.donate?.find((pair) => pair.output === output);
    return donated === undefined ? buffer(root) : inputs[donated.input]!;
  });
  device.run(executable, inputs, outputs);
  const results = await Promise.all(request.roots.map(async (root, i) => {
    const bytes = await device.read(outputs[i]!, 0, Math.max(4, g.byteLength(root)));
    return fromWords(root.dtype, asWords(root.dtype, bytes), size(root.shape));
  }));
  executable.release();
  for (const one of new Set([...inputs, ...outputs])) device.free(one);
  return results;
}
