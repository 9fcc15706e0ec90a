"""The comparison of epsilons: who is public, what is paired, what may be called better."""

import collections
import csv
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from small_federation import small_study

from client.private.ledger import Ledger
from common.errors import DataError
from common.privacy.accountant import epsilon
from common.privacy.ledger_format import Reserve
from experiments.privacy_utility import compare, jobs
from experiments.privacy_utility.analysis import (
    gains,
    is_better,
    is_informative,
    overtakes_at,
    paired_interval,
    summary_of,
)
from experiments.privacy_utility.hippocampus import NUM_FOLDS, NUM_PUBLIC, SITES, Hippocampus, dealt
from experiments.privacy_utility.jobs import Bench
from experiments.privacy_utility.plot import plot_privacy_utility
from experiments.privacy_utility.settings import (
    DELTA,
    PRIMARY_METRICS,
    Candidate,
    PhantomSize,
    Settings,
)
from experiments.privacy_utility.table import privacy_utility_text


def manifest(subjects=102):
    """Rows as the data set has them: every other subject with two sides, a third in 8 bits."""
    rows = []
    for subject in range(subjects):
        kind = "uint8" if subject % 3 == 0 else "float32"
        for side in range(1 + subject % 2):
            reach = 255 if kind == "uint8" else 1000 + 100 * subject + 7 * side
            rows.append(
                {
                    "case": f"h{subject:03d}{side}",
                    "pair": str(subject),
                    "dtype": kind,
                    "imin": "0",
                    "imax": str(reach),
                }
            )
    return rows


def test_public_are_the_subjects_with_the_largest_float_range_and_the_others_are_dealt_evenly():
    rows = manifest()
    table = dealt(rows)
    place = collections.defaultdict(set)
    for _, subject, site, part in table:
        place[subject].add((site, part))
    assert all(len(places) == 1 for places in place.values())  # both sides of a person stay together
    public = {subject for subject, places in place.items() if ("open", "public") in places}
    floats = sorted((s for s in range(102) if s % 3), reverse=True)
    assert public == {str(subject) for subject in floats[:NUM_PUBLIC]}
    sizes = collections.Counter(
        next(iter(places)) for subject, places in place.items() if subject not in public
    )
    assert len(sizes) == NUM_FOLDS * len(SITES)
    assert set(sizes.values()) == {6}
    assert dealt(rows[::-1]) == table[::-1]  # the order of the manifest decides nothing


def figures(unit, target, loss, distance):
    metrics = dict(zip(PRIMARY_METRICS, (loss, distance), strict=True))
    floors = {PRIMARY_METRICS[1]: 0.0}
    return {
        "unit": unit,
        "target": target,
        "metrics": metrics,
        "floors": floors,
        "noise_multiplier": 1.0,
        "trained_parameters": 7,
    }


def test_differences_are_paired_by_unit_and_seeds_of_a_unit_are_averaged():
    found = [
        figures("a", "public", 10.0, 1.0),
        figures("a", "public", 12.0, 1.0),
        figures("b", "public", 100.0, 1.0),
        figures("a", "8", 9.0, 1.0),
        figures("a", "8", 11.0, 1.0),
        figures("b", "8", 98.0, 1.0),
    ]
    gain = gains(found, "8")[PRIMARY_METRICS[0]]
    assert gain["estimate"] == pytest.approx(-1.5)
    assert gain["high"] == pytest.approx(-1.5 + 12.7062 * math.sqrt(0.5 / 2), rel=1e-4)  # Student, 1 degree
    summary = summary_of(found)
    assert summary["units"] == 2
    assert summary["means"]["public"][PRIMARY_METRICS[0]] == pytest.approx((11 + 100) / 2)


def test_one_unit_says_nothing_for_certain():
    assert paired_interval([-5.0]) == {"estimate": -5.0, "low": -math.inf, "high": math.inf}


@pytest.mark.parametrize(
    ("highs", "better", "informative"),
    [((-1, -1), True, True), ((-1, 1), False, True), ((1, -1), False, True), ((0, 1), False, False)],
)
def test_better_takes_both_primary_metrics_and_headroom_one(highs, better, informative):
    gain = {name: {"high": high} for name, high in zip(PRIMARY_METRICS, highs, strict=True)}
    assert (is_better(gain), is_informative(gain)) == (better, informative)


def sized(*gain_of_size):
    """Figures by size of which epsilon 8 gains as given, the same for both units."""
    return {
        size: [figures(u, "public", 1.0, 1.0) for u in "ab"]
        + [figures(u, "8", 1.0 + gain, 1.0 + gain) for u in "ab"]
        for size, gain in gain_of_size
    }


@pytest.mark.parametrize(
    ("found", "at"),
    [
        (sized((25, 0.1), (100, -0.1), (300, -0.1)), 100),
        (sized((25, -0.1), (100, 0.1), (300, -0.1)), 300),  # a lucky small size does not count
        (sized((25, -0.1), (100, -0.1), (300, 0.1)), None),
        (sized((25, -0.1), (100, -0.1)), 25),
    ],
)
def test_it_overtakes_at_the_smallest_size_from_which_on_all_are_better(found, at):
    assert overtakes_at(found) == at


