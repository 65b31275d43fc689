// The actor tree as a picture: who runs under whom, how full each mailbox is, who waits on whom.
//
// Each row is an actor, so three thousand are as readable as three: what is alike is folded into
// one row by the broker, the most telling ones first, and opens on a click.

import { get } from "./api.js";
import { h } from "./dom.js";
import { many, number, size, span } from "./format.js";
import { link } from "./parts.js";

const BOX = 26;
// on a phone, what there is to know stands under each actor instead of beside it
const WIDE = { row: 34, indent: 26, name: 264 };
const NARROW = { row: 48, indent: 14, name: 250 };
const NARROW_PX = 760;

export const tree = {
  enter: (state) => { state.expand = new Set(); },
  load: ({ state }) => get("tree", { fold: 20, expand: [...state.expand].join(",") }),
  draw: (data, ctx) => {
    const stuck = data.actors.filter((actor) => !["running", "starting", "folded"].includes(actor.state)).length;
    return [
      h("div", { class: "bar" }, h("h1", null, "Actors", h("span", { class: "count" }, number(data.count))),
        h("div", { class: "buttons" },
          ctx.state.expand.size > 0 && h("button", { onclick: () => { ctx.state.expand.clear(); ctx.again(); } }, "Fold again"),
          h("a", { class: "button", href: "tree?format=svg", target: "_blank" }, "SVG"),
          h("a", { class: "button", href: "tree?format=text&stacks=1", target: "_blank" }, "Text with stacks"),
          h("a", { class: "button", href: "tree?format=dot", target: "_blank" }, "Graphviz"))),
      data.knots.length > 0 && h("section", { class: "card pad" }, h("ul", { class: "causes" }, data.knots.map((knot) => h("li", { class: "stuck" }, h("i", { class: "mark stuck" }), h("div", null, h("p", null, knot)))))),
      h("p", { class: "legend" },
        h("span", null, h("i", { class: "mark ok" }), "runs"), h("span", null, h("i", { class: "mark slow" }), "waits or is paused"), h("span", null, h("i", { class: "mark stuck" }), "failed or stuck"),
        h("span", null, h("i", { class: "gauge" }), "how full its mailbox is"),
        stuck > 0 && h("b", null, `${many(stuck, "actor")} not simply running`)),
      h("section", { class: "card tree" }, picture(data, ctx)),
    ];
  },
};

function picture(data, ctx) {
  const rows = ordered(data.actors);
  const narrow = window.innerWidth < NARROW_PX;
  const { row: ROW, indent: INDENT, name: NAME } = narrow ? NARROW : WIDE;
  const room = { NAME, narrow };
  const place = new Map(rows.map(({ actor, depth }, i) => [actor.name, { x: 14 + depth * INDENT, y: 12 + i * ROW }]));
  const waits = data.waits.filter((wait) => wait.since_s >= 0.5 && place.has(wait.from));
  const outside = [...new Set(waits.map((wait) => wait.to).filter((name) => !place.has(name)))];
  outside.forEach((name, i) => place.set(name, { x: 14 + INDENT, y: 12 + (rows.length + i) * ROW }));
  const deepest = Math.max(...rows.map(({ depth }) => depth), 1);
  const facts = narrow ? 0 : 14 + deepest * INDENT + NAME + 20;
  const arcs = narrow ? 14 + deepest * INDENT + NAME + 20 : facts + 400;
  const width = arcs + (waits.length ? 200 : 20);
  const height = 24 + (rows.length + outside.length) * ROW;
  return h("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "The tree of actors" },
    h("defs", null, h("marker", { id: "tip", viewBox: "0 0 8 8", refX: "7", refY: "4", markerWidth: "7", markerHeight: "7", orient: "auto" }, h("path", { class: "tip", d: "M0,0 L8,4 L0,8 z" }))),
    rows.map(({ actor }) => {
      const up = place.get(actor.parent);
      const here = place.get(actor.name);
      return up && h("path", { key: `l ${actor.name}`, class: "link", d: `M${up.x + 11},${up.y + BOX}V${here.y + BOX / 2 - 6}q0,6 6,6H${here.x}` });
    }),
    rows.map(({ actor }) => row(actor, place.get(actor.name), facts, room, ctx)),
    outside.map((name) => row({ name, kind: "outside", state: "outside" }, place.get(name), facts, room, ctx)),
    waits.map((wait, i) => {
      const from = place.get(wait.from);
      const to = place.get(wait.to);
      const y1 = from.y + BOX / 2;
      const y2 = to.y + BOX / 2;
      const out = arcs + 20 + (i % 6) * 16;
      return h("g", { key: `w ${wait.from} ${wait.to} ${wait.what}`, class: "wait" },
        h("path", { d: `M${arcs - 8},${y1}C${out + 30},${y1} ${out + 30},${y2} ${arcs - 8},${y2}`, "marker-end": "url(#tip)" },
          h("title", null, `${wait.from} waits on ${wait.to} for ${wait.what}, ${span(wait.since_s)}`)),
        h("text", { x: out + 28, y: (y1 + y2) / 2 + 4 }, `${wait.what}, ${span(wait.since_s)}`));
    }));
}

