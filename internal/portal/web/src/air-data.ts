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

// Now is how the rooms are at an instant.
export interface Now {
  to: number;
  rooms: Room[];
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

// clock writes instants of a range as the clocks of a zone show them, with the
// year where it is not the same for all.
export function clock(a: Answer, zone: string): (at: number, what: "axis" | "day" | "full") => string {
  const of = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options });
  const [first, last] = [a.from, a.to].map((at) => of({ year: "numeric" }).format(at));
  const year: Intl.DateTimeFormatOptions = first === last ? {} : { year: "numeric" };
  const formats = {
    axis: of({ hour: "2-digit", minute: "2-digit" }),
    day: of({ day: "numeric", month: "short", ...year }),
    full: of({ weekday: "short", day: "numeric", month: "short", ...year, hour: "2-digit", minute: "2-digit" }),
  };
  return (at, what) => formats[what].format(at);
}

export function quantity(v: number): string {
  const size = Math.abs(v);
  return v.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0).replace("-", "−");
}

// merge puts the news of an answer into it: from where they begin on it has what
// they have. What it had there and they have not was corrected or withdrawn.
export function merge(answer: Answer, news: Answer): void {
  answer.series = joined(answer.series, news.series, news.from);
  answer.present = joined(answer.present ?? [], news.present ?? [], news.from);
  const later = <E extends { at: number }>(old: E[] | undefined, add: E[] | undefined) => [...(old ?? []).filter((x) => x.at < news.from), ...(add ?? [])];
  answer.actions = later(answer.actions, news.actions);
  answer.moves = later(answer.moves, news.moves);
  answer.from += news.to - answer.to;
  answer.to = news.to;
}

function joined(old: Series[], news: Series[], from: number): Series[] {
  for (const s of old) {
    const add = news.find((n) => n.key === s.key);
    let keep = s.t.findIndex((t) => t >= from);
    if (keep < 0) keep = s.t.length;
    const length = keep + (add?.t.length ?? 0);
    s.t = s.t.slice(0, keep).concat(add?.t ?? []);
    for (const name of ["mean", "min", "max", "outside"] as const) {
      if (!s[name] && !add?.[name]) continue;
      const was = s[name]?.slice(0, keep) ?? Array<null>(keep).fill(null);
      s[name] = was.concat(add?.[name] ?? Array<null>(length - keep).fill(null));
    }
  }
  return [...old.filter((s) => s.t.length > 0), ...news.filter((n) => !old.some((s) => s.key === n.key))];
}
