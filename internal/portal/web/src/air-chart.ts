// The charts of the air: one of a room with all that happened there, and a small
// one of each room.
import { draw, type Drawn, type Option, type Palette } from "./charts";
import { clock, quantity, type Answer, type Series } from "./air-data";

type Line = Record<string, unknown>;
type Pair = [number, number | null];

const dashes = ["solid", "dashed", "dotted"]; // beside colours, that tell devices apart

function pairs(s: Series, of: (number | null)[]): Pair[] {
  return s.t.map((t, i) => [t, of[i] ?? null]);
}

// roomOf is the key of the room that a series is of.
function roomOf(s: Series): string {
  return s.key.split("/", 3).join("/");
}

function alpha(colour: string, hex: string): string {
  return /^#[0-9a-f]{6}$/i.test(colour) ? colour + hex : colour;
}

// Reach is what an axis spans, and the step between its lines.
export interface Reach {
  min: number;
  max: number;
  interval: number;
}

// reach is from the least to the most that any series has, with what must be seen
// besides, in about so many steps of a round size.
export function reach(a: Answer, lines: number): Reach {
  let least = Infinity;
  let most = -Infinity;
  const see = (v: number | null | undefined) => {
    if (v === null || v === undefined) return;
    least = Math.min(least, v);
    most = Math.max(most, v);
  };
  for (const s of a.series) {
    s.mean.forEach(see);
    s.min?.forEach(see);
    s.max?.forEach(see);
    s.outside?.forEach(see);
  }
  if (most < least) return { min: 0, max: 1, interval: 1 };
  if (a.bands) most = Math.max(most, a.bands[0] * 1.02);
  const rough = (most - least || Math.abs(most) || 1) / lines;
  const size = 10 ** Math.floor(Math.log10(rough));
  const interval = size * ([1, 2, 5, 10].find((n) => n * size >= rough) ?? 10);
  return { min: Math.floor(least / interval) * interval, max: Math.ceil((most + rough / 10) / interval) * interval, interval };
}

// axisOf labels instants: days at midnight, hours between.
function axisOf(a: Answer, colours: Palette, show: (at: number, what: "axis" | "day" | "full") => string): Line {
  return {
    type: "time",
    min: a.from,
    max: a.to,
    axisLine: { lineStyle: { color: colours.line } },
    axisTick: { lineStyle: { color: colours.line } },
    splitLine: { show: false },
    axisLabel: {
      color: colours.faint,
      hideOverlap: true,
      formatter: (at: number) => {
        const time = show(at, "axis");
        return time === "00:00" ? show(at, "day") : time;
      },
    },
  };
}

function bandMarks(a: Answer, colours: Palette, top: number, labels: boolean): Line {
  if (!a.bands) return {};
  const [low, high] = a.bands;
  const area = (from: number | undefined, to: number | undefined, colour: string, hex: string) => [
    { yAxis: from, itemStyle: { color: alpha(colour, hex) } },
    { yAxis: to },
  ];
  return {
    markArea: {
      silent: true,
      data: [area(low, Math.min(high, top), colours.fair, "1c"), ...(high < top ? [area(high, top, colours.poor, "22")] : [])],
    },
    bandLines: [low, high]
      .filter((v) => v < top)
      .map((v, i) => ({
        yAxis: v,
        lineStyle: { color: i === 0 ? colours.fair : colours.poor, width: 1, type: i === 0 ? "dashed" : "solid" },
        label: { show: labels, position: "insideStartTop", formatter: `${quantity(v)} ${a.unit}`, color: colours.faint, fontSize: 11 },
      })),
  };
}

// Room is the large chart.
export class Room {
  readonly drawn: Drawn;
  private readonly show: ReturnType<typeof clock>;
  private at = -1; // the point that keys are at
  private from: number;
  private to: number;
  private whole = true; // what is seen is all that there is

  constructor(
    private readonly element: HTMLElement,
    public answer: Answer,
    zone: string,
    private readonly says: (text: string) => void,
    private readonly zoomed: (range: [number, number] | null) => void,
    zoom: [number, number] | null,
    private readonly open: (address: string) => void,
  ) {
    this.show = clock(answer, zone);
    [this.from, this.to] = zoom ?? [answer.from, answer.to];
    this.whole = !zoom;
    this.drawn = draw(element, (p) => this.option(p));
    const chart = this.drawn.chart;
    chart.on("datazoom", () => {
      const zoomOption = (chart.getOption() as { dataZoom: { startValue: number; endValue: number }[] }).dataZoom[0];
      if (!zoomOption) return;
      const { startValue, endValue } = zoomOption;
      const span = this.answer.to - this.answer.from;
      this.whole = startValue <= this.answer.from + span / 1000 && endValue >= this.answer.to - span / 1000;
      [this.from, this.to] = [startValue, endValue];
      this.drawn.paint();
      this.zoomed(this.whole ? null : [startValue, endValue]);
    });
    chart.on("click", (event) => {
      const link = (event.data as { link?: string } | undefined)?.link;
      if (link) this.open(link);
    });
    element.addEventListener("keydown", (event) => this.key(event));
  }

