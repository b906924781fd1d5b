"""Child processes: started when first needed, watched while they work, replaced when they die.

A child reads requests from its standard input and answers on its standard output; it prints
nothing else. What the bytes mean is its user's concern: pickles where a child does trusted work,
JSON where it reads hostile files, so that such a child can send wrong numbers but no code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Generic, TypeVar

T = TypeVar("T")
A = TypeVar("A")
C = TypeVar("C", bound="Child")

READY = b"ready\n"
"""The first line of a child's output, once it can be asked."""

_PIPE_SIZE = 1 << 20
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux


class Child:
    """One child process, started when it is first needed and again after it has ended.

    Parameters
    ----------
    entry : str - ``package.module:function`` that the child runs
    greeting : bytes - what it reads first
    search_path : sequence of str - folders that it imports from, besides Python's own
    environment : mapping - set on top of this process's environment
    """

    def __init__(
        self,
        entry: str,
        greeting: bytes,
        search_path: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        module, _, function = entry.partition(":")
        self._command = f"from {module} import {function}; {function}()"
        self._greeting = greeting
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join(search_path)}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def start(self) -> tuple[IO[bytes], IO[bytes]] | None:
        """Return the child's standard input and output; None once `stop` was called.

        Raises
        ------
        OSError, EOFError
            It died before it was ready.
        """
        if self._process is not None and self._process.poll() is not None:
            self.end()
        with self._lock:
            if self._stopped:
                return None
            running = self._process
            process = self._process = running or self._spawn()
        assert process.stdin is not None
        assert process.stdout is not None
        if running is None:
            process.stdin.write(self._greeting)
            process.stdin.flush()
            if process.stdout.readline(len(READY)) != READY:
                raise EOFError
        return process.stdin, process.stdout

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[threading.Event]:
        """Kill the child if the context takes longer; the event says whether that happened."""
        late = threading.Event()

        def expire() -> None:
            late.set()
            with self._lock:
                if self._process is not None:
                    self._process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def end(self) -> None:
        """Kill the child if it runs; the next `start` begins another one."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # bytes that the child never took
                    pipe.close()

    def stop(self) -> None:
        """Kill the child for good."""
        with self._lock:
            self._stopped = True
        self.end()

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # -P: a file of the working directory must not pass for a module
            [sys.executable, "-P", "-c", self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
            start_new_session=True,  # an interrupt of the run ends the child through its pipes
        )
        assert process.stdout is not None
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.fcntl(process.stdout, _SET_PIPE_SIZE, _PIPE_SIZE)
        return process


class Crew(Generic[C]):
    """Children that take turns: an idle one gets the next request, answers keep their order.

    Parameters
    ----------
    threads : int - requests in flight, those that wait for a child included
    """

    def __init__(self, children: Sequence[C], threads: int, name: str) -> None:
        self.children = tuple(children)
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._idle: queue.SimpleQueue[C] = queue.SimpleQueue()
        for child in self.children:
            self._idle.put(child)

    @contextmanager
    def borrowed(self) -> Iterator[C]:
        """Yield an idle child, for exclusive use."""
        child = self._idle.get()
        try:
            yield child
        finally:
            self._idle.put(child)

    def map(self, do: Callable[[T], A], items: Iterable[T], ahead: int) -> Iterator[A]:
        """Yield what a function makes of each item, in order, while up to `ahead` more are done."""
        waiting: deque[Future[A]] = deque()
        try:
            for item in items:
                waiting.append(self.threads.submit(do, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Kill every child and end the threads."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for child in self.children:
            child.stop()
        self.threads.shutdown()


def take_over_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Return the streams of requests and answers, in a child; from now on it prints nothing."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silence_output()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return requests, answers


def silence_output() -> None:
    """Let this process print nothing: what decoders print may name a patient."""
    warnings.filterwarnings("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


class _Hush:
    """Standard error and loggers of this process, silent while any thread asks for it."""

    def __init__(self, *loggers: str) -> None:
        self._loggers = [logging.getLogger(name) for name in loggers]
        self._levels: list[int] = []
        self._lock = threading.Lock()
        self._asked = 0
        self._stderr: int | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._asked += 1
            if self._asked == 1:
                self._begin()
        try:
            yield
        finally:
            with self._lock:
                self._asked -= 1
                if not self._asked:
                    self._end()

    def _begin(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed, or none
            sys.stderr.flush()
        with contextlib.suppress(OSError):
            self._stderr = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def _end(self) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        if self._stderr is not None:
            os.dup2(self._stderr, 2)
            os.close(self._stderr)
            self._stderr = None


hushed = _Hush("pydicom", "highdicom")
"""A context in which neither pydicom nor decoders in C print, whose lines may name a patient.

What another thread writes to standard error meanwhile, such as a bar of progress, is lost too.
"""


def send(stream: IO[bytes], content: bytes) -> None:
    """Write bytes behind their number, as `receive` reads them."""
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read what `send` wrote.

    Raises
    ------
    EOFError
        The stream ended.
    """
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    content = stream.read(size) if len(head) == 8 else b""
    if len(head) < 8 or len(content) < size:
        raise EOFError
    return content
