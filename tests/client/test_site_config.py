"""site.yaml: paths are meant from its folder, a mistyped key is named, nothing can be changed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from client.site_config import Selection, SiteConfig, load_site_config
from common.errors import ConfigError, UnknownKeyError

FULL = """
name: alder
data: ../volumes
patients: patients.csv
select: {site: north, part: [generator, labelled]}
compute: {device: "cuda:1", threads: 8, amp: true}
state: /var/lib/fedvox
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_relative_paths_are_meant_from_the_folder_of_the_file(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "alder", FULL)
    monkeypatch.chdir(tmp_path)
    config = load_site_config(path.relative_to(tmp_path))
    assert config.data.resolve() == tmp_path / "volumes"
    assert config.patients == tmp_path / "alder" / "patients.csv"
    assert config.state == Path("/var/lib/fedvox")
    assert config.cache_folder == Path("/var/lib/fedvox/cache")
    assert config.select == Selection(site="north", part=("generator", "labelled"))
    assert (config.compute.device, config.compute.threads, config.compute.amp) == ("cuda:1", 8, True)


def test_a_short_file_has_sensible_defaults(tmp_path) -> None:
    config = load_site_config(write(tmp_path, "name: alder\ndata: ~/volumes\ncache: fast\n"))
    assert config.data == Path.home() / "volumes"
    assert config.state == tmp_path / "state"
    assert config.cache_folder == tmp_path / "fast"
    assert config.patients is None
    assert (config.compute.device, config.compute.threads, config.compute.amp) == ("cpu", None, False)


def test_one_part_needs_no_brackets(tmp_path) -> None:
    text = "name: a\ndata: d\npatients: p.csv\nselect: {part: test}\n"
    assert load_site_config(write(tmp_path, text)).select == Selection(part=("test",))


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("name: a\ndta: d\n", UnknownKeyError, "unknown key 'dta' .did you mean 'data'"),
        (
            "name: a\ndata: d\ncompute: {treads: 2}\n",
            UnknownKeyError,
            "compute.treads.*did you mean 'threads'",
        ),
        ("name: a\n", ConfigError, "data: Field required"),
        ("name: St. Mary\ndata: d\n", ConfigError, "name: String should match"),
        ("name: a\ndata: d\ncompute: {device: gpu}\n", ConfigError, "compute.device"),
        ("name: a\ndata: d\nselect: {site: x}\n", ConfigError, "select needs a patient table"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text, error, says) -> None:
    with pytest.raises(error, match=says):
        load_site_config(write(tmp_path, text))


def test_a_site_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SiteConfig(name="a", data=Path("d")).name = "b"
