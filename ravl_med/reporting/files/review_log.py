"""What readers decide on a run, one after the other: the log, and the ``review.csv`` out of it.

``review.jsonl`` is only ever appended to: time, reader, correlation, decision. ``review.csv``
follows from it and may be edited by hand; what was edited is taken over when a review begins. Two
readers decide on their own, and neither is shown what the other said before both are done. Where
they differ a correlation stays open until they have decided together.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from ravl_med import __version__
from ravl_med.config.audit import GateConfig
from ravl_med.errors import ConfigError, DataError, means_disk_full
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.review import (
    SAME,
    apply_decisions,
    cohens_kappa,
    parse_decisions,
    read_date,
    read_review_rows,
)
from ravl_med.evidence.verdict import open_correlations
from ravl_med.reporting.files.saved_run import naming_damage, read_unchanged_run, redraw_run
from ravl_med.reporting.files.tables import REVIEW, Row, review_rows, review_text, run_digest
from ravl_med.reporting.wording import printable
from ravl_med.storage.bounded_reading import parse_json, read_regular
from ravl_med.storage.files import atomic_write_bytes

LOG = "review.jsonl"
_BY_HAND = "review.by-hand.csv"
_MOST_LOG = 64 << 20
_LONGEST = {"name": 40, "reason": 400, "decision": 40, "until": 20}

Role = Literal["first", "second", "together"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader said of one correlation at one time."""

    time: str  # ISO 8601, UTC
    role: Role
    name: str  # initials
    correlation: str
    decision: str  # as in review.csv; blank: it was taken back
    until: str
    reason: str
    date: str  # ISO, of the reader
    tool: str = ""  # name and version of what showed it; blank: decided by hand


def read_log(path: Path) -> list[Reading]:
    """Return the readings of a log; a last line that was cut off by a kill is passed over.

    Raises
    ------
    DataError
        A line is none.
    """
    try:
        content = read_regular(path, _MOST_LOG)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{LOG} cannot be read ({type(error).__name__}).") from None
    *lines, _ = content.split(b"\n")
    readings = []
    for number, line in enumerate(lines, start=1):
        try:
            reading = Reading(**parse_json(line))
            values = asdict(reading).values()
            if reading.role not in ROLES or not all(isinstance(value, str) for value in values):
                raise ValueError
            readings.append(reading)
        except (ValueError, TypeError, AttributeError):
            raise DataError(
                f"{LOG} line {number} is none that a review wrote; expected the log as it was. "
                "Move it away: review.csv holds what was decided."
            ) from None
    return readings


def combine(rows: Sequence[Row], readings: Sequence[Reading]) -> list[Row]:
    """Return the rows of ``review.csv`` that follow from all readings."""
    return [
        row | _combined([one for one in readings if one.correlation == row["correlation"]])
        for row in rows
    ]


def _combined(said: Sequence[Reading]) -> dict[str, str]:
    """Return what was decided on one correlation, from what readers said of it in order."""
    latest = {one.role: one for one in said}
    if said and said[-1].role == "together":
        return _cells(said[-1])
    both = [one for one in (latest.get("first"), latest.get("second")) if one and one.decision]
    if len(both) < 2:
        return _cells(both[0]) if both else {}
    one, other = both
    names = ", ".join(dict.fromkeys((one.name, other.name)))
    if _meaning(one) != _meaning(other):
        texts = [f"{reader.name}: {reader.decision}" for reader in both]
        return {"reason": f"Readers differ: {'; '.join(texts)}", "name": names}
    reasons = [f"{reader.name}: {reader.reason}" for reader in both]
    reason = one.reason if one.reason == other.reason else "; ".join(reasons)
    return _cells(replace(one, reason=reason, name=names, date=max(one.date, other.date)))


def _cells(reading: Reading) -> dict[str, str]:
    if not reading.decision:
        return {}
    return {key: getattr(reading, key) for key in ("decision", "until", "reason", "name", "date")}


