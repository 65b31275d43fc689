// Time plots: small ones for tables, and large ones with a scale that answer to the pointer.

import { h } from "./dom.js";
import { span } from "./format.js";

const W = 100;
const H = 24;

function path(values, top, height = H, slots = values.length) {
  const step = W / Math.max(1, slots - 1);
  const from = W - step * (values.length - 1);
  return values
    .map((value, i) => `${i ? "L" : "M"}${(from + i * step).toFixed(2)},${(height - 1 - (value / top) * (height - 2)).toFixed(2)}`)
    .join("");
}

function area(values, top, height, slots) {
  const step = W / Math.max(1, slots - 1);
  const from = W - step * (values.length - 1);
  return `${path(values, top, height, slots)}L${W},${height}L${from.toFixed(2)},${height}Z`;
}

// lines: [[class, values], …]; the first is filled
export function spark(label, lines, slots = 40) {
  const top = Math.max(1, ...lines.flatMap(([, values]) => values));
  return h("svg", { class: "spark", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    h("path", { class: "base", d: `M0,${H - 1}H${W}` }),
    lines.map(([kind, values], i) =>
      values.length > 1 && [
        i === 0 && h("path", { class: `area ${kind}`, d: area(values, top, H, slots) }),
        h("path", { class: `line ${kind}`, d: path(values, top, H, slots) }),
      ]));
}

// A round number that is not below `value`.
function ceiling(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= value);
}

// lines: [{name, kind, values, show}, …], over `ages` (seconds ago, oldest first)
export function chart(title, ages, lines, slots = 150) {
  const height = 100;
  const top = ceiling(Math.max(0, ...lines.flatMap((line) => line.values)));
  const last = lines[0].values.length - 1;
  const show = lines[0].show;
  const reset = (figure) => readout(figure, lines, ages, last, "now");
  return h("figure", { class: "chart", own: false,
    onpointermove: (event) => {
      const figure = event.currentTarget;
      const box = figure.querySelector(".canvas").getBoundingClientRect();
      const slot = Math.round(((event.clientX - box.left) / box.width) * (slots - 1));
      const i = slot - (slots - 1 - last);
      if (i < 0 || i > last) return;
      figure.querySelector(".cursor").setAttribute("d", `M${((slot / (slots - 1)) * W).toFixed(2)},0V${height}`);
      readout(figure, lines, ages, i, `${span(ages[i])} ago`);
    },
    onpointerleave: (event) => {
      event.currentTarget.querySelector(".cursor").setAttribute("d", "");
      reset(event.currentTarget);
    },
  },
    h("figcaption", null, h("span", { class: "title" }, title),
      lines.map((line) => h("span", { class: `key ${line.kind}` }, line.name, " ",
        h("b", { "data-line": line.name }, last < 0 ? "–" : line.show(line.values[last]))))),
    h("div", { class: "canvas" },
      h("svg", { viewBox: `0 0 ${W} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": title },
        [0.5, 1].map((part) => h("path", { class: "base", d: `M0,${height - 1 - part * (height - 2)}H${W}` })),
        h("path", { class: "base strong", d: `M0,${height - 1}H${W}` }),
        lines.map((line, i) => last > 0 && [
          i === 0 && h("path", { class: `area ${line.kind}`, d: area(line.values, top, height, slots) }),
          h("path", { class: `line ${line.kind}`, d: path(line.values, top, height, slots) }),
        ]),
        h("path", { class: "cursor" })),
      h("span", { class: "scale top" }, show(top)),
      show(top / 2) !== show(top) && h("span", { class: "scale mid" }, show(top / 2)),
      last < 1 && h("span", { class: "wait" }, "The first figures come in a few seconds.")),
    h("div", { class: "axis" }, h("span", { class: "when" }, "5 min ago"), h("span", null, "now")));
}

function readout(figure, lines, ages, i, when) {
  for (const line of lines) {
    const node = figure.querySelector(`[data-line="${line.name}"]`);
    if (node && i >= 0) node.textContent = line.show(line.values[i]);
  }
  figure.querySelector(".when").textContent = when === "now" ? "5 min ago" : when;
}
