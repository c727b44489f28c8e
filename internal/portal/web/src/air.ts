// The page of the air: draws its charts, follows what is stored, and changes the
// page in place. All that it shows is on the page, or in its tables, without it.
import { changed, get, merge, type Answer, type Room as Now } from "./air-data";
import { reach, Room, spark } from "./air-chart";
import type { Drawn } from "./charts";

let end = new AbortController(); // of what the page as it is began

function find<E extends HTMLElement>(selector: string): E | null {
  return document.querySelector<E>(selector);
}

function start(): void {
  end = new AbortController();
  const page = find("#air");
  if (!page) return;
  const zone = page.dataset.zone ?? "UTC";
  if (!new URL(location.href).searchParams.has("tz")) {
    const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (own && own !== zone) {
      void go(changed(location.href, { tz: own }), "replace");
      return;
    }
  }
  forms(page);
  const print = find<HTMLButtonElement>("#print");
  if (print) {
    print.hidden = false;
    print.addEventListener("click", () => window.print());
  }
  const chart = find("#chart");
  if (chart) void room(page, chart, zone);
  else if (find("[data-spark]")) void rooms(page, zone);
  // What is empty as yet becomes a chart with the first reading.
  else listen(page, () => go(location.href, "none"));
}

// go shows another address in place. What cannot be had this way the browser loads.
async function go(address: string, how: "push" | "replace" | "none"): Promise<void> {
  end.abort();
  const mine = new AbortController();
  end = mine;
  try {
    const answer = await fetch(address, { signal: mine.signal, headers: { Accept: "text/html" } });
    const text = await answer.text();
    const next = new DOMParser().parseFromString(text, "text/html");
    const main = next.querySelector("main");
    const old = document.querySelector("main");
    if (!main || !old || !answer.headers.get("Content-Type")?.startsWith("text/html") || new URL(answer.url).pathname !== new URL(address, location.href).pathname) {
      location.assign(address);
      return;
    }
    if (how === "push") history.pushState(null, "", address);
    if (how === "replace") history.replaceState(null, "", address);
    old.replaceChildren(...main.childNodes);
    document.title = next.title;
    start();
    const hash = new URL(address, location.href).hash;
    if (hash) document.getElementById(hash.slice(1))?.scrollIntoView();
  } catch (err) {
    if (!mine.signal.aborted) location.assign(address);
  }
}

// forms sends a choice as it is made, and follows the links within the page.
function forms(page: HTMLElement): void {
  for (const form of page.querySelectorAll<HTMLFormElement>("form[data-changes]")) {
    for (const button of form.querySelectorAll<HTMLElement>("[data-needless]")) button.hidden = true;
    const send = () => {
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value !== "" && typeof value === "string") query.set(name, value);
      void go("/air?" + query.toString(), "push");
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    form.addEventListener("change", (event) => {
      const chosen = event.target;
      if (!(chosen instanceof HTMLSelectElement)) return;
      // What is chosen decides what there is to choose below it.
      const below = { building: ["room", "device"], room: ["device"] }[chosen.name] ?? [];
      for (const name of below) {
        const field = form.elements.namedItem(name);
        if (field instanceof HTMLSelectElement) field.value = "";
      }
      send();
    });
  }
  page.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!link || link.hasAttribute("download") || link.origin !== location.origin || link.pathname !== "/air" || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    void go(link.href, "push");
  });
}

function fail(where: HTMLElement | null, err: unknown): void {
  if (where && !end.signal.aborted) where.textContent = "The chart could not be drawn: " + (err instanceof Error ? err.message : String(err));
}

// room draws the large chart, and keeps it up to date.
async function room(page: HTMLElement, element: HTMLElement, zone: string): Promise<void> {
  const { signal } = end;
  const note = find("#chart-note");
  const address = page.dataset.series ?? "";
  try {
    const answer = await get<Answer>(address, signal);
    const zoom = new URL(location.href).searchParams.get("zoom")?.split("~").map(Number);
    const out = find<HTMLButtonElement>("#zoom-out");
    const into = find<HTMLButtonElement>("#zoom-in");
    let range: [number, number] | null = null;
    let timer = 0;
    const zoomed = (to: [number, number] | null) => {
      range = to;
      if (out) out.hidden = !to;
      if (into) into.hidden = !to;
      clearTimeout(timer);
      timer = window.setTimeout(() => {
        if (!signal.aborted) history.replaceState(null, "", changed(location.href, { zoom: to ? to.map(Math.round).join("~") : "" }));
      }, 200);
    };
    const says = (text: string) => {
      const live = find("#live");
      if (live) live.textContent = text;
    };
    const at = zoom?.length === 2 && zoom.every(Number.isFinite) ? (zoom as [number, number]) : null;
    const chart = new Room(element, answer, zone, says, zoomed, at, (link) => void go(link, "push"));
    zoomed(at);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      chart.drawn.dispose();
    });
    out?.addEventListener("click", () => chart.whole());
    into?.addEventListener("click", () => {
      if (range) void go(changed(location.href, { range: "", zoom: "", step: "", action: "", from: new Date(range[0]).toISOString(), to: new Date(range[1]).toISOString() }), "push");
    });
    if (note) {
      const means = answer.step === "raw" ? "Each point is a reading." : `A point is the mean of ${answer.words}; the band around the line spans the least and the most.`;
      note.textContent = `${means}${answer.persons ? ` The room is meant for ${answer.persons} persons.` : ""} Drag on the bar below the chart to zoom, or use + and − and the arrow keys.`;
    }
    follow(page, () => (range ? null : answer), (since) => refresh(address, answer, since, signal), () => chart.update());
  } catch (err) {
    fail(note, err);
  }
}

