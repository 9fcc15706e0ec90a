"""The results page says what the committed figures say, and the bars that they claim to pass hold."""

import json

import pytest

from experiments.results_page import PAGE, RESULTS, TABLES, with_tables


def figures(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_every_table_of_the_page_is_the_one_its_file_makes():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page


def test_a_changed_figure_changes_the_page(tmp_path):
    for file, _ in TABLES.values():
        (tmp_path / file).write_text((RESULTS / file).read_text(encoding="utf-8"))
    changed = figures("codec_bench.json")
    changed["codecs"]["fedvox"]["psnr_over_global_mse"] = 99.25
    (tmp_path / "codec_bench.json").write_text(json.dumps(changed))
    page = PAGE.read_text(encoding="utf-8")
    assert "99.25" in with_tables(page, tmp_path)


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="demo"):
        with_tables("# Results\n")
