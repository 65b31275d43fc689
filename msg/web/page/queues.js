// All queues; and one queue: why, plots, its messages in every state, its dead letters.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { clock, many, number, rate, size, span } from "./format.js";
import { causes, code, confirmed, edited, empty, link, mark, messageCard, more, order, queueTable, search, tile } from "./parts.js";
import { chart } from "./plot.js";

const SHOWN = 100;
const PAGE = 20;

export const queues = {
  load: ({ state, query }) => get("api/overview", { n: state.most ?? SHOWN, find: state.find ?? query.get("find") ?? "", kinds: "queues" }),
  draw: (data, ctx) => [
    h("div", { class: "bar" }, h("h1", null, "Queues", h("span", { class: "count" }, number(data.queues_in_all))), search(ctx, "queues")),
    data.queues.length
      ? [queueTable(data.queues), more(ctx, data.queues.length, data.queues_in_all, "queues")]
      : ctx.state.find
        ? empty(`No queue's name holds “${ctx.state.find}”.`)
        : empty(h("b", null, "There is no queue yet. "), "The first message makes one: ", code("trio-msg send jobs '{\"n\": 1}'")),
  ],
};

const TABS = [["ready", "Ready"], ["leased", "Held"], ["delayed", "Delayed"], ["dead", "Dead letters"]];

export const queue = {
  enter: (state, { query }) => {
    state.tab = query.get("tab") ?? "";
    state.at = 0;
    state.open = new Set();
  },
  load: async ({ arg, state }) => {
    const [stats, why, history] = await Promise.all([
      get("stats", { name: arg }), get("api/why", { name: arg }), get("api/history", { kind: "queue", name: arg }),
    ]);
    const row = stats.queues.find((each) => each.name === arg);
    if (!row) throw Object.assign(new Error(`There is no queue “${arg}”.`), { status: 404, code: "not_found" });
    // at first where there is something to see
    if (!state.tab) state.tab = row.ready ? "ready" : row.leased ? "leased" : row.dead ? "dead" : row.delayed ? "delayed" : "ready";
    const tab = state.tab;
    const list = tab === "dead"
      ? await get("api/dead", { queue: arg, n: PAGE, skip: state.at, reason: state.reason })
      : await get("api/peek", { queue: arg, state: tab, n: PAGE, skip: state.at });
    const held = tab === "leased" ? (await get("api/held", { queue: arg })).held : [];
    return { row, causes: why.subjects.filter((each) => each.kind === "queue"), history, messages: list.messages, held, tab };
  },
  draw: ({ row, causes: subjects, history, messages, held, tab }, ctx) => {
    const level = subjects[0]?.level ?? "ok";
    const isDead = row.name.endsWith(".dead");
    return [
      h("div", { class: "bar" }, h("h1", null, mark(level), row.name, row.paused && h("span", { class: "tag slow" }, "paused")),
        h("div", { class: "buttons" },
          isDead
            ? h("a", { class: "button", href: `${link("queue", row.name.slice(0, -5))}?tab=dead` }, "To its queue")
            : [
              row.paused
                ? h("button", { key: "resume", class: "solid", onclick: () => order(ctx, () => post("api/resume", { queue: row.name }), () => `${row.name} hands out again.`) }, "Resume")
                : h("button", { key: "pause", onclick: () => order(ctx, () => post("api/pause", { queue: row.name }), () => `${row.name} hands out nothing until it is resumed.`) }, "Pause"),
              h("button", { onclick: () => confirmed(ctx, { title: `Purge ${row.name}?`, text: `${many(row.ready + row.delayed, "message")}, ready or delayed, would be dropped for ever. What consumers hold stays.`, action: "Purge" },
                () => post("api/purge", { queue: row.name, mode: "queue" }), (answer) => `${many(answer.count, "message")} dropped.`) }, "Purge …"),
              h("button", { class: "danger", onclick: () => confirmed(ctx, { title: `Delete ${row.name}?`, text: "The queue and every message in it would be gone for ever.", action: "Delete" },
                async () => { await post("api/delete", { queue: row.name, mode: "queue" }); location.hash = "#/queues"; }, () => `${row.name} is deleted.`) }, "Delete …"),
            ])),
      subjects.some((subject) => subject.causes.length) && h("section", { class: "card pad" }, subjects.map((subject) => causes(subject.causes))),
      h("div", { class: "tiles" },
        tile("Ready", number(row.ready)), tile("Held", number(row.leased)), tile("Delayed", number(row.delayed)),
        tile("Dead", number(row.dead), "", row.dead ? "bad" : ""), tile("Consumers", number(row.consumers)),
        tile("Accepted", number(row.counts?.accepted)), tile("Settled", number(row.counts?.settled)),
        tile("Returned", number(row.counts?.redelivered)), tile("On disk", size(row.disk_bytes))),
      h("section", { class: "card pad" }, h("div", { class: "charts" },
        chart("Messages a second", history.age_s, [
          { name: "in", kind: "in", values: history.in, show: rate },
          { name: "out", kind: "out", values: history.out, show: rate },
          { name: "settled", kind: "acks", values: history.acks, show: rate },
        ]),
        chart("Waiting", history.age_s, [{ name: "ready", kind: "waits", values: history.waits, show: number }]))),
      h("section", { class: "card" },
        h("div", { class: "tabs", role: "tablist" }, TABS.filter(([id]) => !(isDead && id === "dead")).map(([id, title]) =>
          h("button", { role: "tab", "aria-selected": String(id === tab), onclick: () => { ctx.state.tab = id; ctx.state.at = 0; ctx.state.reason = ""; ctx.again(); } },
            title, h("span", { class: "count" }, number(id === "dead" ? row.dead : row[id]))))),
        tab === "dead" && row.dead > 0 && deadBar(row, ctx),
        messages.length
          ? h("ul", { class: "messages" }, messages.map((message) => messageOf(message, { row, tab, held, ctx })))
          : h("p", { class: "empty small" }, NONE[tab]),
        pager(ctx, messages.length, tab === "dead" ? row.dead : row[tab])),
    ];
  },
};

