/** All of them: see mutation.ts. */
import { autograd } from "./autograd.ts";
import { compiler } from "./compiler.ts";
import { devices } from "./devices.ts";
import { graph } from "./graph.ts";
import type { Mutation } from "./mutation.ts";
import { nn } from "./nn.ts";
import { parallel } from "./parallel.ts";
import { signature } from "./signature.ts";
import { tensor } from "./tensor.ts";
import { wasm } from "./wasm.ts";

export type { Mutation } from "./mutation.ts";

export const mutations: readonly Mutation[] = [
  ...signature,
  ...graph,
  ...autograd,
  ...compiler,
  ...wasm,
  ...devices,
  ...tensor,
  ...parallel,
  ...nn,
];
