"""The results page says what the committed figures say, and the figures pass the bars they are shown for."""

import json

import pytest

from experiments.results_page import PAGE, RESULTS, with_tables

MOST_DB_BELOW, LEAST_PERPLEXITY, LEAST_DEVIATION = 1.5, 256, 0.9


def figures(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_every_table_of_the_page_is_the_one_its_file_makes():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page


def test_a_changed_figure_changes_the_page(tmp_path):
    for file in RESULTS.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"))
    changed = figures("quantizers.json")
    changed["rows"][0]["psnr_over_global_mse"] = 99.25
    (tmp_path / "quantizers.json").write_text(json.dumps(changed))
    assert "99.25" in with_tables(PAGE.read_text(encoding="utf-8"), tmp_path)


def test_a_table_without_figures_and_figures_without_a_place_are_refused(tmp_path):
    with pytest.raises(ValueError, match="quantizers"):
        with_tables("# Results\n")
    with pytest.raises(ValueError, match="not measured"):
        with_tables(PAGE.read_text(encoding="utf-8"), tmp_path)


@pytest.mark.parametrize("kind", ["ema", "gradient", "fsq"])
def test_every_quantizer_of_about_512_codes_on_two_channels_costs_little(kind):
    [row] = [
        r
        for r in figures("quantizers.json")["rows"]
        if r["kind"] == kind and r["code_dim"] == 2 and 500 <= r["codes"] <= 512
    ]
    assert 0 < row["psnr_over_global_mse_cost"] <= MOST_DB_BELOW
    assert 0 < row["psnr_mean_over_patients_cost"] <= MOST_DB_BELOW
    assert row["intensity_std_kept"] >= LEAST_DEVIATION
    assert row["perplexity"] >= LEAST_PERPLEXITY


def test_codebooks_of_512_codes_are_used_whatever_the_channels():
    rows = [r for r in figures("quantizers.json")["rows"] if r["kind"] in {"ema", "gradient"}]
    of_512 = [r["perplexity"] for r in rows if r["codes"] == 512]
    assert len(of_512) == 4
    assert min(of_512) >= LEAST_PERPLEXITY
