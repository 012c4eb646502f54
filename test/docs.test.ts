/** What the README and the pages of docs/ name exists, and what exists is in docs/overview.md. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as errors from "../src/errors.ts";
import * as shardwise from "../src/index.ts";
import { data, devices, nn, optim } from "../src/index.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string) => readFileSync(join(root, path), "utf8");
const docs = readdirSync(join(root, "docs")).filter((name) => name.endsWith(".md")).sort().map((name) =>
  `docs/${name}`
);

/** Names in the first column of the tables; those of methods of a tensor begin with a dot. */
function listed(page: string): string[] {
  const cells = [...read(page).matchAll(/^\| +(`.*?`) +\|/gm)].map(([, cell]) => cell!.split(" | ")[0]!);
  const codes = cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code!));
  return codes.map((code) => /^[\w.]+/.exec(code)?.[0] ?? code);
}

/** What a file says is the engine's own. */
function internal(path: string): Set<string> {
  return new Set(
    [...read(path).matchAll(/\/\*\*[\s*]*@internal(?:(?!\*\/)[\s\S])*\*\/\s*(?:readonly |get )?(\w+)/g)].map((
      [, name],
    ) => name!),
  );
}

/** Members of a class and fields of an instance. */
function members(prefix: string, prototype: object, fields: object, hidden: ReadonlySet<string> = new Set()): string[] {
  const names = new Set([...Object.getOwnPropertyNames(prototype), ...Object.keys(fields)]);
  return [...names].filter((name) => name !== "constructor" && !hidden.has(name)).map((name) => `${prefix}.${name}`);
}

test("docs/overview.md has everything that is public, and nothing that is not there", async () => {
  const namespaces = ["random", "parallel", "nn", "optim", "data", "io"] as const;
  const skipped = new Set<string>([...namespaces, ...Object.keys(errors), "init"]);
  const exported = (from: object, prefix: string) =>
    Object.keys(from).filter((name) => !skipped.has(name)).map((name) => `${prefix}${name}`);
  const [device] = await devices({ kind: "cpu" });
  const model = nn.linear(1, 1);
  const optimizer = optim.adam();
  const bound = optimizer.bind(model.parameters());
  const trainer = nn.trainer(model, {
    loss: (output, batch) => nn.mse(output, batch.y),
    optimizer,
    devices: [device!],
  });
  const tensor = shardwise.tensor([1]);
  const hiddenOfDevice = internal("src/devices/device/device.ts");
  const ofDevice = [
    ...read("src/devices/device/device.ts").split("export interface Device {")[1]!.matchAll(
      /^ {2}(?:readonly )?(\w+)[(:]/gm,
    ),
  ].map(([, name]) => name!);
  const expected = [
    ...exported(shardwise, ""),
    ...namespaces.flatMap((name) => exported(shardwise[name], `${name}.`)),
    ...exported(nn.init, "nn.init."),
    ...members("", shardwise.Tensor.prototype, tensor),
    ...members("", Object.getPrototypeOf(shardwise.Tensor.prototype) as object, {}, internal("src/tensor/handle.ts")),
    ...members("model", nn.Module.prototype, {}, internal("src/nn/layers/module.ts")),
    "model.forward",
    ...members("loss", nn.Loss.prototype, nn.mse(tensor, tensor)),
    "optimizer.bind",
    ...members("bound", Object.getPrototypeOf(bound) as object, bound),
    ...members("trainer", nn.Trainer.prototype, trainer),
    ...members("batches", data.Batches.prototype, data.batches({ x: [1] }, { batchSize: 1 })),
    ...ofDevice.filter((name) => !hiddenOfDevice.has(name)).map((name) => `device.${name}`),
  ];
  const found = listed("docs/overview.md");
  assert.deepEqual(expected.filter((name) => !found.includes(name)), [], "missing");
  assert.deepEqual(found.filter((name) => !expected.includes(name)), [], "not there");
  assert.deepEqual(found.filter((name, i) => found.indexOf(name) !== i), [], "twice");
});

/** The anchors of a page, as GitHub makes them of headings. */
function anchors(page: string): Set<string> {
  const headings = [...read(page).replaceAll(/^```[\s\S]*?^```$/gm, "").matchAll(/^#+ (.*)$/gm)];
  return new Set(
    headings.map(([, heading]) => heading!.toLowerCase().replaceAll(/[^\w\s-]/g, "").replaceAll(" ", "-")),
  );
}

test("links lead to pages that are there, and from the package to what is in it", () => {
  const { files } = JSON.parse(read("package.json")) as { files: string[] };
  const inPackage = (path: string) =>
    files.some((pattern) =>
      pattern === path || (pattern.endsWith("/*.md") && dirname(path) === dirname(pattern) && path.endsWith(".md"))
    );
  const wrong: string[] = [];
  for (const page of ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", ...docs]) {
    const own = page === "CONTRIBUTING.md"
      ? ""
      : page === "README.md"
      ? read(page).split("## From a clone")[0]!
      : read(page);
    for (const [link, target] of read(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target!)) continue;
      const [file, anchor] = target!.split("#") as [string, string?];
      const path = file === "" ? page : relative(root, join(root, dirname(page), file));
      if (!statSync(join(root, path), { throwIfNoEntry: false })?.isFile()) wrong.push(`${page}: ${target}`);
      else if (anchor !== undefined && !anchors(path).has(anchor)) wrong.push(`${page}: no heading for ${target}`);
      else if (own.includes(link) && !inPackage(path)) wrong.push(`${page}: ${target} is not in the package`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("CONTRIBUTING.md names files that are there", () => {
  const named = [...read("CONTRIBUTING.md").matchAll(/`((?:src|test|docs|scripts|bench|examples|\.ci)\/[\w./-]*)`/g)]
    .map(([, path]) => path!);
  assert.ok(named.length > 40, `${named.length} paths`);
  assert.deepEqual(named.filter((path) => statSync(join(root, path), { throwIfNoEntry: false }) === undefined), []);
});
