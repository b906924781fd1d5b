from dataclasses import replace

import numpy as np
from PIL import Image

from ravl_med.evidence.results import Interval
from ravl_med.reporting.slides import write_figures


def test_the_accuracy_plot_is_of_held_out_patients(result_of, film, tmp_path):
    result = result_of(correlations=1)
    entry = result.correlations[0]
    cluster = replace(entry.cluster, accuracy_present=np.zeros(3), accuracy_absent=np.ones(3))
    arms = replace(entry.confirmation.arms, accuracy_present=np.zeros(3))
    held_out = replace(entry, confirmation=replace(entry.confirmation, arms=arms))
    drawn = []
    for name, changed in (
        ("as it is", entry),
        ("other half", replace(entry, cluster=cluster)),
        ("this half", held_out),
    ):
        write_figures(replace(result, correlations=(changed,)), film, tmp_path / name)
        drawn.append((tmp_path / name / "correlation_01_accuracy.png").read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_files(result_of, film, tmp_path):
    write_figures(result_of(), film, tmp_path / "figures")
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    stems = [f"correlation_{n:02d}_{what}.png" for n in (1, 2) for what in ("accuracy", "crops")]
    films = [f"correlation_{n:02d}_films.png" for n in (1, 2)]
    assert names == sorted(["accuracy.png", *stems, *films])
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 100


def test_same_input_same_bytes(result_of, film, tmp_path):
    for run in ("a", "b"):
        write_figures(result_of(correlations=1), film, tmp_path / run)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_names_are_not_read_as_formulas_and_gaps_in_data_are_left_empty(result_of, film, tmp_path):
    result = result_of(("$\\frac{", "肺炎", "<b>" * 5000), 1)
    nothing = Interval(float("nan"), float("nan"))
    accuracy = replace(
        result.accuracy,
        overall=float("nan"),
        overall_interval=nothing,
        by_class=(float("nan"),) * 3,
        by_class_interval=(nothing,) * 3,
    )
    write_figures(replace(result, accuracy=accuracy), film, tmp_path)
    assert (tmp_path / "accuracy.png").stat().st_size > 1000


def test_nothing_found_draws_accuracy_only(result_of, film, tmp_path):
    write_figures(result_of(correlations=0), film, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy.png"]
