"""The server behind ``ravl-med review``: this machine alone, for whoever has the address.

It listens on 127.0.0.1. Every address holds a random token, which the browser gets from a file that
only its owner can read, since a command line is seen by all users. Requests that name another host
(a rebound DNS name) or come from another page are refused, nothing is cached, nothing is fetched.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import secrets
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ravl_med.cli.console import verdict_line
from ravl_med.errors import ConfigError, DataError, RavlMedError
from ravl_med.reporting.files.review_log import ROLES, ReviewSession, Role
from ravl_med.reporting.files.saved_run import REVIEW_PAGE
from ravl_med.storage.bounded_reading import parse_json, read_regular

_HOST = "127.0.0.1"
_MOST = 64 << 10  # bytes of a request
_SHOWN = {
    "": (REVIEW_PAGE, "text/html; charset=utf-8"),
    "report.pdf": ("report.pdf", "application/pdf"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class ReviewServer:
    """A review of one run folder, served until it is closed."""

    def __init__(self, session: ReviewSession, port: int = 0) -> None:
        """Listen on a port, or on a free one.

        Raises
        ------
        ConfigError
            The port is taken, or may not be used.
        """
        self.session = session
        self.token = secrets.token_urlsafe(24)
        self._lock = Lock()
        try:
            self._server = ThreadingHTTPServer((_HOST, port), partial(_Handler, self))
        except OSError as error:
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else "is refused"
            raise ConfigError(
                f"--port: {port} {why}; expected a free one. Leave --port out to take any."
            ) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_port

    @property
    def address(self) -> str:
        """Return the address of the page, which whoever has it may decide on."""
        return f"http://{_HOST}:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answer requests until `close`, or until the process is interrupted."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._server.server_close()

    def close(self) -> None:
        """End `serve`, from another thread."""
        self._server.shutdown()

    def answer(self, path: str, query: dict[str, list[str]], said: Any) -> tuple[bytes, str]:
        """Return content and type of an answer; a LookupError for what there is not.

        `said` is the JSON that was posted; None for what is only asked for.
        """
        with self._lock:
            if said is None and path in _SHOWN:
                name, kind = _SHOWN[path]
                return read_regular(self.session.folder / name, 1 << 28), kind
            if path not in (("state",) if said is None else ("save", "report")):
                raise LookupError(path)
            role = str(query.get("role", [""])[0] if said is None else said.get("role", "first"))
            if role not in ROLES:
                raise DataError(f"role is {role[:20]!r}; expected {', '.join(ROLES)}.")
            return _json(self._content(path, role, said)), "application/json"

    def _content(self, path: str, role: Role, said: Any) -> dict[str, Any]:
        if said is None:
            return self.session.state(role)
        if said.get("run") != self.session.run:
            raise DataError("This page is of another run. Load it again.")
        if path == "save":
            self.session.save(said, role, str(said.get("name", "")))
            return self.session.state(role)
        return {"text": f"The report is drawn. {verdict_line(self.session.draw())}"}


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


class _Handler(BaseHTTPRequestHandler):
    """One request; who does not know the token learns nothing, not even what there is."""

    server_version, sys_version = "ravl-med", ""
    timeout = 60  # seconds that a connection may say nothing

    def __init__(self, review: ReviewServer, *more: Any) -> None:
        self._review = review
        super().__init__(*more)

    def do_GET(self) -> None:
        """Give the page, the report, or what was decided."""
        self._respond(lambda: None)

    def do_POST(self) -> None:
        """Take a decision, or draw the report."""
        self._respond(self._posted)

    def _posted(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST:
            raise DataError(f"A request has at most {_MOST:,} bytes.")
        try:
            said = parse_json(self.rfile.read(int(length)))
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise DataError("A request is JSON.")
        return said

    def _respond(self, posted: Callable[[], dict[str, Any] | None]) -> None:
        address = urlsplit(self.path)
        _, token, *rest = [*address.path.split("/"), "", ""]
        known = hmac.compare_digest(token.encode(), self._review.token.encode())
        if not (known and self._is_ours()):
            self._send(404, b"", "text/plain")
            return
        try:
            query = parse_qs(address.query)
            self._send(200, *self._review.answer("/".join(rest).strip("/"), query, posted()))
        except RavlMedError as error:
            self._send(409, _json({"error": str(error)}), "application/json")
        except (LookupError, OSError):
            self._send(404, b"", "text/plain")

    def _is_ours(self) -> bool:
        """Whether a request names this server, and comes from its page where it says from where."""
        own = f"{_HOST}:{self._review.port}"
        return self.headers.get("Host") == own and self.headers.get("Origin") in (
            None,
            f"http://{own}",
        )

    def _send(self, code: int, content: bytes, kind: str) -> None:
        try:
            self.send_response(code)
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:  # the browser was closed: what was asked is done all the same
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing: an address holds the token."""


@contextmanager
def opened_browser(address: str) -> Iterator[bool]:
    """Open a page in the user's browser, where there is a screen; yield whether one was opened."""
    screen = sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not screen:
        yield False
        return
    with tempfile.TemporaryDirectory(prefix="ravl-review-", ignore_cleanup_errors=True) as folder:
        page = Path(folder) / "open.html"
        page.write_text(f'<meta http-equiv="refresh" content="0;url={address}">')
        page.chmod(0o600)
        yield webbrowser.open(page.as_uri())