const NONE = {
  ready: "Nothing waits: every message was handed out.",
  leased: "No consumer holds a message now.",
  delayed: "No message waits for a time.",
  dead: "No dead letters: nothing failed too often.",
};

function pager(ctx, shown, all) {
  if (all <= PAGE && !ctx.state.at) return null;
  const { at } = ctx.state;
  const go = (to) => { ctx.state.at = Math.max(0, to); ctx.state.open.clear(); ctx.again(); };
  return h("div", { class: "pager" },
    h("span", null, shown ? `${number(at + 1)} to ${number(at + shown)} of ${number(all)}` : ""),
    h("button", { disabled: at === 0, onclick: () => go(at - PAGE) }, "Earlier"),
    h("button", { disabled: at + shown >= all, onclick: () => go(at + PAGE) }, "Later"));
}

function deadBar(row, ctx) {
  const filter = ctx.state.reason ? { reason: ctx.state.reason } : {};
  const which = ctx.state.reason ? `those whose reason holds “${ctx.state.reason}”` : `all ${number(row.dead)}`;
  return h("div", { class: "bar inner" },
    h("input", { type: "search", "aria-label": "Filter by reason", placeholder: "Filter by reason …", value: "", oninput: (event) => {
      ctx.state.reason = event.target.value;
      ctx.state.at = 0;
      clearTimeout(ctx.state.typing);
      ctx.state.typing = setTimeout(ctx.again, 200);
    } }),
    h("div", { class: "buttons" },
      h("button", { class: "solid", onclick: () => order(ctx, () => post("api/dead/retry", { queue: row.name, ...filter }), (answer) => `${many(answer.count, "message")} sent back to ${row.name}.`) }, `Retry ${ctx.state.reason ? "these" : "all"}`),
      h("button", { class: "danger", onclick: () => confirmed(ctx, { title: "Drop dead letters?", text: `Of ${row.name} ${which} would be gone for ever.`, action: "Drop" },
        () => post("api/dead/drop", { queue: row.name, ...filter, ...(ctx.state.reason ? {} : { all: true }) }), (answer) => `${many(answer.count, "message")} dropped.`) }, `Drop ${ctx.state.reason ? "these" : "all"} …`)));
}

function messageOf(message, { row, tab, held, ctx }) {
  const key = message.message_id;
  const lease = held.find((each) => each.seq === message.seq);
  const facts = {
    ready: () => [message.attempt > 1 && h("span", { class: "tag slow" }, `attempt ${message.attempt}`), h("span", null, clock(message.published_at))],
    leased: () => [h("b", null, message.consumer || "a consumer"),
      h("span", null, lease ? `for ${span(lease.held_s)}` : ""),
      message.deadline_s !== undefined && h("span", { class: message.deadline_s < 5 ? "tag slow" : "" }, `deadline in ${span(message.deadline_s)}`)],
    delayed: () => [h("span", null, `in ${span(message.due_s)}`)],
    dead: () => [h("span", { class: "tag stuck" }, lastReason(message)), h("span", null, clock(message.case?.at ?? message.published_at))],
  }[tab]();
  return messageCard(message, {
    open: ctx.state.open.has(key),
    toggle: () => { ctx.state.open.has(key) ? ctx.state.open.delete(key) : ctx.state.open.add(key); ctx.redraw(); },
    facts,
    foot: h("div", { class: "buttons" },
      tab === "dead" && [
        h("button", { class: "solid", onclick: () => order(ctx, () => post("api/dead/retry", { queue: row.name, message_ids: [key] }), (answer) => `${many(answer.count, "message")} sent back to ${row.name}.`) }, "Retry"),
        h("button", { onclick: () => edited(ctx, row.name, message) }, "Edit …"),
        h("button", { class: "danger", onclick: () => confirmed(ctx, { title: "Drop this dead letter?", text: `${key} would be gone for ever.`, action: "Drop" },
          () => post("api/dead/drop", { queue: row.name, message_ids: [key] }), () => "Dropped.") }, "Drop …"),
      ],
      lease?.connection && h("a", { class: "button", href: link("connection", lease.connection) }, `Connection ${lease.connection}`)),
  });
}

function lastReason(message) {
  const last = message.case?.attempts?.at(-1);
  return last?.reason || message.case?.reason || "dead";
}
