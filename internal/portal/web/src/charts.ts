// What charts of all pages are made of: the parts of ECharts that they use, and
// the colours of the page.
import * as echarts from "echarts/core";
import { LineChart } from "echarts/charts";
import { DataZoomComponent, GridComponent, LegendComponent, MarkAreaComponent, MarkLineComponent, TooltipComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";

echarts.use([LineChart, GridComponent, TooltipComponent, LegendComponent, DataZoomComponent, MarkLineComponent, MarkAreaComponent, CanvasRenderer]);

export type Chart = echarts.ECharts;
export type Option = echarts.EChartsCoreOption;

// Colours that people tell apart who see no red or no green: Okabe and Ito, darker
// on white and lighter on black where they would be faint.
const series = {
  light: ["#0072b2", "#d55e00", "#00785a", "#a8497d", "#8a6d00", "#3a3a9e"],
  dark: ["#56b4e9", "#f0913a", "#2fc49a", "#e49cc4", "#f0e442", "#a9a9ff"],
};

export interface Palette {
  ink: string;
  faint: string;
  line: string;
  card: string;
  good: string;
  fair: string;
  poor: string;
  series: string[];
}

// palette is that of the page; on paper it is that of the light one.
export function palette(paper = false): Palette {
  if (paper) {
    return { ink: "#16202a", faint: "#55626f", line: "#dfe4e8", card: "#fff", good: "#1b7a43", fair: "#7a6a00", poor: "#b04a00", series: series.light };
  }
  const style = getComputedStyle(document.documentElement);
  const get = (name: string) => style.getPropertyValue("--" + name).trim();
  return {
    ink: get("ink"), faint: get("faint"), line: get("line"), card: get("card"), good: get("good"), fair: get("fair"), poor: get("poor"),
    series: dark.matches ? series.dark : series.light,
  };
}

const dark = matchMedia("(prefers-color-scheme: dark)");

// Drawn is an element with a chart in it.
export interface Drawn {
  chart: Chart;
  paint(): void; // anew, after what is drawn changed
  dispose(): void;
}

// draw makes a chart that follows its element's size, the colours of the page, and
// paper. option is asked for again where colours change.
export function draw(element: HTMLElement, option: (p: Palette) => Option): Drawn {
  const chart = echarts.init(element, undefined, { renderer: "canvas" });
  const paint = (paper: boolean) => chart.setOption(option(palette(paper)), { replaceMerge: ["series"] });
  paint(false);
  const size = new ResizeObserver(() => chart.resize());
  size.observe(element);
  const gone = new AbortController();
  dark.addEventListener("change", () => paint(false), gone);
  addEventListener("beforeprint", () => { paint(true); chart.resize({ animation: { duration: 0 } }); }, gone);
  addEventListener("afterprint", () => { paint(false); chart.resize(); }, gone);
  return {
    chart,
    paint: () => paint(false),
    dispose() {
      gone.abort();
      size.disconnect();
      chart.dispose();
    },
  };
}
