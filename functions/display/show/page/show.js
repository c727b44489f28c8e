// Shows events as they come. What they say is foreign: it becomes text, never markup.

const maxRows = 500;

const get = (id) => document.getElementById(id);
const rows = get("events");
const filter = get("filter");
const pause = get("pause");

let coming = []; // not shown yet, the oldest first
let total = 0; // events that the display has had
let missed = 0;
let paused = false;
let live = false;
let last = ""; // id of the latest event

function connect() {
  const source = new EventSource("events" + (last ? "?after=" + encodeURIComponent(last) : ""));
  source.onopen = () => {
    live = true;
    draw();
  };
  source.onmessage = (m) => {
    const e = JSON.parse(m.data);
    last = m.lastEventId;
    total = e.n;
    coming.push(e);
    if (coming.length > maxRows) coming.shift();
  };
  source.addEventListener("missed", (m) => {
    missed += Number(m.data);
  });
  source.onerror = () => {
    live = false;
    draw();
    // After an answer that is no stream, as a 503, the browser does not come again by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  };
}

const node = (name, text, className) => {
  const n = document.createElement(name);
  n.textContent = text;
  if (className) n.className = className;
  return n;
};

function row(e) {
  const attributes = new Map(e.attributes);
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const at = node("time", new Date(e.at).toLocaleTimeString());
  at.dateTime = e.at;
  summary.append(at, node("b", attributes.get("type")), node("span", attributes.get("source"), "source"));
  if (attributes.has("label")) summary.append(node("mark", attributes.get("label")));
  summary.append(node("code", e.kind === "none" ? "no data" : e.data.slice(0, 300)));

  const list = document.createElement("dl");
  for (const [name, value] of e.attributes) list.append(node("dt", name), node("dd", value));
  details.append(summary, list);
  if (e.kind !== "none") details.append(node("pre", e.data));
  const have = e.kind === "hex" ? (e.data.length + 1) / 3 : new TextEncoder().encode(e.data).length;
  if (have < e.size) details.append(node("p", `The first ${have.toLocaleString()} of ${e.size.toLocaleString()} bytes.`, "cut"));

  const li = document.createElement("li");
  li.value = e.n;
  li.append(details);
  li.words = (e.attributes.flat().join("\n") + "\n" + e.data).toLowerCase();
  return li;
}

const wanted = () => filter.value.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (li, words) => words.every((w) => li.words.includes(w));

function draw() {
  const words = wanted();
  if (!paused && coming.length > 0) {
    const some = document.createDocumentFragment();
    for (const e of coming.reverse()) {
      const li = row(e);
      li.hidden = !matches(li, words);
      some.append(li);
    }
    coming = [];
    rows.prepend(some);
    while (rows.childElementCount > maxRows) rows.lastElementChild.remove();
  }
  const here = rows.childElementCount;
  const seen = words.length > 0 ? rows.querySelectorAll(":scope > :not([hidden])").length : here;
  const parts = [live ? "Live" : "Connecting…", `${total.toLocaleString()} ${total === 1 ? "event" : "events"}`];
  if (words.length > 0) parts.push(`${seen.toLocaleString()} of ${here.toLocaleString()} shown`);
  else if (here < total) parts.push(`the latest ${here.toLocaleString()} shown`);
  if (missed > 0) parts.push(`${missed.toLocaleString()} missed: too many at once`);
  if (paused) parts.push(`paused, ${coming.length.toLocaleString()} wait`);
  const text = parts.join(" · ");
  if (get("state").textContent !== text) get("state").textContent = text;
  const none = get("none");
  none.hidden = seen > 0;
  none.textContent = here > 0 ? "No event here has that." : total > 0 ? "Waiting for the next event." : "No event has come yet.";
}

filter.addEventListener("input", () => {
  const words = wanted();
  for (const li of rows.children) li.hidden = !matches(li, words);
  draw();
});
get("tools").addEventListener("submit", (e) => e.preventDefault());
pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Resume" : "Pause";
  pause.setAttribute("aria-pressed", String(paused));
  draw();
});
get("clear").addEventListener("click", () => {
  rows.replaceChildren();
  draw();
});
// Ten times a second, however many come.
setInterval(draw, 100);
connect();
