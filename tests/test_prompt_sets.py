"""Ready prompt sets: every set in every style, and what a wrong name gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_config import MINIMAL, load

from ravl_med.config.task import PROMPT_SETS, TaskConfig, read_prompt_set, read_prompt_styles
from ravl_med.errors import ConfigError
from ravl_med.evidence.counterfactual.localisation import read_relevance

SIZES = {"chexpert5": 5, "chexpert14": 14, "nih14": 14, "vindr18": 18, "padchest": 20}
RELEVANCE = Path(__file__).parents[1] / "configs" / "relevance" / "chest.yaml"
TASK = """\
task:
  classes:
    effusion: {prompts: [Pleural effusion.]}
    no finding: {prompts: [Normal.], label: {effusion: 0}}
"""


def with_task(folder: Path, task: str, *overrides: str) -> TaskConfig:
    return load(folder, MINIMAL.replace(TASK, f"task: {task}\n"), *overrides).task


def test_the_sets_have_the_findings_of_their_labels() -> None:
    assert tuple(SIZES) == PROMPT_SETS
    assert {name: len(read_prompt_set(name).findings) for name in PROMPT_SETS} == SIZES
    assert set(read_prompt_set("chexpert5").findings) < set(read_prompt_set("chexpert14").findings)


@pytest.mark.parametrize("name", PROMPT_SETS)
@pytest.mark.parametrize("style", ["plain", "evidence", "caption", "report"])
def test_every_finding_is_a_pair_of_texts_in_every_style(name: str, style: str) -> None:
    assert style in read_prompt_styles()
    for finding in read_prompt_set(name).findings:
        task = TaskConfig.model_validate({"prompts": name, "style": style, "finding": finding})
        (there, present), (gone, absent) = task.texts().items()
        assert gone == f"no {there}"
        assert not set(present) & set(absent)
        assert all("{" not in text for text in (*present, *absent))
        assert task.columns() == {there: {finding: 1}, gone: {finding: 0}}


def test_pairs_are_those_that_were_published() -> None:
    def texts(style: str) -> dict[str, list[str]]:
        data = {"prompts": "nih14", "style": style, "finding": "Pneumonia"}
        return TaskConfig.model_validate(data).texts()

    assert texts("plain") == {"pneumonia": ["pneumonia"], "no pneumonia": ["no pneumonia"]}
    assert texts("evidence") == {
        "pneumonia": ["Findings suggesting pneumonia."],
        "no pneumonia": ["No evidence of pneumonia."],
    }
    assert texts("caption") == {
        "pneumonia": ["pneumonia chest x-ray"],
        "no pneumonia": ["normal chest x-ray"],
    }
    assert len(texts("report")["pneumonia"]) == 3


def test_several_findings_are_classes(tmp_path: Path) -> None:
    task = with_task(
        tmp_path,
        "{prompts: nih14, findings: [Edema, Pleural_Thickening], label_columns: {Edema: oedema}}",
    )

    assert task.columns() == {
        "edema": {"oedema": 1},
        "pleural thickening": {"Pleural_Thickening": 1},
    }
    assert task.texts()["edema"] == ["edema", "pulmonary edema"]


def test_the_written_out_task_reads_back_as_the_same() -> None:
    task = TaskConfig.model_validate({"prompts": "vindr18", "finding": "ILD", "style": "report"})

    assert TaskConfig.model_validate(task.model_dump()) == task


def test_a_set_of_ones_own_may_bring_styles(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "findings:\n  COVID-19: {terms: [COVID-19]}\n  flu: {terms: [x], positive: [Influenza.]}\n"
        "styles:\n  house: {positive: ['Typical of {}.'], negative: ['Not typical of {}.']}\n",
        encoding="utf-8",
    )

    task = with_task(tmp_path, "{prompt_file: mine.yaml, style: house, finding: COVID-19}")
    other = with_task(tmp_path, "{prompt_file: mine.yaml, finding: flu}")

    assert task.texts() == {
        "covid-19": ["Typical of COVID-19."],
        "no covid-19": ["Not typical of COVID-19."],
    }
    assert other.texts() == {"flu": ["Influenza."], "no flu": ["no x"]}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "{prompts: chexpert, finding: Edema}",
            "prompts 'chexpert' are not known; expected one of",
        ),
        ("{prompts: nih14}", "exactly one of 'finding', .* and 'findings'.* known are Atelectasis"),
        ("{prompts: nih14, finding: A, findings: [A, B]}", "exactly one of 'finding'"),
        ("{prompts: nih14, findings: Edema}", "findings must be a list of names"),
        ("{prompts: nih14, finding: Flu}", "finding 'Flu' is not in the set; known are"),
        ("{prompts: nih14, finding: Mass, label_columns: {Flu: x}}", "finding 'Flu' is not in"),
        ("{prompts: nih14, finding: Mass, style: loud}", "style 'loud' is not known; expected one"),
        ("{prompts: nih14, finding: Mass, classes: {a: {prompts: [x]}}}", "either 'classes' or"),
        ("{finding: Mass}", "'finding' belongs to 'prompts', which names no set"),
        ("{prompts: nih14, prompt_file: a.yaml, finding: Mass}", "'prompts' or 'prompt_file'"),
        ("{prompt_file: none.yaml, finding: Mass}", "'none.yaml' cannot be read .FileNotFound"),
        ("{prompt_file: bad.yaml, finding: Mass}", "'bad.yaml': findings: field required"),
        ("{prompt_file: odd.yaml, finding: Mass}", "'odd.yaml' is not valid YAML"),
        ("{prompt_file: half.yaml, finding: a}", "'half.yaml': .* holds half of a character"),
        ("{prompt_file: nul.yaml, finding: a}", "'nul.yaml': .* or a NUL"),
        ("{prompt_file: deep.yaml, finding: a}", "'deep.yaml': nested more than 64 deep"),
    ],
)
def test_what_names_no_task(task: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: 1\n", encoding="utf-8")
    (tmp_path / "odd.yaml").write_text("a: [1\n", encoding="utf-8")
    (tmp_path / "deep.yaml").write_text("[" * 3000, encoding="utf-8")
    for name, escape in (("half", "\\ud800"), ("nul", "\\0")):
        text = f'findings: {{a: {{terms: [x], positive: ["a{escape}"]}}}}'
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"task: .*{message}"):
        with_task(tmp_path, task)


def test_findings_are_known_to_the_table_of_relevance() -> None:
    """What a ready set calls a class is what the table calls the finding, for the common ones."""
    table = read_relevance(RELEVANCE)

    for finding in read_prompt_set("chexpert5").findings:
        assert table.find(finding.lower()) is not None, finding
