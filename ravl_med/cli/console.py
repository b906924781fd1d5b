"""The terminal: options that verbs share, one line an error, progress, and the outcome of a run.

Progress is a bar for each stage on a terminal; in a log a line for each stage, and one a minute.
"""

from __future__ import annotations

import logging
import math
import os
import re
import select
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape

from ravl_med.errors import ConfigError, RavlMedError, means_disk_full, visible

if TYPE_CHECKING:
    from ravl_med.config.loading import Config
    from ravl_med.evidence.audit_result import AuditResult, Sensitivity
    from ravl_med.evidence.mitigation_result import MitigationResult
    from ravl_med.evidence.results import SpuriousCorrelation
    from ravl_med.pipeline.mitigate import Mitigation
    from ravl_med.reporting.comparison.compare import Comparison
    from ravl_med.reporting.files.audit_run import Audit

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the audit.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One config value, as section.key=value."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:0 or mps.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show no progress, only the result.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show warnings and tracebacks.")]
ResultsOption = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Keep an earlier run that holds files of yours beside the new one, under its date.",
    ),
]
ExitZeroOption = Annotated[bool, typer.Option("--exit-zero", help="Return 0 whatever the verdict.")]


QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether the verb that runs shows no progress."""
OPENED: ContextVar[tuple[Config, Path] | None] = ContextVar("opened", default=None)
"""The config of the verb that runs, and its folder."""


def overrides(set_values: list[str] | None, device: str | None) -> tuple[str, ...]:
    """Return the command line's overrides of the config file, as section.key=value."""
    more = () if device is None else (f"model.device={device}",)
    return (*(set_values or ()), *more)


@contextmanager
def reporting_errors(debug: bool) -> Iterator[None]:
    """Turn every error into one clear line and its exit code."""
    if not debug:
        warnings.filterwarnings("ignore")
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its messages hold values of tags
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        complain("stopped. What was finished is kept in the cache: the same command goes on there.")
        raise typer.Exit(130) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ConfigError.exit_code) from None
        if debug:
            raise
        message, code = _message_of(error)
        for line in message.splitlines():
            complain(line)
        raise typer.Exit(code) from None


def _is_unread(stream: TextIO) -> bool:
    """Return whether who read the output, such as ``head``, has gone."""
    watch = select.poll()
    watch.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in watch.poll(0))


def _message_of(error: Exception) -> tuple[str, int]:
    """Return what is printed of an error, and its exit code."""
    if isinstance(error, RavlMedError):
        lines = [f"error: {line}{_tried(line)}" for line in str(error).splitlines()]
        return "\n".join(lines), error.exit_code
    if means_disk_full(error):
        return (
            "error: no room left on a disk; expected some where the cache, the output and "
            "temporary files lie (cache.folder, --out, TMPDIR). Make room and run the same "
            "command again: what was finished is kept."
        ), ConfigError.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch
        return (
            "error: the memory of this machine does not suffice. Free some, take smaller batches "
            "(model.batch_size), or a larger machine: what was finished is kept."
        ), ConfigError.exit_code
    return (
        f"internal error: {type(error).__name__}. Nothing was written. Run again with --debug "
        "for the traceback, which may hold file names, and report it."
    ), 4


def _tried(line: str) -> str:
    """Say where a path of the config was looked for that is not there, on this terminal alone."""
    named = re.match(r"(\w+)\.(\w+)\b", line)
    if named is None or (opened := OPENED.get()) is None:
        return ""
    path = getattr(getattr(opened[0], named[1], None), named[2], None)
    if not isinstance(path, Path) or os.path.exists(path):  # noqa: PTH110 - never raises
        return ""
    written = path.relative_to(opened[1]) if path.is_relative_to(opened[1]) else path
    return f" Tried: {written} -> {os.path.abspath(path)}"  # noqa: PTH100 - without ".."


class _Terminal(Console):
    """A console that obeys no character of what it is given to print, markup apart."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, whose control and direction characters are spelled out."""
        shown = [
            "\n".join(map(visible, one.split("\n"))) if isinstance(one, str) else one
            for one in objects
        ]
        super().print(*shown, **options)


def console(*, stderr: bool = False) -> Console:
    """Return a console that wraps at words on a terminal and keeps lines whole in a pipe."""
    made = _Terminal(stderr=stderr, highlight=False)
    made.soft_wrap = not made.is_terminal
    return made


