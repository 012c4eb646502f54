/** What the type checker says of programs that train: nothing of right ones, and little, but the right thing, of wrong ones. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("..", import.meta.url));
const file = join(root, "test", "a-program-that-is-not-there.ts");

/** What programs begin with: a line each. */
const prelude = [
  `import { data, nn, optim, tensor, type Tensor } from "../src/index.ts";`,
  `const [model, optimizer, x] = [nn.sequential(nn.linear(2, 1)), optim.adam(), tensor([1])];`,
  `const trainer = nn.trainer(model, { loss: (output, batch) => nn.mse(output, batch.y), optimizer });`,
  `const unlabelled = nn.trainer(model, { loss: (output, batch) => nn.mse(output, batch.x), optimizer });`,
  `const weighted = nn.trainer(model, { loss: (o, b: { x: Tensor; weights: Tensor }) => nn.mse(o, b.x, { weights: b.weights }), optimizer });`,
  `type Deep = { x: Tensor; left: { a: Tensor; list: readonly Tensor[] }; hint?: Tensor };`,
  `const deep = nn.trainer(model, { loss: (o, b: Deep) => nn.mse(o, b.hint ?? b.left.a), optimizer });`,
  `const [only, both, other] = [{ x: [1] }, { x: [1], y: [1] }, { z: [1] }].map((fields) => fields) as [{ x: number[] }, { x: number[]; y: number[] }, { z: number[] }];`,
  `const cut = <F extends Record<string, number[]>>(fields: F) => data.batches(fields, { batchSize: 1 });`,
  `async function* later() { yield { x, y: x }; }`,
  `export { cut, deep, later, only, both, other, trainer, unlabelled, weighted };`,
];

const right = [
  `trainer.fit(cut(both), { validation: cut(both), epochs: 2, progress: "none" });`,
  `trainer.fit(cut(only));`, // The loss of this one reads y, which is told when it runs.
  `trainer.fit([{ x, y: x, more: x }]); trainer.fit(later()); trainer.fit([]);`,
  `trainer.step({ x, y: { data: new Float32Array(1), shape: [1], dtype: "f32" } }); trainer.step({ x });`,
  `trainer.evaluate({ x, y: x }); trainer.evaluate(cut(both)); trainer.evaluate([{ x, y: x }], { rowsAtOnce: undefined });`,
  `trainer.predict(x); trainer.predict({ x });`,
  `unlabelled.fit(cut(only)); unlabelled.step({ x }); unlabelled.evaluate(cut(only)); unlabelled.fit([{ x }], { validation: { x } });`,
  `weighted.fit(cut({ x: [1], weights: [1] })); weighted.step({ x, weights: x });`,
  `deep.fit([{ x, left: { a: x, list: [x, x] } }]); deep.step({ x, left: { a: x, list: [] }, hint: x });`,
  `const source: nn.BatchSource<nn.DefaultBatch> = [{ x, y: x }]; const options: nn.FitOptions = { validation: source }; trainer.fit(source, options);`,
  `nn.trainer(model, { loss: (output) => nn.loss({ sum: output.sum(), count: 1 }), optimizer }).fit([{ x }]);`,
  `nn.trainer(model, { forward: (m, { x, y }) => ({ z: m.forward(x), y }), loss: ({ z, y }) => nn.mse(z, y), optimizer }).predict({ x, y: x });`,
  `nn.sequential([nn.relu(), nn.linear(1, 2)]); nn.sequential(nn.relu()); nn.sequential();`,
];

