// Draws the mesh, and keeps its numbers and those of the tables up to date.
import { Graph, layout } from "@dagrejs/dagre";

interface Node { id: string; kind: string; name: string; note: string; link: string }
interface Edge { id: string; from: string; to: string; kind: string; name: string; link: string }
interface State { at: string; cells: Record<string, string>; busy: Record<string, number>; failing: Record<string, boolean>; partial: boolean }

const interval = 5000; // ms between two looks; the server keeps what it found for as long

const read = <T>(id: string): T => JSON.parse(document.getElementById(id)?.textContent ?? "null") as T;
const drawn = read<{ nodes: Node[]; edges: Edge[] }>("graph-data");
let state = read<State>("graph-state");

const svgNS = "http://www.w3.org/2000/svg";
function svg<K extends keyof SVGElementTagNameMap>(name: K, attributes: Record<string, string | number> = {}, text?: string): SVGElementTagNameMap[K] {
  const e = document.createElementNS(svgNS, name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, String(value));
  if (text !== undefined) e.textContent = text;
  return e;
}

const folds = matchMedia("(max-width: 46rem)"); // a phone
const height = 40;
// With room for the rate behind the note.
const rated = (n: Node) => n.kind === "event" || n.kind === "broker";
const widthOf = (n: Node) => Math.max(70, Math.max(n.name.length * 7.1, (n.note.length + (rated(n) ? 11 : 0)) * 5.6) + 20);

// What a box may hide, so that the rest is larger: kinds of flows by what they are for.
const aside: { name: string; of: (id: string) => boolean }[] = [
  { name: "event log and dead letters", of: (id) => /^broker |redrive\.requested|^function platform\/(event-log|dead-letter)|^table event_log/.test(id) },
  { name: "corrections", of: (id) => /\.outdated\.|\.recorded\.|\.repaired\.|\.withdrawn\.|-repair$|unassigned/.test(id) },
  { name: "what is refused", of: (id) => /\.rejected\.|rejected(_rows)?$/.test(id) },
  { name: "lookups", of: (id) => /-port$/.test(id) },
];
// At first without what takes most room and has no Trigger of its own.
const hidden = new Set(["what is refused", "lookups"]);

