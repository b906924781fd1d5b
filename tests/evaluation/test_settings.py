from collections import Counter
from dataclasses import replace

import pytest

from ravl_med.errors import ConfigError
from ravl_med.evaluation.painting import Mark
from ravl_med.evaluation.settings import (
    DOMAINS,
    KINDS,
    MADE,
    SEEDS,
    TRIED,
    Pair,
    Setting,
    plan_settings,
    read_settings,
)

GENERATOR = Pair(Mark("generator"), "cardiomegaly")
ONE = Setting("phantoms", "planted", (GENERATOR,), 0.9, "resnet", 0)


def test_there_are_more_settings_than_in_the_paper_even_without_mnist() -> None:
    planned = plan_settings(domains=("phantoms", "radiographs", "nih", "digits", "garments"))
    assert sum(setting.kind != "null" for setting in planned) > 1.5 * 654
    assert sum(setting.kind == "null" for setting in planned) >= 200
    assert not {setting.seed for setting in planned} & set(TRIED)
    assert len({setting.digest for setting in planned}) == len(planned)


def test_the_plan_holds_every_domain_kind_and_seed() -> None:
    planned = plan_settings()
    kinds = {(setting.domain, setting.kind) for setting in planned}
    assert kinds == {(domain, kind) for domain in DOMAINS for kind in KINDS}
    assert all(len(s.pairs) == (2 if s.kind == "two" else 1) for s in planned)
    assert {s.strength for s in planned if s.kind == "null"} == {0.0}


def test_seeds_of_a_group_follow_each_other() -> None:
    planned = plan_settings(domains=("digits",))
    for start in range(0, len(planned), len(SEEDS)):
        group = planned[start : start + len(SEEDS)]
        assert [setting.seed for setting in group] == list(SEEDS)
        assert len({setting.group for setting in group}) == 1


def test_any_beginning_is_mixed() -> None:
    planned = plan_settings(domains=("phantoms",), kinds=("planted",))
    first = planned[:60]
    assert set(Counter(s.strength for s in first)) == {0.7, 0.8, 0.9, 0.95, 0.99}
    assert set(Counter(s.architecture for s in first)) == {"resnet", "vit", "convnext"}
    assert len({s.pairs[0].mark.shape for s in first}) >= 5


def test_half_of_the_chest_marks_lie_over_anatomy_and_objects_have_theirs_beside() -> None:
    planned = plan_settings(kinds=("planted",), seeds=(0,))
    for domain in ("radiographs", "nih"):
        inside = [s.pairs[0].inside for s in planned if s.domain == domain]
        assert sum(inside) == len(inside) / 2
    assert {s.pairs[0].mark.place for s in planned if s.domain == "garments"} == {"beside"}


def test_strengths_narrow_the_plan_and_change_no_mark() -> None:
    every = plan_settings(domains=("nih",), seeds=(0,))
    some = plan_settings(domains=("nih",), strengths=(0.7,), seeds=(0,))
    assert {s.digest for s in some} < {s.digest for s in every}
    assert {s.strength for s in some} == {0.0, 0.7}


def test_the_digest_knows_every_field_and_the_group_all_but_the_seed() -> None:
    others = [
        replace(ONE, seed=1),
        replace(ONE, strength=0.95),
        replace(ONE, architecture="vit"),
        replace(ONE, pairs=(Pair(Mark("generator", contrast=0.5), "cardiomegaly"),)),
        replace(ONE, pairs=(Pair(Mark("tube"), "cardiomegaly"),)),
    ]
    assert len({ONE.digest, *(other.digest for other in others)}) == 6
    assert replace(ONE, seed=2).group == ONE.group
    assert replace(ONE, strength=0.95).group != ONE.group


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("domain=phantom", "--only domain: expected some of phantoms, .* got 'phantom'"),
        ("kind=", "--only kind: expected some of planted, .* got 'none'"),
        ("architecture=vit,mlp", "--only architecture: .* got 'vit,mlp'"),
        ("strength=0.9,1.0", r"--only strength: expected numbers in the range \(0, 1\)"),
        ("strength=strong", "--only strength: .* got 'strong'"),
        ("strength=nan", "--only strength"),
        ("seed=-1", "--only seed: expected whole numbers; got '-1'"),
        ("digits", "--only: expected domain=..., kind=..., .* got 'digits'"),
        ("domains=digits", "--only: expected domain=.* got 'domains=digits'"),
    ],
)
def test_wrong_options_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(text)


def test_options_choose_settings() -> None:
    text = "domain=digits,kind=planted, architecture=vit,strength=0.7, 0.9,seed=5"
    chosen = read_settings(text)
    assert {s.strength for s in chosen} == {0.9, 0.7}
    assert {(s.domain, s.architecture, s.seed) for s in chosen} == {("digits", "vit", 5)}
    assert list(chosen) == plan_settings(("digits",), ("planted",), ("vit",), (0.9, 0.7), (5,))


def test_what_is_not_named_is_not_narrowed() -> None:
    assert list(read_settings("")) == plan_settings(domains=MADE)
    assert {s.kind for s in read_settings("seed=0,kind=two,style")} == {"two", "style"}
    assert {s.domain for s in read_settings("", ("nih",))} == {*MADE, "nih"}
