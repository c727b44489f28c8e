// What the server says of the air, and how it is said to people.

export interface Series {
  key: string;
  name: string;
  link?: string;
  t: number[];
  mean: (number | null)[];
  min?: (number | null)[];
  max?: (number | null)[];
  outside?: (number | null)[];
}

export interface Action {
  id: string;
  at: number;
  action: string;
  device?: string;
  key: string; // of the room
  link: string;
}

export interface Move {
  at: number;
  words: string;
  came: boolean;
}

export interface Answer {
  metric: string;
  name: string;
  unit: string;
  step: string;
  words: string;
  from: number;
  to: number;
  zone: string;
  bands?: [number, number];
  series: Series[];
  present?: Series[];
  persons?: number;
  actions?: Action[];
  moves?: Move[];
}

export interface Room {
  key: string;
  text: string;
  unit: string;
  band: string;
  word: string;
  trend: string;
  age: string;
  stale: boolean;
}

// get asks the server; the error says what it said.
export async function get<T>(address: string, signal: AbortSignal): Promise<T> {
  const answer = await fetch(address, { signal, headers: { Accept: "application/json" } });
  if (!answer.ok) {
    const problem: unknown = await answer.json().catch(() => null);
    const detail = problem && typeof problem === "object" && "detail" in problem ? String(problem.detail) : answer.statusText;
    throw new Error(detail);
  }
  return (await answer.json()) as T;
}

// changed is an address with other parameters; an empty value drops one.
export function changed(address: string, changes: Record<string, string>): string {
  const url = new URL(address, location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === "") url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  return url.pathname + url.search + url.hash;
}

// clock writes instants as the clocks of a zone show them.
export function clock(zone: string): (at: number, what: "axis" | "day" | "full") => string {
  const of = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options });
  const formats = {
    axis: of({ hour: "2-digit", minute: "2-digit" }),
    day: of({ day: "numeric", month: "short" }),
    full: of({ weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }),
  };
  return (at, what) => formats[what].format(at);
}

export function quantity(v: number): string {
  const size = Math.abs(v);
  return v.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0).replace("-", "−");
}

// merge puts what is new into a series: what it had from the first new point on is
// that of the new one.
export function merge(old: Series, add: Series): void {
  const first = add.t[0];
  if (first === undefined) return;
  let keep = old.t.findIndex((t) => t >= first);
  if (keep < 0) keep = old.t.length;
  old.t = old.t.slice(0, keep).concat(add.t);
  for (const name of ["mean", "min", "max", "outside"] as const) {
    const was = old[name];
    const is = add[name];
    if (was && is) old[name] = was.slice(0, keep).concat(is);
  }
}
