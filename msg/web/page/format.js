// Numbers, spans and sizes as a person says them.

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10e6) return `${(value / 1e6).toFixed(0)} M`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  return Math.round(value).toLocaleString("en-US");
}

export function rate(value) {
  if (!value) return "0";
  if (value < 9.95) return value.toFixed(1);
  return number(value);
}

export function size(bytes) {
  let value = bytes ?? 0;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024 || unit === "GiB") {
      return unit === "B" || value >= 10 ? `${Math.round(value)} ${unit}` : `${value.toFixed(1)} ${unit}`;
    }
    value /= 1024;
  }
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = Math.max(0, seconds);
  if (value < 0.0095) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 0.95) return `${Math.round(value * 1000)} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 180) return `${Math.round(value)} s`;
  if (value < 3 * 3600) return `${Math.round(value / 60)} min`;
  if (value < 48 * 3600) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.round(value / 86400)} days`;
}

export function clock(text) {
  const when = new Date(text);
  return Number.isNaN(when.getTime()) ? String(text ?? "–") : when.toLocaleTimeString("en-GB");
}

export function many(count, one, more = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : more}`;
}

// A body as text: short on one line, or whole and indented.
export function body(message, whole = false) {
  if (typeof message === "string" && !whole) return JSON.stringify(message);
  return whole ? JSON.stringify(message, null, 2) : JSON.stringify(message);
}
