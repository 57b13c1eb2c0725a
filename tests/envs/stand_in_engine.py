"""A stand-in for MineStudio 1.1.6's Java half: speaks its socket protocol, and shows what it was told in pixels.

Written after `_multiagent.py`, `malmo.py` and `launchClient.sh` of the wheel: messages are a big-endian length and
bytes; `<Quit/>` and a mission with its token (`...:SEED`) get a number, `<Peek/>` and `<StepClient0>` get the frame
(bottom row first), reward and end, and JSON. It dies at the tick STAND_IN_ENGINE_DIES.

Run as `xvfb-run -a java ... -jar ENGINE --envPort=PORT`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
import threading


def receive(connection: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = connection.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    return exactly(struct.unpack("!I", exactly(4))[0])


class Game:
    """Pixel (0, 0) is (seed, tick, keys pressed), pixel (0, 1) pitch and yaw in tenths of a degree around 128."""

    def __init__(self) -> None:
        self.seed, self.tick, self.held, self.keys, self.camera = 0, 0, 0, 0, (0.0, 0.0)
        self.size = (0, 0)

    def start(self, mission: str, token: str) -> None:
        width, height = (re.search(rf"<{axis}>\s*(\d+)", mission) for axis in ("Width", "Height"))
        assert width and height, mission
        self.size = int(width[1]), int(height[1])
        self.seed, self.tick, self.held = int(token.split(":")[-1]), 0, 0

    def act(self, commands: str) -> None:
        words = [line.split() for line in commands.splitlines() if line]
        buttons = {word[0]: word[1] for word in words if len(word) == 2}
        self.camera = next((float(word[1]), float(word[2])) for word in words if word[0] == "camera")
        self.tick += 1
        if self.tick == int(os.environ.get("STAND_IN_ENGINE_DIES", "-1")):
            os._exit(9)
        self.keys = sum(value == "1" for value in buttons.values())
        self.held += buttons.get("attack") == "1"

    def frame(self) -> bytes:
        width, height = self.size
        rows = [bytearray(3 * width) for _ in range(height)]
        pitch, yaw = (128 + round(10 * angle) for angle in self.camera)
        rows[0][:6] = bytes([self.seed % 256, self.tick % 256, self.keys, pitch, yaw, 0])
        return b"".join(bytes(row) for row in reversed(rows))

    def info(self) -> bytes:
        where = dict.fromkeys(("xpos", "ypos", "zpos", "pitch", "yaw"), 0.0)
        stats = {"pickup": {"oak_log": self.held // 3}, "craft_item": {}, "inventory": []}
        return json.dumps({**where, **stats, "isGuiOpen": False}).encode()


def serve(connection: socket.socket, game: Game) -> None:
    def send(data: bytes) -> None:
        connection.sendall(struct.pack("!I", len(data)) + data)

    try:
        while True:
            message = receive(connection).decode()
            if message.startswith("<Exit>"):
                send(struct.pack("!I", 1))
                os._exit(0)
            elif message == "<Quit/>":
                send(struct.pack("!I", 1))
            elif message.startswith("<MissionInit"):
                game.start(message, receive(connection).decode())
                send(struct.pack("!I", 1))
            elif message == "<Peek/>":
                for reply in (game.frame(), game.info(), struct.pack("!b", 0)):
                    send(reply)
            elif message.startswith("<StepClient0>"):
                game.act(message.removeprefix("<StepClient0>").partition("</")[0])
                for reply in (game.frame(), struct.pack("!dbb", 0.0, 0, 1), game.info()):
                    send(reply)
    except (EOFError, OSError):
        connection.close()


if __name__ == "__main__":
    port = int(next(word for word in sys.argv if word.startswith("--envPort=")).partition("=")[2])
    server = socket.create_server(("127.0.0.1", port))
    print(f"***** Start MalmoEnvServer on port {port}\nCLIENT enter state: DORMANT", flush=True)
    played = Game()
    while True:
        threading.Thread(target=serve, args=(server.accept()[0], played), daemon=True).start()