// Parents before children, as the broker gives them; with how deep each is.
function ordered(actors) {
  const below = new Map();
  for (const actor of actors) {
    const under = actor.parent ?? "";
    if (!below.has(under)) below.set(under, []);
    below.get(under).push(actor);
  }
  const rows = [];
  const put = (name, depth) => {
    for (const actor of below.get(name) ?? []) {
      rows.push({ actor, depth });
      put(actor.name, depth + 1);
    }
  };
  put("", 0);
  return rows;
}

const LEVEL = { running: "ok", starting: "note", folded: "note", outside: "note", waiting: "slow", paused: "slow", failed: "stuck", stuck: "stuck" };

function row(actor, { x, y }, facts, { NAME, narrow }, ctx) {
  const box = actor.mailbox;
  const used = box?.room ? Math.min(1, Math.max(box.depth, box.room - (box.free ?? box.room)) / box.room) : 0;
  const level = LEVEL[actor.state] ?? "slow";
  const [kind, ...rest] = actor.name.split(" ");
  const title = actor.folded || !rest.length || !["queue", "topic", "connection"].includes(kind) ? actor.name : rest.join(" ");
  const tag = title === actor.name ? "" : kind;
  const open = actor.folded
    ? () => { ctx.state.expand.add(actor.kind); ctx.again(); }
    : ["queue", "topic", "connection"].includes(actor.kind)
      ? () => { location.hash = link(actor.kind, rest.join(" ")); }
      : null;
  return h("g", {
    key: actor.name, class: `actor ${level} k-${actor.kind} ${open ? "opens" : ""}`, onclick: open, tabindex: open ? "0" : null,
    role: open ? "link" : null, onkeydown: open && ((event) => { if (event.key === "Enter") open(); }),
  },
    h("title", null, actor.folded ? "Click to show them all" : `${actor.name}: ${actor.state}${box ? `, mailbox ${box.depth} of ${box.room}` : ""}`),
    h("rect", { class: "box", x, y, width: NAME, height: BOX, rx: "6" }),
    h("circle", { class: "dot", cx: x + 13, cy: y + BOX / 2, r: "4" }),
    h("text", { class: "name", x: x + 25, y: y + 17 }, cut(title, box ? 27 : 32), tag && title.length < 20 && h("tspan", { class: "tag", dx: "7" }, tag)),
    box?.room && [
      h("rect", { class: "bar", x: x + NAME - 40, y: y + 10, width: "32", height: "6", rx: "3" }),
      used > 0 && h("rect", { class: used >= 1 ? "full" : "fill", x: x + NAME - 40, y: y + 10, width: Math.max(3, 32 * used), height: "6", rx: "3" }),
    ],
    narrow
      ? h("text", { class: "facts small", x: x + 25, y: y + BOX + 13 }, cut(told(actor), 46))
      : h("text", { class: "facts", x: facts, y: y + 17 }, cut(told(actor), 62)));
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function told(actor) {
  const parts = [];
  const say = (value, one, more) => value && parts.push(many(value, one, more));
  if (!["running", "folded", "outside"].includes(actor.state)) parts.push(actor.state);
  if (actor.waits_on?.length) parts.push(`waits for ${actor.waits_on[0].what}`);
  for (const key of ["ready", "leased", "delayed", "dead"]) say(actor[key], key, key);
  say(actor.consumers, "consumer");
  say(actor.subscribers, "subscriber");
  say(actor.groups, "group");
  say(actor.kept, "kept", "kept");
  if (actor.client) parts.push(actor.client);
  if (actor.peer) parts.push(actor.peer);
  if (actor.outbound_bytes) parts.push(`${size(actor.outbound_bytes)} to send`);
  if (actor.rounds) parts.push(`${number(actor.rounds)} commits, the last in ${span(actor.last_round_s)}`);
  if (actor.restarts) parts.push(`${many(actor.restarts, "restart")}${actor.last_error ? `, the last: ${actor.last_error}` : ""}`);
  return parts.join(" · ");
}
