"""The section of the zero-shot task, with ready prompts of public label sets.

A prompt set names findings with the terms that readers use for them; a style holds the sentences,
of presence and absence, that a published model was trained on. Both are YAML in the package; a
user's own set is a file of the same form, which may add styles.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, model_validator
from ruamel.yaml.error import YAMLError

from ravl_med.config.base import ConfigPath, Section
from ravl_med.storage.bounded_reading import parse_yaml, read_regular

PROMPT_SETS = ("chexpert5", "chexpert14", "nih14", "vindr18", "padchest")

_DEFAULT_STYLE = "plain"


class PromptStyle(Section):
    """Sentences for the presence and absence of a finding."""

    positive: tuple[str, ...] = Field(min_length=1, description="texts of presence, {} for a term")
    negative: tuple[str, ...] = Field(min_length=1, description="texts of absence")


class PromptFinding(Section):
    """A finding: its terms, or its texts themselves."""

    terms: tuple[str, ...] = Field(min_length=1, description="what readers call it")
    positive: tuple[str, ...] = Field((), description="texts of presence, whatever the style")
    negative: tuple[str, ...] = Field((), description="texts of absence, whatever the style")


class PromptSet(Section):
    """Findings of a label set, under the names of its columns."""

    findings: dict[str, PromptFinding] = Field(min_length=1)
    styles: dict[str, PromptStyle] = Field(default_factory=dict)


def expand_task(data: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Add ``classes`` to a section ``task`` that names a prompt set of the package, or a file.

    They are finding and absence for ``finding``, one class each for ``findings``.

    Raises
    ------
    ValueError
        The set, the style or a finding is unknown, or the section names too much or too little.
    """
    known = read_prompt_set(source)
    name, styles = str(data.get("style") or _DEFAULT_STYLE), read_prompt_styles() | known.styles
    if name not in styles:
        raise ValueError(f"style {name[:40]!r} is not known; expected one of {_list(styles)}")
    style = styles[name]
    columns = dict(data.get("label_columns") or {})
    wanted = _choose_findings(known, data.get("finding"), data.get("findings"))
    unknown = [name for name in (*wanted, *map(str, columns)) if name not in known.findings]
    if unknown:
        raise ValueError(
            f"finding {unknown[0][:60]!r} is not in the set; known are {_list(known.findings)}"
        )
    classes: dict[str, Any] = {}
    for key in wanted:
        finding, column = known.findings[key], str(columns.get(key, key))
        title = key.replace("_", " ").lower()
        present = _texts(finding, finding.positive, style.positive)
        classes[title] = {"prompts": present, "label": {column: 1}}
        if data.get("findings") is None:
            absent = _texts(finding, finding.negative, style.negative)
            classes[f"no {title}"] = {"prompts": absent, "label": {column: 0}}
    given = data.get("classes")
    if given is not None and set(given) != set(classes):  # a written-out config may be read again
        raise ValueError("name either 'classes' or 'prompts', not both")
    return {**data, "classes": classes if given is None else given}


def _choose_findings(known: PromptSet, one: Any, several: Any) -> list[str]:
    if (one is None) == (several is None):
        raise ValueError(
            "prompts need exactly one of 'finding', against its absence, and 'findings', against "
            f"each other; known are {_list(known.findings)}"
        )
    if several is not None and not isinstance(several, (list, tuple)):
        raise ValueError("findings must be a list of names; for one finding name it in 'finding'")
    return [str(one)] if several is None else [str(name) for name in several]


