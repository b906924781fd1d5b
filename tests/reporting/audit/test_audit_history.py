"""The history of audits: counted, compared, for the owner alone, and never a crash."""

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ravl_med.config.loading import Config
from ravl_med.errors import ConfigError
from ravl_med.evidence.audit_result import VerdictName
from ravl_med.reporting.audit.history import (
    CANNOT_CHANGE_A_FINDING,
    AuditHistory,
    PastAudit,
    describe_history,
    earlier_audits,
    record_audit,
    settings_of,
    user_history_root,
)

MODEL, COHORT = "ab12" * 16, "cd34" * 16


def past(verdict: VerdictName, **settings: Any) -> PastAudit:
    return PastAudit(verdict, settings)


def history_file(root: Path) -> Path:
    (path,) = (root / "audits").iterdir()
    return path


def config_of(tmp_path: Path, **sections: Any) -> Config:
    entries: dict[str, Any] = {
        "name": "run",
        "cohort": {"manifest": tmp_path / "doe" / "manifest.csv"},
        "task": {
            "classes": {
                "a": {"prompts": ["A."], "label": {"a": 1, "b": 0}},
                "b": {"prompts": ["B.", "Bee."]},
            }
        },
        "model": {"path": tmp_path},
        "evidence": {"relevance": tmp_path / "chest.yaml"},
    }
    return Config.model_validate(entries | sections)


def test_there_is_no_history_before_the_first_audit(tmp_path: Path) -> None:
    root = tmp_path / "config"
    assert earlier_audits(root, MODEL, COHORT) == ()
    assert not root.exists()


def test_audits_come_back_in_order(tmp_path: Path) -> None:
    audits = (
        past("fail", a=1, b=[0.1, None], c="é"),
        past("pass", a=2, b={}),
        past("pass", a=2, b={}),
    )
    for audit in audits:
        record_audit(tmp_path, MODEL, COHORT, audit)
    assert earlier_audits(tmp_path, MODEL, COHORT) == audits


def test_one_json_line_an_audit_under_the_digest_of_model_and_cohort(tmp_path: Path) -> None:
    record_audit(tmp_path, MODEL, COHORT, past("review", z=1, a=None))
    record_audit(tmp_path, MODEL, COHORT, past("fail"))
    path = history_file(tmp_path)
    digest = hashlib.sha256((MODEL + COHORT).encode()).hexdigest()
    assert path == tmp_path / "audits" / f"{digest[:24]}.jsonl"
    assert path.read_text() == (
        '{"settings": {"a": null, "z": 1}, "verdict": "review"}\n'
        '{"settings": {}, "verdict": "fail"}\n'
    )


def test_another_model_or_cohort_has_another_history(tmp_path: Path) -> None:
    record_audit(tmp_path, MODEL, COHORT, past("fail"))
    assert earlier_audits(tmp_path, MODEL, MODEL) == ()
    assert earlier_audits(tmp_path, COHORT, COHORT) == ()
    assert len(earlier_audits(tmp_path, MODEL, COHORT)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\xfe\n",
        b"\n",
        b'{"verdict": "pass", "sett\n',
        b'["pass", {}]\n',
        b"null\n",
        b'{"verdict": "perfect", "settings": {}}\n',
        b'{"verdict": ["pass"], "settings": {}}\n',
        b'{"verdict": "pass", "settings": []}\n',
        b'{"verdict": "pass"}\n',
        b"[" * 100_000 + b"\n",
        b'{"verdict": "pass", "settings": {"a": "\\ud800"}}\n',
        b"9" * 10_000 + b"\n",
    ],
)
def test_a_damaged_line_is_skipped(tmp_path: Path, damage: bytes) -> None:
    record_audit(tmp_path, MODEL, COHORT, past("fail", a=1))
    with history_file(tmp_path).open("ab") as stream:
        stream.write(damage)
    record_audit(tmp_path, MODEL, COHORT, past("pass", a=2))
    assert [audit.verdict for audit in earlier_audits(tmp_path, MODEL, COHORT)] == ["fail", "pass"]


