/** From a kernel's values to kernel IR: what its invocations compute and store. */
import { isKind, type Node, type NodeOf } from "../../graph/node.ts";
import { size } from "../../graph/shape.ts";
import type { StructuralOf } from "../../graph/structural.ts";
import { type Draft, splitAxes } from "../group/draft.ts";
import { kernelName } from "../group/kernel-name.ts";
import type { KernelGroup } from "../group/merge.ts";
import { markFaults } from "../group/watch.ts";
import { addConstant, type Index, scale, unflatten, variableIndex, zeroIndex } from "../kernel/index-arithmetic.ts";
import { KernelBuilder, type KernelIR, type Lane, type Statement } from "../kernel/ir.ts";
import { locate, type Memory } from "../kernel/location.ts";
import { dropUnread } from "../kernel/uses.ts";
import { plainTile, type Tile } from "../tile/tile.ts";
import { type Domain, domainOf } from "./domain.ts";
import { ownKernel } from "./own-kernels.ts";
import { closePanels } from "./panel-contraction.ts";
import { openSteps } from "./team.ts";
import { Values } from "./values.ts";

/** Lowers one kernel with the factors of `tile`. Along `varying` lengths blocks are guarded even where they divide them. */
export function lower(group: KernelGroup, memory: Memory, tile: Tile, varying: readonly number[] = []): KernelIR {
  const [first] = group.drafts;
  const { root } = first;
  if (isKind(root, "own")) return lowerOwn(group, root, memory, tile);
  const builder = new KernelBuilder();
  const domain = domainOf(builder, splitAxes(first).outer.map((axis) => root.shape[axis]!), tile, varying);
  const roots = new Set(group.drafts.map((draft) => draft.root));
  const values = new Values(builder, memory, roots, domain, tile);
  const lowering: Lowering = { builder, memory, domain, values, row: tile.row, stores: [] };
  for (const draft of group.drafts) lowerDraft(lowering, draft);
  // After all loads: a value may be written over what another one is computed from.
  const loop = domain.kind === "pieces" ? domain.loop : undefined;
  const body = domain.kind === "panel" ? domain.results[1].body : loop?.body ?? builder.root;
  body.statements.push(...lowering.stores);
  if (domain.kind === "panel") closePanels(domain);
  if (loop !== undefined) builder.root.statements.push({ kind: "loop", ...loop });
  const ir = builder.finish(kernelName(group), domain.parallel, domain.workgroup, domain.together);
  // What is computed at lanes that are only loaded for would keep the kernel from being in place.
  return domain.kind === "panel" ? dropUnread(ir) : ir;
}

function lowerOwn(
  group: KernelGroup,
  node: NodeOf<StructuralOf<"own">>,
  memory: Memory,
  { attention, walk }: Tile,
): KernelIR {
  const builder = new KernelBuilder();
  const values = new Values(builder, memory, new Set([node]), undefined, plainTile);
  return ownKernel({
    node,
    builder,
    targets: memory.targets(node),
    values: values.of,
    name: (kind) => kernelName(group, kind),
    block: attention!,
    team: walk.kind === "team" ? walk.invocations : 1,
  });
}

/** A kernel that is being lowered. */
interface Lowering {
  readonly builder: KernelBuilder;
  readonly memory: Memory;
  readonly domain: Domain;
  readonly values: Values;
  /** Elements of a row per pass of its loop. */
  readonly row: number;
  /** Stores of values without rows. */
  readonly stores: Statement[];
}

/** Computes and stores one value of the kernel at the lanes of the domain, in a loop where it has a row. */
function lowerDraft(lowering: Lowering, draft: Draft): void {
  const { builder, domain, stores } = lowering;
  const { root } = draft;
  const { outer, row } = splitAxes(draft);
  const team = domain.kind === "team" ? domain : undefined;
  if (row.length === 0) {
    // All of a team have the same value.
    const first = team && builder.within(variableIndex(team.member), 0, 1);
    const lanes = domain.lanes.map((lane) => ({
      when: builder.and(lane.when, first),
      indices: placed(root, outer, lane.indices, row, []),
    }));
    store(lowering, root, lanes, stores);
    return;
  }
  const extents = row.map((axis) => root.shape[axis]!);
  const factor = size(extents) % lowering.row === 0 ? lowering.row : 1;
  const { variable, body, step, inside } = openSteps(builder, "r", size(extents) / factor, builder.root, team);
  const lanes = domain.lanes.flatMap((lane) =>
    Array.from({ length: factor }, (_, i) => {
      const along = unflatten(addConstant(scale(step, factor), i), extents);
      return {
        when: builder.and(lane.when, inside),
        indices: placed(root, outer, lane.indices, row, along),
      };
    })
  );
  store(lowering, root, lanes, body.statements);
  builder.root.statements.push({ kind: "loop", variable, body });
}

/** The indices of an element from those on the axes of the domain and of the row; the others are of length 1. */
function placed(
  root: Node,
  outer: readonly number[],
  at: readonly Index[],
  row: readonly number[],
  along: readonly Index[],
): Index[] {
  const indices = root.shape.map(() => zeroIndex);
  outer.forEach((axis, i) => indices[axis] = at[i]!);
  row.forEach((axis, i) => indices[axis] = along[i]!);
  return indices;
}

/** Computes a value at some lanes; `statements` become its stores, and notes of its faults, if it is watched. */
function store(
  { builder, memory, domain, values: { of } }: Lowering,
  root: Node,
  lanes: readonly Lane[],
  statements: Statement[],
): void {
  // Lanes of panels lie beyond the edges, others never do.
  const guarded = domain.kind === "panel";
  const values = of(root, lanes.map(({ indices, when }) => ({ indices, when: guarded ? when : undefined })));
  const stored = lanes.slice(0, lanes.length - domain.loadedOnly);
  for (const location of memory.targets(root)) {
    const buffer = builder.buffer(location.slot, root.dtype, "readWrite");
    stored.forEach(({ indices, when }, i) => {
      const index = locate(location, indices);
      statements.push({ kind: "store", buffer, index, value: values[i]!, when, accumulate: undefined });
    });
  }
  const marks = memory.marks(root);
  if (marks.length === 0) return;
  statements.push(...markFaults(builder, root, marks, stored, values.slice(0, stored.length)));
}
