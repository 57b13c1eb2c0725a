// The two pictures, drawn when the browser draws, and how long after a key they are there.

const COUNTED = 400;

/** Raw RGB, frame number `at` of a picture's, onto a canvas. */
export function paint(canvas, pixels, at = 0) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const out = image.data;
  let from = at * width * height * 3;
  for (let to = 0; to < out.length; to += 4) {
    out[to] = pixels[from++];
    out[to + 1] = pixels[from++];
    out[to + 2] = pixels[from++];
    out[to + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** The `share` quantile of numbers, or NaN. */
export function quantile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : NaN;
}

export class Stage {
  /** `drawn(head)` is called with every view as it is drawn. */
  constructor(real, dream, drawn) {
    this.real = real;
    this.dream = dream;
    this.drawn = drawn;
    this.waiting = null;
    this.pressed = new Map();
    this.delays = [];
    this.times = [];
    this.after = new MessageChannel();
    this.painted = [];
    this.after.port1.onmessage = () => this.measure();
    new ResizeObserver(() => this.fit()).observe(real.parentElement);
  }

  size([height, width]) {
    for (const canvas of [this.real, this.dream])
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    this.fit();
  }

  /** Whole multiples of a pixel, so that all are equally large. */
  fit() {
    const { width, height } = this.dream, box = this.dream.parentElement;
    const scale = window.devicePixelRatio || 1;
    const times = Math.floor((box.clientWidth * scale) / width) / scale;
    for (const canvas of [this.real, this.dream])
      canvas.style.width = `${times >= 1 / scale ? times * width : box.clientWidth}px`;
  }

  press(n, at) {
    this.pressed.set(n, at);
  }

  forget() {
    this.pressed.clear();
    this.waiting = null;
  }

  show(head, pixels, spread) {
    const isAsked = this.waiting !== null;
    this.waiting = { head, pixels, frame: 0, spread };
    clearTimeout(this.timer);
    if (!isAsked) requestAnimationFrame(() => this.draw());
  }

  /** What came late of the view that waits to be drawn, if it is that one. */
  complete(said) {
    if (this.waiting?.head.view !== said.view || this.waiting.frame) return false;
    Object.assign(this.waiting.head, said);
    return true;
  }

  draw() {
    const now = this.waiting;
    this.waiting = null;
    if (!now) return;
    const { head, pixels, frame } = now, count = head.shape.frames;
    const size = this.dream.width * this.dream.height * 3 * count;
    if (head.shape.real) paint(this.real, pixels.subarray(0, size), frame);
    paint(this.dream, head.shape.real ? pixels.subarray(size) : pixels, frame);
    this.times.push(performance.now());
    if (frame === 0) {
      this.painted.push(head.n);
      this.after.port2.postMessage(0);
      this.drawn(head);
    }
    if (frame + 1 < count && this.waiting === null)
      this.timer = setTimeout(() => {
        this.waiting = { ...now, frame: frame + 1 };
        requestAnimationFrame(() => this.draw());
      }, now.spread);
  }

  /** Runs behind the drawing, when the pictures are on their way to the screen. */
  measure() {
    const now = performance.now(), n = this.painted.shift();
    for (const [press, at] of this.pressed) {
      if (press > n) break;
      this.pressed.delete(press);
      this.delays.push(now - at);
      if (this.delays.length > COUNTED) this.delays.shift();
    }
  }

  rate() {
    const now = performance.now();
    while (this.times.length && this.times[0] < now - 1000) this.times.shift();
    return this.times.length;
  }

  delay() {
    return { p50: quantile(this.delays, 0.5), p95: quantile(this.delays, 0.95), count: this.delays.length };
  }
}
