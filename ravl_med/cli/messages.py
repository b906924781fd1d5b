"""What a finished run says on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from ravl_med.cli.console import console

if TYPE_CHECKING:
    from ravl_med.evidence.audit_result import AuditResult, Sensitivity
    from ravl_med.evidence.results import SpuriousCorrelation
    from ravl_med.pipeline.mitigate import Mitigation
    from ravl_med.reporting.comparison.compare import Comparison
    from ravl_med.reporting.files.audit_run import Audit


_WORDS = {
    "fail": ("red", "FAIL"),
    "review": ("yellow", "REVIEW"),
    "pass": ("green", "PASS"),
    "not_auditable": ("magenta", "NOT AUDITABLE"),
    "improved": ("green", "IMPROVED"),
    "no_change": ("yellow", "NO CHANGE"),
    "worse": ("red", "WORSE"),
    "nothing_to_do": ("green", "NOTHING TO DO"),
}
_CORRELATIONS_TOLD = 5


def print_review(result: AuditResult, folder: Path) -> None:
    """Say the verdict that follows from the decisions of reviewers."""
    colour, word = _WORDS[result.verdict.name]
    terminal = console()
    terminal.print(f"[bold {colour}]{word}[/]  {escape(result.name)}")
    for reason in result.verdict.reasons:
        terminal.print(f"  {escape(reason)}")
    if result.undecided is not None:
        held = sum(ruling.in_force for ruling in result.rulings)
        status = "FINAL" if result.undecided == 0 else "DRAFT"
        terminal.print(
            f"  {held} decisions in force, {len(result.rulings) - held} expired, "
            f"{result.undecided} correlations to decide on: {status}."
        )
    terminal.print(f"Report: {escape(str(folder / 'report.pdf'))}", soft_wrap=True)


def print_audit(run: Audit, folder: Path) -> None:
    """Say the verdict in a few lines, and where the PDF is."""
    result = run.result
    colour, word = _WORDS[result.verdict.name]
    terminal = console()
    terminal.print(f"[bold {colour}]{word}[/]  {escape(result.name)}")
    for reason in result.verdict.reasons:
        terminal.print(f"  {escape(reason)}")
    for check in result.sanity.checks if result.sanity is not None else ():
        if check.status == "odd":
            terminal.print(f"  Remark, {escape(check.name)}: {escape(check.text.rstrip('.'))}.")
    cohort = result.cohort
    if run.halved_to:
        terminal.print(
            f"  Memory did not suffice for the batches asked for: {run.halved_to} films were "
            "encoded at once (model.batch_size)."
        )
    terminal.print(
        f"  {cohort.images} films of {cohort.patients} patients audited, "
        f"{sum(cohort.rejected.values())} set aside; accuracy {result.accuracy.overall:.1%}."
    )
    for correlation in [c for c in result.correlations if c.counts][:_CORRELATIONS_TOLD]:
        terminal.print(escape(f"  {_correlation_line(correlation, result.task.classes)}"))
    if result.discovery is not None:
        found = result.correlations
        confirmed = sum(c.confirmation.status == "confirmed" for c in found)
        used = sum(c.counterfactual is not None and c.counterfactual.used for c in found)
        terminal.print(
            f"  {result.discovery.clusters} clusters, {result.discovery.candidates} candidates, "
            f"{confirmed} confirmed on held-out patients, {used} used by the model."
        )
    if result.sensitivity is not None:
        terminal.print(f"  {_sensitivity_line(result.sensitivity)}")
    if run.config.cohort.synthetic is not None:
        from ravl_med.pipeline.truth import compare_with_truth

        for line in compare_with_truth(run).lines():
            terminal.print(f"  truth: {escape(line)}")
    from ravl_med.reporting.files.run_record import peak_memory_mb

    cost = f"{sum(run.timings.values()):.0f} s, {peak_memory_mb() / 1000:.1f} GB"
    terminal.print(f"Report: {escape(str(folder / 'report.pdf'))}  ({cost})", style="bold")


def print_comparison(comparison: Comparison, folder: Path) -> None:
    """Say what differs between two audits in a few lines, and where the PDF is."""
    from ravl_med.reporting.comparison.pages import difference_sentences, headline

    terminal = console()
    names = escape(f"{comparison.a.name} (A) and {comparison.b.name} (B)")
    terminal.print(f"[bold]{headline(comparison).upper()}[/]  {names}")
    for sentence in difference_sentences(comparison):
        terminal.print(f"  {escape(sentence)}")
    terminal.print(f"Report: {escape(str(folder / 'report.pdf'))}", style="bold", soft_wrap=True)


def print_mitigation(run: Mitigation, folder: Path) -> None:
    """Say the verdict, every arm in a line, and where the new model is."""
    result = run.result
    colour, word = _WORDS[result.verdict.name]
    terminal = console()
    terminal.print(f"[bold {colour}]{word}[/]  {escape(result.name)}")
    for reason in result.verdict.reasons:
        terminal.print(f"  {escape(reason)}")
    for arm in result.arms:
        regions = "" if arm.region_worst.films == 0 else f"{arm.region_worst.after:7.1%}"
        terminal.print(
            escape(
                f"  {arm.title:<50} overall {arm.image_overall.after:6.1%}  worst group "
                f"{arm.image_worst.after:6.1%}"
                + (f"  regions, worst group {regions}" if regions else "")
                + ("  <- delivered" if arm.delivered else "")
            )
        )
    for note in result.notes:
        terminal.print(f"  Note: {escape(note)}")
    if result.reaudit is not None:
        again = result.reaudit
        left = "; ".join(again.remaining) or "the shortcut is gone"
        new = "; ".join(again.appeared) or "no new one"
        terminal.print(escape(f"  Re-audit ({again.verdict.replace('_', ' ')}): {left}; {new}."))
    from ravl_med.reporting.files.run_record import peak_memory_mb

    cost = f"{sum(run.timings.values()):.0f} s, {peak_memory_mb() / 1000:.1f} GB"
    if run.model is not None:
        terminal.print(f"Model:  {escape(str(folder / 'model'))}")
    terminal.print(f"Report: {escape(str(folder / 'report.pdf'))}  ({cost})", style="bold")


def _correlation_line(correlation: SpuriousCorrelation, classes: tuple[str, ...]) -> str:
    cluster, tested = correlation.cluster, correlation.confirmation
    others = ", ".join(classes[c] for c in cluster.opposed_classes)
    line = (
        f"{correlation.rank}. {correlation.kind.replace('_', ' ')}: raises "
        f"{classes[cluster.raised_class]} by "
        f"{100 * tested.arms.gap[cluster.raised_class]:+.0f} points, moves {others} by "
        f"{100 * tested.arms.opposed_gap:+.0f}, q {_small(tested.q_value)}"
    )
    counterfactual = correlation.counterfactual
    if counterfactual is not None and counterfactual.removal.median is not None:
        line += f"; removal {counterfactual.removal.median.contrast:+.2f} logits"
    if counterfactual is not None and counterfactual.transplant is not None:
        line += f", transplant {counterfactual.transplant.contrast:+.2f}"
    return f"{line}."


def _small(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _sensitivity_line(sensitivity: Sensitivity) -> str:
    told = [
        f"{100 * d.gap:.0f} points at {d.prevalence:.0%}"
        for d in sensitivity.detectable
        if d.gap == d.gap
    ]
    if not told:
        return "These films could not have shown any gap with the asked power."
    return (
        f"Smallest gap found with {sensitivity.power:.0%} power, by share of films with the "
        f"feature: {', '.join(told)}."
    )
