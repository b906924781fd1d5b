"""``ravl-med init``: a manifest and a commented config from a folder of films and reports."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import ravl_med
from ravl_med.cohort.archive import ArchiveSurvey
from ravl_med.cohort.manifest import number_sites
from ravl_med.cohort.report_table import LABEL_CELLS
from ravl_med.cohort.table import ATTRIBUTES
from ravl_med.errors import ConfigError, DataError
from ravl_med.pipeline.inspect import (
    NO_FINDING,
    FilmFindings,
    IntakeReport,
    inspect_archive,
    patient_of,
    read_findings,
    report_archive,
)
from ravl_med.pipeline.stages import Progress
from ravl_med.storage.files import atomic_write

_HEAD = """\
# An audit of the films in manifest.csv. Run it with:   ravl-med audit audit.yaml
# Look first with:   ravl-med inspect audit.yaml   and   ravl-med regions audit.yaml
# Every key: ravl-med config --reference. Paths are relative to this file.
name: %-22s # name of the run and of its folder; printed in the report
cohort:
  manifest: manifest.csv     # one row a film; patients, studies and sites are numbers
"""

_QUICKSTART = """\
model:
  # DEMONSTRATION: a small model, trained on half of your films and their reports. Your own: put
  #   path: ../model   for the next line, and   split: null   above to audit every film.
  quickstart: {batch_size: %d}
"""

_MODEL = """\
model:
  path: {path}
  name: {name}               # how the report calls it
"""

_NO_TASK = """\
# No labels were found: write a column with 1 and 0 into manifest.csv, and put its name for
# FINDING here.
"""

_OPPOSITES = {"no finding": "any finding", "normal": "abnormal"}


def write_config(
    *,
    name: str,
    finding: str,
    source: str,
    model: str | None,
    roots: Sequence[str],
    batch_size: int,
) -> str:
    """Return the text of a config.

    Parameters
    ----------
    name : str - of the run, as far as its letters may stand in one
    finding : str - of the task; blank where no labels were found
    source : {"manifest", "reports"} - of the labels
    model : str or None - path of the model; None: a small one is trained on a split of the manifest
    roots : sequence of str - folders besides the config's own that films lie in
    batch_size : int - of the small model's training
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:50] or "my-films"
    parts = [_HEAD % _scalar(plain if model is not None else f"{plain}-demonstration")]
    if roots:
        parts.append(f"  roots: [{', '.join(map(_scalar, roots))}]  # where the films lie\n")
    chosen = "validation" if model is None else "null"
    parts.append(f"  split: {chosen:<20}# rows that are audited; null takes every row\n")
    parts.append("  preset: window             # or mimic-cxr-jpg, chexpert: as in training\n")
    parts.append("labels:\n")
    parts.append(f"  source: {source:<19}# columns of the manifest, or what its reports say\n")
    parts.append("  blank: exclude             # or negative: what is not stated is absent\n")
    parts.append(_task(finding))
    parts.append(
        _QUICKSTART % batch_size
        if model is None
        else _MODEL.format(path=_scalar(model), name=_scalar(Path(model).name))
    )
    parts.append("regions:\n  sources: [artifacts, anatomy, tiles]\n")
    parts.append("evidence:\n  relevance: relevance.yaml  # where each finding shows on a film\n")
    return "".join(parts)


def _task(finding: str) -> str:
    named = finding or "FINDING"
    opposite = _OPPOSITES.get(named, f"no {named}")
    positive, negative = (_scalar(f"{text[:1].upper()}{text[1:]}.") for text in (named, opposite))
    name, other = _scalar(named), _scalar(opposite)
    lines = [
        "task:",
        f"  name: {name}",
        "  # The model reads prompts verbatim: write them in the style of its training, such as",
        "  # “a chest radiograph with edema” for captions, “Mild pulmonary edema.” for reports.",
        "  classes:",
        f"    {name}:",
        f"      label: {{{name}: 1}}",
        f"      prompts: [{positive}]",
        f"    {other}:",
        f"      label: {{{name}: 0}}",
        f"      prompts: [{negative}]",
    ]
    return ("" if finding else _NO_TASK) + "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """Write a text so that YAML reads it back, as a key in braces too, quoted where needed."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.width = 10_000
    yaml.dump([text], stream)
    written = stream.getvalue().strip()[1:-1]
    with suppress(YAMLError):
        if yaml.load(f"{{{written}: 1}}") == {text: 1}:
            return written
    return json.dumps(text, ensure_ascii=False)


