// Publish a message, and listen to what flows: both through one WebSocket, with the wire's frames.

import { get, Wire } from "./api.js";
import { h, toast } from "./dom.js";
import { body, clock, many, number } from "./format.js";
import { code, empty } from "./parts.js";

const KEPT = 300; // of what was heard
const REDRAW_MS = 250;

export const live = {
  enter: (state, ctx) => {
    Object.assign(state, { heard: [], count: 0, missed: 0, paused: false, wire: null, to: "", sent: [], kind: "queue", ctx });
    if (ctx.query.get("listen")) state.begin = ctx.query.get("listen");
  },
  leave: (state) => {
    state.to = "";
    state.wire?.close();
  },
  load: async ({ state }) => {
    const names = await get("api/overview", { n: 200 });
    return { queues: names.queues.map((row) => row.name), topics: names.topics.map((row) => row.name) };
  },
  draw: (names, ctx) => {
    const { state } = ctx;
    if (state.begin && ctx.may) {
      const pattern = state.begin;
      state.begin = "";
      queueMicrotask(() => listen(ctx, "topic", pattern));
    }
    return [
      h("div", { class: "bar" }, h("h1", null, "Publish & listen")),
      !ctx.may && h("p", { class: "notice" }, "This page only reads. To publish and listen here it needs the token: run ", code("trio-msg page"), " and open the address that it prints, or ", h("button", { class: "plain", onclick: ctx.unlock }, "enter the token"), "."),
      h("div", { class: "two" }, publishForm(names, ctx), listenForm(names, ctx)),
    ];
  },
};

// One socket for both, made when it is first needed.
function wireOf(ctx) {
  const { state } = ctx;
  if (!state.wire) {
    state.wire = new Wire({
      heard: (frame) => heard(ctx, frame),
      ended: () => {
        if (state.wire && state.to) toast("The connection to the broker is over.", "stuck");
        state.wire = null;
        state.to = "";
        ctx.redraw();
      },
    });
  }
  return state.wire;
}

// -- publish ----------------------------------------------------------------------------------

function publishForm(names, ctx) {
  const { state } = ctx;
  const choose = (kind) => ({ type: "radio", name: "mode", value: kind, checked: state.kind === kind, onchange: () => { state.kind = kind; ctx.redraw(); } });
  return h("section", { class: "card pad", key: "publish" }, h("h2", null, "Publish"),
    h("form", { class: "form", id: "publish", onsubmit: (event) => { event.preventDefault(); publish(ctx, event.target); } },
      h("div", { class: "segments" },
        h("label", null, h("input", choose("queue")), h("span", null, "Queue")),
        h("label", null, h("input", choose("topic")), h("span", null, "Topic"))),
      h("label", { class: "field" }, state.kind === "queue" ? "Queue" : "Topic",
        h("input", { name: "to", required: true, list: "known-names", autocomplete: "off", spellcheck: "false", placeholder: state.kind === "queue" ? "jobs" : "news.today" })),
      h("datalist", { id: "known-names" }, (state.kind === "queue" ? names.queues : names.topics).map((name) => h("option", { key: name, value: name }))),
      h("label", { class: "field" }, "Body", h("textarea", { name: "body", rows: "5", class: "mono", spellcheck: "false", value: '{"hello": "world"}' }),
        h("small", null, "JSON; what is no JSON is sent as a text.")),
      h("details", null, h("summary", null, "Options"),
        h("div", { class: "grid" },
          h("label", { class: "field" }, "Message id", h("input", { name: "message_id", spellcheck: "false", placeholder: "made by the broker" })),
          h("label", { class: "field" }, "Delay (s)", h("input", { name: "delay", type: "number", min: "0", step: "any" })),
          h("label", { class: "field" }, "Lives for (s)", h("input", { name: "ttl", type: "number", min: "0", step: "any" })),
          h("label", { class: "field" }, "Priority, 9 first", h("input", { name: "priority", type: "number", min: "0", max: "9", placeholder: "4" })))),
      h("div", { class: "buttons" }, h("button", { class: "solid", type: "submit" }, "Publish"))),
    state.sent.length > 0 && h("ul", { class: "sent" }, state.sent.map((line) => h("li", { key: line.key, class: line.level }, h("i", { class: `mark ${line.level}` }), h("span", null, line.text)))));
}

async function publish(ctx, form) {
  if (!ctx.may) {
    ctx.unlock();
    return;
  }
  const data = new FormData(form);
  const frame = { action: "publish", topic: data.get("to").trim(), mode: data.get("mode") === "queue" ? "queue" : "pubsub" };
  try {
    frame.message = JSON.parse(data.get("body"));
  } catch {
    frame.message = data.get("body"); // as the form says
  }
  if (data.get("message_id").trim()) frame.message_id = data.get("message_id").trim();
  for (const name of ["delay", "ttl", "priority"]) if (data.get(name) !== "") frame[name] = Number(data.get(name));
  try {
    const answer = await wireOf(ctx).ask(frame);
    const where = answer.duplicate ? "It was there already" : frame.mode === "queue" ? `Kept in ${frame.topic}` : answer.receivers === 0 ? `Nobody hears ${frame.topic} now` : `Given to those who hear ${frame.topic}`;
    say(ctx, answer.duplicate || answer.receivers === 0 ? "note" : "ok", `${where}: ${answer.message_id}`);
  } catch (error) {
    say(ctx, "stuck", error.message);
  }
}

