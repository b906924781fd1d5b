"""Processes that read image files: one that dies or hangs costs the file that it was reading.

The protocol with `reading_worker` is a line of JSON for each request, and a line of JSON for each
answer, followed by the pixels as bytes. Nothing that a worker sends is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import ravl_med
from ravl_med.cohort.annotation_file import AnnotatedBox
from ravl_med.cohort.image_file import ImageContent, local_film_copy
from ravl_med.cohort.survey import SurveyedFile
from ravl_med.cohort.table import require_path_inside
from ravl_med.config.cohort import ReadingConfig
from ravl_med.engine.supervisor import Child, Crew
from ravl_med.errors import DataError, ImageError
from ravl_med.storage.remote import FilePath

Answer = dict[str, Any]
Wanted = tuple[FilePath, int | None]

_AHEAD = 2  # films for each worker that are read before they are asked for
_LONGEST_LINE = 1 << 20


class ReadingPool:
    """Reads image files in other processes, in order.

    Parameters
    ----------
    reading : ReadingConfig - its limits of time and memory hold for each worker
    workers : int - processes, at least 1
    roots : sequence of Path or RemotePath - folders that files may lie in; empty: anywhere
    """

    def __init__(
        self, reading: ReadingConfig, workers: int, roots: Sequence[FilePath] = ()
    ) -> None:
        self._reading, self._roots = reading, tuple(roots)
        self._ahead = _AHEAD * workers
        # one thread for each file ahead: objects are fetched while other films are decoded
        children = [_Worker(reading) for _ in range(workers)]
        self._crew = Crew(children, self._ahead + 1, "reading")

    def __enter__(self) -> ReadingPool:
        return self

    def __exit__(self, *error: object) -> None:
        self._crew.close()

    def read(self, files: Iterable[Wanted]) -> Iterator[ImageContent | ImageError]:
        """Read pairs of a path and a frame, or None, in their order; a few are read ahead.

        The errors have the reasons of `read_film_file`, ``outside_root``, ``timed_out`` or
        ``decoder_died``. Objects are fetched here, so that no worker knows of storages.

        Raises
        ------
        ConfigError, StorageError
            A file lies in a storage that denies access, or does not answer.
        """
        for answer in self._in_order("film", files):
            yield answer if isinstance(answer, ImageError) else ImageContent(**answer)

    def survey(self, files: Iterable[Wanted]) -> Iterator[SurveyedFile | ImageError]:
        """Identify files of an archive, in their order; see `survey_file`."""
        for answer in self._in_order("chest film", files):
            yield answer if isinstance(answer, ImageError) else SurveyedFile(**answer)

    def annotation(
        self,
        path: FilePath,
        film: FilePath,
        shape: tuple[int, int],
        names: Mapping[int, str],
        frame: int | None,
    ) -> list[AnnotatedBox]:
        """Read the regions of one film, see `read_annotation_file`.

        Raises
        ------
        ImageError
            Also ``outside_root``, ``timed_out`` or ``decoder_died``.
        ConfigError, StorageError
            A file lies in a storage that denies access, or does not answer.
        """
        most = self._reading.max_file_mb
        for file in (path, film):
            require_path_inside(file, self._roots)
        with local_film_copy(path, most) as own, local_film_copy(film, most) as drawn_on:
            request = {
                "task": "annotation",
                "path": str(own.absolute()),
                "film": str(drawn_on.absolute()),
                "frame": frame,
                "shape": list(shape),
                "names": dict(names),
            }
            with self._crew.borrowed() as worker:
                answer = worker.ask(request)
        try:
            return [_box(name, *corners) for name, corners in answer["boxes"]]
        except (KeyError, TypeError, ValueError):
            raise ImageError(
                "decoder_died", "the process that read the file went astray."
            ) from None

    def _in_order(self, task: str, files: Iterable[Wanted]) -> Iterator[Answer | ImageError]:
        return self._crew.map(lambda file: self._ask(task, *file), files, self._ahead)

    def _ask(self, task: str, path: FilePath, frame: int | None) -> Answer | ImageError:
        wanted = self._reading.frame if frame is None else frame
        try:
            require_path_inside(path, self._roots)
            with local_film_copy(path, self._reading.max_file_mb) as file:
                request = {"task": task, "path": str(file.absolute()), "frame": wanted}
                with self._crew.borrowed() as worker:
                    return worker.ask(request)
        except ImageError as error:
            return error


def _box(name: Any, x0: Any, y0: Any, x1: Any, y1: Any) -> AnnotatedBox:
    return AnnotatedBox(str(name), (float(x0), float(y0), float(x1), float(y1)))


class _Worker(Child):
    """A process that reads files within limits of memory and time."""

    def __init__(self, reading: ReadingConfig) -> None:
        self._limits = reading
        own = str(Path(ravl_med.__file__).resolve().parents[1])
        named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        # only how to read: a worker that a hostile file has taken over learns no path from it
        settings = reading.model_dump_json(include=set(ReadingConfig.model_fields))
        super().__init__(
            "ravl_med.cohort.reading_worker:main",
            settings.encode() + b"\n",
            [own, *filter(None, named)],
            dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        )

    def ask(self, request: Mapping[str, Any]) -> Answer:
        try:
            pipes = self.start()
        except (OSError, EOFError):
            self.end()
            raise DataError(
                "cohort.workers: no process to read films in can be started; expected one. Set it "
                "to 0 to read in this process."
            ) from None
        if pipes is None:
            raise ImageError("unreadable", "reading was stopped.")
        limits = self._limits
        with self.time_limit(limits.max_seconds) as late:
            try:
                return _exchange(*pipes, request, limits.max_pixels)
            except ImageError as error:
                if error.reason == "out_of_memory":  # it ends itself then
                    self.end()
                raise
            except (OSError, ValueError, KeyError, TypeError, EOFError):
                self.end()
                if late.is_set():
                    raise ImageError(
                        "timed_out",
                        f"reading took longer than {limits.max_seconds:g} s (cohort.max_seconds).",
                    ) from None
                raise ImageError(
                    "decoder_died", "the process that read the file ended; the file is damaged."
                ) from None


def _exchange(
    requests: IO[bytes], answers: IO[bytes], request: Mapping[str, Any], max_pixels: int
) -> Answer:
    """Send a request and read its answer; an answer that is not whole is an error."""
    requests.write(json.dumps(request).encode() + b"\n")
    requests.flush()
    line = answers.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, Any] = json.loads(line)
    if "reason" in answer:
        raise ImageError(str(answer["reason"]), str(answer["message"]))
    shape = answer.pop("shape")
    if shape is None:
        return answer
    height, width = (int(side) for side in shape)
    if not 0 < height * width <= max_pixels:
        raise ValueError("more pixels than a film may have")
    return {**answer, "pixels": _receive_pixels(answers, height, width)}


def _receive_pixels(answers: Any, height: int, width: int) -> NDArray[np.float32]:
    pixels = np.empty((height, width), dtype=np.float32)
    view = pixels.data.cast("B")
    while view:
        count = answers.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]
    return pixels
