// The socket to the server: what is said, what comes, and the way back after the line was lost.

const KEPT = "fastdreamer-session";
const FIRST_MS = 250, MOST_MS = 2000;

export class Link {
  /** `on` has hello(about), view(head, pixels), late(said), film(head, pixels), error(line), lost(), bye(line). */
  constructor(on) {
    this.on = on;
    this.wait = FIRST_MS;
    this.socket = null;
    this.over = false;
  }

  open() {
    this.over = false;
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ type: "hello", session: sessionStorage.getItem(KEPT) }));
    socket.onmessage = (event) => this.heard(event.data);
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.socket = null;
      if (this.over) return;
      if (event.code === 1009) this.on.error(event.reason || "a message was too large");
      this.on.lost();
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(2 * this.wait, MOST_MS);
    };
    this.socket = socket;
  }

  heard(data) {
    if (typeof data === "string") {
      const said = JSON.parse(data);
      if (said.type === "hello") {
        const before = sessionStorage.getItem(KEPT);
        sessionStorage.setItem(KEPT, said.session);
        this.wait = FIRST_MS;
        this.on.hello(said, before);
      } else if (said.type === "bye") {
        this.over = true;
        this.on.bye(said.line);
      } else if (said.type === "late") this.on.late(said);
      else if (said.type === "error") this.on.error(said.line);
      return;
    }
    const size = new DataView(data).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
    const pixels = new Uint8Array(data, 4 + size);
    if (head.type === "filmstrip") this.on.film(head, pixels);
    else this.on.view(head, pixels);
  }

  /** Whether it could be said; what cannot is not kept: old keys are of no use. */
  say(type, fields = {}) {
    if (!this.socket || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ type, ...fields }));
    return true;
  }
}
