// The page of the air: draws its charts, follows what is stored, and changes the
// page in place. All that it shows is on the page, or in its tables, without it.
import { changed, get, merge, type Answer, type Now, type Room as Tile } from "./air-data";
import { reach, Room, spark } from "./air-chart";
import type { Drawn } from "./charts";

let end = new AbortController(); // of what the page as it is began
let heard = ""; // up to where the last stream told: a page that is loaded for it has that

const lookEach = 30_000; // ages of readings are in minutes
const wholeEach = 15 * 60_000; // what came late, and is older than a stream tells of, is on the chart then

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
  else follow(page, null);
}

// go shows another address in place. What cannot be had this way the browser loads.
async function go(address: string, how: "push" | "replace" | "none" | "again"): Promise<void> {
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
    const restore = remember(old, how === "again");
    old.replaceChildren(...main.childNodes);
    document.title = next.title;
    start();
    const hash = new URL(address, location.href).hash;
    restore(hash !== "");
    if (hash) document.getElementById(hash.slice(1))?.scrollIntoView();
  } catch (err) {
    if (!mine.signal.aborted) location.assign(address);
  }
}

type Field = HTMLInputElement | HTMLSelectElement;

// remember notes where somebody is in a page, for the page that takes its place:
// what is open, what has the focus and, where the page only came up to date, what
// was typed. Where what had the focus is no more, its heading has it.
function remember(old: HTMLElement, typed: boolean): (still: boolean) => void {
  const fields = (within: HTMLElement) => [...within.querySelectorAll<Field>("form[id] :is(input:not([type=hidden]), select)[name]")];
  const name = (field: Field) => `#${field.form?.id} [name="${field.name}"]`;
  const open = new Map([...old.querySelectorAll<HTMLDetailsElement>("details[data-keep]")].map((d) => [d.dataset.keep, d.open]));
  const values = new Map(
    fields(old)
      .filter((f) => typed && f instanceof HTMLInputElement && f.value !== f.defaultValue)
      .map((f) => [name(f), f.value]),
  );
  const active = document.activeElement;
  const within = active instanceof HTMLElement && active !== old && old.contains(active) ? active : null;
  let same = "";
  if (within?.closest("form[id]") && within.getAttribute("name")) same = name(within as Field);
  else if (within?.id) same = "#" + CSS.escape(within.id);
  else if (within?.matches("details[data-keep] > summary")) same = `details[data-keep="${CSS.escape((within.parentElement as HTMLElement).dataset.keep ?? "")}"] > summary`;
  const caret = within instanceof HTMLInputElement ? within.selectionStart : null;
  return (still) => {
    for (const d of old.querySelectorAll<HTMLDetailsElement>("details[data-keep]")) d.open = open.get(d.dataset.keep) ?? d.open;
    for (const f of fields(old)) f.value = values.get(name(f)) ?? f.value;
    if (!within) return;
    const found = same ? old.querySelector<HTMLElement>(same) : null;
    if (found) {
      found.focus({ preventScroll: true });
      if (found instanceof HTMLInputElement && caret !== null) found.setSelectionRange(caret, caret);
      return;
    }
    const heading = old.querySelector<HTMLElement>("h1");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus({ preventScroll: still });
  };
}

// forms sends a choice as it is made, and follows the links within the page.
function forms(page: HTMLElement): void {
  for (const form of page.querySelectorAll<HTMLFormElement>("form[data-changes]")) {
    for (const button of form.querySelectorAll<HTMLElement>("[data-needless]")) button.hidden = true;
    const send = () => {
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value !== "" && typeof value === "string") query.set(name, value);
      query.delete("of"); // which a choice of another metric without a script needs
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
      // Thresholds are those of a metric.
      if (chosen.name === "metric") for (const field of form.querySelectorAll<HTMLInputElement>("[name=low], [name=high]")) field.value = "";
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
    out?.addEventListener("click", () => chart.all());
    into?.addEventListener("click", () => {
      if (range) void go(changed(location.href, { range: "", zoom: "", step: "", action: "", from: new Date(range[0]).toISOString(), to: new Date(range[1]).toISOString() }), "push");
    });
    if (note) {
      const means = answer.step === "raw" ? "Each point is a reading." : `A point is the mean of ${answer.words}; the band around the line spans the least and the most.`;
      note.textContent = `${means}${answer.persons ? ` The room is meant for ${answer.persons} persons.` : ""} Drag on the bar below the chart to zoom, or use + and − and the arrow keys.`;
    }
    follow(page, { address, answer, show: () => chart.update() });
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
    follow(page, {
      address,
      answer,
      show() {
        clear();
        axes = reach(answer, 8);
        observe();
      },
    });
  } catch (err) {
    fail(find("#live"), err);
  }
}