def test_a_torn_line_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    record_audit(tmp_path, MODEL, COHORT, past("fail", a=1))
    path = history_file(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"settings": {"a"')
    record_audit(tmp_path, MODEL, COHORT, past("pass", a=2))
    assert [audit.verdict for audit in earlier_audits(tmp_path, MODEL, COHORT)] == ["fail", "pass"]


@pytest.fixture
def open_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.mark.usefixtures("open_umask")
def test_the_history_is_for_its_owner_alone(tmp_path: Path) -> None:
    root = tmp_path / "config"
    record_audit(root, MODEL, COHORT, past("fail"))
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (root, root / "audits", history_file(root))]
    assert modes == [0o700, 0o700, 0o600]


def test_audits_that_end_together_are_all_counted(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def finish(number: int) -> None:
        start.wait()
        for _ in range(25):
            record_audit(tmp_path, MODEL, COHORT, past("pass", number=number, text="x" * 5000))

    threads = [threading.Thread(target=finish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [audit.settings["number"] for audit in earlier_audits(tmp_path, MODEL, COHORT)]
    assert sorted(numbers) == sorted(list(range(8)) * 25)


def test_a_history_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "audits").write_text("")
    with pytest.raises(ConfigError, match=r"history of audits .* cannot be read .NotADirectory"):
        earlier_audits(tmp_path, MODEL, COHORT)
    with pytest.raises(ConfigError, match=r"cannot be written .FileExists.*The run folder") as it:
        record_audit(tmp_path, MODEL, COHORT, past("fail"))
    assert str(tmp_path) not in str(it.value)


@pytest.mark.timeout(20)
def test_a_history_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    record_audit(tmp_path, MODEL, COHORT, past("fail"))
    path = history_file(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"history of audits .* cannot be read"):
        earlier_audits(tmp_path, MODEL, COHORT)


def test_a_value_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        record_audit(tmp_path, MODEL, COHORT, past("fail", a=float("nan")))
    assert not (tmp_path / "audits").exists()


def test_the_first_audit() -> None:
    assert describe_history((), {"a": 1}) == AuditHistory(1, (), (), {})


def test_the_third_audit_by_hand() -> None:
    audits = (
        past("fail", gap=0.1, seed=0, n=10, gone=5),
        past("not_auditable", gap=0.3, seed=0, n=10),
    )
    history = describe_history(audits, {"gap": 0.1, "seed": 7, "n": 10, "new": [1, 2]})
    assert history.number == 3
    # Against the latest one, by key; what one of the two lacks is None.
    assert history.changed == (("gap", 0.3, 0.1), ("new", None, [1, 2]), ("seed", 0, 7))
    # The gap is back where it began, and yet was changed on the way.
    assert history.ever_changed == ("gap", "gone", "new", "seed")
    assert history.verdicts == {"fail": 1, "not_auditable": 1}


def test_the_same_settings_again_change_nothing() -> None:
    history = describe_history((past("pass", a=1, b=None),) * 2, {"a": 1})
    assert history == AuditHistory(3, (), (), {"pass": 2})


def test_verdicts_come_from_bad_to_good() -> None:
    names: tuple[VerdictName, ...] = ("pass", "not_auditable", "review", "fail", "pass")
    history = describe_history([past(name) for name in names], {})
    counts = {"fail": 1, "review": 1, "pass": 2, "not_auditable": 1}
    assert list(history.verdicts.items()) == list(counts.items())


def test_settings_are_flat_and_json(tmp_path: Path) -> None:
    settings = settings_of(config_of(tmp_path, regions={"tiles": (4, 5)}))
    assert settings["regions.tiles"] == [4, 5]
    assert settings["gate.max_gap"] == 0.1  # defaults are filled in
    assert settings["task.classes.b.prompts"] == ["B.", "Bee."]
    assert settings["task.classes.a.label.b"] == 0
    assert settings["task.classes.b.label"] is None
    assert settings["cohort.synthetic"] is None
    assert json.loads(json.dumps(settings, allow_nan=False)) == settings


def test_settings_have_no_path_and_nothing_that_cannot_change_a_finding(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        name="secret",
        model={"path": tmp_path, "name": "secret", "device": "cpu", "batch_size": 17},
        report={"title": "secret", "regions": 17},
    )
    settings = settings_of(config)
    for word in ("secret", "17", "doe", str(tmp_path)):
        assert word not in json.dumps(settings)
    assert settings["model.path"] == "<model.path>"
    assert settings["cohort.manifest"] == "<cohort.manifest>"
    plain = config_of(tmp_path)
    assert settings == settings_of(plain)
    assert {key.partition(".")[0] for key in CANNOT_CHANGE_A_FINDING} <= set(Config.model_fields)


def test_every_other_key_of_the_config_is_a_setting(tmp_path: Path) -> None:
    """A new section or key is a setting from the start."""
    settings = settings_of(config_of(tmp_path))
    for section in ("labels", "regions", "discovery", "evidence", "gate"):
        for key in type(getattr(config_of(tmp_path), section)).model_fields:
            name = f"{section}.{key}"
            assert any(told == name or told.startswith(f"{name}.") for told in settings), name


def test_another_content_of_a_file_is_another_setting(tmp_path: Path) -> None:
    table = tmp_path / "chest.yaml"
    texts = ("heart: left", "heart: right", "heart: left")
    seen = []
    for text in texts:
        table.write_text(text)
        seen.append(settings_of(config_of(tmp_path))["evidence.relevance"])
    assert seen[0] == seen[2] == f"sha256 {hashlib.sha256(texts[0].encode()).hexdigest()[:16]}"
    assert seen[1] != seen[0]


@pytest.mark.timeout(20)
def test_what_is_no_file_is_a_setting_by_its_role(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    os.truncate(os.open(tmp_path / "vast", os.O_CREAT | os.O_WRONLY), 1 << 40)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "vast"):
        regions = config.regions.model_copy(update={"annotations": path})
        settings = settings_of(config.model_copy(update={"regions": regions}))
        assert settings["regions.annotations"] == "<regions.annotations>"


def test_a_setting_survives_the_file(tmp_path: Path) -> None:
    settings = settings_of(config_of(tmp_path))
    record_audit(tmp_path, MODEL, COHORT, PastAudit("pass", settings))
    (again,) = earlier_audits(tmp_path, MODEL, COHORT)
    assert describe_history((again,), settings).changed == ()
    gate = {"max_gap": 0.3}
    changed = describe_history((again,), settings_of(config_of(tmp_path, gate=gate))).changed
    assert changed == (("gate.max_gap", 0.1, 0.3),)


def test_the_history_lies_in_the_users_config_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_history_root() == tmp_path / "ravl-med"
    assert not user_history_root().exists()
