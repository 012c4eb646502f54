import type { DType } from "../../graph/dtype.ts";
import type { ContractionSchedule, DeviceClass } from "./contraction-schedules.ts";

/** What the compiler must know of the device that will run a plan, and of the plan's family. Plain data. */
export interface Target {
  readonly language: "wgsl" | "js" | "wasm";
  readonly class: DeviceClass;
  /**
   * Whether the driver is kept from unrolling loops: those of software adapters unroll up to 32 passes, and compile them for
   * seconds. By default for the class `software`.
   */
  readonly rollLoops?: boolean;
  /** Lanes of a subgroup, where kernels may use subgroup operations and the size was probed; else 0. */
  readonly subgroupSize: number;
  /** Whether sums of products in WebAssembly are relaxed: a product may be rounded before it is added, or not. */
  readonly relaxed?: true;
  /** How kernels hold an f16: as a type of their own, or two in a u32 (see half-storage.ts). The cpu device has its bits. */
  readonly f16: "native" | "packed";
  readonly maxStorageBuffersPerKernel: number;
  readonly maxInvocationsPerWorkgroup: number;
  readonly maxWorkgroupsPerDimension: number;
  /** Largest buffer that a kernel can bind, in bytes. */
  readonly maxBindingBytes: number;
  /** Schedules that were found to be the fastest there, by the signatures of contractions; they go before the defaults. */
  readonly tuned?: Readonly<Record<string, ContractionSchedule>>;
  /**
   * Lengths in whose place other plans of the family have others: kernels take a form that suits those too, with guards that
   * they would not need themselves. Values stay the same, to the bit.
   */
  readonly varying?: readonly number[];
}

/** One buffer of a program, in the order of its bindings. */
export interface ProgramBinding {
  /** A buffer that a program both loads and stores is one `readWrite` binding. */
  readonly access: "read" | "readWrite";
  readonly dtype: DType;
}

/**
 * A function of a WebAssembly module, as its bytes stand in the code section: it runs combinations of its outer counters, each for a range of
 * the fastest one (see compiler/wasm/module.ts).
 */
export interface ProgramCode {
  readonly body: Uint8Array<ArrayBuffer>;
  /** Combinations of the outer counters. */
  readonly outer: number;
  /** The extent of the fastest counter, which goes from 0; a range of it begins at a multiple of `width`. */
  readonly inner: number;
  readonly width: number;
  /** Bytes that it needs for itself while it runs. */
  readonly scratch: number;
}

/** A kernel as source text. Plain data: it can be sent to a Worker. Equal keys mean equal programs. */
export interface Program {
  readonly key: string;
  /** Tells op and shape, as in `reduce_64x32_exp_add`; also the label in WebGPU. */
  readonly name: string;
  readonly language: "wgsl" | "js" | "wasm";
  /**
   * wgsl: a module with the entry point `main`, bindings 0… in group 0.
   * js: the body of `function (buffers, begin, end)`: `buffers` are typed arrays of the bindings' dtypes (bool as
   * Uint32Array, f16 as Uint16Array of the bits), and invocations `begin` to `end - 1` of `invocations` are to be run.
   * wasm: a listing to be read; what runs is `code`.
   */
  readonly source: string;
  readonly bindings: readonly ProgramBinding[];
  /** Of a wasm program, its function. */
  readonly code?: ProgramCode;
  /** Workgroups to dispatch (wgsl); along z as many as there are items. */
  readonly workgroups: readonly [number, number, number];
  /**
   * In a plan for items: bytes from an item's part of each binding to that of the next, 0 for what all have in common. A js
   * program is given the parts of one item.
   */
  readonly strides?: readonly number[];
  /** Independent invocations (js). */
  readonly invocations: number;
  /**
   * With the flag VALIDATE: the same kernel as JavaScript, as `source` of the language "js", with its invocations, and
   * whether it rounds to f16: then what differs in the last bits may differ by a step of those. `order` has the bindings that its
   * buffers are, where that is not all in their order.
   */
  readonly reference?: {
    readonly source: string;
    readonly invocations: number;
    readonly roundsToHalf: boolean;
    readonly order?: readonly number[];
  };
  /** For reports: arithmetic operations, and bytes loaded and stored at least once. */
  readonly flops: number;
  readonly bytes: number;
}

/** One thing a plan does. Slots are indices into `Plan.slots`. */
export type PlanStep =
  | { readonly kind: "dispatch"; readonly program: number; readonly slots: readonly number[] }
  | { readonly kind: "copy"; readonly from: number; readonly to: number; readonly bytes: number };

/**
 * A compiled graph: which kernels run in which order on which memory. Plain data: it can be sent to a Worker.
 * Slots are memory of at least `bytes`: the caller gives those of `inputs` and `outputs`, the device keeps the rest.
 *
 * A plan for items does the same for any number of them at once, with the same kernels for each. A slot that is not
 * `common` to them then holds a part of `bytes` for every item, one after the other.
 */
export interface Plan {
  /** Whether it is for items. */
  readonly items?: boolean;
  readonly programs: readonly Program[];
  readonly steps: readonly PlanStep[];
  readonly slots: readonly { readonly bytes: number; readonly common?: boolean }[];
  /** The slot of each input of the request, in its order; -1 where the input is not read. */
  readonly inputs: readonly number[];
  /** The slot of each root of the request. A donated input's slot stands here where the root is updated in place. */
  readonly outputs: readonly number[];
  /** Slots that neither are inputs nor outputs. */
  readonly temporaries: readonly number[];
}
