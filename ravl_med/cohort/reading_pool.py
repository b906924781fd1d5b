"""Processes that read image files: one that dies or hangs costs the file that it was reading."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ravl_med
from ravl_med.cohort.file_roots import require_inside
from ravl_med.cohort.image_file import ImageContent, copied_here
from ravl_med.cohort.reading_policy import ReadingPolicy
from ravl_med.cohort.reading_worker import READY, policy_to_json
from ravl_med.cohort.survey import SurveyedFile
from ravl_med.errors import DataError, ImageError
from ravl_med.storage.remote import FilePath

Answer = dict[str, Any]
Wanted = tuple[FilePath, int | None]

_AHEAD = 2  # films for each worker that are read before they are asked for
_LONGEST_LINE = 1 << 20
_PIPE_SIZE = 1 << 20
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux


class ReadingPool:
    """Reads image files in other processes, in order.

    Parameters
    ----------
    policy : ReadingPolicy - its limits of time and memory hold for each worker
    workers : int - processes, at least 1
    roots : sequence of Path or RemotePath - folders that files may lie in; empty: anywhere
    """

    def __init__(self, policy: ReadingPolicy, workers: int, roots: Sequence[FilePath] = ()) -> None:
        self._roots = tuple(roots)
        self._frame, self._most_mb = policy.frame, policy.limits.max_file_mb
        # objects are fetched while other films are decoded
        self._threads = ThreadPoolExecutor(_AHEAD * workers + 1, thread_name_prefix="reading")
        self._workers = [_Worker(policy) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> ReadingPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for wait in (True, False):  # one that is being started is met the second time
            for worker in self._workers:
                worker.stop()
            self._threads.shutdown(wait=wait)

    def read(self, files: Iterable[Wanted]) -> Iterator[ImageContent | ImageError]:
        """Read files in their order; a few are read ahead.

        Parameters
        ----------
        files : iterable of (path, frame or None) - objects are fetched here, so that no worker
            knows of storages

        Returns
        -------
        iterator of ImageContent or ImageError
            Besides the reasons of `read_film_file`: ``outside_root``, ``timed_out``,
            ``decoder_died``.

        Raises
        ------
        ConfigError, StorageError
            A file lies in a storage that denies access, or does not answer.
        """
        for answer in self._in_order("film", files):
            yield answer if isinstance(answer, ImageError) else ImageContent(**answer)

    def survey(
        self, files: Iterable[Wanted], *, any_film: bool = False
    ) -> Iterator[SurveyedFile | ImageError]:
        """Tell what files of an archive are, in their order; see `survey_file`."""
        for answer in self._in_order("any film" if any_film else "chest film", files):
            yield answer if isinstance(answer, ImageError) else SurveyedFile(**answer)

    def _in_order(self, task: str, files: Iterable[Wanted]) -> Iterator[Answer | ImageError]:
        waiting: deque[Future[Answer | ImageError]] = deque()
        for path, frame in files:
            waiting.append(self._threads.submit(self._ask, task, path, frame))
            if len(waiting) > _AHEAD * len(self._workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _ask(self, task: str, path: FilePath, frame: int | None) -> Answer | ImageError:
        wanted = self._frame if frame is None else frame
        try:
            require_inside(path, self._roots)
            with copied_here(path, self._most_mb) as file:
                worker = self._idle.get()
                try:
                    told = {"task": task, "path": str(file.absolute()), "frame": wanted}
                    return worker.ask(told)
                finally:
                    self._idle.put(worker)
        except ImageError as error:
            return error


class _Worker:
    """One process, started when it is first needed and again after it has ended."""

    def __init__(self, policy: ReadingPolicy) -> None:
        self._policy = policy
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def ask(self, request: Mapping[str, Any]) -> Answer:
        process = self._running()
        limits, late = self._policy.limits, threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limits.max_seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return _exchange(process, request, limits.max_pixels)
        except ImageError as error:
            if error.reason == "out_of_memory":  # it ends itself then
                self._end()
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            self._end()
            if late.is_set():
                raise ImageError(
                    "timed_out",
                    f"reading took longer than {limits.max_seconds:g} s (cohort.max_seconds).",
                ) from None
            raise ImageError(
                "decoder_died", "the process that read the file ended; the file is damaged."
            ) from None
        finally:
            timer.cancel()

    def stop(self) -> None:
        self._stopped = True
        self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        if self._stopped:
            raise ImageError("unreadable", "reading was stopped.")
        self._end()
        self._process = _start(self._policy)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)


def _start(policy: ReadingPolicy) -> subprocess.Popen[bytes]:
    root = str(Path(ravl_med.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        # -P: a file of the working directory must not pass for a module
        [sys.executable, "-P", "-m", "ravl_med.cohort.reading_worker", policy_to_json(policy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **one, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # an interrupt of the run ends it through its pipes
    )
    assert process.stdout is not None
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.fcntl(process.stdout, _SET_PIPE_SIZE, _PIPE_SIZE)
    if process.stdout.readline(_LONGEST_LINE) != READY:
        _end(process)
        raise DataError(
            "cohort.workers: no process to read films in can be started; expected one. Set it to 0 "
            "to read in this process."
        )
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what it still holds for the process
                pipe.close()


def _exchange(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], max_pixels: int
) -> Answer:
    """Send a request and read its answer; an answer that is not whole is an error."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise EOFError
    told: dict[str, Any] = json.loads(line)
    if "reason" in told:
        raise ImageError(str(told["reason"]), str(told["message"]))
    shape = told.pop("shape")
    if shape is None:
        return told
    height, width = (int(side) for side in shape)
    if not 0 < height * width <= max_pixels:
        raise ValueError("more pixels than a film may have")
    return {**told, "pixels": _receive(process.stdout, height, width)}


def _receive(answers: Any, height: int, width: int) -> NDArray[np.float32]:
    pixels = np.empty((height, width), dtype=np.float32)
    view = pixels.data.cast("B")
    while view:
        count = answers.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]
    return pixels
