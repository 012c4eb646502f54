/** A step in one piece: forward, backward and update are one plan, which leaves the state as it was where the step is refused. */
import type { Device, DeviceBuffer } from "../../devices/device/device.ts";
import { InternalError } from "../../errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { scoreLength } from "../decompose/scores.ts";
import type { LoadedPlan } from "../run/shared-graph.ts";
import { bindCaptures, writeControl, writeRows } from "../run/uploads.ts";
import type { Statistics } from "./assigned-tensors.ts";
import type { PreparedStep, StepReads } from "./one-device.ts";
import type { Replicas } from "./replicas.ts";
import type { Step } from "./step.ts";
import { assignBuffers, type StepGraph, type TrainingGraphs } from "./training-graphs.ts";
import { inPlace, type State } from "./update.ts";

export interface WholeStepParts {
  readonly graphs: TrainingGraphs;
  readonly replicas: Replicas;
  readonly statistics: Statistics;
  /** The buffer that a device keeps of a captured tensor, if it does. */
  readonly own: (tensor: Tensor, device: Device) => DeviceBuffer | undefined;
}

export async function wholeStep(step: Step, device: Device, parts: WholeStepParts): Promise<PreparedStep> {
  const graph = parts.graphs.whole(step.fields);
  const loaded = await graph.graph.on(device);
  const captured = await bindCaptures(graph.captures, device, (tensor) => parts.own(tensor, device));
  return {
    enqueue(state, copy) {
      const start = performance.now();
      const written = write(step, device, loaded);
      const enqueued = performance.now();
      const reads = run(step, device, parts, { graph, loaded, inputs: [written, captured], state, copy });
      return { ...reads, start, enqueued };
    },
  };
}

/** Writes the batch and the step's numbers; gives the plan's own inputs. */
function write(step: Step, device: Device, { written }: LoadedPlan): (DeviceBuffer | undefined)[] {
  const fields = step.fields.leaves.length;
  const control = written[fields];
  if (control === undefined) {
    throw new InternalError("train", { got: "no control vector", need: "one behind the fields" });
  }
  writeRows(device, written.slice(0, fields), step.fields, { index: 0, offset: 0, rows: step.fields.rows });
  writeControl(device, control, { ...step, step: step.number, offset: 0 });
  return written.slice(0, fields + 1);
}

interface WholeRun {
  readonly graph: StepGraph;
  readonly loaded: LoadedPlan;
  /** Before and behind the state. */
  readonly inputs: readonly [(DeviceBuffer | undefined)[], DeviceBuffer[]];
  readonly state: State<DeviceBuffer>;
  readonly copy: Float32Array | undefined;
}

/** Runs the plan; the model's tensors show what it gives. */
function run(
  step: Step,
  device: Device,
  { replicas, statistics: known }: WholeStepParts,
  { graph, loaded, inputs: [before, behind], state, copy }: WholeRun,
): Omit<StepReads, "start" | "enqueued"> {
  const scores = device.alloc(graph.scoreBytes);
  const assigned = graph.assigned.map(({ bytes }) => device.alloc(bytes));
  const buffers = inPlace(state);
  const faults = new Uint32Array(2);
  const numbers = new Float32Array(scoreLength(step.layout));
  const statistics = copy === undefined ? [] : graph.assigned.map(({ tensor }) => known.copyOf(tensor));
  const reads = device.runAndRead(
    loaded.executable,
    [...before, ...buffers, ...behind],
    [...buffers, scores, ...assigned],
    [
      { output: buffers.length, into: numbers },
      { output: buffers.indexOf(state.faults), into: faults },
      ...copy === undefined ? [] : [{ output: buffers.length - 1, into: copy }],
      ...statistics.map(({ words }, i) => ({ output: buffers.length + 1 + i, into: words })),
    ],
  );
  replicas.wrote();
  assignBuffers(graph.assigned, device, assigned);
  graph.assigned.forEach(({ tensor }, i) => known.wroteOnDevice(tensor, statistics[i]));
  const read = Promise.all(reads).then(() => Array.from(numbers)).finally(() => {
    if (!device.isLost) device.free(scores);
  });
  return { scores: read, faults, statistics };
}
