// What several views show: levels, causes, tables of messages, things to do with a queue.

import { post } from "./api.js";
import { ask, h, toast } from "./dom.js";
import { body, clock, many, number, size, span } from "./format.js";
import { spark } from "./plot.js";

export const mark = (level) => h("i", { class: `mark ${level}`, role: "img", "aria-label": level, title: level });

export const link = (kind, name) => `#/${kind}/${encodeURIComponent(name)}`;

export const empty = (...kids) => h("p", { class: "empty" }, kids);

export const code = (text) => h("code", null, text);

// `text with \`code\` in it` as nodes
export function sentence(text) {
  return text.split("`").map((part, i) => (i % 2 ? code(part) : part));
}

export function causes(list) {
  return h("ul", { class: "causes" }, list.map((cause) =>
    h("li", { class: cause.level }, mark(cause.level),
      h("div", null, h("p", null, sentence(cause.text)), cause.do && h("p", { class: "do" }, sentence(cause.do))))));
}

export function alerts(list) {
  return h("div", { class: "alerts" }, list.map((subject) => {
    if (subject.count > 1) return alike(subject);
    const name = subject.kind === "broker" ? "The broker" : subject.kind === "connection" ? `Connection ${subject.name}` : subject.name;
    return h("article", { class: `alert card ${subject.level}`, key: `${subject.kind} ${subject.name}` },
      h("header", null, mark(subject.level), h("span", { class: "kind" }, subject.kind),
        subject.kind === "broker" ? h("b", null, name) : h("a", { href: link(subject.kind, subject.name) }, name)),
      causes(subject.causes.filter((cause) => cause.level !== "note")));
  }));
}

// Many subjects with the same causes: some of their names, and what is with the first.
function alike(group) {
  return h("article", { class: `alert card ${group.level}`, key: `${group.kind} ${group.causes.map((cause) => cause.code)}` },
    h("header", null, mark(group.level), h("span", { class: "kind" }, "alike"), h("b", null, many(group.count, group.kind))),
    h("p", { class: "names" }, group.names.map((name, i) => [i > 0 && ", ", h("a", { href: link(group.kind, name) }, name)]),
      group.count > group.names.length && ` and ${number(group.count - group.names.length)} more.`),
    h("p", { class: "dim" }, `${group.kind === "connection" ? `Connection ${group.name}` : group.name}, for one:`),
    causes(group.causes));
}

export function tile(title, value, note = "", level = "") {
  return h("div", { class: `tile ${level}` }, h("span", { class: "title" }, title), h("b", null, value), note && h("span", { class: "note" }, note));
}

// -- tables of many ---------------------------------------------------------------------------

export function search(ctx, what) {
  return h("label", { class: "search" }, h("span", { class: "hidden" }, `Find ${what}`),
    h("input", { type: "search", placeholder: `Find ${what} …`, value: ctx.query.get("find") ?? "", oninput: (event) => {
      ctx.state.find = event.target.value;
      clearTimeout(ctx.state.typing);
      ctx.state.typing = setTimeout(ctx.again, 200);
    } }));
}

export function more(ctx, shown, all, what) {
  if (all <= shown) return null;
  return h("p", { class: "more" }, `The ${number(shown)} busiest of ${number(all)} ${what} are shown. `,
    shown < 1000
      ? h("button", { onclick: () => { ctx.state.most = Math.min(1000, shown * 5); ctx.again(); } }, "Show more")
      : "Find the others by name.");
}

export function queueTable(rows) {
  return h("div", { class: "scroll" }, h("table", { class: "rows" },
    h("thead", null, h("tr", null, h("th", null, "Queue"), h("th", { class: "plots" }, "Rate"), h("th", { class: "n" }, "In/s"), h("th", { class: "n" }, "Out/s"),
      h("th", { class: "plots" }, "Waiting"), h("th", { class: "n" }, "Ready"), h("th", { class: "n" }, "Held"), h("th", { class: "n" }, "Delayed"),
      h("th", { class: "n" }, "Dead"), h("th", { class: "n" }, "Consumers"))),
    rows.map((row) => h("tbody", { key: row.name, class: `row ${row.level}` },
      h("tr", null,
        h("th", { scope: "row", rowspan: row.level === "ok" || !row.cause ? null : "1" }, mark(row.level), h("a", { href: link("queue", row.name) }, row.name)),
        h("td", { class: "plots" }, spark(`rates of ${row.name}`, [["in", row.plot.in], ["out", row.plot.out]])),
        cell("In/s", short(row.rates.in)), cell("Out/s", short(row.rates.out)),
        h("td", { class: "plots" }, spark(`messages waiting in ${row.name}`, [["waits", row.plot.waits]])),
        cell("Ready", number(row.ready)), cell("Held", number(row.leased)), cell("Delayed", number(row.delayed)),
        cell("Dead", number(row.dead), row.dead ? "bad" : ""), cell("Consumers", number(row.consumers))),
      row.level !== "ok" && row.cause && h("tr", { class: "why" }, h("td", { colspan: "10" }, sentence(row.cause)))))));
}

