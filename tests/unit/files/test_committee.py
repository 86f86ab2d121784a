"""Committees in a file. Budget: 1 s."""

import json

import pytest

from geomlib.errors import FileFormatError
from geomlib.files.committee import expand_committees, read_committee, write_committee


@pytest.fixture
def folder(tmp_path):
    for name in ("run/member_0", "run/member_1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").touch()
    return tmp_path


def members(folder):
    return [folder / f"run/member_{k}/model.safetensors" for k in (0, 1)]


def test_members_are_relative_to_the_file(folder):
    file = write_committee(folder / "run" / "committee.json", members(folder), {"test": {"graphs": 3}})
    content = json.loads(file.read_text())
    assert content["members"] == ["member_0/model.safetensors", "member_1/model.safetensors"]
    assert content["test"] == {"graphs": 3}
    (folder / "run").rename(folder / "moved")
    found = read_committee(folder / "moved" / "committee.json")
    assert found == [folder / f"moved/member_{k}/model.safetensors" for k in (0, 1)]


def test_a_committee_stands_for_its_members(folder):
    file = write_committee(folder / "run" / "committee.json", members(folder))
    assert expand_committees([folder / "a.safetensors", str(file)]) == [folder / "a.safetensors", *members(folder)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no list of a committee: "),
        ("[1]", "is no list of a committee; expected kind"),
        ('{"kind": "geomlib committee", "schema": 1, "members": []}', "expected kind"),
        ('{"kind": "geomlib committee", "schema": 1, "members": [1]}', "expected kind"),
        ('{"kind": "geomlib committee", "schema": 7, "members": ["a"]}', "has schema 7, but this geomlib reads 1"),
        ('{"kind": "geomlib committee", "schema": 1, "members": ["gone.safetensors"]}', "gone.safetensors, which is"),
    ],
)
def test_what_is_no_committee(folder, text, message):
    file = folder / "c.json"
    file.write_text(text)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_committee(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(folder):
    with pytest.raises(FileFormatError, match=r"c\.json: can't be read: No such file"):
        read_committee(folder / "c.json")
