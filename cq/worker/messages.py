"""Lines of JSON between supervisor and keeper."""

import json
import os
from typing import Any


class Messages:
    """One end of a pipe that carries messages."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def send(self, *message: Any) -> bool:
        """Send one message; False if the other side is gone."""
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except BrokenPipeError:
            return False
        return True

    def receive(self) -> list[list[Any]] | None:
        """Return what has arrived (after the pipe was found readable); None when the other side is gone."""
        data = os.read(self.fd, 65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]