/** With what is said of them. */
const wrong: readonly (readonly [program: string, message: RegExp])[] = [
  [`trainer.fit({ x: 1 });`, /'x' does not exist in type 'Batched</],
  [`trainer.fit({ x, y: x });`, /does not exist in type 'Batched</],
  [`const batch = { x, y: x }; trainer.fit(batch);`, /not assignable to parameter of type 'Batched</],
  [`trainer.fit([{ x: 1 }]);`, /BatchesWithout<"x">/],
  [`trainer.fit(cut(other));`, /BatchesWithout<"x">/],
  [`trainer.fit(5);`, /'number' is not assignable/],
  [`trainer.fit(cut(both), { epoch: 3 });`, /Did you mean to write 'epochs'/],
  [`trainer.fit(cut(both), { validation: cut(other) });`, /BatchesWithout<"x">/],
  [`trainer.fit(cut(both), { onBatch: 5 });`, /'number' is not assignable/],
  [`trainer.step({ y: x });`, /Property 'x' is missing/],
  [`trainer.step({ x, z: x });`, /'z' does not exist/],
  [`trainer.evaluate(cut(other));`, /BatchesWithout<"x">/],
  [`trainer.evaluate({ x: 1 });`, /'number' is not assignable to type 'Tensor<DType> \| HostTensor'/],
  [`trainer.predict("x");`, /'string' is not assignable/],
  [`weighted.fit(cut(only));`, /BatchesWithout<"weights">/],
  [`weighted.step({ x });`, /Property 'weights' is missing/],
  [`deep.fit([{ x, left: { a: x } }]);`, /BatchesWithout<"left">/],
  [
    `nn.trainer(model, { loss: (output, batch) => nn.mse(output, batch.z), optimizer });`,
    /Property 'z' does not exist on type 'DefaultBatch'/,
  ],
  [`nn.trainer(model, { loss: (o, b: { x: Tensor }) => nn.mse(o, b.y), optimizer });`, /Property 'y' does not exist/],
  [`nn.trainer(model, { loss: (o, b) => nn.mse(o, b.y), optimiser: optimizer });`, /Did you mean to write 'optimizer'/],
  [`optim.adam({ lr: 1 });`, /'lr' does not exist/],
  [`nn.sequential(nn.relu);`, /not assignable/],
];

/** What the type checker says of each line of a program. */
function errorsOf(text: string): Map<number, string[]> {
  const config = ts.readConfigFile(join(root, "tsconfig.json"), (name) => ts.sys.readFile(name));
  const { options } = ts.parseJsonConfigFileContent({ ...config.config, include: [], files: [] }, ts.sys, root);
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (name) => name === file || fileExists.call(host, name);
  host.getSourceFile = (name, ...rest) =>
    name === file
      ? ts.createSourceFile(name, text, ts.ScriptTarget.ES2022)
      : parsed(name, () => getSourceFile.call(host, name, ...rest));
  const program = ts.createProgram([file], { ...options, types: ["node", "@webgpu/types"] }, host);
  const source = program.getSourceFile(file)!;
  const said = new Map<number, string[]>();
  for (
    const { messageText, start } of [
      ...program.getSyntacticDiagnostics(source),
      ...program.getSemanticDiagnostics(source),
    ]
  ) {
    const { line } = source.getLineAndCharacterOfPosition(start!);
    said.set(line, [...said.get(line) ?? [], ts.flattenDiagnosticMessageText(messageText, "\n")]);
  }
  return said;
}

const files = new Map<string, ts.SourceFile | undefined>();

/** Files of the library are read once. */
function parsed(name: string, parse: () => ts.SourceFile | undefined): ts.SourceFile | undefined {
  if (!files.has(name)) files.set(name, parse());
  return files.get(name);
}

test("right programs have no errors, wrong ones short errors that say what is wrong", () => {
  const programs = [...right, ...wrong.map(([program]) => program)];
  const said = errorsOf([...prelude, ...programs.map((program) => `{ ${program} }`)].join("\n"));
  prelude.forEach((line, i) => assert.deepEqual(said.get(i), undefined, line));
  right.forEach((line, i) => assert.deepEqual(said.get(prelude.length + i), undefined, line));
  wrong.forEach(([line, message], i) => {
    const errors = said.get(prelude.length + right.length + i) ?? [];
    assert.match(errors.join("\n"), message, line);
    for (const error of errors) assert.ok(error.split("\n").length <= 3, `${line}\n${error}`);
  });
});

test("what tensors of other dtypes are refused with is short", () => {
  const text = readFileSync(join(root, "test", "types", "refused.ts"), "utf8").replaceAll("../../src/", "../src/");
  const marked = text.split("\n").flatMap((line, i) => line.includes("// @ts-expect-error") ? [i] : []);
  assert.ok(marked.length > 40);
  const said = errorsOf(text.replaceAll("// @ts-expect-error", "// expected:"));
  assert.deepEqual([...said.keys()].sort((a, b) => a - b), marked.map((i) => i + 1));
  for (const [line, errors] of said) {
    // How two typed arrays differ is TypeScript's to say; six lines are what it takes to explain two forms of a call.
    for (const error of errors.filter((error) => !/^Type '(\w+Array<|HostArray)/.test(error))) {
      assert.ok(error.split("\n").length <= 6 && error.length < 600, `${text.split("\n")[line]}\n${error}`);
    }
  }
});
