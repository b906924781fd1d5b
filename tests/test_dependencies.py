"""Licences, the lock and the lower bounds agree with each other and with what is installed."""

from __future__ import annotations

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import dependencies

LOCK = dependencies.read_lock()
INSTALLED = dependencies.installed()
ASKED = [(extra, one) for extra, own in dependencies.requirements().items() for one in own]


def test_no_licence_forbids_ours() -> None:
    stated = {name: dependencies.licence_of(there) for name, (there, _) in INSTALLED.items()}
    assert len(stated) > 90
    assert {name: one for name, one in stated.items() if dependencies.FORBIDDEN.search(one)} == {}
    assert [name for name, one in stated.items() if one == "not stated"] == []
    for text in ("GPLv3", "GPL-3.0-only", "GNU General Public License v2 (GPLv2)", "AGPL-3.0"):
        assert dependencies.FORBIDDEN.search(text)
    assert not dependencies.FORBIDDEN.search("LGPL-2.1")


@pytest.mark.parametrize(("extra", "asked"), ASKED, ids=lambda one: str(one))
def test_the_lock_and_the_table_hold_what_is_asked_for(extra: str, asked) -> None:
    name = canonicalize_name(asked.name)
    if name not in LOCK:
        assert extra == "ray"  # which is not installed where the lock is made
        return
    assert asked.specifier.contains(LOCK[name], prereleases=True), LOCK[name]
    assert f"| {name} | {LOCK[name]} |" in dependencies.TABLE.read_text(encoding="utf-8")


def test_the_lock_is_whole() -> None:
    """What a package of the lock needs is in it, as far as that version is installed here."""
    for name, (there, _) in INSTALLED.items():
        if LOCK.get(name) != dependencies.public_version(there):
            continue
        for one in dependencies.needs(there, set()):
            wanted = canonicalize_name(one.name)
            assert wanted in LOCK, (name, wanted)
            assert one.specifier.contains(LOCK[wanted], prereleases=True), (name, str(one))


def test_every_package_has_a_lower_bound_that_it_meets() -> None:
    for _, one in ASKED:
        assert [part.operator for part in one.specifier] == [">="], one
        name = canonicalize_name(one.name)
        if name in INSTALLED:
            assert Version(INSTALLED[name][0].version) in one.specifier


def test_floors_leave_out_releases_with_published_faults() -> None:
    wanted = {"monai": "1.5.1", "protobuf": "6.31.1", "pillow": "11.3", "sentencepiece": "0.2.1",
              "torch": "2.6"}  # fmt: skip
    floors = {
        canonicalize_name(one.name): Version(part.version)
        for extra, one in ASKED
        if not extra
        for part in one.specifier
    }
    assert {name for name, least in wanted.items() if floors[name] < Version(least)} == set()


def test_both_files_are_what_is_installed() -> None:
    here = {name: dependencies.public_version(there) for name, (there, _) in INSTALLED.items()}
    if here != LOCK:
        pytest.skip("other versions are installed here than those of the lock")
    assert dependencies.draw_lock() == dependencies.LOCK.read_text(encoding="utf-8")
    assert dependencies.draw_table() == dependencies.TABLE.read_text(encoding="utf-8")