def say(text: str) -> None:
    """Print a line."""
    console().print(text)


def note(lines: Iterable[str]) -> None:
    """Print lines about what was found and done besides, on the terminal's other stream."""
    for line in lines:
        console(stderr=True).print(escape(line))


def complain(text: str) -> None:
    """Print a line of an error, red on a terminal."""
    console(stderr=True).print(escape(text), style="bold red")


Show = Callable[[str, int, int], None]

_WINDOW = 300.0  # seconds that a pace is measured over: films from the cache went by faster
_SAMPLES = 100
_EVERY = 60.0  # seconds between lines of a stage in a log
_SHORT = 5.0  # seconds of a run that leaves no line


class Pace:
    """The pace of a stage over the last minutes."""

    def __init__(self, window: float = _WINDOW) -> None:
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        """Note the amount done at a time in seconds."""
        seen = self._seen
        if len(seen) > 1 and now - seen[-2][0] < self._window / _SAMPLES:
            seen.pop()  # close to the one before it: the newest of both is enough
        seen.append((now, done))
        while len(seen) > 2 and now - seen[1][0] >= self._window:
            seen.popleft()

    @property
    def a_second(self) -> float:
        """Return the amount done in a second; 0 while it is unknown."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def left(self, total: int) -> float | None:
        """Return the seconds until all is done at this pace; None while it is unknown."""
        rate = self.a_second
        return max(total - self._seen[-1][1], 0) / rate if rate > 0 else None

    def text(self, total: int) -> str:
        """Return pace and time left as text; blank while they are unknown, or of a single step."""
        left = self.left(total)
        if left is None or total == 1:
            return ""
        rate = self.a_second
        each = f"{rate:,.1f} per second" if rate >= 0.95 else f"{60.0 * rate:,.1f} per minute"
        return each if not left else f"{each}, {_duration(left)} left"


class StageLog:
    """Writes a line when a stage begins, and one a minute; a run of seconds leaves none."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._began = self._said = clock()
        self._named: set[str] = set()
        self._paces: dict[str, Pace] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """Note how much of a stage is done, and write a line where one is due."""
        now = self._clock()
        pace = self._paces.setdefault(stage, Pace())
        pace.note(now, done)
        name = stage.partition(",")[0]  # of the first feature, not of each
        new = name not in self._named and now - self._began >= _SHORT
        if new or now - self._said >= _EVERY:
            self._said = now
            self._named.add(name)
            parts = [f"{stage}: {done:,} of {total:,}", pace.text(total)]
            self._write(", ".join(filter(None, parts)))


@contextmanager
def show_progress() -> Iterator[Show]:
    """Yield a function that shows each stage with its pace and time left, over all workers."""
    terminal = _Terminal(stderr=True)
    if QUIET.get():
        yield lambda stage, done, total: None
        return
    if not terminal.is_terminal:
        terminal.soft_wrap = True
        log = StageLog(lambda line: terminal.print(escape(line), highlight=False))
        yield log.show
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}", style="dim"),
    ]
    with Progress(*columns, console=terminal) as bars:
        tasks: dict[str, Any] = {}
        paces: dict[str, Pace] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    bars.stop_task(earlier)
                tasks[stage] = bars.add_task(escape(visible(stage)), total=total, pace="")
            pace = paces.setdefault(stage, Pace())
            pace.note(time.monotonic(), done)
            bars.update(tasks[stage], completed=done, total=total, pace=pace.text(total))

        yield show


def _duration(seconds: float) -> str:
    """Return a duration in two units at most."""
    minutes = round(seconds / 60.0)
    if minutes < 1:
        return f"{max(round(seconds), 1)} s"
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


_VERDICTS = {
    "fail": ("red", "FAIL"),
    "review": ("yellow", "REVIEW"),
    "conditional": ("yellow", "CONDITIONAL"),
    "pass": ("green", "PASS"),
    "not_auditable": ("magenta", "NOT AUDITABLE"),
    "improved": ("green", "IMPROVED"),
    "no_change": ("yellow", "NO CHANGE"),
    "worse": ("red", "WORSE"),
    "nothing_to_do": ("green", "NOTHING TO DO"),
}
_CORRELATIONS_SHOWN = 5


def verdict_line(result: AuditResult) -> str:
    """Say the verdict of a reviewed run, and what is still open, in a line."""
    left = f"{result.undecided} still to decide: DRAFT" if result.undecided else "FINAL"
    return f"Verdict: {_VERDICTS[result.verdict.name][1]}. {left}."