TINY = Settings(
    rounds=2,
    draws=1,
    candidates=(Candidate("300", 0.01),),
    tuning=PhantomSize(3, 0.5),
    sizes=(PhantomSize(3, 0.5, ("inf", "8")),),
    phantom_seeds=(0, 1),
    test_phantoms=2,
    public_phantoms=2,
    folds=(0, 1),
    mri_seeds=(0,),
    mri_arms=("inf", "8"),
    loss_draws=2,
    sets=1,
)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The whole comparison on noise in the shape of MRI, with networks of nothing, and once more."""
    root = tmp_path_factory.mktemp("utility")
    data = root / "data" / "hippocampus-mri"
    (data / "images").mkdir(parents=True)
    rows = manifest(subjects=42)
    generator = np.random.default_rng(0)
    for row in rows:
        image = generator.normal(size=(16, 16, 16)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), data / "images" / f"{row['case']}.nii.gz")
    with (data / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for name, channels in (("phantom", ["pre", "early", "late"]), ("hippocampus", ["t1"])):
        study = small_study(("open",), volume__shape=[16, 16, 16], name=name)
        content = study.model_dump(mode="json", exclude_none=True)
        content["volume"] |= {
            "channels": channels,
            "spacing_mm": [10, 10, 10] if len(channels) > 1 else [1, 1, 1],
        }
        content["codec"]["model"]["discriminator"] = None
        (root / f"privacy_utility_{name}.yaml").write_text(yaml.safe_dump(content))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "CONFIGS", root)
        bench = Bench(root / "work", TINY, 1, said.append)
        results = compare.compare_privacy(root / "data", bench)
        patch.setattr(jobs, "figures_of", lambda *_: 1 / 0)  # nothing is left to compute
        again = compare.compare_privacy(root / "data", bench)
    return root, results, again, said


def test_every_arm_is_measured_and_a_second_call_computes_nothing(story):
    root, results, again, _ = story
    assert {k: v for k, v in again.items() if k != "seconds_of_this_call"} == {
        k: v for k, v in results.items() if k != "seconds_of_this_call"
    }
    phantoms = results["phantoms"]["3"]
    assert set(phantoms["means"]) == {"public", "inf", "8"}
    assert phantoms["units"] == 2
    assert len(list((root / "work" / "jobs").glob("tuning-*"))) == 1
    assert set(results["hippocampus"]["means"]) >= {"public", "inf"}
    if not results["hippocampus"]["informative"]:
        assert "hippocampus_from_phantoms" in results


def test_every_private_arm_kept_a_ledger_that_says_it_is_research_and_spent_what_it_promised(story):
    root, results, _, _ = story
    runs = sorted((root / "work" / "runs").glob("phantom-n3-s*-eps8-*"))
    assert len(runs) == 2
    for run in runs:
        for site in ("north", "harbor", "valley"):
            ledger = Ledger(run / "sites" / site / "ledger")
            entries = [e for e in ledger.entries() if isinstance(e, Reserve)]
            assert len(entries) == TINY.rounds
            assert {e.mark for e in entries} == {"RESEARCH"}
            assert ledger.spent(DELTA) == epsilon([entries[0].event.repeated(TINY.rounds)], DELTA) <= 8
    assert results["phantoms"]["3"]["noise_multiplier"]["8"] == entries[0].event.noise_multiplier


def test_rows_go_from_least_noise_to_most_and_from_few_patients_to_many():
    results = json.loads(
        (Path(__file__).parents[2] / "experiments" / "results" / "privacy_utility.json").read_text()
    )
    firsts = [
        row.split("|")[1:3] for row in privacy_utility_text(results).splitlines() if row.startswith("|")
    ]
    cells = [" ".join(cell.strip() for cell in row) for row in firsts]
    assert [c.split()[0] for c in cells if c.endswith(" 8")] == ["25", "100", "300", "1000"]
    assert [c.split()[0] for c in cells if c.split()[0] in ("inf", "8", "3", "1")] == ["inf", "8", "3", "1"]


def test_the_words_and_the_picture_say_what_was_found(story, tmp_path):
    _, results, _, _ = story
    text = privacy_utility_text(results)
    for part in ("Epsilon is that of one run", "| 3 | 8 |", "real against real", *PRIMARY_METRICS):
        assert part in text
    assert ("**Not informative**" in text) is not results["hippocampus"]["informative"]
    kept = json.loads(json.dumps(results, sort_keys=True))  # as in the committed file
    assert privacy_utility_text(kept) == text
    plot_privacy_utility(kept, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    json.dumps(results)


def test_missing_data_is_said_before_anything_is_computed(tmp_path):
    with pytest.raises(DataError, match=r"holds no manifest\.csv"):
        Hippocampus(tmp_path, tmp_path, TINY)
