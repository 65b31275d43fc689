// All topics; and one topic: why, its rate, who hears it, what is kept.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { many, number, rate, size } from "./format.js";
import { causes, code, confirmed, empty, link, mark, more, search, tile, topicTable } from "./parts.js";
import { chart } from "./plot.js";
import { connectionTable } from "./connections.js";

const SHOWN = 100;

export const topics = {
  load: ({ state, query }) => get("api/overview", { n: state.most ?? SHOWN, find: state.find ?? query.get("find") ?? "", kinds: "topics" }),
  draw: (data, ctx) => [
    h("div", { class: "bar" }, h("h1", null, "Topics", h("span", { class: "count" }, number(data.topics_in_all))), search(ctx, "topics")),
    data.topics.length
      ? [topicTable(data.topics), more(ctx, data.topics.length, data.topics_in_all, "topics")]
      : ctx.state.find
        ? empty(`No topic's name holds “${ctx.state.find}”.`)
        : empty(h("b", null, "There is no topic now. "), "A topic is there while somebody listens or something of it is kept: ",
          code("trio-msg sub 'news.>'"), " in one terminal, ", code("trio-msg pub news.today hello"), " in another."),
  ],
};

export const topic = {
  load: async ({ arg }) => {
    const [stats, why, history, heard] = await Promise.all([
      get("stats", { name: arg }), get("api/why", { name: arg }), get("api/history", { kind: "topic", name: arg }),
      get("api/overview", { kinds: "connections", hears: arg, n: 50 }),
    ]);
    const row = stats.topics.find((each) => each.name === arg);
    if (!row) throw Object.assign(new Error(`There is no topic “${arg}”.`), { status: 404, code: "not_found" });
    return { row, causes: why.subjects.filter((each) => each.kind === "topic"), history, heard };
  },
  draw: ({ row, causes: subjects, history, heard }, ctx) => [
    h("div", { class: "bar" }, h("h1", null, mark(subjects[0]?.level ?? "ok"), row.name),
      h("div", { class: "buttons" },
        h("a", { class: "button solid", href: `#/live?listen=${encodeURIComponent(row.name)}` }, "Listen"),
        h("button", { onclick: () => confirmed(ctx, { title: `Drop what ${row.name} keeps?`, text: `${many(row.kept, "message")} would be gone for ever. Subscribers stay.`, action: "Purge" },
          () => post("api/purge", { queue: row.name, mode: "pubsub" }), (answer) => `${many(answer.count, "message")} dropped.`) }, "Purge …"),
        h("button", { class: "danger", onclick: () => confirmed(ctx, { title: `Delete ${row.name}?`, text: "What it keeps would be gone, and its subscribers be told.", action: "Delete" },
          async () => { await post("api/delete", { queue: row.name, mode: "pubsub" }); location.hash = "#/topics"; }, () => `${row.name} is deleted.`) }, "Delete …"))),
    subjects.some((subject) => subject.causes.length) && h("section", { class: "card pad" }, subjects.map((subject) => causes(subject.causes))),
    h("div", { class: "tiles" },
      tile("Published", number(row.published)), tile("Subscribers", number(row.subscribers)), tile("Groups", number(row.groups)),
      tile("Backlog", number(row.backlog), "while nobody hears"), tile("History", number(row.history)), tile("Kept", size(row.bytes)),
      tile("Dropped", number(row.dropped), "from the backlog", row.dropped ? "bad" : "")),
    h("section", { class: "card pad" }, h("div", { class: "charts" },
      chart("Messages a second", history.age_s, [{ name: "in", kind: "in", values: history.in, show: rate }]),
      chart("Backlog", history.age_s, [{ name: "kept", kind: "waits", values: history.waits, show: number }]))),
    h("section", null, h("h2", null, "Who listens", h("span", { class: "count" }, number(heard.connections_in_all))),
      heard.connections.length ? connectionTable(heard.connections) : empty("No connection subscribes to it now.",
        row.groups > 0 && [" Its groups keep what comes: see ", h("a", { href: `#/queues?find=${encodeURIComponent("@")}` }, "the queues with an @"), "."])),
  ],
};
