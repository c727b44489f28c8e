// The list of live events: adds those that come, pauses, opens one over the list.
// What events say is foreign: it becomes text, never markup.

interface LiveEvent {
  key: string;
  link: string;
  source: string;
  type: string;
  short: string;
  subject?: string;
  tenant?: string;
  broker: string;
  received: string;
  delay: string;
  size: string;
  at: string;
}

const maxRows = 300;
const maxHeld = 1000;

const section = document.getElementById("live");
if (section?.dataset.stream) watch(section.dataset.stream);

function watch(address: string): void {
  const rows = get("live-events");
  const state = get("live-state");
  const pause = get("live-pause");
  const clear = get("live-clear");
  const trouble = get("live-trouble");
  const none = get("live-none");
  get("live-reload").hidden = true;
  pause.hidden = clear.hidden = false;

  const known = new Set<string>();
  for (const row of rows.querySelectorAll<HTMLElement>("tr")) known.add(row.dataset.key ?? "");
  let held: LiveEvent[] = []; // while paused, the oldest first
  let uncounted = 0; // of them, that are not kept
  let missed = 0;
  let paused = false;
  let connected = false;
  let refused = false;
  let arrivals: number[] = []; // of the last ten seconds

  const say = () => {
    const now = Date.now();
    arrivals = arrivals.filter((at) => now - at < 10_000);
    const parts: string[] = [];
    const waiting = held.length + uncounted;
    if (paused) parts.push(`Paused, ${waiting} new`);
    else if (refused) parts.push("Not live: close other pages that are, and load this one again");
    else if (!connected) parts.push("Connecting…");
    else if (arrivals.length === 0) parts.push("Live, waiting for events");
    else parts.push(`Live, ${(arrivals.length / 10).toFixed(1)} events a second`);
    if (missed > 0) parts.push(`${missed} missed: too many at once`);
    const text = parts.join(" · ");
    if (state.textContent !== text) state.textContent = text;
    pause.textContent = paused ? (waiting > 0 ? `Resume, show ${waiting} new` : "Resume") : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    none.hidden = rows.childElementCount > 0;
  };

  const show = (events: LiveEvent[], fresh: boolean) => {
    const some = document.createDocumentFragment();
    for (const e of events.slice(-maxRows).reverse()) some.append(row(e, fresh));
    rows.prepend(some);
    while (rows.childElementCount > maxRows) {
      known.delete((rows.lastElementChild as HTMLElement).dataset.key ?? "");
      rows.lastElementChild?.remove();
    }
  };

  let first = true;
  const take = (events: LiveEvent[]) => {
    const fresh = events.filter((e) => !known.has(e.key));
    for (const e of fresh) known.add(e.key);
    const now = Date.now();
    if (!first) for (const _ of fresh) arrivals.push(now);
    if (!paused) {
      show(fresh, !first);
    } else {
      held.push(...fresh);
      uncounted += Math.max(0, held.length - maxHeld);
      held = held.slice(-maxHeld);
    }
    first = false;
  };

  const source = new EventSource(address);
  source.addEventListener("open", () => {
    connected = true;
    say();
  });
  source.addEventListener("error", () => {
    connected = false;
    refused = source.readyState === EventSource.CLOSED; // else the browser comes again by itself
    say();
  });
  source.addEventListener("events", (m) => {
    const some = JSON.parse((m as MessageEvent<string>).data) as { events: LiveEvent[]; missed: number };
    missed += some.missed;
    take(some.events);
    say();
  });
  source.addEventListener("trouble", (m) => {
    const text = (JSON.parse((m as MessageEvent<string>).data) as { text: string }).text;
    trouble.textContent = text;
    trouble.hidden = text === "";
  });
  window.setInterval(say, 1000);

  pause.addEventListener("click", () => {
    paused = !paused;
    if (!paused) {
      show(held, true);
      held = [];
      uncounted = 0;
    }
    say();
  });
  clear.addEventListener("click", () => {
    rows.replaceChildren();
    missed = 0;
    say();
  });
  openOver(rows);
  say();
}

function row(e: LiveEvent, fresh: boolean): HTMLTableRowElement {
  const tr = document.createElement("tr");
  tr.dataset.key = e.key;
  if (fresh) tr.className = "new";
  const cell = (className: string, ...content: (Node | string)[]) => {
    const td = document.createElement("td");
    if (className) td.className = className;
    td.append(...content);
    tr.append(td);
  };
  const time = document.createElement("time");
  time.dateTime = e.at;
  time.textContent = e.received;
  cell("live-time", time);
  const link = document.createElement("a");
  link.href = e.link;
  link.title = e.type;
  link.textContent = e.short;
  cell("live-type", link);
  cell("", e.broker);
  cell("", e.tenant ?? "");
  const from: (Node | string)[] = [e.source];
  if (e.subject) {
    const small = document.createElement("small");
    small.textContent = e.subject;
    from.push(" ", small);
  }
  cell("wrap", ...from);
  cell("n", e.size);
  cell("n", e.delay);
  return tr;
}

// openOver shows the page of an event over the list, which goes on behind it.
function openOver(rows: HTMLElement): void {
  const dialog = get("live-open") as HTMLDialogElement;
  const open = async (address: string) => {
    const response = await fetch(address);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const event = page.getElementById("event");
    if (!response.ok || !event) {
      location.href = address;
      return;
    }
    const bar = document.createElement("div");
    bar.className = "close";
    const whole = document.createElement("a");
    whole.href = address;
    whole.className = "button quiet";
    whole.textContent = "Open as a page";
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    bar.append(whole, close);
    dialog.replaceChildren(bar, document.importNode(event, true));
    if (!dialog.open) dialog.showModal();
    close.focus();
    dialog.scrollTop = 0;
  };
  const follow = (click: MouseEvent) => {
    const link = (click.target as Element).closest<HTMLAnchorElement>("a[href^='/live/event?']");
    if (!link || click.button !== 0 || click.metaKey || click.ctrlKey || click.shiftKey || click.altKey) return;
    if (link.closest(".close")) return;
    click.preventDefault();
    void open(link.href);
  };
  rows.addEventListener("click", follow);
  dialog.addEventListener("click", (click) => {
    if (click.target === dialog) dialog.close();
    else follow(click);
  });
}

function get(id: string): HTMLElement {
  const e = document.getElementById(id);
  if (!e) throw new Error(`no element ${id}`);
  return e;
}
