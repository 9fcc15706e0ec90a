"""The digest of the code: changes with any file of it and with nothing else."""

from common import code_digest


def test_the_code_digest_changes_with_any_file_and_with_nothing_else(tmp_path, monkeypatch):
    for name in code_digest.CODE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(code_digest, "__file__", str(tmp_path / "common" / "code_digest.py"))
    first = code_digest.code_digest()
    (tmp_path / "common" / "notes.txt").write_text("not code")
    assert code_digest.code_digest() == first
    (tmp_path / "client" / "module.py").write_text("x = 2\n")
    assert code_digest.code_digest() != first


def test_other_parts_have_a_digest_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(code_digest, "__file__", str(tmp_path / "common" / "code_digest.py"))
    (tmp_path / "pins.txt").write_text("a==1")
    first = code_digest.code_digest(["pins.txt"])
    (tmp_path / "pins.txt").write_text("a==2")
    assert code_digest.code_digest(["pins.txt"]) != first
