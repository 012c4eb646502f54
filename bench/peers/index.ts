import * as navigator from "./navigator.ts";
import type { Peer } from "./peer.ts";

/** What `--peers` chooses from; a baseline comes with shardwise. */
export const engines = ["shardwise", "tfjs", "jax-js"] as const;

/** The engines of a target, ours first. They are loaded when they are wanted: loading one takes up to a second. */
export async function loadPeers(
  target: "gpu" | "cpu",
  wants: (engine: typeof engines[number]) => boolean,
  adapter: string | undefined,
): Promise<Peer[]> {
  const peers: Peer[] = [];
  if (wants("shardwise")) {
    const ours = await import("./ours.ts");
    ours.chooseAdapter(adapter);
    peers.push(...(target === "gpu" ? [ours.oursGpu] : [ours.oursOnOneThread, ours.oursOnTwoThreads]));
  }
  if (wants("tfjs")) {
    const tfjs = await import("./tfjs.ts");
    peers.push(target === "gpu" ? tfjs.tfjsWebGPU : tfjs.tfjsWasm);
  }
  if (wants("jax-js")) {
    const jax = await import("./jax.ts");
    peers.push(target === "gpu" ? jax.jaxWebGPU : jax.jaxWasm);
  }
  navigator.chooseAdapter(adapter);
  return peers;
}
