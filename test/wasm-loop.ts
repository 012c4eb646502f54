/** A module with a loop over memory, four lanes a time, whose body is a spelling of an op. */
import { encodeModule, FunctionCode, type Imported } from "../src/compiler/wasm/encode.ts";
import { LaneCode } from "../src/compiler/wasm/lane-code.ts";
import type { HostFunction, LaneOps, Lanes } from "../src/graph/lanes.ts";

/** What kernels import, by its name. */
const host: Readonly<Record<HostFunction, (x: number, y: number) => number>> = {
  sin: Math.sin,
  cos: Math.cos,
  tan: Math.tan,
  rem: (x, y) => x % y,
};

/** The result of a loop over equally long columns of words; `columns` are set before `run` is called, any number of times. */
export interface Loop {
  readonly columns: readonly Uint32Array[];
  readonly result: Uint32Array;
  readonly run: () => void;
}

/** A loop over `length` lanes, a multiple of 4. */
export function loop(operands: number, length: number, spell: (v: LaneOps, x: readonly Lanes[]) => Lanes): Loop {
  const code = new FunctionCode(operands + 2);
  const names = Object.keys(host) as HostFunction[];
  const lanes = new LaneCode(code, (name) => names.indexOf(name));
  // Parameters: addresses of the operands and of the result, and the end of the latter.
  code.loop();
  const result = lanes.keep(spell(
    lanes,
    Array.from({ length: operands }, (_, i) => () => {
      code.get(i);
      code.memory("v128.load", 0);
    }),
  ));
  code.get(operands);
  result();
  code.memory("v128.store", 0);
  for (let i = 0; i <= operands; i++) {
    code.get(i);
    code.i32(16);
    code.op("i32.add");
    code.set(i);
  }
  code.get(operands);
  code.get(operands + 1);
  code.op("i32.lt_u");
  code.brIf(0);
  code.op("end");
  const imported: Imported[] = names.map((name) => ({
    name,
    parameters: new Array<"f64">(host[name].length).fill("f64"),
    results: ["f64"],
  }));
  const bytes = 4 * length;
  const memory = new WebAssembly.Memory({
    initial: Math.ceil((operands + 1) * bytes / 65536),
    maximum: 65536,
  });
  const module = new WebAssembly.Module(
    encodeModule([{ parameters: code.parameters, body: code.body() }], imported, { shared: false }),
  );
  const { exports } = new WebAssembly.Instance(module, { host: { ...host, memory } });
  const addresses = Array.from({ length: operands + 2 }, (_, i) => i * bytes);
  const view = (i: number) => new Uint32Array(memory.buffer, i * bytes, length);
  return {
    columns: Array.from({ length: operands }, (_, i) => view(i)),
    result: view(operands),
    run: () => (exports["k0"] as (...x: number[]) => void)(...addresses),
  };
}
