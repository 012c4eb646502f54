import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { lineChart, type Point } from "./charts.ts";

/** One size of batch and one way of sharing it, and how many batches had them. */
export interface Sharing {
  readonly rows: number;
  /** Names of the devices, and the rows of each. */
  readonly devices: readonly string[];
  readonly shares: readonly number[];
  readonly batches: number;
}

/** A device that was lost. */
export interface Loss {
  /** 1 for the first device of the run. */
  readonly number: number;
  readonly device: string;
  readonly step: number;
  /** What it did then, and what it said. */
  readonly phase: string;
  readonly message: string;
  /** Shards that the others computed instead, and how long after the loss they were there. */
  readonly shardsMoved: number;
  readonly milliseconds: number;
}

/** What a run was and did. */
export interface Run {
  readonly title: string;
  readonly devices: readonly { readonly name: string; readonly kind: string; readonly description: string }[];
  readonly sharing: readonly Sharing[];
  readonly lost: readonly Loss[];
  readonly loss: readonly Point[];
  readonly accuracy: readonly Point[];
  readonly validation: readonly { readonly step: number; readonly loss: number; readonly accuracy: number }[];
  readonly seconds: number;
  readonly rowsPerSecond: number;
  readonly facts: Readonly<Record<string, string>>;
}

/** Writes a page that needs nothing else: no script, no request. */
export async function writeReport(path: string, run: Run): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, await page(run));
}