// Followed is what is drawn of an answer, and where the answer is from.
interface Followed {
  address: string;
  answer: Answer;
  show(): void;
}

// refresh reads what was stored since, and puts it into the answer.
async function refresh({ address, answer }: Followed, since: number, signal: AbortSignal): Promise<void> {
  // A bucket is read again from its begin.
  let from = since;
  if (answer.step !== "raw") {
    from = -Infinity;
    for (const s of answer.series) for (const t of s.t) if (t <= since && t > from) from = t;
    if (from === -Infinity) from = answer.from;
  }
  merge(answer, await get<Answer>(changed(address, { range: "", from: new Date(from).toISOString(), to: "", step: answer.step }), signal));
}

// follow keeps a page up to date: its tiles, and what is drawn of an answer. Where
// nothing is drawn as yet the first reading makes the page anew.
function follow(page: HTMLElement, drawn: Followed | null): void {
  const { signal } = end;
  if (!page.dataset.stream || signal.aborted) return;
  const live = find("#live");
  const say = (text: string) => {
    if (live && live.textContent !== text) live.textContent = text;
  };
  let whole = Date.now();
  let earliest = Infinity; // of what was stored and is not shown
  let due = false; // a look is
  let busy = false;
  const look = async () => {
    due = true;
    if (busy) return;
    busy = true;
    while (due && !signal.aborted) {
      due = false;
      const since = earliest;
      earliest = Infinity;
      try {
        if (since < Infinity && !drawn) {
          await go(location.href, "again");
          return;
        }
        const { to, rooms } = await get<Now>(page.dataset.now ?? "", signal);
        if (drawn) {
          if (Date.now() - whole > wholeEach) {
            const answer = await get<Answer>(drawn.address, signal);
            for (const name of ["present", "actions", "moves"] as const) delete drawn.answer[name];
            Object.assign(drawn.answer, answer);
            whole = Date.now();
          } else if (since < Infinity) {
            await refresh(drawn, since, signal);
          } else {
            drawn.answer.from += to - drawn.answer.to;
            drawn.answer.to = to;
          }
          if (signal.aborted) return;
          drawn.show();
        }
        for (const room of rooms) tell(page, room);
        if (source.readyState === EventSource.OPEN) say("● live");
      } catch (err) {
        earliest = Math.min(earliest, since); // the next look reads it
        if (!signal.aborted) say("not up to date: " + (err instanceof Error ? err.message : String(err)));
      }
    }
    busy = false;
  };
  const source = new EventSource(heard && !drawn ? changed(page.dataset.stream, { after: heard }) : page.dataset.stream);
  source.addEventListener("open", () => say("● live"));
  // A browser comes again by itself, but for an answer that is no stream.
  source.addEventListener("error", () => say(source.readyState === EventSource.CLOSED ? "looked at each half minute" : "reconnecting …"));
  source.addEventListener("readings", (event) => {
    const { data, lastEventId } = event as MessageEvent<string>;
    heard = lastEventId;
    earliest = Math.min(earliest, (JSON.parse(data) as { since: number }).since);
    void look();
  });
  // All that the page shows is of what there was.
  source.addEventListener("withdrawn", (event) => {
    heard = (event as MessageEvent<string>).lastEventId;
    void go(location.href, "again");
  });
  const awake = () => {
    if (!document.hidden) void look();
  };
  const timer = setInterval(awake, lookEach);
  document.addEventListener("visibilitychange", awake, { signal });
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    source.close();
  });
}

// tell shows how a room is now.
function tell(page: HTMLElement, now: Tile): void {
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