def print_review(result: AuditResult, folder: Path) -> None:
    """Print the verdict that follows from the reviewers' decisions."""
    terminal = _print_verdict(result, result.verdict.reasons)
    if result.undecided is not None:
        terminal.print(f"  {_review_line(result)}")
    terminal.print(f"Report: {escape(str(folder / 'report.pdf'))}", soft_wrap=True)


def _print_verdict(result: AuditResult | MitigationResult, lines: Iterable[str]) -> Console:
    """Print a verdict in its colour, and lines below it; return the console."""
    colour, verdict = _VERDICTS[result.verdict.name]
    terminal = console()
    terminal.print(f"[bold {colour}]{verdict}[/]  {escape(result.name)}")
    for line in lines:
        terminal.print(f"  {escape(line)}")
    return terminal


def _cost(timings: Mapping[str, float]) -> str:
    """Say what a run took of time and memory."""
    from ravl_med.reporting.files.run_record import peak_memory_mb

    return f"{sum(timings.values()):.0f} s, {peak_memory_mb() / 1000:.1f} GB"


def _review_line(result: AuditResult) -> str:
    """Say what is decided and what is open."""
    from ravl_med.reporting.wording import plural

    left = result.undecided or 0
    held = sum(ruling.in_force for ruling in result.rulings)
    expired = len(result.rulings) - held
    ended = f", {plural(expired, 'acceptance')} expired" if expired else ""
    if left:
        needs = f"{plural(left, 'feature')} still {'needs' if left == 1 else 'need'} a decision"
        return f"Draft: {needs} ({held} decided{ended})."
    return f"Final: nothing is left to decide ({held} decided{ended})."


def print_audit(run: Audit, folder: Path, config: Path) -> None:
    """Print the verdict of an audit in a few lines, its report, and the commands that go on."""
    terminal = _print_verdict(run.result, _audit_lines(run))
    report = escape(str(folder / "report.pdf"))
    terminal.print(f"Report: {report}  ({_cost(run.timings)})", style="bold")
    terminal.print(f"Open:   {escape(str(folder / 'report.html'))}", soft_wrap=True)
    if run.result.open_ranks:
        terminal.print(f"Decide: ravl-med review {escape(str(folder))}", soft_wrap=True)
    if run.result.verdict.name in ("fail", "conditional"):
        terminal.print(f"Repair: ravl-med mitigate {escape(str(config))}", soft_wrap=True)


def _audit_lines(run: Audit) -> Iterator[str]:
    from ravl_med.evidence.disclosure_control import hide_small_cells
    from ravl_med.reporting.wording import number, plural

    result = hide_small_cells(run.result, run.config.hidden_below)  # logs are shared as reports are
    yield from result.verdict.reasons
    for check in result.sanity.checks if result.sanity is not None else ():
        if check.status == "odd":
            yield f"Remark, {check.name}: {check.text.rstrip('.')}."
    cohort = result.cohort
    if run.halved_to:
        yield (
            f"Not enough memory for model.batch_size {run.config.model.batch_size}; "
            f"{run.halved_to} films were encoded at a time."
        )
    yield (
        f"{cohort.images} films of {plural(cohort.patients, 'patient')} audited, "
        f"{sum(cohort.rejected.values())} set aside; accuracy "
        f"{number(100 * result.accuracy.overall, 1)} %."
    )
    yield from _search_lines(result)
    if run.config.cohort.synthetic is not None:
        from ravl_med.pipeline.truth import compare_with_truth

        yield from (f"truth: {line}" for line in compare_with_truth(run).lines())


def _search_lines(result: AuditResult) -> Iterator[str]:
    from ravl_med.reporting.wording import plural

    for correlation in [c for c in result.correlations if c.counts][:_CORRELATIONS_SHOWN]:
        yield _correlation_line(correlation, result)
    if result.discovery is not None:
        found = result.correlations
        confirmed = sum(c.confirmation.status == "confirmed" for c in found)
        used = sum(c.used for c in found)
        clusters = plural(result.discovery.clusters, "cluster")
        yield (
            f"{clusters}, {plural(result.discovery.candidates, 'candidate')}, "
            f"{confirmed} confirmed on held-out patients, {used} used by the model."
        )
    if result.sensitivity is not None:
        yield _sensitivity_line(result.sensitivity)