  // all is shown again.
  all(): void {
    this.zoom(this.answer.from, this.answer.to);
  }

  private zoom(startValue: number, endValue: number): void {
    this.drawn.chart.dispatchAction({ type: "dataZoom", startValue, endValue });
  }

  // update draws what came. A part that is seen enlarged stays, as long as it is in
  // the range.
  update(): void {
    if (!this.whole && this.to <= this.answer.from) {
      this.whole = true;
      this.zoomed(null);
    }
    [this.from, this.to] = this.whole ? [this.answer.from, this.answer.to] : [Math.max(this.from, this.answer.from), this.to];
    this.drawn.paint();
  }

  private key(event: KeyboardEvent): void {
    const line = this.answer.series[0];
    if (!line || event.ctrlKey || event.metaKey || event.altKey) return;
    const points = line.t.map((_, i) => i).filter((i) => line.mean[i] !== null && (line.t[i] ?? 0) >= this.from && (line.t[i] ?? 0) <= this.to);
    const now = points.findIndex((i) => i >= this.at);
    const middle = (this.from + this.to) / 2;
    const half = (this.to - this.from) / 2;
    const moved: Record<string, () => void> = {
      ArrowRight: () => this.point(line, points[Math.min(this.at < 0 ? 0 : now + 1, points.length - 1)]),
      ArrowLeft: () => this.point(line, points[Math.max(this.at < 0 ? points.length - 1 : now - 1, 0)]),
      Home: () => this.point(line, points[0]),
      End: () => this.point(line, points.at(-1)),
      "+": () => this.zoom(middle - half / 2, middle + half / 2),
      "-": () => this.zoom(Math.max(this.answer.from, middle - half * 2), Math.min(this.answer.to, middle + half * 2)),
      Escape: () => this.all(),
    };
    const move = moved[event.key];
    if (!move) return;
    event.preventDefault();
    move();
  }

  private point(line: Series, i: number | undefined): void {
    if (i === undefined) return;
    this.at = i;
    this.drawn.chart.dispatchAction({ type: "showTip", seriesIndex: 0, dataIndex: i });
    this.says(`${this.show(line.t[i] ?? 0, "full")}: ${quantity(line.mean[i] ?? 0)} ${this.answer.unit}`);
  }

  // spaced says which of some instants have room for a label, of the height of a
  // line of text that stands upright.
  private spaced(times: number[]): boolean[] {
    const pixels = Math.max(this.element.clientWidth - 80, 100);
    let last = -Infinity;
    return times.map((t) => {
      if (t < this.from || t > this.to) return false;
      const x = ((t - this.from) / (this.to - this.from)) * pixels;
      if (x - last < 15) return false;
      last = x;
      return true;
    });
  }

  private happenings(colours: Palette, spans: Reach): Line[][] {
    const all = [
      ...(this.answer.actions ?? []).map((x) => ({ at: x.at, text: x.action, link: x.link, moved: false })),
      ...(this.answer.moves ?? []).map((m) => ({ at: m.at, text: m.words, link: "", moved: true })),
    ].sort((a, b) => a.at - b.at);
    const labelled = this.spaced(all.map((x) => x.at));
    // Many lines would hide what they are about: then they are short.
    const crowded = all.filter((x) => x.at >= this.from && x.at <= this.to).length > 24;
    const foot = crowded ? spans.max - (spans.max - spans.min) / 12 : spans.min;
    return all.map((x, i) => [{
      coord: [x.at, foot],
      name: x.text,
      link: x.link,
      lineStyle: { color: x.moved ? colours.faint : colours.ink, type: x.moved ? "dotted" : "solid", width: 1, opacity: 0.55 },
      label: {
        show: labelled[i] && !crowded,
        position: "insideEndBottom",
        formatter: x.text.length > 34 ? x.text.slice(0, 33) + "…" : x.text,
        color: x.moved ? colours.faint : colours.ink,
        fontSize: 11,
        textBorderColor: colours.card,
        textBorderWidth: 3,
      },
    }, { coord: [x.at, spans.max] }]);
  }

