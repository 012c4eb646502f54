/**
 * A training step whose products are tuned ahead: its default export gives the function and its arguments.
 *
 *   npm run tune -- --example examples/tuned-step.ts
 */
import { grad, nn, optim, random, type Tensor } from "../src/index.ts";

export default function (): [(x: Tensor, y: Tensor) => Tensor, Tensor, Tensor] {
  const model = nn.sequential(nn.linear(784, 64), nn.relu(), nn.linear(64, 10));
  const optimizer = optim.nadam({ learningRate: 2e-3 }).bind(model.parameters());
  const step = (x: Tensor, y: Tensor) => {
    const loss = nn.mse(model.forward(x), y).mean;
    optimizer.step(grad(loss, model.parameters()));
    return loss;
  };
  return [step, random.uniform([128, 784]), random.uniform([128, 10])];
}