// rooms draws the small charts, each when it comes into view.
async function rooms(page: HTMLElement, zone: string): Promise<void> {
  const { signal } = end;
  const address = page.dataset.rooms ?? "";
  try {
    const answer = await get<Answer>(address, signal);
    let axes = reach(answer, 8);
    const drawn = new Map<string, Drawn>();
    const show = (element: HTMLElement) => {
      const series = answer.series.find((s) => s.key === element.dataset.spark);
      if (!series || drawn.has(series.key)) return;
      drawn.set(series.key, spark(element, answer, series, zone, axes));
      seen.unobserve(element);
    };
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) show(entry.target as HTMLElement);
    }, { rootMargin: "200px" });
    const all = () => page.querySelectorAll<HTMLElement>("[data-spark]");
    const observe = () => all().forEach((element) => seen.observe(element));
    observe();
    addEventListener("beforeprint", () => all().forEach(show), { signal });
    const clear = () => {
      seen.disconnect();
      drawn.forEach((d) => d.dispose());
      drawn.clear();
    };
    signal.addEventListener("abort", clear);
    follow(page, () => answer, (since) => refresh(address, answer, since, signal), () => {
      clear();
      axes = reach(answer, 8);
      observe();
    });
  } catch (err) {
    fail(find("#live"), err);
  }
}

// refresh reads what was stored since, and puts it into the answer.
async function refresh(address: string, answer: Answer, since: number, signal: AbortSignal): Promise<void> {
  // A bucket is read again from its begin.
  let from = since;
  if (answer.step !== "raw") {
    from = -Infinity;
    for (const s of answer.series) for (const t of s.t) if (t <= since && t > from) from = t;
    if (from === -Infinity) from = answer.from;
  }
  const news = await get<Answer>(changed(address, { range: "", from: new Date(from).toISOString(), to: "", step: answer.step }), signal);
  for (const add of news.series) {
    const old = answer.series.find((s) => s.key === add.key);
    if (old) merge(old, add);
    else answer.series.push(add);
  }
  const known = new Set((answer.actions ?? []).map((x) => x.id));
  answer.actions = [...(answer.actions ?? []), ...(news.actions ?? []).filter((x) => !known.has(x.id))];
  answer.from += news.to - answer.to;
  answer.to = news.to;
}

// follow keeps a chart and the rooms' tiles up to date.
function follow(page: HTMLElement, of: () => Answer | null, read: (since: number) => Promise<void>, show: () => void): void {
  const { signal } = end;
  listen(page, async (since) => {
    if (!of()) return;
    await read(since);
    if (signal.aborted) return;
    show();
    const { rooms } = await get<{ rooms: Now[] }>(page.dataset.now ?? "", signal);
    for (const now of rooms) tell(page, now);
  });
}

// listen calls heard when readings were stored, with the instant of the earliest
// that it was not called for yet. Only a range that ends now goes on.
function listen(page: HTMLElement, heard: (since: number) => Promise<void>): void {
  const address = page.dataset.stream;
  const { signal } = end;
  if (!address || signal.aborted) return;
  const live = find("#live");
  const source = new EventSource(address);
  signal.addEventListener("abort", () => source.close());
  const say = (text: string) => {
    if (live) live.textContent = text;
  };
  source.addEventListener("open", () => say("● live"));
  source.addEventListener("error", () => say("reconnecting …"));
  let busy = false;
  let earliest = Infinity;
  source.addEventListener("readings", (event) => {
    const { since } = JSON.parse((event as MessageEvent<string>).data) as { since: number };
    earliest = Math.min(earliest, since);
    if (busy) return;
    busy = true;
    void (async () => {
      while (earliest < Infinity && !signal.aborted) {
        const from = earliest;
        earliest = Infinity;
        try {
          await heard(from);
          say("● live");
        } catch (err) {
          if (!signal.aborted) say("not up to date: " + (err instanceof Error ? err.message : String(err)));
        }
      }
      busy = false;
    })();
  });
}

// tell shows how a room is now.
function tell(page: HTMLElement, now: Now): void {
  const tile = page.querySelector<HTMLElement>(`[data-key="${CSS.escape(now.key)}"]`);
  if (!tile) return;
  const set = (name: string, text: string) => {
    const element = tile.querySelector<HTMLElement>(`[data-${name}]`);
    if (element && element.textContent !== text) element.textContent = text;
  };
  tile.classList.toggle("stale", now.stale);
  set("text", now.text || "–");
  set("trend", now.trend && now.trend + " · ");
  set("age", now.age);
  set("word", now.word);
  const badge = tile.querySelector<HTMLElement>("[data-word]");
  if (badge) {
    badge.className = "badge " + now.band;
    badge.hidden = now.word === "";
  }
}

addEventListener("popstate", () => void go(location.href, "none"));
start();
