// The broker, asked over HTTP and over a WebSocket.

const KEY = "msg-token";

// `trio-msg page` prints an address with the token behind the #, which no server ever sees
export function takeToken() {
  const given = /^#token=([0-9a-f]{16,})/.exec(location.hash);
  if (!given) return;
  sessionStorage.setItem(KEY, given[1]);
  history.replaceState(null, "", location.pathname + "#/");
}

export const token = () => sessionStorage.getItem(KEY) ?? "";
export const setToken = (text) => sessionStorage.setItem(KEY, text);

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error ?? `the broker answered ${status}`);
    this.status = status;
    this.code = body?.code ?? "";
  }
}

async function request(path, options) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = `Bearer ${token()}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(20_000) });
  const kind = answer.headers.get("content-type") ?? "";
  const body = kind.startsWith("application/json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Refused(answer.status, body);
  return body;
}

export function get(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) if (value !== undefined && value !== "") query.set(name, value);
  return request(`${path}${query.size ? `?${query}` : ""}`, { method: "GET" });
}

export function post(path, body) {
  return request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

// Frames of the wire through /ws: `ask` sends one and resolves to its answer; what is no answer
// goes to `heard`. `ended` is called once, when the connection is over.
export class Wire {
  constructor({ heard, ended }) {
    this.heard = heard;
    this.ended = ended;
    this.waiting = new Map();
    this.next = 1;
    const address = new URL("ws", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.hash = "";
    this.socket = new WebSocket(address, ["msg.v1", `msg.token.${token()}`]);
    this.open = new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onclose = () => {
        const error = new Error("the connection is over");
        reject(error);
        for (const { reject: fail } of this.waiting.values()) fail(error);
        this.waiting.clear();
        this.ended();
      };
    });
    this.open.catch(() => {}); // whoever asks is told; nobody may have asked yet
    this.socket.onmessage = (event) => this.take(JSON.parse(event.data));
  }

  take(frame) {
    const asked = frame.id === undefined ? undefined : this.waiting.get(frame.id);
    if (!asked) {
      this.heard(frame);
      return;
    }
    this.waiting.delete(frame.id);
    if (frame.type === "error") asked.reject(new Refused(400, frame));
    else asked.resolve(frame);
  }

  async ask(frame) {
    await this.open;
    const id = `p${this.next++}`;
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    this.socket.send(JSON.stringify({ ...frame, id }));
    return answer;
  }

  close() {
    this.socket.close();
  }
}
