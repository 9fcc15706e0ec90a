"""Arms that another machine, or day, computed: taken over whole, from the same basis, or not at all."""

import dataclasses

import pytest
from segmentation_place import PLAN, bench_at, make_place

from common.errors import ConfigError, RunError
from experiments.segmentation import compare
from experiments.segmentation.compare import compare_arms
from experiments.segmentation.compared import Compared
from experiments.segmentation.plot import plot_segmentation
from experiments.segmentation.table import segmentation_text

ARMS = [arm for arm in PLAN["arms"] if arm["name"] != "local"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("segmentation"))


@pytest.fixture(scope="module")
def first_machine(place):
    """What a machine without generators found."""
    bench = dataclasses.replace(bench_at(place, arms=ARMS), runs=place / "no runs", folder=place / "first")
    found = compare_arms(bench, 1, lambda _: None)
    assert found.results["missing_arms"] == ["federated", "one volume"]
    found.write(place / "results", "tiny")
    return Compared.load(place / "results" / "tiny.json")


def elsewhere(place, name, **changes):
    return dataclasses.replace(bench_at(place, **{"arms": ARMS} | changes), folder=place / name)


def test_arms_of_two_machines_are_what_one_machine_finds(place, first_machine):
    said = []
    both = compare_arms(elsewhere(place, "second"), 1, said.append, first_machine).results
    alone = compare_arms(elsewhere(place, "alone"), 1, lambda _: None).results
    assert timeless(both) == timeless(alone)
    assert both["core_hours"] == round(sum(arm["core_hours"] for arm in both["arms"].values()), 2)
    assert both["missing_arms"] == []
    assert [line for line in said if "taken" in line] == [
        f"{arm}: taken from earlier results" for arm in ("scratch", "noise", "real")
    ]
    made = {file.name for file in (place / "second").rglob("jobs/*/*.json")}
    assert made
    assert not any(name.startswith(("scratch", "noise", "real")) for name in made)


def timeless(results):
    arms = {name: facts | {"core_hours": 0.0} for name, facts in results["arms"].items()}
    return results | {"core_hours": 0.0, "arms": arms}


def test_taken_arms_need_no_generator_here_and_cost_what_they_cost(place, first_machine):
    complete = compare_arms(elsewhere(place, "third"), 1, lambda _: None, first_machine)
    bench = dataclasses.replace(elsewhere(place, "fourth"), runs=place / "no runs")
    again = compare_arms(bench, 1, lambda _: None, complete)
    assert again.results == complete.results
    assert not list((place / "fourth").rglob("jobs/*/*.json"))


def test_arms_of_two_trainings_of_one_generator_are_not_compared(place, first_machine):
    alone = compare_arms(elsewhere(place, "eighth"), 1, lambda _: None, first_machine, only=["federated"])
    facts = alone.results["arms"]
    facts["federated"] = facts["federated"] | {"generator": facts["federated"]["generator"] | {"model": "x"}}
    with pytest.raises(ConfigError, match="federated and one volume are of two trainings"):
        compare_arms(elsewhere(place, "ninth"), 1, lambda _: None, alone)
    assert not list((place / "ninth").rglob("jobs/*/*.json"))  # told before anything was computed


def test_an_arm_of_an_older_training_than_the_run_here_is_refused(place, first_machine):
    alone = compare_arms(elsewhere(place, "tenth"), 1, lambda _: None, first_machine, only=["one volume"])
    facts = alone.results["arms"]
    for name in ("scratch", "noise", "real"):
        facts.pop(name)
    facts["one volume"]["generator"]["model"] = "x"
    with pytest.raises(ConfigError, match="one volume: the earlier results are of another training"):
        compare_arms(elsewhere(place, "eleventh"), 1, lambda _: None, alone, only=["scratch"])
    assert not list((place / "eleventh").rglob("jobs/*/*.json"))


def test_code_that_changes_while_it_runs_spoils_the_results(place, monkeypatch):
    digests = iter(("a", "b"))
    monkeypatch.setattr(compare, "code_of_figures", lambda: next(digests))
    told = r"the code was changed while it ran \(take .*/alone/[0-9a-f]{12} away"
    with pytest.raises(RunError, match=told):
        compare_arms(elsewhere(place, "alone"), 1, lambda _: None, only=["scratch"])


def test_one_arm_after_another_is_what_all_together_are(place, first_machine):
    found, said = None, []
    for arm in ("real", "scratch", "noise"):
        bench = elsewhere(place, arm)
        found = compare_arms(bench, 1, said.append, found, only=[arm])
        made = {
            file.name.rpartition("-n")[0][: len(arm)] for file in (place / arm).rglob("jobs/fine-tuning/*")
        }
        assert made == {arm}
        plot_segmentation(found.results, place / f"{arm}.png")
    assert found.results["labels"] == first_machine.results["labels"]
    assert found.results["missing_arms"] == ["federated", "one volume"]
    assert not (place / "real.png").exists()  # there was nothing to compare with
    assert (place / "noise.png").exists()
    assert "differences" not in segmentation_text(compared_alone(place))


def compared_alone(place):
    bench = elsewhere(place, "real")
    return compare_arms(bench, 1, lambda _: None, only=["real"]).results


def test_an_arm_that_is_not_in_the_plan_is_refused(place):
    with pytest.raises(ConfigError, match=r"has no arm lung .its arms: scratch, noise"):
        compare_arms(elsewhere(place, "none"), 1, lambda _: None, only=["lung"])


def test_an_arm_whose_settings_changed_is_computed_anew(place, first_machine):
    changed = [arm | {"fine_tuning_times": 2} if arm["name"] == "real" else arm for arm in ARMS]
    said = []
    compare_arms(elsewhere(place, "fifth", arms=changed), 1, said.append, first_machine)
    assert "noise: taken from earlier results" in said
    assert "real: taken from earlier results" not in said
    made = {file.name.partition("-")[0] for file in (place / "fifth").rglob("jobs/fine-tuning/*.json")}
    assert made == {"federated", "one volume", "real"}


@pytest.mark.parametrize(
    "changes", [{"num_volumes": 5}, {"fine_tuning": {"steps": 3, "batch_size": 2}}, {"pretext": {"block": 2}}]
)
def test_results_of_other_settings_are_refused(place, first_machine, changes):
    with pytest.raises(ConfigError, match="other volumes, code, study or settings"):
        compare_arms(elsewhere(place, "sixth", **changes), 1, lambda _: None, first_machine)


@pytest.mark.parametrize("changes", [{"labels": [1]}, {"labels": [2, 1, 3]}, {"seeds": 4}])
def test_arms_of_fewer_or_other_fine_tunings_are_refused(place, first_machine, changes):
    with pytest.raises(ConfigError, match="other numbers of labels or seeds than the plan"):
        compare_arms(elsewhere(place, "seventh", **changes), 1, lambda _: None, first_machine)


def test_results_without_their_figures_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"tiny\.json"):
        Compared.load(tmp_path / "tiny.json")
    (tmp_path / "tiny.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tiny\.jsonl"):
        Compared.load(tmp_path / "tiny.json")
