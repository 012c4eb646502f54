/** A small training on the cpu device, and the bits that it ends with: for browser.test.ts, and for the page that it opens. */
import { data, devices, nn, optim, random } from "../src/index.ts";

/** A hash of the weights after some steps on so many threads. */
export async function trainingBits(threads: number): Promise<number> {
  const [device] = await devices({ kind: "cpu", threads });
  random.seed(5);
  const model = nn.sequential(
    nn.conv2d(1, 8, { kernel: 3, padding: "same" }),
    nn.relu(),
    nn.flatten(),
    nn.linear(8 * 28 * 28, 64),
    nn.gelu(),
    nn.linear(64, 10),
  );
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.crossEntropy(output, batch.y),
    optimizer: optim.adam({ learningRate: 1e-3 }),
    devices: [device!],
    seed: 5,
  });
  const rows = 128;
  const x = Float32Array.from({ length: rows * 784 }, (_, i) => ((i * 7919) % 1000) / 500 - 1);
  const y = Int32Array.from({ length: rows }, (_, i) => i % 10);
  for (let step = 0; step < 10; step++) {
    await trainer.step({ x: data.array(x, { shape: [rows, 28, 28, 1] }), y: data.array(y, { dtype: "i32" }) });
  }
  let hash = 0;
  for (const parameter of model.parameters()) {
    const values = await parameter.data();
    for (const bits of new Uint32Array(values.buffer, values.byteOffset, values.length)) {
      hash = (Math.imul(hash, 31) + bits) | 0;
    }
  }
  await trainer.release();
  return hash;
}