async function page(run: Run): Promise<string> {
  const at = (key: "loss" | "accuracy"): Point[] =>
    run.validation.map((point) => ({ step: point.step, value: point[key] }));
  const lost = run.lost.map(({ step }) => step);
  const loss = await lineChart({ title: "loss (nats)", format: "~f", train: run.loss, validation: at("loss"), lost });
  const accuracy = await lineChart({
    title: "accuracy",
    format: ".0%",
    train: run.accuracy,
    validation: at("accuracy"),
    lost,
  });
  const last = run.validation.at(-1);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${text(run.title)}</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>${text(run.title)}</h1>
<section class="figures">
${figure("validation accuracy", last === undefined ? "–" : `${(100 * last.accuracy).toFixed(2)}%`)}
${figure("validation loss", last === undefined ? "–" : last.loss.toFixed(4))}
${figure("training time", `${run.seconds.toFixed(1)} s`)}
${figure("images a second", Math.round(run.rowsPerSecond).toLocaleString("en"))}
</section>
<section class="charts">
<figure>${loss}</figure>
<figure>${accuracy}</figure>
</section>
<p class="legend"><span class="train">training, each step and smoothed</span> <span class="validation">validation, after each epoch</span>${
    run.lost.length === 0 ? "" : ' <span class="gone">a device was lost</span>'
  }</p>
${losses(run)}
<h2>How each batch was shared</h2>
${sharing(run)}
<h2>Devices</h2>
${
    table(
      ["device", "kind", "adapter", "rows computed"],
      run.devices.map((device, index) => [
        `${index + 1}  ${device.name}`,
        device.kind,
        device.description,
        run.sharing.reduce(
          (rows, { devices, shares, batches }) => rows + batches * (shares[devices.indexOf(device.name)] ?? 0),
          0,
        ).toLocaleString("en"),
      ]),
    )
  }
<h2>Run</h2>
${table(["", ""], Object.entries(run.facts), "facts")}
</main>
</body>
</html>
`;
}

/** What became of devices that were lost. */
function losses(run: Run): string {
  if (run.lost.length === 0) return "";
  const rows = run.lost.map(({ number, device, step, phase, message, shardsMoved, milliseconds }) => [
    String(step),
    `${number}  ${device}`,
    phase,
    message,
    String(shardsMoved),
    `${milliseconds.toFixed(1)} ms`,
  ]);
  return `<h2>Devices lost</h2>
${table(["step", "device", "what it did", "what happened", "shards moved", "delivered after"], rows)}`;
}

/** One bar a batch size, cut where the devices' shares meet, above the bar of a split by floor division. */
function sharing(run: Run): string {
  return run.sharing.map(({ rows, devices, shares, batches }) => {
    const parts = devices.length;
    const even = Math.floor(rows / parts);
    const lost = rows - even * parts;
    const floor = Array.from({ length: parts }, () => even);
    const note = lost > 0
      ? `Cut by floor division it would be ${even} rows each, and ${lost} of the ${rows} rows lost in every such batch.`
      : shares.every((size) => size === even)
      ? `Nothing is left over: ${even} rows each.`
      : "Nothing is left over.";
    return `<div class="sharing">
<p><b>${count(batches, "batch", "batches")} of ${rows} rows</b> on ${devices.map(text).join(", ")}: ${
      shares.join(", ")
    }. ${note}</p>
${bar(shares, rows)}${lost === 0 ? "" : bar([...floor, lost], rows, true)}
</div>`;
  }).join("\n");
}

function bar(sizes: readonly number[], rows: number, lossy = false): string {
  const cells = sizes.map((size, index) => {
    const missing = lossy && index === sizes.length - 1;
    return `<span class="${missing ? "lost" : lossy ? "floor" : "share"}" style="flex:${size} 1 0;min-width:${
      size === 0 ? 0 : 2
    }px" title="${missing ? `${size} of ${rows} rows lost` : `${size} rows`}">${
      missing || size === 0 ? "" : size
    }</span>`;
  });
  return `<div class="bar">${cells.join("")}</div>`;
}

function figure(label: string, value: string): string {
  return `<div><b>${text(value)}</b><span>${text(label)}</span></div>`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[], name = ""): string {
  const row = (cells: readonly string[], tag: string): string =>
    `<tr>${cells.map((cell) => `<${tag}>${text(cell)}</${tag}>`).join("")}</tr>`;
  const heading = head.every((cell) => cell === "") ? "" : `<thead>${row(head, "th")}</thead>`;
  return `<div class="scroll"><table class="${name}">${heading}<tbody>${
    rows.map((cells) => row(cells, "td")).join("\n")
  }</tbody></table></div>`;
}

function count(n: number, one: string, many: string): string {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

function text(value: string): string {
  return value.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

const style = `
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #22262b; --quiet: #68707a; --rule: #dcdad5; --card: #fff;
  --train: #2563b8; --validation: #c4511d; --share: #2563b8; --share-ink: #fff; --floor: #e7e4de; --lost: #c4511d; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e6e4e0; --quiet: #9aa2ac; --rule: #34383e;
  --card: #1e2125; --train: #74a9f0; --validation: #f0935f; --share: #3d6fb5; --floor: #2c3036; --lost: #f0935f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; font-weight: 600; margin: 0 0 1.5rem; letter-spacing: -0.01em; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 2.5rem 0 0.75rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 0.75rem; }
.figures div { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 0.9rem 1rem; }
.figures b { display: block; font-size: 1.7rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.figures span { color: var(--quiet); font-size: 0.85rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 0.75rem; margin-top: 0.75rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 1rem; text-align: center; }
.legend { color: var(--quiet); font-size: 0.85rem; margin: 0.6rem 0 0; display: flex; gap: 1.5rem; flex-wrap: wrap; }
.legend span::before { content: ""; display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin-right: 0.45em; vertical-align: -0.08em; }
.legend .train::before { background: var(--train); }
.legend .validation::before { background: var(--validation); border-radius: 50%; }
.legend .gone::before { width: 0; height: 1em; border-left: 2px dashed var(--quiet); border-radius: 0; }
.sharing { margin: 0 0 1.25rem; }
.sharing p { margin: 0 0 0.4rem; }
.bar { display: flex; gap: 2px; margin-bottom: 4px; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.bar span { padding: 0.2rem 0; text-align: center; border-radius: 3px; overflow: hidden; }
.bar .share { background: var(--share); color: var(--share-ink); }
.bar .floor { background: var(--floor); color: var(--quiet); }
.bar .lost { background: var(--lost); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--quiet); font-size: 0.85rem; }
th, td { padding: 0.4rem 1rem 0.4rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
.facts td:first-child { color: var(--quiet); white-space: nowrap; width: 14rem; }
`;