  private option(colours: Palette): Option {
    const a = this.answer;
    const spans = reach(a, 8);
    const { bandLines, ...bands } = bandMarks(a, colours, spans.max, true) as { bandLines?: Line[] };
    const persons = (a.present ?? []).length > 0;
    const lines: Line[] = a.series.map((s, i) => ({
      name: s.name,
      type: "line",
      data: pairs(s, s.mean),
      showSymbol: s.t.length < 60,
      symbolSize: 4,
      sampling: "lttb",
      connectNulls: false,
      lineStyle: { width: 1.8, type: dashes[Math.floor(i / colours.series.length) % dashes.length] },
      color: colours.series[i % colours.series.length],
      emphasis: { disabled: true },
      z: 5,
    }));
    const marks = { type: "line", data: [], silent: true };
    lines.push(
      { ...marks, ...bands, markLine: { silent: true, symbol: "none", animation: false, data: bandLines ?? [] } },
      { ...marks, silent: false, markLine: { symbol: ["none", "circle"], symbolSize: 5, animation: false, data: this.happenings(colours, spans) } },
    );
    a.series.forEach((s, i) => {
      if (!s.min || !s.max) return;
      const silent = { type: "line", stack: "reach " + i, stackStrategy: "all", symbol: "none", silent: true, lineStyle: { opacity: 0 }, tooltip: { show: false }, emphasis: { disabled: true }, z: 2 };
      lines.push(
        { ...silent, data: pairs(s, s.min) },
        { ...silent, data: s.t.map((t, j) => [t, s.max?.[j] == null || s.min?.[j] == null ? null : s.max[j] - s.min[j]]), areaStyle: { color: colours.series[i % colours.series.length], opacity: 0.16 } },
      );
    });
    // Devices of a room have the same air outside.
    const rooms = new Map<string, Series>();
    for (const s of a.series) if (s.outside && !rooms.has(roomOf(s))) rooms.set(roomOf(s), s);
    const words = (room: string) => room.split("/").map(decodeURIComponent).filter(Boolean).join(" · ");
    const outside = [...rooms].map(([room, s]) => ({ name: rooms.size > 1 ? `outside, ${words(room) || s.name}` : "outside", s }));
    outside.forEach(({ name, s }, i) => {
      lines.push({ name, type: "line", data: pairs(s, s.outside ?? []), symbol: "none", step: "end", color: colours.faint, lineStyle: { type: [6, 4 + 4 * i], width: 1.4 }, emphasis: { disabled: true } });
    });
    for (const s of a.present ?? []) {
      lines.push({ name: "persons counted", type: "line", step: "end", xAxisIndex: 1, yAxisIndex: 1, data: pairs(s, s.mean), symbol: "none", color: colours.ink, lineStyle: { width: 1 }, areaStyle: { opacity: 0.12 }, emphasis: { disabled: true } });
    }
    const axis = axisOf(a, colours, this.show);
    const small = this.element.clientWidth < 560;
    const left = small ? 44 : 52;
    const right = small ? 12 : 18;
    const y = (more: Line): Line => ({ type: "value", splitLine: { lineStyle: { color: colours.line } }, axisLabel: { color: colours.faint }, nameTextStyle: { color: colours.faint, align: "left" }, ...more });
    return {
      animation: false,
      textStyle: { fontFamily: "system-ui, sans-serif" },
      useUTC: a.zone === "UTC",
      grid: persons
        ? [{ left, right, top: 46, bottom: 150 }, { left, right, height: 44, bottom: 78 }]
        : [{ left, right, top: 46, bottom: 74 }],
      legend: {
        type: "plain",
        top: 0,
        left: 0,
        icon: "roundRect",
        itemWidth: 18,
        itemHeight: 3,
        textStyle: { color: colours.faint },
        data: [...a.series.slice(0, 8).map((s) => s.name), ...outside.map((o) => o.name), ...(persons ? ["persons counted"] : [])],
      },
      xAxis: persons ? [{ ...axis, axisLabel: { show: false } }, { ...axis, gridIndex: 1 }] : [axis],
      yAxis: persons
        ? [y({ name: a.unit, ...spans }), y({ gridIndex: 1, min: 0, minInterval: 1, splitNumber: 1, name: "persons", nameGap: 4, nameTextStyle: { color: colours.faint, align: "left", fontSize: 11 } })]
        : [y({ name: a.unit, ...spans })],
      dataZoom: [
        { type: "slider", xAxisIndex: persons ? [0, 1] : [0], startValue: this.from, endValue: this.to, filterMode: "none", bottom: 8, height: 26, left, right,
          borderColor: colours.line, backgroundColor: "transparent", fillerColor: alpha(colours.series[0] ?? "", "22"), handleStyle: { color: colours.card, borderColor: colours.faint },
          moveHandleStyle: { color: colours.faint, opacity: 0.4 }, dataBackground: { lineStyle: { color: colours.faint, opacity: 0.5 }, areaStyle: { color: colours.faint, opacity: 0.1 } },
          selectedDataBackground: { lineStyle: { color: colours.series[0] }, areaStyle: { color: colours.series[0], opacity: 0.1 } },
          textStyle: { color: colours.faint, fontSize: 10 }, labelFormatter: (at: number) => this.show(at, "full"), realtime: false },
        { type: "inside", xAxisIndex: persons ? [0, 1] : [0], filterMode: "none", zoomOnMouseWheel: "ctrl", moveOnMouseMove: false, moveOnMouseWheel: false, throttle: 100 },
      ],
      tooltip: {
        trigger: "axis",
        renderMode: "richText",
        confine: true,
        backgroundColor: colours.card,
        borderColor: colours.line,
        textStyle: { color: colours.ink, fontSize: 12 },
        axisPointer: { type: "line", lineStyle: { color: colours.faint } },
        formatter: (items: unknown) => this.tip(items as { axisValue: number; seriesName: string; value: Pair }[]),
      },
      series: lines,
    };
  }

