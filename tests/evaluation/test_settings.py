from collections import Counter
from dataclasses import replace

import pytest

from ravl_med.errors import ConfigError
from ravl_med.evaluation.settings import (
    DOMAINS,
    KINDS,
    SEEDS,
    Pair,
    Setting,
    plan_settings,
    read_settings,
)

ONE = Setting("phantoms", "planted", (Pair("generator", "cardiomegaly"),), 0.9, "resnet", 0)


def test_there_are_more_settings_than_in_the_paper_even_without_mnist() -> None:
    planned = plan_settings(domains=("phantoms", "digits", "radiographs"), kinds=("planted",))
    assert len(planned) > 3 * 654
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
    assert set(Counter(s.architecture for s in first)) == {"resnet", "vit"}
    assert len({s.pairs[0].feature for s in first}) >= 5


def test_the_digest_knows_every_field_and_the_group_all_but_the_seed() -> None:
    others = [
        replace(ONE, seed=1),
        replace(ONE, strength=0.95),
        replace(ONE, architecture="vit"),
        replace(ONE, regions="structures"),
        replace(ONE, pairs=(Pair("tube", "cardiomegaly"),)),
    ]
    assert len({ONE.digest, *(other.digest for other in others)}) == 6
    assert replace(ONE, seed=2).group == ONE.group
    assert replace(ONE, strength=0.95).group != ONE.group


def test_rows_of_results_are_known_by_digests_that_hold() -> None:
    pair = Pair("button", "consolidation")
    setting = Setting("phantoms", "planted", (pair,), 0.99, "resnet", 1)
    assert setting.digest == "f7d822e63f2fec9d"


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
    assert list(read_settings("")) == plan_settings(domains=("phantoms", "digits"))
    assert {s.kind for s in read_settings("seed=0,kind=two,global")} == {"two", "global"}
