/** Progress of a training run: a bar on a terminal, a line now and then elsewhere. */
import { stderrIsTerminal, stderrLine } from "../../host/host.ts";
import type { Means } from "./history.ts";

/** `auto` is a bar where standard error is a terminal, else lines. */
export type ProgressStyle = "auto" | "bar" | "lines" | "none";

/** Where an epoch stands. Loss and metrics are means over its batches so far. */
export interface ProgressReport {
  readonly epoch: number;
  readonly epochs: number;
  /** Batches done, and those of the epoch; undefined where it is not known. */
  readonly batch: number;
  readonly batches: number | undefined;
  readonly loss: number;
  readonly metrics: Means;
  readonly rowsPerSecond: number;
  /** Time that the rest of the epoch will take at this speed; undefined where its rows are not known. */
  readonly secondsLeft: number | undefined;
}

/** Shows progress. */
export interface Progress {
  update(report: ProgressReport): void;
  /** The end of an epoch; `text` says what came of it. */
  end(text: string): void;
  /** Leaves the terminal as it was; for a run that ends early. Idempotent. */
  stop(): void;
}

export async function progress(style: ProgressStyle = "auto"): Promise<Progress> {
  if (style === "none") return { update: () => {}, end: () => {}, stop: () => {} };
  return style === "bar" || (style === "auto" && stderrIsTerminal()) ? await progressBar() : progressLines(stderrLine);
}

/** Milliseconds from one line to the next within an epoch. */
const between = 10_000;

/** A line at the end of each epoch, and one every ten seconds of a long one. `now` is in milliseconds. */
export function progressLines(write: (line: string) => void, now: () => number = () => performance.now()): Progress {
  let last = now();
  return {
    update(report) {
      const { epoch, epochs, batch, batches } = report;
      if (batch === batches || now() - last < between) return;
      last = now();
      write(`epoch ${epoch}/${epochs}  batch ${batch}/${batches ?? "?"}  ${describe(report)}`);
    },
    end(text) {
      last = now();
      write(text);
    },
    stop() {},
  };
}

async function progressBar(): Promise<Progress> {
  // Loaded here, so that browsers, which have no terminal, need not find it.
  const { default: cliProgress } = await import("cli-progress");
  let bar: InstanceType<typeof cliProgress.SingleBar> | undefined;
  const stop = () => {
    bar?.stop();
    bar = undefined;
  };
  return {
    update(report) {
      if (bar === undefined) {
        bar = new cliProgress.SingleBar({
          format: "epoch {epoch}/{epochs} {bar} {value}/{total}  {text}",
          barsize: 24,
          barCompleteChar: "█",
          barIncompleteChar: "░",
          hideCursor: true,
          fps: 10,
        });
        bar.start(report.batches ?? report.batch, 0, {
          epoch: report.epoch,
          epochs: report.epochs,
          text: "",
        });
      }
      if (report.batches === undefined) bar.setTotal(report.batch);
      bar.update(report.batch, { text: describe(report) });
    },
    end(text) {
      stop();
      stderrLine(text);
    },
    stop,
  };
}

function describe({ loss, metrics, rowsPerSecond, secondsLeft }: ProgressReport): string {
  const left = secondsLeft === undefined ? "" : `  ${formatSeconds(secondsLeft)} left`;
  return `${formatMeans(loss, metrics)}  ${Math.round(rowsPerSecond).toLocaleString("en-US")} rows/s${left}`;
}

/** `loss 0.4523  accuracy 0.8712`. */
export function formatMeans(loss: number, metrics: Means): string {
  return Object.entries({ loss, ...metrics }).map(([name, value]) => `${name} ${value.toFixed(4)}`).join(
    "  ",
  );
}

/** `3.2 s`, `45 s`, `2 min 05 s`, `1 h 02 min`. */
export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor(whole % 3600 / 60)).padStart(2, "0")} min`;
}
