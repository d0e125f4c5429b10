// One world on one page: keys go out, frames come in, and both are measured where the player sits.
import { Controls } from "./controls.js";
import { pictureDecoder, preferredFormat } from "./decoders.js";

const HEADER_BYTES = 16;
const QUEUE_FRAMES = 4; // more waiting than this, and the page has fallen behind: catch up
const element = (id) => document.getElementById(id);

class World {
  constructor(format) {
    this.screen = element("screen");
    this.context = this.screen.getContext("2d", { alpha: false });
    this.queue = [];
    this.pressedAt = new Map(); // seq -> when its key was pressed
    this.latencies = [];
    this.paintedAt = [];
    this.isOver = false;
    this.controls = new Controls((seq, down) => {
      this.pressedAt.set(seq, performance.now());
      this.say({ type: "keys", seq, down });
    });
    this.decoder = pictureDecoder(format, (picture, about) => this.queue.push({ picture, about }), () => this.end(
      "This browser could not read the picture any more."));
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/play`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.say({ type: "start", format });
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.hear(JSON.parse(data)) : this.take(data));
    this.socket.onclose = () => this.end("The world has ended.");
    this.frameRequest = requestAnimationFrame(() => this.paint());
  }

  say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  hear(message) {
    if (message.type === "world") {
      this.screen.width = message.width_px;
      this.screen.height = message.height_px;
      element("model").textContent = message.model;
      element("session").textContent = `session ${message.session_id.slice(0, 8)}`;
      element("session").onclick = () => navigator.clipboard?.writeText(message.session_id);
      element("told").hidden = true;
      this.decoder.open(message);
      this.controls.listen(message.keys);
    } else if (message.type === "place") {
      const wait = message.expected_wait_s ? `, for about ${Math.ceil(message.expected_wait_s)} s` : "";
      this.tell(`Every seat is taken. You are number ${message.position} in the queue${wait}.`);
    } else if (message.type === "notice") {
      const left = Math.max(0, Math.round(message.ends_at_s - Date.now() / 1000));
      this.tell(message.reason && `${NOTICES[message.reason] ?? message.reason} This road ends in ${left} s.`);
    } else if (message.type === "unheard") {
      element("unheard").hidden = this.isOver;
    } else if (message.type === "receipt") {
      element("unheard").hidden = true;
    } else if (message.type === "refused") {
      const wait = message.retry_after_s ? ` Try again in ${Math.ceil(message.retry_after_s)} s.` : "";
      this.end(`${REASONS[message.reason] ?? message.message}${wait}`);
    }
  }

  tell(text) {
    element("told").textContent = text;
    element("told").hidden = !text;
  }

  take(data) {
    const header = new DataView(data, 0, HEADER_BYTES);
    this.decoder.decode(new Uint8Array(data, HEADER_BYTES), {
      isKey: header.getUint8(0) === 1,
      index: header.getUint32(4, true),
      controlSeq: header.getUint32(8, true),
    });
  }

  paint() {
    while (this.queue.length > QUEUE_FRAMES) this.queue.shift().picture.close();
    const next = this.queue.shift();
    if (next) {
      this.context.drawImage(next.picture, 0, 0, this.screen.width, this.screen.height);
      next.picture.close();
      this.say({ type: "shown", index: next.about.index });
      this.measure(next.about);
    }
    if (!this.isOver) this.frameRequest = requestAnimationFrame(() => this.paint());
  }

  measure({ index, controlSeq }) {
    const now = performance.now();
    this.paintedAt = [...this.paintedAt.filter((at) => now - at < 2000), now];
    for (const [seq, at] of this.pressedAt) {
      if (seq > controlSeq) continue;
      this.pressedAt.delete(seq);
      this.latencies = [...this.latencies.slice(-9), now - at];
    }
    this.controls.obeyed(controlSeq);
    const span = (now - this.paintedAt[0]) / 1000;
    if (span > 0.5) element("rate").textContent = ((this.paintedAt.length - 1) / span).toFixed(1);
    if (this.latencies.length) {
      const middle = [...this.latencies].sort((a, b) => a - b)[this.latencies.length >> 1];
      element("latency").textContent = `${Math.round(middle)} ms`;
    }
    element("count").textContent = (index + 1).toLocaleString("en");
  }

  end(reason) {
    if (this.isOver) return;
    this.isOver = true;
    cancelAnimationFrame(this.frameRequest);
    this.controls.stop();
    this.socket.close();
    element("unheard").hidden = true;
    element("told").hidden = true;
    element("reason").textContent = reason;
    element("notice").hidden = false;
    element("again").focus();
  }
}

const REASONS = {
  engine_full: "Every seat is taken: other players are dreaming just now.",
  no_engine: "No engine is awake yet.",
  queue_full: "Every seat is taken, and many wait for one.",
  preempted: "Your seat was needed for somebody else.",
  time_up: "Your time is up.",
  revoked: "This page may not play any more.",
  unauthenticated: "This page has no key that is good for playing.",
  viewer_gone: "Nobody was looking for a while, so the world fell asleep.",
  store_unavailable: "The service has lost its memory for a moment.",
};

const NOTICES = {
  preempted: "Your seat is needed for somebody else.",
  time_up: "Your time is almost up.",
  idle: "No key was pressed for long.",
  minutes_used: "Today's minutes are almost used.",
};

let world;
let begun = 0;
async function begin() {
  const turn = ++begun;
  world?.end("");
  element("notice").hidden = true;
  const format = await preferredFormat();
  if (turn === begun) world = new World(format); // or it was clicked again, and that click has its own
}

element("again").onclick = begin;
element("restart").onclick = (event) => {
  event.currentTarget.blur(); // the space bar and the arrows belong to the world
  begin();
};
begin();
