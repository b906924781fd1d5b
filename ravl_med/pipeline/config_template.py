"""The commented config that ``ravl-med init`` writes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import suppress

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

__all__ = ["write_config"]

_HEAD = """\
# An audit of the films in manifest.csv. Run it with:   ravl-med audit audit.yaml
# Look first with:   ravl-med inspect audit.yaml   and   ravl-med regions audit.yaml
# Every key: configs/README.md. Paths are relative to this file.
name: my-films               # name of the run and of its folder; printed in the report
cohort:
  manifest: manifest.csv     # one row a film; patients, studies and sites are numbers
"""

_QUICKSTART = """\
model:
  # A small model, trained on the split finetune and its reports, to try the audit with. Your own:
  # put   path: ../model   for the next line, and   split: null   above to audit every film.
  quickstart: {batch_size: %d}
"""

_MODEL = """\
model:
  path: {path}
"""

_NO_TASK = """\
# No labels were found: write a column with 1 and 0 into manifest.csv, and put its name for
# FINDING here.
"""

_OPPOSITES = {"no finding": "any finding", "normal": "abnormal"}


def write_config(
    *, finding: str, source: str, model: str | None, roots: Sequence[str], batch_size: int
) -> str:
    """Return the text of a config.

    Parameters
    ----------
    finding : str - that the task is about; blank where no labels were found
    source : {"manifest", "reports"} - of the labels
    model : str or None - path of the model; None: a small one is trained on a split of the manifest
    roots : sequence of str - folders besides the config's own that films lie in
    batch_size : int - of the small model's training
    """
    parts = [_HEAD]
    if roots:
        parts.append("  roots: " + _quoted(list(roots), "where the films lie"))
    chosen = "validation" if model is None else "null"
    parts.append(f"  split: {chosen:<20}# rows that are audited; null takes every row\n")
    parts.append("  preset: window             # or mimic-cxr-jpg, chexpert: as in training\n")
    parts.append("labels:\n")
    parts.append(f"  source: {source:<19}# columns of the manifest, or what its reports say\n")
    parts.append("  blank: exclude             # or negative: what is not stated is absent\n")
    parts.append(_task(finding))
    parts.append(_QUICKSTART % batch_size if model is None else _MODEL.format(path=_scalar(model)))
    parts.append("regions:\n  sources: [artifacts, anatomy, tiles]\n")
    parts.append("evidence:\n  relevance: relevance.yaml  # where each finding shows on a film\n")
    return "".join(parts)


def _task(finding: str) -> str:
    named = finding or "FINDING"
    opposite = _OPPOSITES.get(named, f"no {named}")
    positive, negative = (_scalar(f"{text.capitalize()}.") for text in (named, opposite))
    name, other = _scalar(named), _scalar(opposite)
    lines = [
        "task:",
        f"  name: {name}",
        "  classes:                   # prompts are read verbatim by the model",
        f"    {name}:",
        f"      label: {{{name}: 1}}",
        f"      prompts: [{positive}]",
        f"    {other}:",
        f"      label: {{{name}: 0}}",
        f"      prompts: [{negative}]",
    ]
    return ("" if finding else _NO_TASK) + "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """Write a text so that YAML reads it back, as a key in braces too; in quotes where it must."""
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


def _quoted(texts: list[str], comment: str) -> str:
    return f"[{', '.join(_scalar(text) for text in texts)}]  # {comment}\n"
