/** Learning rates as functions of the step, which is 1 at the first update. */
import { ArgumentError } from "../../errors.ts";
import { boolean, type Kind, number, required } from "../../signature/kinds.ts";
import { type Signature, takes } from "../../signature/takes.ts";
import { full, where } from "../../tensor/create.ts";
import { type Tensor, tensorKind } from "../../tensor/tensor.ts";

/**
 * A function of the step that also knows itself as a graph, so that a compiled training step follows it without the
 * host.
 * Plain functions of a number serve the trainer and eager use.
 */
export interface Schedule {
  (step: number): number;
  /** The same for an f32 scalar. */
  readonly graph: (step: Tensor) => Tensor;
}

/** A line from one rate to another. */
export interface LinearScheduleOptions {
  /** The learning rate at step 1. */
  readonly from: number;
  /** The learning rate at `steps` and after. */
  readonly to: number;
  /** An integer of at least 1. */
  readonly steps: number;
}

/** Half a cosine from one rate to another. */
export interface CosineScheduleOptions {
  /** The learning rate at step 1. */
  readonly from: number;
  /** The learning rate at `steps` and after. Default 0. */
  readonly to?: number | undefined;
  /** An integer of at least 1. */
  readonly steps: number;
}

/** A rate that falls by a factor. */
export interface ExponentialScheduleOptions {
  /** The learning rate at step 1. */
  readonly from: number;
  /** What the learning rate is multiplied by for each `steps` steps; above 0. */
  readonly factor: number;
  /** An integer of at least 1. */
  readonly steps: number;
  /** Whether it is multiplied all at once after each `steps` steps. Default false: smoothly. */
  readonly staircase?: boolean | undefined;
}

/** A rise before another schedule. */
export interface WarmupOptions {
  /** Steps in which the learning rate rises. An integer of at least 1. */
  readonly steps: number;
  /** What is followed from then on, from its step 1. */
  readonly after: number | Schedule;
}

/** `from` at step 1, `to` at `steps` and after, on a straight line between. */
export function linearSchedule(options: LinearScheduleOptions): Schedule {
  signatures.linearSchedule.check(arguments);
  const { from, to, steps } = options;
  requireRates("linearSchedule", { from, to }, steps);
  const span = Math.max(1, steps - 1);
  return schedule(
    "linearSchedule",
    (step) => from + (to - from) * Math.min(1, Math.max(0, (step - 1) / span)),
    (step) => step.sub(1).mul(1 / span).clamp({ min: 0, max: 1 }).mul(to - from).add(from),
  );
}

/**
 * `from` at step 1 down half a cosine wave to `to` at `steps` and after. Loshchilov and Hutter, SGDR (2016), one
 * period.
 */
export function cosineSchedule(options: CosineScheduleOptions): Schedule {
  signatures.cosineSchedule.check(arguments);
  const { from, to = 0, steps } = options;
  requireRates("cosineSchedule", { from, to }, steps);
  const span = Math.max(1, steps - 1);
  return schedule(
    "cosineSchedule",
    (step) => to + (from - to) * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, Math.max(0, (step - 1) / span)))),
    (step) =>
      step.sub(1).mul(1 / span).clamp({ min: 0, max: 1 }).mul(Math.PI).cos().add(1).mul(0.5 * (from - to)).add(to),
  );
}

/** `from` times `factor` for each `steps` steps done: smoothly, or with `staircase` all at once. */
export function exponentialSchedule(options: ExponentialScheduleOptions): Schedule {
  signatures.exponentialSchedule.check(arguments);
  const { from, factor, steps, staircase = false } = options;
  requireRates("exponentialSchedule", { from, factor }, steps);
  if (factor === 0) throw new ArgumentError("optim.exponentialSchedule", { got: "factor 0", need: "a number above 0" });
  return schedule(
    "exponentialSchedule",
    (step) => from * factor ** (staircase ? Math.floor((step - 1) / steps) : (step - 1) / steps),
    (step) => {
      // Half a step is added before the floor: 1/steps is rounded, and k steps could come out just below k.
      const periods = staircase ? step.sub(0.5).mul(1 / steps).floor() : step.sub(1).mul(1 / steps);
      return periods.mul(Math.log(factor)).exp().mul(from);
    },
  );
}

/**
 * Rises on a straight line over the first `steps` steps to what `after` begins with, and then follows `after` from its
 * step 1.
 */
export function warmup(options: WarmupOptions): Schedule {
  signatures.warmup.check(arguments);
  const { steps, after } = options;
  requireRates("warmup", typeof after === "number" ? { after } : {}, steps);
  const next = typeof after === "number" ? constantSchedule(after) : after;
  const peak = next(1);
  return schedule(
    "warmup",
    (step) => step <= steps ? peak * step / (steps + 1) : next(step - steps),
    (step) => where(step.lessEqual(steps), step.mul(peak / (steps + 1)), next.graph(step.sub(steps))),
  );
}

/** The same at every step. */
export function constantSchedule(value: number): Schedule {
  signatures.constantSchedule.check(arguments);
  requireRates("constantSchedule", { value }, 1);
  return schedule("constantSchedule", () => value, () => full([], value));
}

/** Whether a learning rate can be followed inside a compiled function. */
export function isSchedule(rate: unknown): rate is Schedule {
  return typeof rate === "function" && typeof (rate as { graph?: unknown }).graph === "function";
}

function schedule(name: string, host: (step: number) => number, graph: (step: Tensor) => Tensor): Schedule {
  const [onHost, inGraph] = [number, tensorKind].map((step: Kind<unknown>) => takes(`optim.${name}`, { step })) as [
    Signature,
    Signature,
  ];
  // What else comes is passed over, as in steps.map(schedule).
  const followed: Schedule["graph"] = (step) => {
    inGraph.check([step]);
    return graph(step);
  };
  return Object.assign((step: number) => {
    onHost.check([step]);
    return host(step);
  }, { graph: followed });
}

const after: Kind<number | Schedule> = {
  need: "a number, or a schedule such as optim.cosineSchedule(…)",
  accepts: (x) => typeof x === "number" || isSchedule(x),
};
const line = { from: number, to: number, steps: number };
const signatures = {
  linearSchedule: takes("optim.linearSchedule", {
    options: required<LinearScheduleOptions>(["from", "to", "steps"], line),
  }),
  cosineSchedule: takes("optim.cosineSchedule", { options: required<CosineScheduleOptions>(["from", "steps"], line) }),
  exponentialSchedule: takes("optim.exponentialSchedule", {
    options: required<ExponentialScheduleOptions>(["from", "factor", "steps"], {
      from: number,
      factor: number,
      steps: number,
      staircase: boolean,
    }),
  }),
  warmup: takes("optim.warmup", { options: required<WarmupOptions>(["steps", "after"], { steps: number, after }) }),
  constantSchedule: takes("optim.constantSchedule", { value: number }),
};

function requireRates(name: string, rates: Record<string, number>, steps: number): void {
  for (const [option, value] of Object.entries(rates)) {
    if (!Number.isFinite(value) || value < 0) {
      throw new ArgumentError(`optim.${name}`, { got: `${option} ${value}`, need: "a finite number of at least 0" });
    }
  }
  if (!Number.isSafeInteger(steps) || steps < 1) {
    throw new ArgumentError(`optim.${name}`, { got: `steps ${steps}`, need: "an integer of at least 1" });
  }
}
