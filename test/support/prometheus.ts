/**
 * A strict reader of the Prometheus text format 0.0.4: it refuses what promtool refuses (samples before their type, unknown types,
 * histograms that do not add up, doubled series, bad names and escapes).
 */
export interface MetricSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}
export interface MetricFamily {
  readonly help: string;
  readonly type: string;
  readonly samples: MetricSample[];
}

const line = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (NaN|[+-]Inf|[-+0-9.eE]+)$/;
const label = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/y;
const types = new Set(['counter', 'gauge', 'histogram', 'summary', 'untyped']);

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  label.lastIndex = 0;
  while (label.lastIndex < text.length) {
    const at = label.lastIndex;
    const match = label.exec(text);
    if (match === null) throw new Error(`bad labels at ${at}: ${text}`);
    const [, name = '', value = ''] = match;
    if (name in labels) throw new Error(`label ${name} twice: ${text}`);
    labels[name] = value.replace(/\\(["\\n])/g, (_, one: string) => (one === 'n' ? '\n' : one));
  }
  return labels;
}

const numberOf = (text: string): number => {
  if (text === 'NaN') return Number.NaN;
  if (text.endsWith('Inf')) return text.startsWith('-') ? -Infinity : Infinity;
  const value = Number(text);
  if (Number.isNaN(value)) throw new Error(`not a number: ${text}`);
  return value;
};

const seriesOf = (name: string, labels: Readonly<Record<string, string>>): string =>
  `${name} ${JSON.stringify(Object.entries(labels).sort())}`;

export interface Metrics {
  readonly families: ReadonlyMap<string, MetricFamily>;
  /** Of the series with exactly these labels. */
  value(name: string, labels?: Readonly<Record<string, string>>): number | undefined;
}

class Reader {
  readonly families = new Map<string, MetricFamily>();
  readonly values = new Map<string, number>();
  readonly #helps = new Map<string, string>();

  read(text: string): void {
    if (text === '') return;
    const comment = /^# (HELP|TYPE) (\S+) (.*)$/.exec(text);
    const [, kind, name = '', rest = ''] = comment ?? [];
    if (kind === 'HELP') this.#help(name, rest);
    else if (kind === 'TYPE') this.#type(name, rest);
    else if (!text.startsWith('#')) this.#sample(text);
  }

  #help(name: string, help: string): void {
    if (this.#helps.has(name)) throw new Error(`HELP of ${name} twice`);
    this.#helps.set(name, help);
  }

  #type(name: string, type: string): void {
    if (this.families.has(name)) throw new Error(`TYPE of ${name} twice`);
    if (!types.has(type)) throw new Error(`no type: ${type}`);
    this.families.set(name, { help: this.#helps.get(name) ?? '', type, samples: [] });
  }

  #sample(text: string): void {
    const match = line.exec(text);
    if (match === null) throw new Error(`not a sample: ${text}`);
    const [, name = '', inner = '', number = ''] = match;
    const { families, values } = this;
    const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ''));
    if (family === undefined) throw new Error(`a sample without a type before it: ${text}`);
    const labels = labelsOf(inner);
    const value = numberOf(number);
    const series = seriesOf(name, labels);
    if (values.has(series)) throw new Error(`twice: ${text}`);
    if (family.type === 'counter' && !(value >= 0)) throw new Error(`a negative counter: ${text}`);
    values.set(series, value);
    family.samples.push({ name, labels, value });
  }
}

export function parseMetrics(text: string): Metrics {
  if (!text.endsWith('\n')) throw new Error('the last line is not ended');
  const reader = new Reader();
  for (const one of text.split('\n')) reader.read(one);
  const { families, values } = reader;
  for (const [name, family] of families)
    if (family.type === 'histogram') checkHistogram(name, family);
  return { families, value: (name, labels = {}) => values.get(seriesOf(name, labels)) };
}

/** Buckets grow, end with +Inf, and agree with the count. */
function checkHistogram(name: string, { samples }: MetricFamily): void {
  const groups = Map.groupBy(samples, ({ labels: { le: _, ...rest } }) => seriesOf(name, rest));
  for (const [series, group] of groups) {
    const buckets = group.filter((sample) => sample.name === `${name}_bucket`);
    let last = 0;
    let bound = -Infinity;
    for (const { labels, value } of buckets) {
      const le = numberOf(labels['le'] ?? 'missing');
      if (!(le > bound) || value < last) throw new Error(`buckets of ${series} do not grow`);
      bound = le;
      last = value;
    }
    const count = group.find((sample) => sample.name === `${name}_count`)?.value;
    if (bound !== Infinity || count !== last) throw new Error(`${series} does not add up`);
    if (!group.some((sample) => sample.name === `${name}_sum`))
      throw new Error(`${series} has no sum`);
  }
}
