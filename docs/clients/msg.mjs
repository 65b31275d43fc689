// A client for trio-msg in Node, without a package.
//
//   import { connect } from "./msg.mjs";
//
//   const client = await connect("msg://localhost:8888");
//   await client.send("jobs", { n: 1 });                    // resolves once it is on disk
//   for await (const message of client.consume("jobs", { prefetch: 10 })) {
//     console.log(message.body, message.attempt);
//     await message.ack();
//   }
//
// As a program: node msg.mjs send QUEUE JSON | pub TOPIC JSON | get QUEUE | sub TOPIC [COUNT]
//               | request TOPIC JSON      (MSG_URL says where the broker is)

import { randomUUID } from "node:crypto";
import { connect as open } from "node:net";
import { pathToFileURL } from "node:url";

export class Refused extends Error {
  constructor(frame) {
    super(frame.error);
    this.code = frame.code; // go by this
    this.retry = frame.retry; // "never", "later", or "same_id": send it again under its id
  }
}

export async function connect(url = process.env.MSG_URL ?? "msg://localhost:8888") {
  const { hostname, port } = new URL(url);
  const socket = open({ host: hostname, port: Number(port || 8888), noDelay: true });
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  return new Client(socket);
}

export class Client {
  #socket;
  #rest = "";
  #asked = 0;
  #answers = new Map(); // id -> who waits for it
  #streams = new Map(); // sub -> where its messages go
  #got = []; // messages of the `get` that is under way
  #gone = null;

  constructor(socket) {
    this.#socket = socket;
    socket.setEncoding("utf8"); // a character may be cut by the end of a chunk
    socket.on("data", (chunk) => this.#take(chunk));
    socket.on("error", (error) => this.#end(error));
    socket.on("close", () => this.#end(new Error("the broker closed the connection")));
  }

  /** Send a frame; resolves to its answer, rejects with Refused. */
  ask(frame) {
    if (this.#gone) return Promise.reject(this.#gone);
    const id = String(++this.#asked);
    return new Promise((resolve, reject) => {
      this.#answers.set(id, { resolve, reject });
      this.#socket.write(JSON.stringify({ ...frame, id }) + "\n");
    });
  }

  /** To a queue. With a message_id of your own, sending it twice is one message. */
  send(topic, message, options = {}) {
    return this.publish(topic, message, { mode: "queue", ...options });
  }

  /** To a topic. Do not wait for each: the more are under way, the faster it is. */
  publish(topic, message, options = {}) {
    return this.ask({ action: "publish", topic, message, message_id: randomUUID(), ...options });
  }

  /** Messages of a queue; each is to be settled by ack() or nack(). */
  consume(topic, { prefetch = 10, ...options } = {}) {
    return this.subscribe(topic, { mode: "queue", prefetch, ...options });
  }

  /** Messages of a topic or pattern; it begins when the first one is asked for. */
  async *subscribe(topic, options = {}) {
    const sub = String(++this.#asked);
    const stream = { waiting: [], wake: null };
    this.#streams.set(sub, stream);
    try {
      await this.ask({ action: "subscribe", topic, sub, ...options });
      for (;;) {
        while (stream.waiting.length) yield new Message(this, stream.waiting.shift());
        if (this.#gone) throw this.#gone;
        await new Promise((resolve) => (stream.wake = resolve));
      }
    } finally {
      this.#streams.delete(sub);
      if (!this.#gone) await this.ask({ action: "unsubscribe", sub });
    }
  }

  /** Up to n messages of a queue that are there now. */
  async get(topic, n = 1) {
    await this.ask({ action: "get", topic, n });
    return this.#got.splice(0).map((frame) => new Message(this, frame));
  }

  /** Ask whoever serves a topic, and wait for the answer. */
  async request(topic, message, { timeout = 5000 } = {}) {
    this.inbox ??= (await this.ask({ action: "hello" })).inbox;
    const reply_to = `${this.inbox}.${++this.#asked}`;
    const replies = this.subscribe(reply_to);
    const reply = replies.next(); // subscribed before the request can be answered: same connection
    const { receivers } = await this.publish(topic, message, { reply_to, ttl: timeout / 1000 });
    const late = new Promise((_, reject) => {
      const why = receivers === 0 ? "nobody serves" : "no answer from";
      setTimeout(() => reject(new Error(`${why} ${topic}`)), receivers === 0 ? 0 : timeout).unref();
    });
    return (await Promise.race([reply, late])).value.body;
  }

  /** All that was sent is still executed; what is held goes back to its queue. */
  close() {
    this.#socket.end();
  }

  #take(chunk) {
    const lines = (this.#rest + chunk).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) this.#frame(JSON.parse(line));
  }

  #frame(frame) {
    const waits = this.#answers.get(frame.id);
    if (waits) {
      this.#answers.delete(frame.id);
      frame.type === "error" ? waits.reject(new Refused(frame)) : waits.resolve(frame);
    } else if (frame.type === "message") {
      const stream = this.#streams.get(frame.sub);
      stream ? (stream.waiting.push(frame), stream.wake?.()) : this.#got.push(frame);
    } else if (frame.type === "ping") {
      this.#socket.write('{"action":"pong"}\n');
    } // "closing": what is held may still be settled; then the connection ends
  }

  #end(error) {
    this.#gone ??= error;
    for (const { reject } of this.#answers.values()) reject(this.#gone);
    this.#answers.clear();
    for (const stream of this.#streams.values()) stream.wake?.();
  }
}

export class Message {
  #client;

  constructor(client, frame) {
    this.#client = client;
    Object.assign(this, frame); // topic, message_id, attempt, headers, reply_to, …
    this.body = frame.message;
  }

  ack() {
    return this.#client.ask({ action: "ack", tag: this.tag });
  }

  nack(reason, options = {}) {
    return this.#client.ask({ action: "nack", tag: this.tag, reason: String(reason), ...options });
  }

  reply(message) {
    const { reply_to, correlation_id } = this;
    return this.#client.publish(reply_to, message, correlation_id ? { correlation_id } : {});
  }
}

async function main([command, name, text]) {
  const client = await connect();
  const print = (value) => console.log(JSON.stringify(value));
  if (command === "send") console.log((await client.send(name, JSON.parse(text))).message_id);
  else if (command === "pub") console.log((await client.publish(name, JSON.parse(text))).message_id);
  else if (command === "request") print(await client.request(name, JSON.parse(text)));
  else if (command === "get") {
    const [message] = await client.get(name);
    if (message) (print(message.body), await message.ack());
    else process.exitCode = 1;
  } else if (command === "sub") {
    let left = Number(text ?? Infinity);
    for await (const message of client.subscribe(name)) {
      print(message.body);
      if (--left <= 0) break;
    }
  } else throw new Error("send QUEUE JSON | pub TOPIC JSON | request TOPIC JSON | get QUEUE | sub TOPIC");
  client.close();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error instanceof Refused ? `${error.code}: ${error.message}` : error.message);
    process.exit(error instanceof Refused ? 65 : 69);
  });
}
