/** Domains that each invocation walks by itself: by one counter, in pieces, or by blocks. */
import { size } from "../../graph/shape.ts";
import {
  add,
  addConstant,
  atMost,
  scale,
  unflatten,
  type Variable,
  variableIndex,
  within,
} from "../kernel/index-arithmetic.ts";
import type { KernelBuilder, Lane, Scope } from "../kernel/ir.ts";
import { type BlocksWalk, type FlatWalk, type PiecesWalk, pieceWalkers } from "../tile/tile.ts";

/** Who walks a domain, and what one of them computes. */
export interface Invocations {
  /** The counters whose combinations are the invocations. */
  readonly parallel: readonly Variable[];
  /** The elements of one invocation. */
  readonly lanes: readonly Lane[];
  /** How many of the last lanes are there only for what is loaded at them. */
  readonly loadedOnly: number;
  /** How many are a workgroup, where the walk asks for a number. */
  readonly workgroup: number | undefined;
  /** Whether they work together, so that none can be run alone. */
  readonly together: boolean;
}

/** Of invocations that each walk by themselves, in workgroups of any size. */
const alone = { loadedOnly: 0, workgroup: undefined, together: false } as const;

export interface FlatDomain extends Invocations {
  readonly kind: "flat";
}

export interface PiecesDomain extends Invocations {
  readonly kind: "pieces";
  /** The loop in which an invocation walks its part of a piece. */
  readonly loop: { readonly variable: Variable; readonly body: Scope };
}

export interface BlocksDomain extends Invocations {
  readonly kind: "blocks";
}

export function flatDomain(builder: KernelBuilder, extents: readonly number[], { neighbours }: FlatWalk): FlatDomain {
  const variable = builder.variable("i", Math.ceil(size(extents) / neighbours));
  const first = scale(variableIndex(variable), neighbours);
  const lanes = Array.from({ length: neighbours }, (_, lane) => ({
    indices: unflatten(addConstant(first, lane), extents),
    when: undefined,
  }));
  return { ...alone, kind: "flat", parallel: [variable], lanes };
}

/** Invocations side by side take neighbours, in each step those that follow. */
export function piecesDomain(
  builder: KernelBuilder,
  extents: readonly number[],
  { neighbours, steps }: PiecesWalk,
  varying: readonly number[],
): PiecesDomain {
  const count = size(extents) / neighbours;
  const piece = builder.variable("i", Math.ceil(count / (steps * pieceWalkers)));
  const local = builder.variable("local", pieceWalkers);
  const step = builder.variable("r", steps);
  const body = builder.openLoop(builder.root, step);
  const position = add(
    scale(add(scale(variableIndex(piece), steps), variableIndex(step)), pieceWalkers),
    variableIndex(local),
  );
  const varies = extents.some((extent) => varying.includes(extent));
  if (count % (steps * pieceWalkers) !== 0 || varies) {
    body.statements.push({ kind: "stop", index: position, limit: count });
  }
  const first = scale(within(position, 0, count - 1), neighbours);
  const lanes = Array.from({ length: neighbours }, (_, lane) => ({
    indices: unflatten(addConstant(first, lane), extents),
    when: undefined,
  }));
  return {
    ...alone,
    kind: "pieces",
    parallel: [piece, local],
    lanes,
    workgroup: pieceWalkers,
    loop: { variable: step, body },
  };
}

/** At an edge the last block moves back, and stores only what is its own. */
export function blocksDomain(
  builder: KernelBuilder,
  extents: readonly number[],
  { block }: BlocksWalk,
  varying: readonly number[],
): BlocksDomain {
  const parallel: Variable[] = [];
  let lanes: Lane[] = [{ indices: [], when: undefined }];
  extents.forEach((extent, axis) => {
    const length = block[axis]!;
    const variable = builder.variable("i", Math.ceil(extent / length));
    parallel.push(variable);
    const start = scale(variableIndex(variable), length);
    const base = atMost(start, extent - length, length > 1 && extent > length && varying.includes(extent));
    lanes = lanes.flatMap((lane) =>
      Array.from({ length }, (_, i) => {
        const index = addConstant(base, i);
        const own = base === start ? undefined : builder.within(add(index, scale(start, -1)), 0, extent);
        return { indices: [...lane.indices, within(index, 0, extent - 1)], when: builder.and(lane.when, own) };
      })
    );
  });
  return { ...alone, kind: "blocks", parallel, lanes };
}
