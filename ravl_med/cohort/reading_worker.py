"""A process that reads image files for another one: ``python -m ravl_med.cohort.reading_worker``.

It takes the reading policy as its argument, a line of JSON for each file on standard input, and
answers each with a line of JSON, and the pixels behind it as bytes. Nothing is pickled: a worker
that a hostile file has taken over can send wrong pixels, and no code.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from ravl_med.cohort.image_file import ImageContent, read_film_file
from ravl_med.cohort.reading_policy import ReadingLimits, ReadingPolicy, VolumePolicy
from ravl_med.cohort.survey import SurveyedFile, survey_file
from ravl_med.errors import ImageError

READY = b"ready\n"
"""What a worker says once it can be asked."""


def main() -> None:
    """Answer requests until standard input ends."""
    policy = policy_from_json(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # decoders print, and what they print may name a patient
        os.dup2(silence, descriptor)
    _limit_memory(policy.limits.max_memory_mb)
    _send(answers, READY)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(2.0 * policy.limits.max_seconds)
        try:
            content = _read(request, policy)
        except ImageError as error:
            _send(answers, _line({"reason": error.reason, "message": str(error)}))
            if error.reason == "out_of_memory":  # what is left of it is not worth having
                return
        else:
            _answer(answers, content)
        _limit_time(0.0)


def policy_to_json(policy: ReadingPolicy) -> str:
    """Write a policy as one line."""
    return json.dumps(asdict(policy))


def policy_from_json(text: str) -> ReadingPolicy:
    """Read what `policy_to_json` wrote."""
    content: dict[str, Any] = json.loads(text)
    limits, volume = content.pop("limits"), content.pop("volume")
    window = volume.pop("window")
    return ReadingPolicy(
        **content,
        limits=ReadingLimits(**limits),
        volume=VolumePolicy(**volume, window=None if window is None else (window[0], window[1])),
    )


def _read(request: dict[str, Any], policy: ReadingPolicy) -> ImageContent | SurveyedFile:
    path, policy = Path(request["path"]), replace(policy, frame=request["frame"])
    if request["task"] == "film":
        return read_film_file(path, policy)
    return survey_file(path, policy, any_film=request["task"] == "any film")


def _answer(answers: BinaryIO, content: ImageContent | SurveyedFile) -> None:
    pixels = content.pixels
    told = {
        entry.name: getattr(content, entry.name)
        for entry in fields(content)
        if entry.name != "pixels"
    }
    told["attributes"] = dict(content.attributes)
    _send(answers, _line({**told, "shape": None if pixels is None else pixels.shape}))
    if pixels is not None:
        _send(answers, pixels.data.cast("B"))


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode() + b"\n"


def _send(answers: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[answers.write(view) :]


def _limit_memory(megabytes: int) -> None:
    """Let the system refuse more data than that, where it can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 1_000_000,) * 2)


def _limit_time(seconds: float) -> None:
    """End the process after so long, should the one that watches it be gone; 0 takes it back."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
