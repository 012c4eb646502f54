/** Gives engines written for browsers the WebGPU that they look for: `navigator.gpu` and the constants around it. */

/** Keeps the instance: a collected one takes the process down with it. */
let instance: GPU | undefined;
let adapterName = "";
let wanted: string | undefined;

/** Which adapter the next `offerWebGPU` takes, by (part of) its name; the first one by default. */
export function chooseAdapter(name: string | undefined): void {
  wanted = name;
}

/** Puts WebGPU in place and gives the adapter's name. Throws when there is no adapter. */
export async function offerWebGPU(): Promise<string> {
  if (instance !== undefined) return adapterName;
  const present = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (present === undefined) {
    const { create, globals } = await import("webgpu");
    Object.assign(globalThis, globals);
    instance = create(wanted === undefined ? [] : [`adapter=${wanted}`]);
    const navigator = { gpu: instance, userAgent: "Node.js", hardwareConcurrency: 2, language: "en" };
    Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true, writable: true });
  } else {
    instance = present;
  }
  const adapter = await instance.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new Error("no WebGPU adapter");
  // Dawn takes the adapter that bears the wanted name or none; its `info` does not tell that name.
  const named = present === undefined ? wanted : undefined;
  adapterName = named ?? (adapter.info.description || adapter.info.device || adapter.info.vendor);
  return adapterName;
}