MANIFEST, CONFIG, RELEVANCE = "manifest.csv", "audit.yaml", "relevance.yaml"
_AUDITED = "validation"
_LEAST_FILMS = 20  # with and without a finding, as ``gate.min_films`` demands
_MANY = 1280  # films, of which half train a small model in batches of 64
_UNKNOWN = 0.2  # share of reports, as ``labels.max_unrecognised`` allows
_TABLE = "relevance/chest.yaml"


@dataclass(frozen=True, slots=True)
class StartPlan:
    """The request of a user."""

    folder: Path  # of the archive
    out: Path | None = None  # of manifest and config; None: the archive's folder
    tables: tuple[Path, ...] = ()  # of reports or findings
    finding: str | None = None  # to audit; None: the one with most films on its rarer side
    model: Path | None = None  # its folder; None: a small one is trained on half of the patients


@dataclass(frozen=True, slots=True)
class Start:
    """The files that were written."""

    report: IntakeReport
    manifest: Path
    config: Path
    finding: str  # of the config's task; blank where no labels were found
    lacking: tuple[str, ...]  # what an audit still needs; empty: it can be run


def initialise(plan: StartPlan, *, progress: Progress = lambda stage, done, total: None) -> Start:
    """Survey a folder, and write a manifest, a config and the table of relevance.

    Patients, studies and institutions are numbers in the manifest; its paths are relative to it.
    Existing files are never overwritten.

    Raises
    ------
    ConfigError
        A file to be written exists, or the finding is not one that was found.
    DataError
        No frontal chest film was found.
    """
    out = plan.folder if plan.out is None else plan.out
    targets = [out / name for name in (MANIFEST, CONFIG, RELEVANCE)]
    for target in targets:
        if target.exists() or target.is_symlink():
            raise ConfigError(
                f"{target.name} exists in the folder; it is not overwritten. Move it away, or "
                "name another folder with --out."
            )
    survey = inspect_archive(plan.folder, tables=plan.tables, progress=progress)
    report = report_archive(survey)
    if not survey.films:
        counts = ", ".join(f"{reason} {count}" for reason, count in survey.rejected.most_common())
        raise DataError(
            f"none of {survey.files} files is a frontal chest film that can be read "
            f"({counts or 'the folder is empty'})."
        )
    if plan.model is None and not report.reports:
        plan = replace(plan, model=out / "model")  # a name that waits for one
    findings = read_findings(survey)
    halves = _halves(survey) if plan.model is None else None
    audited = [
        cells for at, cells in enumerate(findings.cells) if halves is None or halves[at] == _AUDITED
    ]
    finding = _choose(plan.finding, report, audited)
    out.mkdir(parents=True, exist_ok=True)
    _write_new(targets[0], _manifest(survey, out, findings, halves))
    _write_new(targets[2], relevance_table().read_text(encoding="utf-8"))
    config = write_config(
        name=out.resolve().name,
        finding=finding,
        source="manifest" if findings.source == "table" else "reports",
        model=None if plan.model is None else _relative(plan.model, out),
        roots=[] if plan.out is None else [_relative(plan.folder, out)],
        batch_size=64 if len(survey.films) >= _MANY else 8,
    )
    _write_new(targets[1], config)
    lacking = _lacking(plan, report, finding, audited)
    return Start(report, targets[0], targets[1], finding, lacking)


def _lacking(
    plan: StartPlan, report: IntakeReport, finding: str, audited: Sequence[Mapping[str, str]]
) -> tuple[str, ...]:
    """Return what an audit still lacks; `audited` are the findings of its films."""
    lacking = []
    if plan.model is not None and not plan.model.exists():
        lacking.append(
            f"a model: name its folder in the config ({plan.model.name} is not there; a small one "
            "is trained where there are reports and no --model)"
        )
    if not finding:
        lacking.append("labels: write a column into the manifest, and name it in the config")
        return tuple(lacking)
    where = " in the half that is audited" if plan.model is None else ""
    for cell, side in (("1", "with"), ("0", "without")):
        count = _count(audited, finding, cell)
        if count < _LEAST_FILMS:
            lacking.append(
                f"only {count} films {side} {finding}{where}; at least {_LEAST_FILMS} are needed "
                "(gate.min_films). Choose another with --finding"
            )
    with_report = sum(report.reports.values())
    if report.findings_from == "reports" and report.unrecognised > _UNKNOWN * with_report:
        lacking.append(
            f"labels: nothing is recognised in {report.unrecognised} of {with_report} reports "
            "(labels.max_unrecognised)"
        )
    return tuple(lacking)


