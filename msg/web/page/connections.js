// All connections, those with most to take first; and one of them.

import { get } from "./api.js";
import { h } from "./dom.js";
import { number, size, span } from "./format.js";
import { causes, cell, code, empty, link, mark, more, search, sentence, tile } from "./parts.js";

const SHOWN = 100;

export const connections = {
  load: ({ state, query }) => get("api/overview", { n: state.most ?? SHOWN, find: state.find ?? query.get("find") ?? "", kinds: "connections" }),
  draw: (data, ctx) => [
    h("div", { class: "bar" }, h("h1", null, "Connections", h("span", { class: "count" }, number(data.connections_in_all))), search(ctx, "connections")),
    data.connections.length
      ? [connectionTable(data.connections), more(ctx, data.connections.length, data.connections_in_all, "connections")]
      : ctx.state.find
        ? empty(`No connection's name, address or subscription holds “${ctx.state.find}”.`)
        : empty(h("b", null, "Nobody is connected. "), "Clients connect to the broker's port, 8888 as a rule: ", code("trio-msg sub 'news.>'")),
  ],
};

export function connectionTable(rows) {
  return h("div", { class: "scroll" }, h("table", { class: "rows" },
    h("thead", null, h("tr", null, h("th", null, "Connection"), h("th", null, "Address"), h("th", null, "Subscribed to"), h("th", { class: "n" }, "Age"),
      h("th", { class: "n" }, "Published"), h("th", { class: "n" }, "Held"), h("th", { class: "n" }, "To send"), h("th", { class: "n" }, "Read"), h("th", { class: "n" }, "Written"))),
    rows.map((row) => h("tbody", { key: row.number, class: `row ${row.level}` },
      h("tr", null,
        h("th", { scope: "row" }, mark(row.level), h("a", { href: link("connection", row.number) }, row.client || `connection ${row.number}`),
          row.client && h("span", { class: "dim" }, ` ${row.number}`)),
        h("td", { class: "mono dim", "data-title": "Address" }, row.peer),
        h("td", { "data-title": "Subscribed to", class: row.subscriptions.length ? "names" : "names zero" }, row.subscriptions.join(", "), row.subscribed > row.subscriptions.length && ` and ${row.subscribed - row.subscriptions.length} more`),
        cell("Age", span(row.age_s)), cell("Published", number(row.published)), cell("Held", number(row.held)),
        cell("To send", row.to_send ? size(row.to_send) : "0"), cell("Read", size(row.read_bytes)), cell("Written", size(row.written_bytes))),
      row.level !== "ok" && row.cause && h("tr", { class: "why" }, h("td", { colspan: "9" }, sentence(row.cause)))))));
}

export const connection = {
  load: async ({ arg }) => {
    const [why, all] = await Promise.all([get("api/why", { name: arg }), get("api/overview", { kinds: "connections", number: arg })]);
    const row = all.connections[0];
    if (!row) throw Object.assign(new Error(`Connection ${arg} is over.`), { status: 404, code: "not_found" });
    return { row, causes: why.subjects.filter((each) => each.kind === "connection") };
  },
  draw: ({ row, causes: subjects }) => [
    h("div", { class: "bar" }, h("h1", null, mark(row.level), row.client || `Connection ${row.number}`, row.client && h("span", { class: "dim" }, ` connection ${row.number}`))),
    subjects.some((subject) => subject.causes.length)
      ? h("section", { class: "card pad" }, subjects.map((subject) => causes(subject.causes)))
      : h("p", { class: "well" }, h("i", { class: "mark ok" }), "Nothing holds it up."),
    h("div", { class: "tiles" },
      tile("Connected for", span(row.age_s)), tile("Published", number(row.published)), tile("Held", number(row.held), "messages unsettled"),
      tile("To send", size(row.to_send), "waits for it"), tile("Read", size(row.read_bytes), "from it"), tile("Written", size(row.written_bytes), "to it")),
    h("section", { class: "card pad" }, h("dl", { class: "facts-list" },
      h("div", null, h("dt", null, "Address"), h("dd", { class: "mono" }, row.peer)),
      h("div", null, h("dt", null, "Subscribed to"), h("dd", null, row.subscriptions.length
        ? [row.subscriptions.join(", "), row.subscribed > row.subscriptions.length && ` and ${row.subscribed - row.subscriptions.length} more`]
        : "nothing")))),
  ],
};