  private tip(items: { axisValue: number; seriesName: string; value: Pair }[]): string {
    const at = items[0]?.axisValue;
    if (at === undefined) return "";
    const lines = [this.show(at, "full")];
    for (const item of items) {
      const value = item.value[1];
      if (value === null || /^series\d/.test(item.seriesName) || item.seriesName === "") continue;
      let line = `${item.seriesName}: ${quantity(value)}${item.seriesName.startsWith("persons") ? "" : " " + this.answer.unit}`;
      const s = this.answer.series.find((s) => s.name === item.seriesName);
      const i = s?.t.indexOf(item.value[0]) ?? -1;
      const [low, high] = [s?.min?.[i], s?.max?.[i]];
      if (low != null && high != null) line += ` (${quantity(low)} to ${quantity(high)})`;
      lines.push(line);
    }
    const near = (this.to - this.from) / 100;
    for (const x of this.answer.actions ?? []) {
      if (Math.abs(x.at - at) < near) lines.push(`${this.show(x.at, "axis")} ${x.action}`);
    }
    return lines.join("\n");
  }
}

// spark draws the small chart of a room. All have the same axes.
export function spark(element: HTMLElement, a: Answer, s: Series, zone: string, spans: Reach): Drawn {
  const show = clock(a, zone);
  return draw(element, (colours) => {
    const { bandLines, ...bands } = bandMarks(a, colours, spans.max, false) as { bandLines?: Line[] };
    const actions = (a.actions ?? []).filter((x) => s.key.startsWith(x.key + "/"));
    const axis = axisOf(a, colours, show);
    return {
      animation: false,
      textStyle: { fontFamily: "system-ui, sans-serif" },
      useUTC: a.zone === "UTC",
      grid: { left: 40, right: 8, top: 8, bottom: 20 },
      xAxis: { ...axis, splitNumber: 3, axisLabel: { ...(axis.axisLabel as Line), fontSize: 10 } },
      yAxis: { type: "value", ...spans, interval: (spans.max - spans.min) / 2, splitLine: { lineStyle: { color: colours.line } }, axisLabel: { color: colours.faint, fontSize: 10, formatter: (v: number) => quantity(v).replace(/\.0+$/, "") } },
      series: [
        {
          type: "line", data: pairs(s, s.mean), symbol: "none", sampling: "lttb", silent: true, color: colours.series[0], lineStyle: { width: 1.5 }, z: 5, ...bands,
          markLine: { silent: true, symbol: "none", animation: false, data: [...(bandLines ?? []), ...actions.map((x) => [{ coord: [x.at, spans.max], label: { show: false }, lineStyle: { color: colours.ink, type: "solid", width: 1, opacity: 0.7 } }, { coord: [x.at, spans.max - (spans.max - spans.min) / 6] }])] },
        },
      ],
    };
  });
}
