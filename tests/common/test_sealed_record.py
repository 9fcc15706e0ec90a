"""A sealed record says who wrote it, for what, and is altered by nobody else."""

import json

import pytest

from common.errors import SealError
from common.frozen import FrozenModel
from common.seal import SealKey
from common.sealed_record import SealedRecord

KEY = SealKey.generate()


class Note(FrozenModel):
    text: str
    number: int = 0


class Other(FrozenModel):
    word: str


@pytest.fixture
def path(tmp_path):
    SealedRecord.of("note", Note(text="α β", number=3), KEY).write(tmp_path / "note.json")
    return tmp_path / "note.json"


def test_what_was_written_is_read(path):
    assert SealedRecord.read(path).verified("note", Note, KEY.public) == Note(text="α β", number=3)


@pytest.mark.parametrize(("purpose", "key"), [("letter", KEY.public), ("note", SealKey.generate().public)])
def test_another_purpose_or_key_is_refused(path, purpose, key):
    with pytest.raises(SealError, match="is not by key"):
        SealedRecord.read(path).verified(purpose, Note, key)


def test_altered_content_is_refused(path):
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({**entries, "content": entries["content"].replace("3", "4")}))
    with pytest.raises(SealError, match="is not by key"):
        SealedRecord.read(path).verified("note", Note, KEY.public)


def test_a_record_of_another_kind_is_refused_though_it_is_sealed(path):
    with pytest.raises(SealError, match="holds no Other"):
        SealedRecord.read(path).verified("note", Other, KEY.public)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"content": "x"}',
        '{"content": 1, "seal": "aa=="}',
        '{"content": "x", "seal": "no base64"}',
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path, content):
    path = tmp_path / "none.json"
    path.write_text(content)
    with pytest.raises(SealError, match=r"none\.json is no sealed record"):
        SealedRecord.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SealError, match="No such file"):
        SealedRecord.read(tmp_path / "none.json")
