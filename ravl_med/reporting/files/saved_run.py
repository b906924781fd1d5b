"""What a run folder keeps, so that its report can be drawn again without model or cohort.

The archive and the films that the report shows lie in ``private/``; what leaves the folder is drawn
from them, and so is the same, byte for byte, each time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravl_med.config import GateConfig
from ravl_med.errors import ConfigError, DataError
from ravl_med.evidence.adjudication import adjudicate, read_decisions
from ravl_med.evidence.audit_result import AuditResult
from ravl_med.evidence.small_cells import hide_small_cells
from ravl_med.reporting.audit.details import ReportDetails
from ravl_med.reporting.audit.report import write_report
from ravl_med.reporting.audit.slides import REGIONS_ON_SLIDES, write_figures
from ravl_med.reporting.files.archive import read_archive, write_archive
from ravl_med.reporting.files.result_json import document_of
from ravl_med.reporting.files.review_file import REVIEW
from ravl_med.reporting.files.run_folder import draft_folder, write_json
from ravl_med.reporting.files.shown_films import keep_films, read_kept
from ravl_med.reporting.layout.dicom_pdf import DocumentDetails, write_dicom_pdf
from ravl_med.reporting.pictures import Film, shown_correlations
from ravl_med.reporting.text_masking import TextMasking

__all__ = ["SavedRun", "read_patients", "read_run", "redraw_run", "write_patients", "write_shared"]

_FILMS = "films"
_PRIVATE = "private"
_PATIENTS = "patients.npy"
_FULL = "result.full.json"


@dataclass(frozen=True, slots=True, eq=False)
class SavedRun:
    """A finished audit, with all that its report says.

    Attributes
    ----------
    result : AuditResult - before any review of this run
    details : ReportDetails
    gate : str - the config's gate as JSON
    regions_listed : int - regions of each correlation in ``result.json``
    document : DocumentDetails or None - of ``report.dcm``, where it is asked for
    min_cell : int - counts of fewer patients are hidden in what is shared
    """

    result: AuditResult
    details: ReportDetails
    gate: str
    regions_listed: int
    document: DocumentDetails | None
    min_cell: int

    def save(
        self,
        folder: Path,
        film: Film,
        masking: TextMasking | None = None,
        declared: Callable[[int], bool] = lambda index: False,
    ) -> None:
        """Write the archive, and whatever is shared, into a run folder with ``private/``.

        Parameters
        ----------
        folder : Path
        film : callable - index of an image to its film, ndarray of shape (H, W), uint8
        masking : TextMasking or None - hides text on films; None: they are shown as they are
        declared : callable - tells whether the header of a film says that text is burned in
        """
        films = folder / _PRIVATE / _FILMS
        films.mkdir()
        count = max(self.details.regions_shown, REGIONS_ON_SLIDES)
        burned_in = keep_films(self.result, count, film, films, masking, declared)
        run = replace(self, result=replace(self.result, burned_in=burned_in))
        write_archive(run, folder / _PRIVATE)
        write_shared(run, folder, read_kept(films))


def write_shared(run: SavedRun, folder: Path, film: Film) -> None:
    """Write ``result.json``, the figures, and the report in all its formats.

    Where counts of few patients are hidden in them, ``private/result.full.json`` has them all.
    """
    result = hide_small_cells(run.result, run.min_cell)
    _write_result(result, run.regions_listed, folder / "result.json")
    if result.hidden_below:
        _write_result(run.result, run.regions_listed, folder / _PRIVATE / _FULL)
    write_figures(result, film, folder / "figures")
    write_report(result, film, run.details, folder)
    if run.document is not None:
        write_dicom_pdf(folder / "report.pdf", folder / "report.dcm", run.document)


def _write_result(result: AuditResult, regions_listed: int, path: Path) -> None:
    write_json(path, document_of(result, regions_listed).model_dump(mode="json"))


def write_patients(folder: Path, patients: NDArray[np.int64]) -> None:
    """Write the patient number of each film into ``private/``: whoever resamples patients needs it.

    Parameters
    ----------
    folder : Path - of a run
    patients : ndarray of shape (N,), int64
    """
    np.save(folder / _PRIVATE / _PATIENTS, np.asarray(patients, dtype=np.int64))


def read_patients(folder: Path, films: int) -> NDArray[np.int64]:
    """Read what `write_patients` wrote: the patient number of each of so many films.

    Raises
    ------
    DataError
        It is missing or damaged, or of another number of films.
    """
    try:
        patients = np.load(folder / _PRIVATE / _PATIENTS, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            "the run folder does not say which films are of one patient; it was made by an earlier "
            "version, or private/ was removed. Audit again."
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"private/{_PATIENTS} cannot be read ({type(error).__name__}). Audit again."
        ) from None
    if patients.shape != (films,) or patients.dtype != np.int64 or patients.min(initial=0) < 0:
        raise DataError(f"private/{_PATIENTS} does not fit the films of the run. Audit again.")
    return np.asarray(patients)


def read_run(folder: Path, argument: str) -> SavedRun:
    """Read what a finished audit left in its run folder.

    Parameters
    ----------
    folder : Path
    argument : str - what the folder is called on the command line

    Raises
    ------
    ConfigError
        There is no run of an audit.
    DataError
        Its archive cannot be used.
    """
    if not (folder / "run.json").is_file() or not (folder / "result.json").is_file():
        raise ConfigError(f"{argument}: expected the run folder of an audit, with its run.json.")
    return read_archive(SavedRun, folder / _PRIVATE)


def _require_searched(before: AuditResult, now: AuditResult) -> None:
    """Refuse to show regions in which nobody has looked for text."""
    searched = {entry.cluster.cluster for entry in shown_correlations(before)}
    shown = {entry.cluster.cluster for entry in shown_correlations(now)}
    if before.burned_in is not None and not shown <= searched:
        raise DataError(
            "after the decisions in review.csv a correlation is shown whose films were not "
            "searched for burned-in text. Audit again."
        )


def redraw_run(folder: Path, today: date) -> AuditResult:
    """Draw the report of a run folder again, with what reviewers have decided since.

    Parameters
    ----------
    folder : Path - of an audit; it is replaced whole, or not at all
    today : date - on which acceptances hold, or not any more

    Returns
    -------
    AuditResult - with the verdict that follows from the decisions

    Raises
    ------
    ConfigError
        There is no run of an audit.
    DataError
        Its archive, its films or its ``review.csv`` cannot be used.
    """
    saved = read_run(folder, "RUN_DIR")
    review = folder / REVIEW
    decisions = read_decisions(review) if review.is_file() else ()
    gate = GateConfig.model_validate_json(saved.gate)
    result = adjudicate(saved.result, decisions, gate, today)
    decided = replace(saved, result=result)
    _require_searched(saved.result, result)

    film = read_kept(folder / _PRIVATE / _FILMS)
    with draft_folder(folder) as draft:
        for path in sorted(folder.iterdir()):
            if path.name == "figures":
                continue
            if path.is_dir():
                shutil.copytree(path, draft / path.name)
            else:
                shutil.copy2(path, draft / path.name)
        write_shared(decided, draft, film)
    return result