def _count(films: Sequence[Mapping[str, str]], finding: str, cell: str) -> int:
    return sum(cells.get(finding, "") == cell for cells in films)


def _choose(wanted: str | None, report: IntakeReport, audited: Sequence[Mapping[str, str]]) -> str:
    """Return the finding that is wanted, else the one with most films on its rarer side."""
    if wanted is not None:
        for name in report.findings:
            if name.lower() == wanted.strip().lower():
                return name
        raise ConfigError(
            f"--finding {wanted!r}: none of the films is labelled with it; got "
            f"{', '.join(report.findings) or 'no finding at all'}."
        )
    known = {
        name: min(_count(audited, name, "1"), _count(audited, name, "0"))
        for name in report.findings
    }
    usable = {name: count for name, count in known.items() if name.lower() not in NO_FINDING}
    if max(usable.values(), default=0) < _LEAST_FILMS <= max(known.values(), default=0):
        usable = known
    return max(usable, key=lambda name: usable[name], default="")


def _manifest(
    survey: ArchiveSurvey, out: Path, findings: FilmFindings, halves: Sequence[str] | None
) -> str:
    """Return the manifest as text, with a column for the split where there is one."""
    films = range(len(survey.films))
    patients = _numbered([patient_of(survey, at) for at in films], "p")
    studies = _numbered(
        [survey.films[at].found.study or str(survey.films[at].path) for at in films], "s"
    )
    sites = number_sites([film.found.attributes.get("site", "") for film in survey.films])
    of_table = findings.source == "table"
    columns = ["image", "patient", "study", *(["split"] if halves else []), *ATTRIBUTES]
    columns += ["report", "report_path", *(findings.names if of_table else ())]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(_guarded, columns))
    for at, film in enumerate(survey.films):
        cells: Mapping[str, str] = {
            **film.found.attributes,
            **(findings.cells[at] if of_table else {}),
            "image": _relative(film.path, out),
            "patient": patients[at],
            "study": studies[at],
            "split": halves[at] if halves else "",
            "site": sites[at],
            "report": film.report.text,
            "report_path": _relative(film.report.path, out) if film.report.path else "",
        }
        writer.writerow([_guarded(cells.get(column, "")) for column in columns])
    return stream.getvalue()


def _guarded(cell: str) -> str:
    """Return a cell that no spreadsheet runs as a formula; a manifest is read without the space."""
    formula = cell[:1] in ("=", "+", "-", "@") and cell not in LABEL_CELLS
    return f" {cell}" if formula else cell


def _numbered(names: Sequence[str], letter: str) -> list[str]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    return [f"{letter}{numbers[name]:05d}" for name in names]


def _halves(survey: ArchiveSurvey) -> list[str]:
    """Return the split of each film: half of the patients to train a small model on."""
    films = range(len(survey.films))
    patients = _numbered([patient_of(survey, at) for at in films], "p")
    everyone = sorted(set(patients))
    order = np.random.default_rng(0).permutation(len(everyone))
    first = {everyone[i] for i in order[: len(everyone) // 2]}
    return ["finetune" if patient in first else _AUDITED for patient in patients]


def relevance_table() -> Path:
    """Return the table of where findings of the chest show, of the package or of a checkout."""
    package = Path(ravl_med.__file__).parent
    for folder in (package, package.parent / "configs"):
        if (folder / _TABLE).is_file():
            return folder / _TABLE
    raise ConfigError("the table of relevance is missing from the package. Install it again.")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def write_set_aside(report: IntakeReport, path: Path) -> None:
    """Write the files that were set aside, and why, to a new CSV for its owner alone.

    Raises
    ------
    ConfigError
        The file exists, or cannot be written.
    """
    stream = io.StringIO()
    rows = [(_guarded(file), reason) for file, reason in report.set_aside]
    csv.writer(stream, lineterminator="\n").writerows([("file", "reason"), *rows])
    _write_new(path, stream.getvalue())


def _write_new(path: Path, text: str) -> None:
    """Write a new file, whole or not at all, for its owner alone, since it may hold reports."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be written ({type(error).__name__}). Name another place."
        ) from None
    try:
        with atomic_write(path) as stream:
            stream.write(text.encode("utf-8", "replace"))
    except BaseException:
        path.unlink()
        raise
