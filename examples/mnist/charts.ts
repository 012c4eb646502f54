import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

export interface Point {
  readonly step: number;
  readonly value: number;
}

export interface Curve {
  /** For the axis, such as "loss". */
  readonly title: string;
  /** A d3 number format for the axis. */
  readonly format: string;
  /** One value a step, drawn pale, with its moving average drawn over it. */
  readonly train: readonly Point[];
  readonly validation: readonly Point[];
  /** Steps that are marked with a line: those in which a device was lost. */
  readonly lost: readonly number[];
}

/** A line chart as SVG text. Its colours are CSS variables of the page around it, so it follows light and dark. */
export async function lineChart(curve: Curve): Promise<string> {
  const spec: TopLevelSpec = {
    width: 460,
    height: 240,
    background: "transparent",
    layer: [
      line(curve.train, { color: "var(--train)", opacity: 0.25, strokeWidth: 1 }),
      line(smooth(curve.train), { color: "var(--train)", strokeWidth: 2 }),
      ...(curve.validation.length > 1 ? [line(curve.validation, { color: "var(--validation)", strokeWidth: 2 })] : []),
      {
        data: { values: [...curve.validation] },
        mark: { type: "point", filled: true, size: 70, color: "var(--validation)", opacity: 1 },
        encoding: axes(),
      },
      ...curve.lost.map(rule),
    ],
    encoding: {
      x: { field: "step", type: "quantitative", title: "step", axis: { format: "~s", tickCount: 6 } },
      y: {
        field: "value",
        type: "quantitative",
        title: curve.title,
        scale: { zero: false },
        axis: { format: curve.format, tickCount: 6 },
      },
    },
    config: {
      view: { stroke: null },
      font: "inherit",
      axis: {
        domainColor: "var(--rule)",
        tickColor: "var(--rule)",
        gridColor: "var(--rule)",
        gridOpacity: 0.6,
        labelColor: "var(--quiet)",
        titleColor: "var(--quiet)",
        titleFontWeight: "normal",
        labelFontSize: 11,
        titleFontSize: 12,
      },
    },
  };
  const view = new View(parse(compile(spec).spec), { renderer: "none" });
  const svg = await view.toSVG();
  view.finalize();
  return responsive(svg);
}

function axes() {
  return { x: { field: "step", type: "quantitative" }, y: { field: "value", type: "quantitative" } } as const;
}

function line(values: readonly Point[], mark: { color: string; opacity?: number; strokeWidth: number }) {
  return {
    data: { values: [...values] },
    mark: { type: "line", interpolate: "linear", ...mark },
    encoding: axes(),
  } as const;
}

/** A dashed line from top to bottom. */
function rule(step: number) {
  const dashes: number[] = [4, 4];
  return {
    data: { values: [{ step }] },
    mark: { type: "rule", color: "var(--quiet)", strokeDash: dashes },
    encoding: { x: { field: "step", type: "quantitative" }, y: { value: 0 }, y2: { value: "height" } },
  } as const;
}

/** Exponential moving average whose memory is a fiftieth of the run, without the pull towards 0 at its start. */
function smooth(points: readonly Point[]): Point[] {
  const keep = 1 - 1 / Math.max(1, points.length / 50);
  let sum = 0;
  let weight = 0;
  return points.map(({ step, value }) => {
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return { step, value: sum / weight };
  });
}

/** The chart's own width and height become its largest size; below that it shrinks with the page. */
function responsive(svg: string): string {
  return svg.replace(/ width="(\d+)" height="(\d+)"/, ' style="width:100%;max-width:$1px;height:auto"');
}
