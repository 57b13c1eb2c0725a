// Small charts that move with the steps. What was rewound is taken off again.

const SHOWN = 160;
export const BETWEEN_MS = 200; // what is beside the pictures may be late
const LEAST = 0.05; // of an axis: what is smaller looks flat
const styles = getComputedStyle(document.documentElement);
const charts = new Set();

const colour = (name) => styles.getPropertyValue(`--${name}`).trim();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.later()));

export class Chart {
  /** `lines` are names of colours; `low` and `high` bound the axis where they are given, else the numbers do. */
  constructor(canvas, lines, { low = null, high = null, digits = 2 } = {}) {
    Object.assign(this, { canvas, lines, low, high, digits, points: [], marks: new Set(), asked: false });
    charts.add(this);
    new ResizeObserver(() => this.later()).observe(canvas);
  }

  clear() {
    this.points = [];
    this.marks.clear();
    this.later();
  }

  /** Values of the lines at a step; `isFork` leaves a mark. */
  add(step, values, isFork = false) {
    while (this.points.length && this.points.at(-1).step >= step) this.points.pop();
    for (const mark of this.marks) if (mark > step || mark < step - SHOWN) this.marks.delete(mark);
    if (isFork) this.marks.add(step);
    else this.marks.delete(step);
    this.points.push({ step, values });
    while (this.points[0].step < step - SHOWN) this.points.shift();
    this.later();
  }

  later() {
    if (this.asked) return;
    this.asked = true;
    setTimeout(() => requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    }), BETWEEN_MS);
  }

  range() {
    const found = this.points.flatMap((point) => point.values).filter((value) => Number.isFinite(value));
    let low = this.low ?? Math.min(0, ...found), high = this.high ?? Math.max(...found, low + LEAST);
    if (!Number.isFinite(high)) high = low + 1;
    const room = 0.08 * (high - low || 1);
    return [this.low ?? (low < 0 ? low - room : low), this.high ?? high + room];
  }

  draw() {
    const scale = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale))
      Object.assign(this.canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    const pen = this.canvas.getContext("2d"), left = 40, right = width - 4, top = 5, bottom = height - 6;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const [low, high] = this.range(), end = Math.max(SHOWN, this.points.at(-1)?.step ?? 0);
    const x = (step) => left + ((step - end + SHOWN) / SHOWN) * (right - left);
    const y = (value) => bottom - ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (bottom - top);
    pen.lineWidth = 1;
    pen.strokeStyle = colour("line");
    pen.fillStyle = colour("soft");
    pen.font = "10px ui-monospace, monospace";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const value of low < 0 ? [low, 0, high] : [low, high]) {
      const at = Math.round(y(value)) + 0.5;
      pen.beginPath();
      pen.moveTo(left, at);
      pen.lineTo(right, at);
      pen.stroke();
      if (value !== 0 || low >= 0 || (y(low) - y(0) > 11 && y(0) - y(high) > 11))
        pen.fillText(value.toFixed(this.digits), left - 5, at);
    }
    pen.setLineDash([2, 3]);
    pen.strokeStyle = colour("dream");
    for (const mark of this.marks) {
      pen.beginPath();
      pen.moveTo(x(mark), top);
      pen.lineTo(x(mark), bottom);
      pen.stroke();
    }
    pen.setLineDash([]);
    this.lines.forEach((name, i) => this.line(pen, i, colour(name), x, y));
  }

  line(pen, i, ink, x, y) {
    pen.strokeStyle = pen.fillStyle = ink;
    pen.lineWidth = 1.8;
    pen.lineJoin = "round";
    pen.beginPath();
    let isDown = false, last = null;
    for (const { step, values } of this.points) {
      if (!Number.isFinite(values[i]) || this.marks.has(step)) isDown = false;
      if (!Number.isFinite(values[i])) continue;
      if (isDown) pen.lineTo(x(step), y(values[i]));
      else pen.moveTo(x(step), y(values[i]));
      isDown = true;
      last = [x(step), y(values[i])];
    }
    pen.stroke();
    if (!last) return;
    pen.beginPath();
    pen.arc(...last, 2.6, 0, 7);
    pen.fill();
  }
}