def read_prompt_set(source: str | Path) -> PromptSet:
    """Read a set by its name in the package, or from a YAML file.

    Raises
    ------
    ValueError
        There is no such set, or the file holds none.
    """
    if isinstance(source, str):
        if source not in PROMPT_SETS:
            raise ValueError(
                f"prompts {source[:60]!r} are not known; expected one of {_list(PROMPT_SETS)}, or "
                "a file of your own in 'prompt_file'"
            )
        return PromptSet.model_validate(parse_yaml(_packaged(source)))
    name = source.name
    try:
        return PromptSet.model_validate(parse_yaml(read_regular(source).decode("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"prompt_file {name!r}: {where}: {first['msg'].lower()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt_file {name!r} cannot be read ({type(error).__name__})") from None
    except YAMLError:
        raise ValueError(f"prompt_file {name!r} is not valid YAML") from None
    except ValueError as error:  # too deep, or no text
        raise ValueError(f"prompt_file {name!r}: {error}") from None


def read_prompt_styles() -> dict[str, PromptStyle]:
    """Return the styles of the package."""
    styles = parse_yaml(_packaged("styles"))
    return {name: PromptStyle.model_validate(style) for name, style in styles.items()}


def _packaged(name: str) -> str:
    return (files("ravl_med.config") / "prompts" / f"{name}.yaml").read_text(encoding="utf-8")


def _texts(
    finding: PromptFinding, own: tuple[str, ...], templates: tuple[str, ...]
) -> tuple[str, ...]:
    """Put each term into each template, unless the finding has texts of its own."""
    filled = own or [t.replace("{}", term) for term in finding.terms for t in templates]
    return tuple(dict.fromkeys(filled))


def _list(names: Any) -> str:
    return ", ".join(names)


class ClassConfig(Section):
    """A class of the zero-shot task, by the name that it has in the report; two or more."""

    prompts: tuple[str, ...] = Field(min_length=1, description="texts put into the templates")
    label: dict[str, Literal[0, 1]] | None = Field(
        None,
        description="manifest columns and the values that make a film a member; default: the "
        "column of the class's own name is 1",
    )


class TaskConfig(Section):
    """A zero-shot task: classes, prompts, templates."""

    name: str = Field("finding", description="how the report calls the task")
    prompts: str | None = Field(
        None,
        description="a ready set of findings (chexpert5, chexpert14, nih14, vindr18, padchest); it "
        "writes out the classes",
    )
    prompt_file: ConfigPath | None = Field(None, description="or a set of the user's own")
    style: str | None = Field(
        None,
        description="how a ready set phrases a finding: plain (default), evidence, "
        "caption, report, or a style of the set",
    )
    finding: str | None = Field(None, description="of a ready set, against its absence")
    findings: tuple[str, ...] | None = Field(
        None, min_length=2, description="of a ready set, against each other"
    )
    label_columns: dict[str, str] = Field(
        default_factory=dict, description="findings of a ready set whose column is called otherwise"
    )
    classes: dict[str, ClassConfig] = Field(min_length=2)
    templates: tuple[str, ...] = Field(
        ("{}",), min_length=1, description="sentences that prompts are put into, at {}"
    )
    temperature: float = Field(
        0.07, gt=0, le=1_000.0, description="tau of RaVL's zero-shot softmax"
    )
    scores: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="over the classes, with tau; or class by class, with the scale and bias that a "
        "SigLIP was trained with",
    )

    @model_validator(mode="before")
    @classmethod
    def _ready_set(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        sources = [name for name in ("prompts", "prompt_file") if data.get(name) is not None]
        if len(sources) > 1:
            raise ValueError("name either 'prompts' or 'prompt_file', not both")
        if not sources:
            stray = [n for n in ("style", "finding", "findings", "label_columns") if data.get(n)]
            if stray:
                raise ValueError(f"{stray[0]!r} belongs to 'prompts', which names no set")
            return data
        named = str(data[sources[0]])
        folder = Path((info.context or {}).get("folder") or ".")
        return expand_task(data, named if sources[0] == "prompts" else folder / named)

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} must hold the placeholder {{}} once")
        named: dict[frozenset[str], str] = {}
        for name, texts in self.texts().items():
            if not all(map(str.strip, texts)):
                raise ValueError(f"classes.{name}.prompts: a prompt is blank; write a text")
            same = named.setdefault(frozenset(texts), name)
            if same != name:
                raise ValueError(f"classes {same} and {name} have the same prompts; write others")
        return self

    def columns(self) -> dict[str, dict[str, int]]:
        """Map each class to the manifest columns and values that define it."""
        return {
            name: dict(entry.label) if entry.label else {name: 1}
            for name, entry in self.classes.items()
        }

    def texts(self) -> dict[str, list[str]]:
        """Map each class to its prompts, verbatim as the text tower reads them."""
        return {
            name: [
                template.replace("{}", prompt)  # other braces of a template are plain text
                for prompt in entry.prompts
                for template in self.templates
            ]
            for name, entry in self.classes.items()
        }
