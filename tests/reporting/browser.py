"""Chromium without a window, spoken to over a pipe: what a reader does, and what the page says."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WHY_NOT = "no Chromium here: `apt-get install chromium` brings it"
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions")
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execvp(sys.argv[3], sys.argv[3:])"
)
_KEYS = {"Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39, "Tab": 9}


def dump_dom(page: Path, fragment: str, profile: Path) -> str:
    """The page after its script has run."""
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom"]
    done = subprocess.run(
        [*command, page.as_uri() + fragment],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


class Browser:
    """One page in Chromium; `told` holds what it logs and `asked` what it requests."""

    def __init__(self, profile: Path, width: int = 1200, height: int = 900) -> None:
        ends = [os.pipe(), os.pipe()]
        (read, self._write), (self._read, write) = (
            tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 30) for end in pair) for pair in ends
        )
        for end in (*ends[0], *ends[1]):
            os.close(end)
        launch = [sys.executable, "-c", _LAUNCH, str(read), str(write), str(CHROMIUM)]
        self._process = subprocess.Popen(
            [*launch, *OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}",
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._number, self._pending, self._session = 0, b"", ""
        self.told: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **values: Any) -> Any:
        """Ask for something and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> Any:
        while b"\0" not in self._pending:
            self._pending += os.read(self._read, 1 << 20)
        line, self._pending = self._pending.split(b"\0", 1)
        message = json.loads(line)
        values = message.get("params", {})
        match message.get("method"):
            case "Log.entryAdded":
                self.told.append(values["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.told.append(json.dumps(values))
            case "Network.requestWillBeSent":
                self.asked.append(values["request"]["url"])
        return message

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a page and wait until it has been read."""
        self.call("Page.navigate", url=page.as_uri() + fragment)
        self.wait_for("location.protocol + document.readyState === 'file:complete'")

    def wait_for(self, expression: str) -> None:
        """Wait until JavaScript is true: a page answers some keys after the key has gone up."""
        end = time.monotonic() + 30
        while not self.run(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript, from outside of the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        typed = {"Enter": "\r", " ": " "}.get(key)
        for kind in ("keyDown", "keyUp"):
            more = {"text": typed} if typed and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=_KEYS[key],
                **more,
            )  # fmt: skip