def print_comparison(comparison: Comparison, folder: Path) -> None:
    """Print the differences between two audits in a few lines, and the place of the report."""
    from ravl_med.reporting.comparison.report import difference_sentences, headline

    terminal = console()
    names = escape(f"{comparison.a.name} (A) and {comparison.b.name} (B)")
    terminal.print(f"[bold]{headline(comparison).upper()}[/]  {names}")
    for sentence in difference_sentences(comparison):
        terminal.print(f"  {escape(sentence)}")
    terminal.print(f"Report: {escape(str(folder / 'report.pdf'))}", style="bold", soft_wrap=True)


def print_mitigation(run: Mitigation, folder: Path) -> None:
    """Print the verdict, a line for each arm, and the place of the new model."""
    from ravl_med.reporting.mitigation.report import gone_sentence, nothing_new
    from ravl_med.reporting.wording import percent

    result = run.result
    terminal = _print_verdict(result, result.verdict.reasons)
    for arm in result.arms:
        measures = {"overall": arm.image_overall, "worst group": arm.image_worst}
        if arm.region_worst.films:
            measures["regions, worst group"] = arm.region_worst
        texts = [f"{name} {percent(one.after, 1):>7}" for name, one in measures.items()]
        ending = "  <- delivered" if arm.delivered else ""
        terminal.print(escape(f"  {arm.title:<50} {'  '.join(texts)}{ending}"))
    for note in result.notes:
        terminal.print(f"  Note: {escape(note)}")
    if result.reaudit is not None:
        again = result.reaudit
        new = "; ".join(again.appeared) or nothing_new(again)
        terminal.print(escape(f"  Re-audit ({again.verdict.replace('_', ' ')}): "), end="")
        terminal.print(escape(f"{gone_sentence(again)} Appeared: {new}"))
    if run.model is not None:
        terminal.print(f"Model:  {escape(str(folder / 'model'))}")
    report = escape(str(folder / "report.pdf"))
    terminal.print(f"Report: {report}  ({_cost(run.timings)})", style="bold")


def _correlation_line(correlation: SpuriousCorrelation, result: AuditResult) -> str:
    from ravl_med.reporting.audit.sentences import feature_name
    from ravl_med.reporting.wording import class_name, class_names, number, signed

    cluster, tested = correlation.cluster, correlation.confirmation
    found, classes = correlation.counterfactual, result.classes
    raised = class_name(classes, cluster.raised_class)
    line = (
        f"{correlation.rank}. {correlation.kind.replace('_', ' ').capitalize()}: with "
        f"{feature_name(result, correlation)} "
    )
    if correlation.confirmed:
        up, down = tested.arms.gap[cluster.raised_class], tested.arms.opposed_gap
        line += f"the model finds {raised} {number(100 * up, 0)} points more often"
        if cluster.opposed_classes:
            lost = class_names(classes, cluster.opposed_classes)
            line += f" and {lost} {number(-100 * down, 0)} points less often"
        line += " (q below 0.001)" if tested.q_value < 0.001 else f" (q {tested.q_value:.3f})"
    else:
        line += f"the model calls more films {raised}"
        if found is not None and found.removal.undoes(0.0):
            line += f"; {100 * found.removal.harm:.0f} % of the other films are wrong for it"
        elif found and found.transplant and math.isfinite(found.transplant.decisions):
            line += f"; put in, it changes {100 * found.transplant.decisions:.0f} of 100 answers"
    if found is not None and found.removal.both is not None:
        line += f"; removal {signed(found.removal.both.contrast, 2)} logits"
    if found is not None and found.transplant is not None:
        line += f", transplant {signed(found.transplant.contrast, 2)}"
    return f"{line}."


def _sensitivity_line(sensitivity: Sensitivity) -> str:
    gaps = [
        f"{100 * d.gap:.0f} points at {100 * d.prevalence:.0f} %"
        for d in sensitivity.detectable
        if d.gap == d.gap
    ]
    power = f"{100 * sensitivity.power:.0f} %"
    if not gaps:
        return f"These films are too few to detect any gap with {power} power."
    cost = sensitivity.local
    known = (
        f"What is not named may cost {100 * cost.points:.1f} points of accuracy. " if cost else ""
    )
    return (
        f"{known}Smallest gap found with {power} power, by share of films with the "
        f"feature: {', '.join(gaps)}."
    )
