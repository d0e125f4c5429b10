// Keyboard, mouse and touch as one set of keys that are down.
const NAMES = {
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
  KeyA: "left", KeyD: "right", KeyW: "up", KeyS: "down",
};

export class Controls {
  constructor(send) {
    this.send = send;
    this.seq = 0;
    this.sources = new Map(); // physical key or pointer -> name, so that two fingers on one key release it once
    this.pads = new Map([...document.querySelectorAll("[data-key]")].map((pad) => [pad.dataset.key, pad]));
    this.stopped = new AbortController();
  }

  listen(keys) {
    this.known = new Set(keys);
    const { signal } = this.stopped;
    const on = (target, type, act) => target.addEventListener(type, act, { signal, passive: false });
    on(window, "keydown", (event) => {
      const name = NAMES[event.code];
      if (!name || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (!event.repeat) this.press(event.code, name);
    });
    on(window, "keyup", (event) => this.release(event.code));
    on(window, "blur", () => this.releaseAll());
    on(document, "visibilitychange", () => this.releaseAll());
    for (const [name, pad] of this.pads) {
      on(pad, "pointerdown", (event) => {
        event.preventDefault();
        pad.setPointerCapture(event.pointerId);
        this.press(event.pointerId, name);
      });
      for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
        on(pad, type, (event) => this.release(event.pointerId));
      }
      on(pad, "contextmenu", (event) => event.preventDefault());
    }
  }

  get down() {
    return [...new Set(this.sources.values())];
  }

  press(source, name) {
    if (!this.known.has(name) || this.sources.has(source)) return;
    this.sources.set(source, name);
    this.changed();
  }

  release(source) {
    if (this.sources.delete(source)) this.changed();
  }

  releaseAll() {
    if (!this.sources.size) return;
    this.sources.clear();
    this.changed();
  }

  changed() {
    const down = this.down;
    for (const [name, pad] of this.pads) {
      pad.classList.toggle("held", down.includes(name));
      pad.classList.remove("obeyed");
    }
    this.send(++this.seq, down);
  }

  // The picture now obeys every control up to `seq`.
  obeyed(seq) {
    if (seq < this.seq) return;
    const down = this.down;
    for (const [name, pad] of this.pads) pad.classList.toggle("obeyed", down.includes(name));
  }

  stop() {
    this.stopped.abort();
    for (const pad of this.pads.values()) pad.classList.remove("held", "obeyed");
  }
}