export function topicTable(rows) {
  return h("div", { class: "scroll" }, h("table", { class: "rows" },
    h("thead", null, h("tr", null, h("th", null, "Topic"), h("th", { class: "plots" }, "Rate"), h("th", { class: "n" }, "In/s"),
      h("th", { class: "n" }, "Published"), h("th", { class: "n" }, "Subscribers"), h("th", { class: "n" }, "Groups"), h("th", { class: "n" }, "Kept"))),
    rows.map((row) => h("tbody", { key: row.name, class: `row ${row.level}` },
      h("tr", null,
        h("th", { scope: "row" }, mark(row.level), h("a", { href: link("topic", row.name) }, row.name)),
        h("td", { class: "plots" }, spark(`rate of ${row.name}`, [["in", row.plot.in]])),
        cell("In/s", short(row.rates.in)), cell("Published", number(row.published ?? 0)), cell("Subscribers", number(row.subscribers)),
        cell("Groups", number(row.groups)), cell("Kept", number(row.kept))),
      row.level !== "ok" && row.cause && h("tr", { class: "why" }, h("td", { colspan: "7" }, sentence(row.cause)))))));
}

export const cell = (title, value, kind = "") =>
  h("td", { class: `n ${kind} ${value === "0" ? "zero" : ""}`, "data-title": title }, value);

const short = (value) => (value >= 9.95 ? number(value) : value ? value.toFixed(1) : "0");

// -- messages ---------------------------------------------------------------------------------

export function messageCard(message, { open, toggle, foot, facts = [] }) {
  const id = message.message_id;
  return h("li", { class: `message ${open ? "open" : ""}`, key: id ?? message.seq },
    h("button", { class: "line", "aria-expanded": String(open), onclick: toggle },
      h("span", { class: "body mono" }, body(message.message)),
      h("span", { class: "facts" }, facts)),
    open && h("div", { class: "inside" },
      h("pre", null, message.cut ? `${message.message}\n… (cut)` : body(message.message, true)),
      h("dl", null,
        fact("id", h("span", { class: "mono" }, id)),
        fact("published", message.published_at && clock(message.published_at)),
        fact("attempt", message.attempt > 1 && message.attempt),
        fact("returned", message.returned),
        fact("size", message.bytes !== undefined && size(message.bytes)),
        fact("durability", message.durability),
        fact("priority", message.priority),
        fact("due", message.due && `${clock(message.due)}, in ${span(message.due_s)}`),
        fact("consumer", message.consumer),
        fact("deadline", message.deadline_s !== undefined && `in ${span(message.deadline_s)}`),
        Object.entries(message.headers ?? {}).map(([name, value]) => fact(name, value))),
      message.case && attempts(message.case),
      foot));
}

const fact = (name, value) =>
  value !== undefined && value !== null && value !== false && value !== "" && h("div", null, h("dt", null, name), h("dd", null, value));

function attempts(death) {
  return h("div", { class: "case" }, h("p", null, death.reason),
    h("ol", null, (death.attempts ?? []).map((attempt) =>
      h("li", null, clock(attempt.at), " ", h("b", null, attempt.why), attempt.who && ` by ${attempt.who}`, attempt.reason && `: ${attempt.reason}`))));
}

// -- orders -----------------------------------------------------------------------------------

// Does it, says how it went, and looks again. What is asked without the right asks for it.
export async function order(ctx, does, said) {
  if (!ctx.may) {
    ctx.unlock();
    return;
  }
  try {
    const answer = await does();
    toast(said(answer));
  } catch (error) {
    toast(error.message, "stuck");
  }
  ctx.again();
}

export async function confirmed(ctx, question, does, said) {
  if (!ctx.may) {
    ctx.unlock();
    return;
  }
  if (await ask({ ...question, danger: true })) await order(ctx, does, said);
}

export async function edited(ctx, queue, message) {
  if (!ctx.may) {
    ctx.unlock();
    return;
  }
  const form = await ask({
    title: "Edit and send back",
    text: `The message goes back to ${queue} under its id with this body; its attempts begin anew.`,
    kids: h("label", { class: "field" }, "Body (JSON)", h("textarea", { name: "body", rows: "12", class: "mono", spellcheck: "false", value: body(message.message, true) })),
    action: "Send back",
  });
  if (!form) return;
  let value;
  try {
    value = JSON.parse(form.get("body"));
  } catch (error) {
    toast(`That is not JSON: ${error.message}`, "stuck");
    return;
  }
  await order(ctx, () => post("api/dead/edit", { queue, message_id: message.message_id, message: value }),
    (answer) => `${many(answer.count, "message")} sent back to ${queue}.`);
}
