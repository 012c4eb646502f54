/** Checksums of device memory, to see whether replicas hold the same bits. */
import { compileGraph } from "../../compiler/compile.ts";
import type { Device, DeviceBuffer, Executable } from "../../devices/device/device.ts";
import { bitcast, concat, constant, elementwise, full, input, iota, reduce, reshape } from "../../graph/build.ts";
import type { Node } from "../../graph/node.ts";

/** Two 32-bit words of one vector; equal for equal bits, and different whenever a single element differs. */
export type Checksum = readonly [number, number];

/** Computes checksums of f32 vectors of one length on one device. */
export class Checksummer {
  readonly #device: Device;
  readonly #length: number;
  #executable: Promise<Executable> | undefined;

  constructor(device: Device, length: number) {
    this.#device = device;
    this.#length = length;
  }

  async of(buffer: DeviceBuffer): Promise<Checksum> {
    const device = this.#device;
    this.#executable ??= device.load(checksumPlan(device, this.#length));
    const executable = await this.#executable;
    const output = device.alloc(8);
    try {
      device.run(executable, [buffer], [output]);
      const words = new Uint32Array(await device.read(output, 0, 8));
      return [words[0]!, words[1]!];
    } finally {
      device.free(output);
    }
  }

  async release(): Promise<void> {
    (await this.#executable?.catch(() => undefined))?.release();
  }
}

/**
 * Of the bits b_i, modulo 2^32: sum of b_i (2i + 1), and the same of mixed bits. The factors are odd, so a
 * change of one element changes the first; the second tells changes apart that cancel in it.
 */
function checksumPlan(device: Device, length: number) {
  const x = input([length], "f32");
  const bits = bitcast(x, "u32");
  const all = (value: number) => full([length], value, "u32");
  const odd = elementwise("add", elementwise("mul", iota(length, "u32"), all(2)), all(1));
  const mixed = elementwise(
    "mul",
    elementwise("xor", bits, elementwise("shr", bits, all(15))),
    all(0x2c1b3c6d),
  );
  const stirred = elementwise("xor", mixed, elementwise("shr", mixed, all(12)));
  const sum = (n: Node) => reshape(reduce("sum", elementwise("mul", n, odd), [0]), [1]);
  const words = length === 0 ? reshape(constant(0, "u32"), [1]) : undefined;
  return compileGraph(
    { roots: [concat([words ?? sum(bits), words ?? sum(stirred)], 0)], inputs: [x] },
    device.target,
  );
}
