"""A comparison as a folder: PDF, HTML and JSON, the same numbers in each."""

from __future__ import annotations

from pathlib import Path

from ravl_med import __version__
from ravl_med.errors import ConfigError
from ravl_med.reporting.comparison.compare import Comparison
from ravl_med.reporting.comparison.pages import comparison_story
from ravl_med.reporting.files.run_folder import draft_folder, refuse_foreign_folder, write_json
from ravl_med.reporting.layout.html import draw_reading_html
from ravl_med.reporting.layout.pdf import draw_pdf
from ravl_med.storage.documents import document_of

_CONTENT = "comparison.json"
_TITLE = "Two audits side by side"


def refuse_other_folder(target: Path) -> None:
    """Refuse a folder that holds something else than an earlier comparison, such as an audit.

    Raises
    ------
    ConfigError
    """
    refuse_foreign_folder(target)
    if (target / "run.json").exists() and not (target / _CONTENT).is_file():
        raise ConfigError(
            "--out: the folder holds a run that is no comparison, which would be replaced. Choose "
            "another."
        )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write a comparison, whole or not at all; the same runs give the same bytes.

    Parameters
    ----------
    folder : Path - an earlier comparison there is replaced

    Raises
    ------
    ConfigError
        The folder holds something else, or cannot be written.
    """
    refuse_other_folder(folder)
    blocks = comparison_story(comparison, _TITLE)
    name = f"{comparison.a.name} vs {comparison.b.name}"
    document = document_of(comparison).model_dump(mode="json")
    with draft_folder(folder) as draft:
        write_json(draft / _CONTENT, document)
        (draft / "report.pdf").write_bytes(draw_pdf(blocks, name, _TITLE, f"Comparison {name}"))
        page = draw_reading_html(blocks, name, _TITLE)
        (draft / "report.html").write_text(page, encoding="utf-8")
        write_json(draft / "run.json", _record(comparison))


def _record(comparison: Comparison) -> dict[str, object]:
    """Say what kind of folder it is, and of which runs."""
    return {
        "tool": {"name": "ravl-med", "version": __version__},
        "kind": "comparison",
        "digests": {
            side: {"model": run.model_digest, "cohort": run.cohort_digest,
                   "config": run.config_digest}
            for side, run in (("a", comparison.a), ("b", comparison.b))
        },
        "seeds": {"draws of patients": comparison.seed},
    }  # fmt: skip
