/** The graph of a shard, cut in stages between collectives. */
import { servesItems } from "../../compiler/compile.ts";
import type { Device } from "../../devices/device/device.ts";
import type { Node } from "../../graph/node.ts";
import { cutStages, type Stage } from "../decompose/stages.ts";
import { type FamilyMember, type LoadedPlan, SharedGraph } from "./shared-graph.ts";

/** Where an input of a stage comes from. */
export type Origin =
  | { readonly kind: "own" | "captured"; readonly index: number }
  | { readonly kind: "collective" | "kept"; readonly stage: number; readonly index: number };

/** One stage, with where its inputs come from. */
export interface StageGraph {
  readonly stage: Stage;
  readonly graph: SharedGraph;
  /** In the order of the stage's inputs. */
  readonly origins: readonly Origin[];
}

interface StagedOptions {
  /** The own inputs that all shards of a batch have in common: the plans are for items then. */
  readonly common?: readonly Node[] | undefined;
  readonly family?: FamilyMember;
}

/**
 * What a shard computes: a graph whose inputs are written for each run (`own`) or bound (`captured`). If its plans are for items,
 * several shards run at once, by the same kernels as one.
 */
export class StagedGraph {
  readonly stages: readonly StageGraph[];

  constructor(
    roots: readonly Node[],
    own: readonly Node[],
    captured: readonly Node[],
    { common, family }: StagedOptions = {},
  ) {
    const origins = new Map<Node, Origin>();
    own.forEach((node, index) => origins.set(node, { kind: "own", index }));
    captured.forEach((node, index) => origins.set(node, { kind: "captured", index }));
    const stages = cutStages(roots, (node) => node.op === "input");
    const shared = new Set([...captured, ...common ?? []]);
    const forItems = common !== undefined && stages.every((stage) => servesItems(stage.roots, stage.inputs));
    this.stages = stages.map((stage, number): StageGraph => {
      stage.collectives.forEach(({ placeholder }, index) => {
        origins.set(placeholder, { kind: "collective", stage: number, index });
      });
      stage.kept.forEach(({ placeholder }, index) => {
        origins.set(placeholder, { kind: "kept", stage: number, index });
      });
      const inputs = stage.inputs;
      const of = inputs.map((node) => origins.get(node)!);
      const written = of.flatMap(({ kind }, i) => kind === "own" || kind === "collective" ? [i] : []);
      const together = forItems ? { common: inputs.flatMap((node, i) => shared.has(node) ? [i] : []) } : {};
      return {
        stage,
        graph: new SharedGraph({ roots: stage.roots, inputs, ...together }, written, family),
        origins: of,
      };
    });
  }

  /** The plans of all stages on a device, loaded for so many shards at once. */
  on(device: Device, shards = 1): Promise<LoadedPlan[]> {
    return Promise.all(this.stages.map(({ graph }) => graph.on(device, shards)));
  }

  /** How many shards a device can run at once, at most `wanted`. */
  most(device: Device, wanted: number): number {
    return Math.min(...this.stages.map(({ graph }) => graph.most(device, wanted)));
  }

  /** See SharedGraph. */
  async settle(): Promise<void> {
    for (const { graph } of this.stages) await graph.settle();
  }

  async release(): Promise<void> {
    await Promise.all(this.stages.map(({ graph }) => graph.release()));
  }
}
