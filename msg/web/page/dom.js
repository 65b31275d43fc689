// What is to be seen, as plain objects; and the smallest change that makes a document show it.
//
// h("p", {class: "x"}, "text") is a description. `render` makes an element's children be as
// described and leaves alone what is so already: focus, selection and scroll positions survive
// the next look at the broker. Strings become text nodes, never markup; there is no way in here
// to give HTML.

const SVG = "http://www.w3.org/2000/svg";

export function h(tag, props, ...kids) {
  return { tag, props: props ?? {}, kids: kids.flat(Infinity).filter((kid) => kid || kid === 0 || kid === "") };
}

export function render(parent, ...kids) {
  renderKids(parent, kids.flat(Infinity).filter((kid) => kid || kid === 0), false);
}

function renderKids(parent, kids, svg) {
  const byKey = new Map();
  for (const child of parent.childNodes) {
    if (child.shown?.props.key !== undefined) byKey.set(child.shown.props.key, child);
  }
  let at = parent.firstChild;
  for (const kid of kids) {
    if (typeof kid !== "object") {
      const text = String(kid);
      if (at?.nodeType === Node.TEXT_NODE) {
        if (at.data !== text) at.data = text;
        at = at.nextSibling;
      } else {
        parent.insertBefore(document.createTextNode(text), at);
      }
      continue;
    }
    const key = kid.props.key;
    let node = key === undefined ? at : byKey.get(key);
    if (!node || node.shown?.tag !== kid.tag || node.shown.props.key !== key) node = null;
    if (node === null) {
      node = create(kid, svg);
      parent.insertBefore(node, at);
    } else {
      if (node === at) at = at.nextSibling;
      else parent.insertBefore(node, at);
      update(node, kid);
    }
    byKey.delete(key);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function create(kid, svg) {
  const inSvg = svg || kid.tag === "svg";
  const node = inSvg ? document.createElementNS(SVG, kid.tag) : document.createElement(kid.tag);
  node.shown = { tag: kid.tag, props: {} };
  // what a person may have changed since is theirs: set once
  if (kid.props.value !== undefined) node.value = kid.props.value;
  if (kid.props.checked !== undefined) node.checked = kid.props.checked;
  update(node, kid, inSvg);
  if (kid.tag === "select" && kid.props.value !== undefined) node.value = kid.props.value;
  kid.props.born?.(node);
  return node;
}

function update(node, kid, inSvg = node.namespaceURI === SVG) {
  const before = node.shown.props;
  const now = kid.props;
  for (const name in before) if (!(name in now)) put(node, name, null);
  for (const name in now) if (now[name] !== before[name]) put(node, name, now[name]);
  node.shown = { tag: kid.tag, props: now };
  if (!now.own) renderKids(node, kid.kids, inSvg); // `own`: it looks after its children itself
}

function put(node, name, value) {
  if (["key", "value", "checked", "born", "own"].includes(name)) return;
  if (name.startsWith("on")) {
    node[name] = value;
  } else if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : value);
  }
}

// -- asking and telling ------------------------------------------------------------------------

export function toast(text, level = "ok") {
  const node = document.createElement("div");
  node.className = `toast ${level}`;
  node.textContent = text;
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), level === "ok" ? 4000 : 9000);
}

// A dialog with `kids` in a form. Resolves to the form's data, or null when it was cancelled.
export function ask({ title, text, kids = [], action, danger = false }) {
  return new Promise((resolve) => {
    const dialog = document.createElement("dialog");
    const close = (value) => {
      dialog.remove();
      resolve(value);
    };
    render(
      dialog,
      h("form", { method: "dialog", onsubmit: (event) => close(new FormData(event.target)) },
        h("h2", null, title),
        text && h("p", null, text),
        kids,
        h("div", { class: "buttons end" },
          h("button", { type: "button", onclick: () => close(null) }, "Cancel"),
          h("button", { class: danger ? "danger solid" : "solid", type: "submit" }, action))),
    );
    dialog.oncancel = () => close(null);
    document.getElementById("dialogs").append(dialog);
    dialog.showModal();
  });
}
