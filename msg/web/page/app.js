// The page: which view is shown, and a fresh look at the broker every two seconds.
//
// A view is {load, draw}: `load` asks the broker, `draw` describes what is to be seen. What a
// view remembers between looks is in its `state`, made anew when another view is opened.

import { get, setToken, takeToken } from "./api.js";
import { ask, h, render, toast } from "./dom.js";
import { many, span } from "./format.js";
import { connection, connections } from "./connections.js";
import { live } from "./live.js";
import { overview } from "./overview.js";
import { queue, queues } from "./queues.js";
import { reports } from "./reports.js";
import { topic, topics } from "./topics.js";
import { tree } from "./tree.js";

const EVERY_MS = 2000;
const VIEWS = { overview, queues, queue, topics, topic, connections, connection, tree, live, reports };
const NAV = [["overview", "Overview"], ["queues", "Queues"], ["topics", "Topics"], ["connections", "Connections"],
  ["tree", "Actors"], ["live", "Publish & listen"], ["reports", "Reports"]];
const UNDER = { queue: "queues", topic: "topics", connection: "connections" };

const page = {
  name: "", arg: "", query: new URLSearchParams(), view: null, state: {}, data: null,
  summary: null, may: false, failed: "", turn: 0,
};

// An address that a person has typed may hold a % that stands for itself.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  page.view?.leave?.(page.state);
  page.name = Object.hasOwn(VIEWS, name) ? name : "overview";
  page.arg = decoded(rest.join("/"));
  page.query = new URLSearchParams(query ?? "");
  page.view = VIEWS[page.name];
  page.state = {};
  page.data = null;
  page.view.enter?.(page.state, context());
  document.title = `${page.arg || NAV.find(([id]) => id === page.name)?.[1]} · trio-msg`;
  window.scrollTo(0, 0);
  draw();
  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  look();
}

function context() {
  return { arg: page.arg, query: page.query, state: page.state, may: page.may, redraw: draw, again: look, unlock };
}

// One look; a later one makes an earlier one, still under way, void.
async function look() {
  const turn = ++page.turn;
  clearTimeout(page.timer);
  const view = page.view;
  try {
    const [summary, data] = await Promise.all([
      get("api/summary"),
      view.load ? view.load(context()) : {},
    ]);
    if (turn !== page.turn) return;
    Object.assign(page, { summary, data, failed: "", gone: false, lost: false });
  } catch (error) {
    if (turn !== page.turn) return;
    if (error.status === 404 && error.code === "not_found") page.gone = true;
    page.lost = !error.status; // a refusal is an answer
    page.failed = page.lost ? "The broker does not answer." : error.message;
    page.locked = error.status === 401;
  }
  draw();
  page.timer = setTimeout(() => (document.hidden ? wait() : look()), EVERY_MS);
}

// nobody looks: nothing is asked until somebody does
function wait() {
  document.addEventListener("visibilitychange", look, { once: true });
}

function draw() {
  render(document.getElementById("head"), head());
  const main = document.getElementById("main");
  if (page.locked && !page.data) {
    render(main, h("p", { class: "empty" }, page.failed, " ", h("button", { onclick: unlock }, "Enter the token")));
  } else if (page.gone) {
    render(main, h("p", { class: "empty" }, page.failed, " ", h("a", { href: "#/" }, "Back to the overview")));
  } else if (page.data) {
    render(main, h("div", { key: `${page.name}/${page.arg}`, class: `view v-${page.name}${page.failed ? " stale" : ""}` },
      page.view.draw(page.data, context())));
  } else if (!page.failed) {
    render(main, h("p", { class: "empty" }, "Asking the broker …"));
  } else {
    render(main, h("p", { class: "empty" }, page.failed, " It is asked again every two seconds."));
  }
}

const SAYS = { ok: "All is well", note: "All is well", slow: "Something is slow", stuck: "Something is stuck" };

function head() {
  const { summary } = page;
  const level = page.lost ? "lost" : summary?.level ?? "note";
  return [
    h("a", { class: "brand", href: "#/" }, h("img", { src: "static/icon.svg", alt: "", width: "22", height: "22" }), "trio-msg"),
    h("a", { class: `pill ${level}`, href: "#/", title: summary ? `version ${summary.server.version}, up ${span(summary.server.uptime_s)}` : "" },
      h("i", { class: `mark ${level}` }),
      level === "lost" ? "No answer" : summary ? SAYS[level] : "…",
      summary && summary.alerts > 0 && level !== "lost" && h("b", null, many(summary.alerts, "alert"))),
    h("button", { class: `lock ${page.may ? "open" : ""}`, onclick: unlock,
      title: page.may ? "This page may change things." : "This page only reads. Click to give it the token." },
      h("span", null, page.may ? "Read & write" : "Read only")),
    h("nav", { "aria-label": "Views" }, NAV.map(([id, title]) =>
      h("a", { href: `#/${id === "overview" ? "" : id}`, "aria-current": id === (UNDER[page.name] ?? page.name) ? "page" : null }, title))),
  ];
}

async function unlock() {
  const form = await ask({
    title: "Let this page publish and change things",
    text: "Run “trio-msg page” in a terminal beside the broker: it prints an address that brings the token along. Or put the token here; it is in the file WEB_TOKEN of the data directory.",
    kids: h("label", { class: "field" }, "Token", h("input", { name: "token", autocomplete: "off", spellcheck: "false", class: "mono" })),
    action: "Use it",
  });
  const given = form?.get("token").trim().replace(/^.*token=/, "");
  if (!given) return;
  setToken(given);
  await learnRights();
  toast(page.may ? "This page may write now." : "That is not the token of this broker.", page.may ? "ok" : "stuck");
  page.locked = false;
  look();
}

async function learnRights() {
  try {
    page.may = (await get("api/may")).write;
  } catch {
    page.may = false; // no answer, or not the token: the page then reads only, and says so
  }
}

takeToken();
window.addEventListener("hashchange", () => {
  if (/^#token=/.test(location.hash)) {
    takeToken();
    learnRights().then(route);
  } else {
    route();
  }
});
learnRights().then(route);
