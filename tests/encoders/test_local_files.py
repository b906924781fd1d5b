"""Files of a model: no network while they are read, and one line for what cannot be."""

from __future__ import annotations

import hashlib

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from ravl_med.encoders.local_files import digest_files, join_digests, no_network, read_json
from ravl_med.errors import ModelError


def test_the_hub_is_forbidden_for_a_while_and_only_then():
    before = constants.HF_HUB_OFFLINE
    with no_network():
        assert huggingface_hub.is_offline_mode()
        with pytest.raises(OfflineModeIsEnabled):
            huggingface_hub.HfApi().model_info("microsoft/BiomedNLP")
    assert before == constants.HF_HUB_OFFLINE

    with pytest.raises(KeyError), no_network():
        raise KeyError
    assert before == constants.HF_HUB_OFFLINE


def test_digests_are_those_of_the_contents_in_their_order(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    parts = [hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()]

    assert digest_files([one, two]) == hashlib.sha256(b"".join(parts)).hexdigest()
    assert digest_files([one, two]) != digest_files([two, one])
    assert join_digests(["a", "b"]) != join_digests(["ab"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"config\.json cannot be read \(JSONDecodeError\)"),
        (b"\xff\xfe", r"config\.json cannot be read \(UnicodeDecodeError\)"),
        (b"[1]", r"config\.json holds a list; expected a JSON object"),
    ],
)
def test_json_that_is_none(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=rf"^model\.path: {message}") as caught:
        read_json(path, "model.path")
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ModelError, match=r"none\.json cannot be read \(FileNotFoundError\)"):
        read_json(tmp_path / "none.json", "model.path")
