"""The process that reads image files for `reading_pool`, and answers in JSON and bytes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from ravl_med.cohort.image_file import ImageContent, read_film_file
from ravl_med.cohort.survey import SurveyedFile, survey_file
from ravl_med.config.cohort import ReadingConfig
from ravl_med.engine.supervisor import READY, take_over_pipes
from ravl_med.errors import ImageError


def main() -> None:
    """Answer requests until standard input ends."""
    requests, answers = take_over_pipes()
    reading = ReadingConfig.model_validate_json(requests.readline())
    _limit_memory(reading.max_memory_mb)
    _send(answers, READY)
    for line in requests:
        request = json.loads(line)
        _limit_time(2.0 * reading.max_seconds)
        try:
            if request["task"] == "annotation":
                answer = _line({"boxes": _boxes(request, reading), "shape": None})
            else:
                content = _read(request, reading)
        except ImageError as error:
            _send(answers, _line({"reason": error.reason, "message": str(error)}))
            if error.reason == "out_of_memory":  # too little is left to read another file
                return
        else:
            if request["task"] == "annotation":
                _send(answers, answer)
            else:
                _answer(answers, content)
        _limit_time(0.0)


def _read(request: dict[str, Any], reading: ReadingConfig) -> ImageContent | SurveyedFile:
    path, reading = Path(request["path"]), reading.for_frame(request["frame"])
    if request["task"] == "film":
        return read_film_file(path, reading)
    return survey_file(path, reading)


def _boxes(request: dict[str, Any], reading: ReadingConfig) -> list[list[Any]]:
    """Return the regions of an annotation file as names and corners."""
    from ravl_med.cohort.annotation_file import read_annotation_file

    height, width = request["shape"]
    boxes = read_annotation_file(
        Path(request["path"]),
        Path(request["film"]),
        (height, width),
        {int(value): name for value, name in request["names"].items()},
        reading.for_frame(request["frame"]),
    )
    return [[one.name, list(one.box)] for one in boxes]


def _answer(answers: IO[bytes], content: ImageContent | SurveyedFile) -> None:
    pixels = content.pixels
    names = [entry.name for entry in fields(content) if entry.name != "pixels"]
    answer = {name: getattr(content, name) for name in names}
    answer["attributes"] = dict(content.attributes)
    _send(answers, _line({**answer, "shape": None if pixels is None else pixels.shape}))
    if pixels is not None:
        _send(answers, pixels.data.cast("B"))


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _send(answers: IO[bytes], data: bytes | memoryview) -> None:
    answers.write(data)
    answers.flush()


def _limit_memory(megabytes: int) -> None:
    """Let the system refuse to hold more data, where it can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 1_000_000,) * 2)


def _limit_time(seconds: float) -> None:
    """End the process after so long, in case its parent is gone; 0 lifts the limit."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