def _meaning(reading: Reading) -> tuple[str, str]:
    found = SAME.fullmatch(reading.decision)
    return (f"same {found.group(1)}" if found else reading.decision), reading.until


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two readers agree on the correlations that both have decided on."""

    both: int
    agreed: int
    kappa: float  # Cohen's; NaN where it is not defined

    def sentence(self) -> str:
        """Say it."""
        value = f"Cohen's kappa {self.kappa:.2f}" if math.isfinite(self.kappa) else "kappa: none"
        return f"Two readers agree on {self.agreed} of {self.both} correlations ({value})."


def agreement(readings: Sequence[Reading]) -> Agreement | None:
    """Return how far first and second reader agree; None where they have nothing in common."""
    said = {
        role: {one.correlation: one for one in readings if one.role == role}
        for role in ("first", "second")
    }
    both = [
        (one, said["second"][name])
        for name, one in said["first"].items()
        if one.decision and name in said["second"] and said["second"][name].decision
    ]
    if not both:
        return None
    first, second = ([_meaning(pair[at])[0] for pair in both] for at in (0, 1))
    agreed = sum(_meaning(one) == _meaning(other) for one, other in both)
    return Agreement(len(both), agreed, cohens_kappa(first, second))


def agreement_sentence(folder: Path) -> str:
    """Say how far two readers of a run agree; blank until both have decided on the same."""
    readings = read_log(folder / LOG)
    last = {(one.role, one.correlation): one.decision for one in readings}
    first, second = (
        {name for (by, name), decision in last.items() if by == role and decision}
        for role in ("first", "second")
    )
    found = agreement(readings) if first == second else None
    return found.sentence() if found else ""


@contextmanager
def hold_for_review(folder: Path) -> Iterator[None]:
    """Hold a run folder for one review at a time, on this machine; the hold ends with the process.

    Raises
    ------
    ConfigError
        Another review of it is open.
    """
    owner = os.getuid() if hasattr(os, "getuid") else 0
    name = sha256(f"{owner} {folder.resolve()}".encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"ravl-med-review-{name}.lock"
    try:
        handle = os.open(place, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise ConfigError(
            f"TMPDIR: no file can be written there ({type(error).__name__}); expected a folder "
            "for temporary files. Name another in TMPDIR."
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "RUN_DIR: another review of this run is open on this machine; expected one at a "
                "time. End it with Ctrl-C, or go on in its page."
            ) from None
        yield
    finally:
        os.close(handle)


class ReviewSession:
    """A review of one run folder: every decision is on the disk before the next one is taken."""

    def __init__(self, folder: Path) -> None:
        """Open a run folder, and take over what was decided in ``review.csv`` by hand.

        Raises
        ------
        ConfigError, DataError
            It is no run, was edited, or its review cannot be read; nothing has been written.
        """
        self.folder = folder.resolve()
        saved = read_unchanged_run(self.folder)
        self.result: AuditResult = saved.result
        with naming_damage(self.folder, "RUN_DIR"):
            self._gate = GateConfig.model_validate_json(saved.gate)
            self.rows = review_rows(self.result, self._gate)
            self.asked = frozenset(
                one.correlation_id(self.result)
                for one in open_correlations(self.result.correlations, self._gate)
            )
        self._archive = self._digest()
        self.readings = read_log(self.folder / LOG)
        self._take_over()
        self.drawn = len(self.readings)  # readings that the report holds

    @property
    def run(self) -> str:
        """Digest of what is decided on; a page of another run has another."""
        return run_digest(self.rows)

    def _digest(self) -> str:
        try:
            content = read_regular(self.folder / "private" / "archive.json", 1 << 30)
        except OSError:
            return ""
        return sha256(content).hexdigest()

    def _take_over(self) -> None:
        """Enter what was changed in ``review.csv`` by hand; keep that file where it was."""
        path = self.folder / REVIEW
        if not path.is_file():
            return
        read = read_review_rows(path)
        decisions = parse_decisions(read)
        apply_decisions(self.result, decisions, self._gate, date.today())  # refuses other runs'
        expected = {row["correlation"]: row for row in combine(self.rows, self.readings)}
        found = {cells["correlation"]: cells for _, cells in read}
        edited = []
        for name, row in expected.items():
            cells = {key: found.get(name, {}).get(key, "") for key in (*_LONGEST, "date")}
            if not (cells["decision"] or row["decision"]):
                continue
            for key in ("until", "date"):
                cells[key] = read_date(cells[key], REVIEW, key).isoformat() if cells[key] else ""
            if any(cells[key] != row[key] for key in cells):
                edited.append(Reading(_now(), "together", correlation=name, **cells))
        if edited:
            _write(self.folder / _BY_HAND, path.read_bytes())
            self._append(*edited)

    def save(self, said: dict[str, Any], role: Role, name: str) -> None:
        """Take a decision, write it to the log and ``review.csv``, and only then return.

        Parameters
        ----------
        said : dict - correlation, decision, until, reason
        name : str - initials of the reader

        Raises
        ------
        DataError
            It is none; the reader has no initials or is the other one; the run has changed.
        """
        if self._digest() != self._archive:
            raise DataError(
                "The run folder is another than the one this review began with. Start "
                "ravl-med review again; what was decided is kept."
            )
        cells = {key: printable(str(said.get(key, "")), most) for key, most in _LONGEST.items()}
        reading = Reading(
            _now(),
            role,
            correlation=str(said.get("correlation", ""))[:20],
            **(cells | {"name": self._checked_name(role, name)}),
            date=date.today().isoformat(),
            tool=f"ravl-med {__version__}",
        )
        self._require_valid(reading)
        self._append(reading)

    def _checked_name(self, role: Role, name: str) -> str:
        plain = " ".join(printable(name, _LONGEST["name"]).split())
        if not plain:
            raise DataError("The reader's initials are blank; a decision needs them.")
        others = {one.name.lower() for one in self.readings if one.role in _OTHER.get(role, ())}
        if plain.lower() in others:
            raise DataError(
                f"{plain} is the other reader; expected another person's initials for the "
                f"{role} reading."
            )
        return plain

    def _require_valid(self, reading: Reading) -> None:
        """Refuse a decision that ``review.csv`` could not hold."""
        names = [row["correlation"] for row in self.rows]
        if reading.correlation not in names:
            raise DataError("This correlation is not one of this run. Load the page again.")
        if not reading.decision:
            return
        alone = [row | (_cells(reading) if row["correlation"] == reading.correlation else {})
                 for row in self.rows]  # fmt: skip
        combined = combine(self.rows, [*self.readings, reading])
        for rows in (alone, combined):
            parse_decisions(list(enumerate(rows, start=2)))

    def _append(self, *readings: Reading) -> None:
        path = self.folder / LOG
        try:
            content = path.read_bytes() if path.exists() else b""
            lines = b"".join(
                json.dumps(asdict(one), ensure_ascii=False).encode() + b"\n"
                # What another program took away meanwhile is written again.
                for one in (*self.readings[content.count(b"\n") :], *readings)
            )
            whole = content.rpartition(b"\n")[0]
            with path.open("ab") as stream:
                if content and not content.endswith(b"\n"):
                    stream.truncate(len(whole) + 1 if whole else 0)
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise _unwritten(LOG, error) from None
        self.readings.extend(readings)
        _write(self.folder / REVIEW, review_text(combine(self.rows, self.readings)).encode())

    def has_finished(self, role: Role) -> bool:
        """Whether a reader has decided on all that asks for a decision."""
        decided = {one.correlation: one.decision for one in self.readings if one.role == role}
        return bool(self.asked) and all(decided.get(name) for name in self.asked)

    def state(self, role: Role) -> dict[str, Any]:
        """Return what a reader may see: what they said, and of the other once both are done."""
        both = self.has_finished("first") and self.has_finished("second")
        rows = combine(self.rows, self.readings)
        said = {one.correlation: asdict(one) for one in self.readings if one.role == role}
        if role == "together":
            alone = all(one.role != "second" for one in self.readings)
            said = {row["correlation"]: row for row in rows} if both or alone else {}
        found = agreement(self.readings) if both else None
        differing = [row["rank"] for row in rows if row["reason"].startswith("Readers differ")]
        return {
            "run": self.run,
            "readings": said,
            "finished": self.has_finished(role),
            "agreement": found.sentence() if found else "",
            "differing": differing if both else [],
            "unwritten": len(self.readings) - self.drawn,
        }

    def draw(self) -> AuditResult:
        """Draw the report of the run again; errors are those of `redraw_run`."""
        count = len(self.readings)
        result = redraw_run(self.folder, date.today(), agreement_sentence(self.folder))
        self.drawn = count
        return result


_OTHER: dict[Role, tuple[Role, ...]] = {"first": ("second",), "second": ("first",)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, content: bytes) -> None:
    """Write a file of the run folder whole, as readable as the one that it replaces."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        atomic_write_bytes(path, content)
        path.chmod(mode)
    except OSError as error:
        raise _unwritten(path.name, error) from None


def _unwritten(name: str, error: OSError) -> ConfigError:
    why = "no room left on the disk" if means_disk_full(error) else type(error).__name__
    return ConfigError(
        f"{name} cannot be written ({why}); this decision is not saved, earlier ones are. Make "
        "room or ask for the right to write there, and decide again."
    )
