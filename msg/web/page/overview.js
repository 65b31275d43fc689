// The first look: is all well, and if not, what is it and what helps.

import { get } from "./api.js";
import { h } from "./dom.js";
import { number, rate, size, span } from "./format.js";
import { alerts, code, empty, queueTable, tile, topicTable } from "./parts.js";
import { chart } from "./plot.js";

const BUSIEST = 8;

export const overview = {
  load: async () => {
    const [all, history] = await Promise.all([get("api/overview", { n: BUSIEST }), get("api/history", { kind: "broker" })]);
    return { all, history };
  },
  draw: ({ all, history }) => {
    const { totals, stats } = all;
    const store = stats.server.store;
    return [
      h("div", { class: "tiles" },
        tile("Published", `${rate(totals.in)}/s`),
        tile("Delivered", `${rate(totals.out)}/s`),
        tile("Ready", number(totals.ready), totals.ready ? "wait" : "nothing waits"),
        tile("Held", number(totals.leased), "by consumers"),
        tile("Delayed", number(totals.delayed)),
        tile("Dead", number(totals.dead), totals.dead ? "failed too often" : "", totals.dead ? "bad" : ""),
        tile("Connections", number(stats.connections)),
        tile("Store", store.disk_full ? "full" : span(store.last_round_s), store.disk_full ? "takes no publishes" : "last commit", store.disk_full ? "bad" : ""),
        tile("Loop", span(stats.server.loop_lag_s), "how late it runs")),
      all.alerts.length > 0
        ? h("section", null, h("h2", null, "Needs a look", h("span", { class: "count" }, number(all.alerts_in_all))), alerts(all.alerts),
          all.alerts_in_all > all.alerts.reduce((sum, alert) => sum + alert.count, 0) && h("p", { class: "more" }, code("trio-msg why"), " names them all."))
        : (all.queues_in_all || all.topics_in_all) > 0 && h("p", { class: "well" }, h("i", { class: "mark ok" }), "Nothing is stuck and nothing is slow."),
      all.queues_in_all + all.topics_in_all > 0 && h("section", { class: "card pad" },
        h("div", { class: "charts" },
          chart("Messages a second", history.age_s, [
            { name: "in", kind: "in", values: history.in, show: rate },
            { name: "out", kind: "out", values: history.out, show: rate },
          ]),
          chart("Waiting in queues", history.age_s, [{ name: "ready", kind: "waits", values: history.waits, show: number }]))),
      all.queues_in_all + all.topics_in_all === 0 && empty(
        h("b", null, "Nothing has been published yet. "), "Try it in a terminal: ", code("trio-msg send jobs '{\"n\": 1}'"),
        " puts a message into the queue jobs. Or do it here, under ", h("a", { href: "#/live" }, "Publish & listen"), "."),
      all.queues.length > 0 && h("section", null, h("h2", null, "Busiest queues", h("a", { class: "all", href: "#/queues" }, `all ${number(all.queues_in_all)}`)), queueTable(all.queues)),
      all.topics.length > 0 && h("section", null, h("h2", null, "Busiest topics", h("a", { class: "all", href: "#/topics" }, `all ${number(all.topics_in_all)}`)), topicTable(all.topics)),
      h("p", { class: "foot" }, `trio-msg ${stats.server.version}, up ${span(stats.server.uptime_s)} · ${size(stats.server.outbound_bytes)} wait for clients · `,
        h("a", { href: "metrics" }, "metrics"), " · ", h("a", { href: "openapi.json" }, "API"), " · ", h("a", { href: "stats" }, "all numbers")),
    ];
  },
};
