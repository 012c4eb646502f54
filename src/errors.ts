/** What every error of shardwise says: the operation, what it was given and what it needs. */
export interface Complaint {
  /** What was given, with its values. */
  readonly got: string;
  /** What would have been accepted, or what to do. */
  readonly need: string;
  /** What was caught, where something was. */
  readonly cause?: unknown;
}

/** Base of all errors thrown by shardwise; `op` names the call that was at fault. */
export class ShardwiseError extends Error {
  /** The call that was at fault. */
  readonly op: string;
  /** What it was given, with its values. */
  readonly got: string;
  /** What would have been accepted, or what to do. */
  readonly need: string;

  constructor(op: string, complaint: Complaint) {
    super(
      `${op}: got ${complaint.got}; need ${complaint.need}`,
      complaint.cause === undefined ? undefined : { cause: complaint.cause },
    );
    this.name = new.target.name;
    this.op = op;
    this.got = complaint.got;
    this.need = complaint.need;
  }
}

/** Shapes, axes or indices that do not fit. */
export class ShapeError extends ShardwiseError {}
/** Element types that do not fit. */
export class DTypeError extends ShardwiseError {}
/** An argument outside its legal values. */
export class ArgumentError extends ShardwiseError {}
/** A file that cannot be read or written; `cause` is what the runtime said. */
export class FileError extends ShardwiseError {
  /** The system's name of the reason, such as ENOENT; undefined where it gave none. */
  readonly code: string | undefined;

  constructor(op: string, complaint: Complaint) {
    super(op, complaint);
    const { code } = Object(complaint.cause) as { readonly code?: unknown };
    this.code = typeof code === "string" ? code : undefined;
  }
}
/** A missing, unsuitable, closed or mixed-up device. */
export class DeviceError extends ShardwiseError {}
/** A device that was lost; its buffers are gone. */
export class DeviceLostError extends DeviceError {}
/**
 * No device is left to train on. The model's tensors read as the weights of the last step that was completed, so they
 * can be saved.
 */
export class AllDevicesLostError extends DeviceLostError {
  /** The step whose weights the model has; 0 for those before the first. Undefined outside of training. */
  readonly step: number | undefined;

  constructor(op: string, complaint: Complaint & { readonly step?: number }) {
    super(op, complaint);
    this.step = complaint.step;
  }
}
/** An allocation above the device's memory or budget. */
export class OutOfMemoryError extends DeviceError {}
/** A kernel that the device's compiler refused; `got` carries the numbered source. */
export class KernelCompileError extends DeviceError {}
/** Something that cannot be done while a function is traced, such as reading a value. */
export class TraceError extends ShardwiseError {}
/** A gradient that does not exist. */
export class GradientError extends ShardwiseError {}
/** A computation that is not a sum over the rows of a batch, and so cannot be split over devices. */
export class DecompositionError extends ShardwiseError {}
/** A loss that became NaN or infinite. */
export class NonFiniteLossError extends ShardwiseError {}
/** A gradient that became NaN or infinite, though the loss was finite. */
export class NonFiniteGradientError extends NonFiniteLossError {
  /** The name of the first parameter whose gradient it is; its position, where it has none. */
  readonly parameter: string;

  constructor(op: string, complaint: Complaint & { readonly parameter: string }) {
    super(op, complaint);
    this.parameter = complaint.parameter;
  }
}
/** Replicas whose parameters differ. */
export class ReplicaMismatchError extends ShardwiseError {}
/** A call at the wrong time: of a trainer that was released, or `fit` while it runs already. */
export class StateError extends ShardwiseError {}
/**
 * A listener, a callback or a source of batches threw; `cause` is what it threw. What was done before it stays done, and is in
 * the history of a trainer.
 */
export class CallbackError extends ShardwiseError {
  /** What the call would have given, if it came to its end: of a listener that threw during `step`, the record of the step. */
  result: unknown;
}
/** A broken invariant of shardwise itself: please report it. */
export class InternalError extends ShardwiseError {}