const box = document.getElementById("graph") as HTMLDivElement;
const canvas = svg("svg", { tabindex: 0, role: "group", "aria-label": "The mesh as a graph. Arrow keys move it, plus and minus zoom, 0 shows all; its nodes are links." });
const scene = svg("g");
const marks = svg("defs");
for (const kind of ["", "takes"]) {
  const marker = svg("marker", { id: `arrow${kind}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" });
  marker.append(svg("path", { d: "M0 0L8 4L0 8z", class: `arrow ${kind}` }));
  marks.append(marker);
}
canvas.append(marks, scene);

let size = { width: 1, height: 1 };
let first = { x: 0, y: 0 }; // the node that the flow begins with
const readable = 0.55; // the least scale at which names can be read
const begun = 0.65; // the scale to begin with where all would be less
let view = { x: 0, y: 0, scale: 1 };

function place() { scene.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`); }

const margin = 16;

function fit() {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = Math.min((width - 2 * margin) / size.width, (height - 2 * margin) / size.height, 1.15);
  view = { scale, x: (width - size.width * scale) / 2, y: (height - size.height * scale) / 2 };
  place();
}

// start shows all where it can be read, and else its begin.
function start() {
  const { width } = canvas.getBoundingClientRect();
  const scale = Math.min((width - 2 * margin) / size.width, 1.15);
  // Beside it there has to be room to scroll the page by.
  const most = folds.matches ? Math.max(360, 0.7 * innerHeight) : 1100;
  canvas.style.height = `${Math.min(most, Math.max(360, size.height * (scale < readable ? begun : scale) + 2 * margin))}px`;
  if (scale >= readable) return fit();
  view = { scale: begun, x: width / 2 - first.x * begun, y: margin };
  place();
}

function zoom(by: number, at?: { x: number; y: number }) {
  const { width, height } = canvas.getBoundingClientRect();
  const { x, y } = at ?? { x: width / 2, y: height / 2 };
  const scale = Math.min(3, Math.max(0.1, view.scale * by));
  view.x = x - (x - view.x) * (scale / view.scale);
  view.y = y - (y - view.y) * (scale / view.scale);
  view.scale = scale;
  place();
}

interface Drawing { nodes: Map<string, { node: Node; element: SVGElement; sub: SVGElement }>; edges: { edge: Edge; element: SVGElement; title: SVGElement; label?: SVGElement }[] }
let drawing: Drawing = { nodes: new Map(), edges: [] };

function draw() {
  const off = aside.filter((a) => hidden.has(a.name));
  const shown = (id: string) => !off.some((a) => a.of(id));
  let nodes = drawn.nodes.filter((n) => shown(n.id));
  const ids = new Set(nodes.map((n) => n.id));
  const edges = drawn.edges.filter((e) => ids.has(e.from) && ids.has(e.to));
  const ends = new Set(edges.flatMap((e) => [e.from, e.to]));
  nodes = nodes.filter((n) => ends.has(n.id));

  const g = new Graph({ multigraph: true });
  // From above: names are long, and screens are wide.
  g.setGraph({ rankdir: "TB", nodesep: 12, ranksep: 30, edgesep: 6, ranker: "network-simplex" });
  g.setDefaultEdgeLabel(() => ({}));
  for (const n of nodes) g.setNode(n.id, { width: widthOf(n), height });
  // A lookup goes against the flow, and is no reason to lay it out otherwise.
  for (const e of edges) {
    const label = e.kind === "takes" ? { width: 84, height: 14, labelpos: "c" } : {};
    g.setEdge(e.from, e.to, { weight: e.kind === "asks" ? 1 : 3, minlen: 1, ...label }, e.id);
  }
  layout(g);

  scene.replaceChildren();
  drawing = { nodes: new Map(), edges: [] };
  for (const e of edges) {
    const way = g.edge({ v: e.from, w: e.to, name: e.id }) as { points?: { x: number; y: number }[]; x?: number; y?: number };
    const points = way.points ?? [];
    // Between two rows that follow each other there is nothing to go around, and
    // the point between them may lie far off, where dagre put it in its order.
    const near = points.length <= 3;
    const path = svg("path", { d: near ? direct(g.node(e.from) as Place, g.node(e.to) as Place) : curve(points), "marker-end": `url(#arrow${e.kind === "takes" ? "takes" : ""})` });
    const element = e.link ? svg("a", { href: e.link, class: `edge ${e.kind}`, tabindex: -1 }) : svg("g", { class: `edge ${e.kind}` });
    const title = svg("title", {}, e.name ? `Trigger ${e.name}` : e.kind);
    element.append(title);
    element.append(path);
    let label: SVGElement | undefined;
    if (e.kind === "takes") {
      const at = near ? path.getPointAtLength(path.getTotalLength() / 2) : { x: way.x ?? 0, y: way.y ?? 0 };
      label = svg("text", { x: at.x, y: at.y + 4, "text-anchor": "middle" });
      element.append(label);
    }
    drawing.edges.push({ edge: e, element, title, label });
    scene.append(element);
  }
  for (const n of nodes) {
    const at = g.node(n.id) as { x: number; y: number; width: number; height: number };
    const element = n.link ? svg("a", { href: n.link }) : svg("g");
    const left = at.x - at.width / 2, top = at.y - at.height / 2;
    element.setAttribute("class", `node ${n.kind}`);
    element.append(svg("title", {}, `${n.kind} ${n.id.slice(n.id.indexOf(" ") + 1)}`), shape(n, left, top, at.width));
    element.append(svg("text", { x: at.x, y: at.y - 2, "text-anchor": "middle" }, n.name));
    const sub = svg("text", { x: at.x, y: at.y + 13, "text-anchor": "middle", class: "sub" }, n.note);
    element.append(sub);
    element.addEventListener("pointerenter", () => choose(n.id));
    element.addEventListener("pointerleave", () => choose());
    element.addEventListener("focus", () => { choose(n.id); show(at); });
    element.addEventListener("blur", () => choose());
    drawing.nodes.set(n.id, { node: n, element, sub });
    scene.append(element);
  }
  const of = g.graph() as { width?: number; height?: number };
  size = { width: of.width ?? 1, height: of.height ?? 1 };
  const begin = nodes.find((n) => n.id.endsWith("telemetry-ingest")) ?? nodes[0];
  if (begin) first = g.node(begin.id) as { x: number; y: number };
  write();
  start();
}

// shape tells kinds apart by more than colour: events are round, tables are drums.
function shape(n: Node, x: number, y: number, width: number): SVGElement {
  if (n.kind === "table" || n.kind === "view") {
    const r = 5;
    return svg("path", {
      d: `M${x} ${y + r}a${width / 2} ${r} 0 0 1 ${width} 0v${height - 2 * r}a${width / 2} ${r} 0 0 1 ${-width} 0zm0 0a${width / 2} ${r} 0 0 0 ${width} 0`,
    });
  }
  return svg("rect", { x, y, width, height, rx: n.kind === "event" || n.kind === "broker" ? height / 2 : 6 });
}

interface Place { x: number; y: number; width: number; height: number }

// direct goes from one row to the next, from the lower or upper side of a box to
// that of the other, a little toward each other.
function direct(from: Place, to: Place): string {
  const down = to.y > from.y ? 1 : -1;
  const toward = (a: Place, b: Place) => a.x + Math.max(-0.3 * a.width, Math.min(0.3 * a.width, 0.2 * (b.x - a.x)));
  const x1 = toward(from, to), x2 = toward(to, from);
  const y1 = from.y + (down * from.height) / 2, y2 = to.y - (down * to.height) / 2, middle = (y1 + y2) / 2;
  return `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`;
}

// curve is a uniform cubic B-spline on the points, which begins and ends at the
// first and the last: it stays within the hull of any four that follow each
// other, so that nothing of it stands out of the way that was left to it.
function curve(points: { x: number; y: number }[]): string {
  const begin = points[0], end = points.at(-1);
  if (!begin || !end) return "";
  const all = [begin, begin, ...points, end, end];
  const third = (a: number, b: number) => (2 * a + b) / 3;
  const at = (i: number) => {
    const a = all[i - 1]!, b = all[i]!, c = all[i + 1]!;
    return `${(a.x + 4 * b.x + c.x) / 6} ${(a.y + 4 * b.y + c.y) / 6}`;
  };
  let d = `M${at(1)}`;
  for (let i = 1; i < all.length - 2; i++) {
    const b = all[i]!, c = all[i + 1]!;
    d += `C${third(b.x, c.x)} ${third(b.y, c.y)} ${third(c.x, b.x)} ${third(c.y, b.y)} ${at(i + 1)}`;
  }
  return d;
}

// choose shows what a node is next to.
function choose(id?: string) {
  box.classList.toggle("chosen", id !== undefined);
  const near = new Set(id === undefined ? [] : [id]);
  for (const { edge, element } of drawing.edges) {
    const on = id !== undefined && (edge.from === id || edge.to === id);
    element.classList.toggle("near", on);
    if (on) near.add(edge.from).add(edge.to);
  }
  for (const [other, { element }] of drawing.nodes) element.classList.toggle("near", near.has(other));
}

// show moves the drawing so that what has the focus is in sight.
function show(at: { x: number; y: number }) {
  const { width, height } = canvas.getBoundingClientRect();
  const x = at.x * view.scale + view.x, y = at.y * view.scale + view.y;
  if (x < 60 || x > width - 60) view.x += width / 2 - x;
  if (y < 30 || y > height - 30) view.y += height / 2 - y;
  place();
}

// write puts the numbers into the drawing and the tables.
function write() {
  for (const { edge, element, title, label } of drawing.edges) {
    const busy = state.busy[edge.id] ?? 0;
    const failing = edge.kind === "takes" && !!state.failing[edge.name];
    element.classList.toggle("idle", busy === 0 && edge.kind !== "stores" && edge.kind !== "reads" && edge.kind !== "asks");
    element.classList.toggle("failing", failing);
    if (!label) continue;
    const cell = (what: string) => state.cells[`trigger ${edge.name} ${what}`] ?? "";
    const lag = cell("p95"), waits = cell("pending") || cell("waits");
    label.textContent = [failing ? "!" : "", busy > 0 ? hourly(busy) : "", busy > 0 ? lag.replace(/^[a-z]+ /, "") : ""].filter((t) => t !== "").join(" ");
    title.textContent = [
      `Trigger ${edge.name}`, `${hourly(busy)} over the last hour`, lag && `lag, 95 of 100: ${lag}`,
      cell("pending") ? `waiting: ${waits}` : waits && `no reply yet: ${waits}`, `dead letters of a day: ${cell("letters") || "0"}`,
    ].filter((t) => t !== "").join("\n");
  }
  for (const [id, { node, element, sub }] of drawing.nodes) {
    const rate = rated(node) ? state.cells[`${node.kind} ${id.slice(id.indexOf(" ") + 1)} rate`] : undefined;
    sub.textContent = rate && rate !== "0" ? `${node.note} · ${rate}` : node.note;
    element.classList.toggle("idle", node.kind !== "table" && node.kind !== "view" && !(state.busy[id] ?? 0));
  }
  for (const cell of document.querySelectorAll<HTMLElement>("[data-live]")) {
    const key = cell.dataset["live"]!;
    if (key === "at") {
      cell.textContent = state.at.slice(0, 19).replace("T", " ") + " UTC";
      continue;
    }
    const text = state.cells[key] ?? "";
    if (cell.textContent !== text) cell.textContent = text;
    cell.classList.toggle("bad-count", / (letters|dead)$/.test(key) && text !== "0" && text !== "");
  }
}

function hourly(n: number): string {
  if (n < 60) return `${n}/h`;
  const perMinute = n / 60;
  return perMinute < 10 ? `${perMinute.toFixed(1)}/min` : `${Math.round(perMinute).toLocaleString("en")}/min`;
}

function button(text: string, label: string, act: () => void): HTMLButtonElement {
  const b = document.createElement("button");
  b.type = "button";
  b.className = "quiet";
  b.textContent = text;
  b.setAttribute("aria-label", label);
  b.addEventListener("click", act);
  return b;
}

const tools = document.createElement("div");
tools.className = "tools";
tools.append(button("+", "Zoom in", () => zoom(1.3)), button("−", "Zoom out", () => zoom(1 / 1.3)), button("All", "Show all", () => { fit(); }));
for (const a of aside) {
  const label = document.createElement("label");
  label.className = "check";
  const check = document.createElement("input");
  check.type = "checkbox";
  check.checked = !hidden.has(a.name);
  check.addEventListener("change", () => {
    if (check.checked) hidden.delete(a.name);
    else hidden.add(a.name);
    draw();
  });
  label.append(check, a.name);
  tools.append(label);
}

const key = document.createElement("div");
key.className = "key";
for (const [text, kind] of [["events of a Broker", "event"], ["function", "function"], ["source", "source"], ["table", "table"], ["view", "view"]] as const) {
  const item = document.createElement("span");
  const picture = svg("svg", { viewBox: `0 0 84 ${height}`, "aria-hidden": "true" });
  const mark = svg("g", { class: `node ${kind}` });
  mark.append(shape({ id: "", kind, name: "", note: "", link: "" }, 2, 2, 80));
  picture.append(mark);
  item.append(picture, text);
  key.append(item);
}
const said = document.createElement("span");
said.textContent = "green: a Trigger, with its events as of the last hour, and its lag, the time that 95 of 100 took at most; red and !: it gave events up within a day; " +
  "in a box: events as of the last five minutes; dashed: reads or asks";
key.append(said);

box.append(tools, canvas, key);
box.hidden = false;
draw();

let width = box.clientWidth;
new ResizeObserver(() => {
  if (Math.abs(box.clientWidth - width) < 2) return;
  width = box.clientWidth;
  start();
}).observe(box);

canvas.addEventListener("keydown", (e) => {
  const step = 60;
  const act: Record<string, () => void> = {
    ArrowLeft: () => { view.x += step; place(); }, ArrowRight: () => { view.x -= step; place(); },
    ArrowUp: () => { view.y += step; place(); }, ArrowDown: () => { view.y -= step; place(); },
    "+": () => zoom(1.2), "=": () => zoom(1.2), "-": () => zoom(1 / 1.2), "0": fit,
  };
  const does = act[e.key];
  if (!does || e.ctrlKey || e.metaKey || e.altKey) return;
  e.preventDefault();
  does();
});
// Alone the wheel scrolls the page.
canvas.addEventListener("wheel", (e) => {
  if (!e.ctrlKey && !e.metaKey) return;
  e.preventDefault();
  const at = canvas.getBoundingClientRect();
  zoom(Math.exp(-e.deltaY / 200), { x: e.clientX - at.left, y: e.clientY - at.top });
}, { passive: false });

const held = new Map<number, { x: number; y: number }>();
let moved = 0;
canvas.addEventListener("pointerdown", (e) => {
  held.set(e.pointerId, { x: e.clientX, y: e.clientY });
  moved = 0;
});
canvas.addEventListener("pointermove", (e) => {
  const before = held.get(e.pointerId);
  if (!before) return;
  const now = { x: e.clientX, y: e.clientY };
  const other = [...held].find(([id]) => id !== e.pointerId)?.[1];
  if (other) {
    const far = (p: { x: number; y: number }) => Math.hypot(p.x - other.x, p.y - other.y);
    const at = canvas.getBoundingClientRect();
    if (far(before) > 0) zoom(far(now) / far(before), { x: (now.x + other.x) / 2 - at.left, y: (now.y + other.y) / 2 - at.top });
  } else {
    view.x += now.x - before.x;
    view.y += now.y - before.y;
    place();
  }
  moved += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
  held.set(e.pointerId, now);
});
for (const end of ["pointerup", "pointercancel", "pointerleave"] as const) canvas.addEventListener(end, (e) => held.delete(e.pointerId));
// Who moved the drawing meant no link.
canvas.addEventListener("click", (e) => { if (moved > 6) e.preventDefault(); }, true);
canvas.addEventListener("dragstart", (e) => e.preventDefault());

// On a phone the rows of a domain are folded until somebody wants them: all of them
// are many screens.
const folding = document.querySelectorAll<HTMLTableSectionElement>("tbody[data-fold]");

function fold(body: HTMLTableSectionElement, away: boolean) {
  body.classList.toggle("folded", away);
  body.querySelector(".group button")?.setAttribute("aria-expanded", String(!away));
}

function foldAll() {
  for (const body of folding) {
    const head = body.querySelector(".group th");
    if (!head) continue;
    const has = head.querySelector("button");
    if (folds.matches && !has) {
      const b = button("", "", () => fold(body, !body.classList.contains("folded")));
      b.removeAttribute("aria-label");
      b.append(...head.childNodes);
      head.append(b);
    } else if (!folds.matches && has) {
      head.replaceChildren(...has.childNodes);
    }
    fold(body, folds.matches);
  }
  unfold();
}

// unfold shows what the address is about.
function unfold() {
  const at = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const body = at?.closest<HTMLTableSectionElement>("tbody.folded");
  if (!at || !body) return;
  fold(body, false);
  at.scrollIntoView();
}
folds.addEventListener("change", foldAll);
addEventListener("hashchange", unfold);
foldAll();

async function look() {
  if (document.visibilityState === "visible") {
    try {
      const answer = await fetch("/api/mesh", { headers: { Accept: "application/json" } });
      if (answer.ok) {
        state = (await answer.json()) as State;
        write();
      } else if (answer.status === 401 || answer.status === 403) {
        return; // logged out
      }
    } catch {
      // The portal is away: the numbers stay, with their time.
    }
  }
  setTimeout(look, interval);
}
setTimeout(look, interval);