function say(ctx, level, text) {
  const { state } = ctx;
  state.sent.unshift({ key: (state.lines = (state.lines ?? 0) + 1), level, text: `${new Date().toLocaleTimeString("en-GB")}  ${text}` });
  state.sent.length = Math.min(state.sent.length, 6);
  ctx.redraw();
}

// -- listen -----------------------------------------------------------------------------------

function listenForm(names, ctx) {
  const { state } = ctx;
  return h("section", { class: "card pad listener", key: "listen" },
    h("h2", null, "Listen", state.to && h("span", { class: "tag ok" }, "live"), state.count > 0 && h("span", { class: "count" }, number(state.count))),
    h("form", { class: "form inline", id: "listen", onsubmit: (event) => { event.preventDefault(); const data = new FormData(event.target); state.to ? stop(ctx) : listen(ctx, data.get("kind"), data.get("pattern").trim()); } },
      h("select", { name: "kind", "aria-label": "What to listen to", value: "topic", disabled: Boolean(state.to) },
        h("option", { value: "topic" }, "Topic"), h("option", { value: "queue" }, "Queue (a copy)")),
      h("input", { name: "pattern", required: true, "aria-label": "Name or pattern", autocomplete: "off", spellcheck: "false", placeholder: "news.> or a name", value: ctx.query.get("listen") ?? "", disabled: Boolean(state.to) }),
      h("button", { class: state.to ? "" : "solid", type: "submit" }, state.to ? "Stop" : "Listen"),
      state.to && h("button", { type: "button", onclick: () => { state.paused = !state.paused; ctx.redraw(); } }, state.paused ? "Go on" : "Hold still")),
    state.missed > 0 && h("p", { class: "notice" }, `${many(state.missed, "message")} came too fast to be shown.`),
    state.heard.length
      ? h("ol", { class: "heard" }, state.heard.map((line) => h("li", { key: line.key },
        h("span", { class: "when" }, line.when), h("span", { class: "topic" }, line.topic), line.event && h("span", { class: "tag" }, line.event),
        h("span", { class: "body mono" }, line.body))))
      : empty(state.to
        ? [h("b", null, `Listening to ${state.to}. `), "What is published from now on is shown here."]
        : ["A topic or a pattern such as ", code("news.>"), " or ", code("*.errors"), " is subscribed to. Of a queue a copy is shown: nothing is taken, nobody is slowed."]));
}

async function listen(ctx, kind, pattern) {
  const { state } = ctx;
  if (!ctx.may) {
    ctx.unlock();
    return;
  }
  Object.assign(state, { heard: [], count: 0, missed: 0, paused: false });
  try {
    const wire = wireOf(ctx);
    if (kind === "topic") await wire.ask({ action: "subscribe", topic: pattern, sub: "page", from: "new" });
    else await wire.ask({ action: "tap", topic: pattern, name: "page", options: { of: "queues" } });
    Object.assign(state, { to: pattern, listens: kind });
  } catch (error) {
    toast(error.message, "stuck");
  }
  ctx.redraw();
}

async function stop(ctx) {
  const { state } = ctx;
  const { to, listens } = state;
  state.to = "";
  ctx.redraw();
  try {
    if (listens === "topic") await state.wire?.ask({ action: "unsubscribe", sub: "page", topic: to });
    else await state.wire?.ask({ action: "tap", name: "page", options: { stop: true } });
  } catch (error) {
    toast(error.message, "stuck");
  }
}

function heard(ctx, frame) {
  const { state } = ctx;
  if (frame.type === "closing") toast(`The broker is stopping: ${frame.reason ?? ""}`, "slow");
  if (frame.type === "unsubscribed") toast(`The broker ended this: ${frame.reason ?? "unsubscribed"}`, "slow");
  if (frame.type === "ping") return; // the server's own ping keeps this connection alive
  if (frame.type !== "message") return;
  state.count += 1;
  state.missed += frame.dropped ?? 0;
  if (frame.tap) state.missed += frame.tap.skipped ?? 0;
  if (state.paused) return;
  const text = body(frame.message);
  state.heard.unshift({
    key: state.count, when: frame.published_at ? clock(frame.published_at) : "", topic: frame.topic, event: frame.tap?.event ?? "",
    body: text.length > 400 ? `${text.slice(0, 400)} … ${number(text.length)} characters` : text,
  });
  state.heard.length = Math.min(state.heard.length, KEPT);
  if (!state.due) {
    state.due = setTimeout(() => { state.due = 0; ctx.redraw(); }, REDRAW_MS);
  }
}
