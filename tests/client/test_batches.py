"""Which volumes a step sees: full batches, patients in turn, a pure function of the seed."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from client.batches import batches
from client.running_mean import RunningMean


def drawn(patients, batch_size, num_steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [batch.tolist() for batch in batches(patients, batch_size, num_steps, generator)]


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20), st.integers(1, 9), st.integers(0, 7))
def test_every_batch_is_full_and_in_range(patients, batch_size, num_steps):
    result = drawn(patients, batch_size, num_steps)
    assert [len(batch) for batch in result] == [batch_size] * num_steps
    assert all(0 <= index < len(patients) for batch in result for index in batch)


def test_patients_come_equally_often_however_many_volumes_they_have():
    patients = ["many"] * 9 + ["one", "two"]
    counts = Counter(patients[index] for batch in drawn(patients, 3, 40) for index in batch)
    assert counts == {"many": 40, "one": 40, "two": 40}


def test_all_volumes_of_a_patient_have_their_turn():
    counts = Counter(index for batch in drawn(["a"] * 3, 2, 300) for index in batch)
    assert all(140 < counts[index] < 260 for index in range(3))


def test_the_same_seed_draws_the_same_and_another_does_not():
    patients = [str(number) for number in range(30)]
    assert drawn(patients, 4, 5, seed=1) == drawn(patients, 4, 5, seed=1)
    assert drawn(patients, 4, 5, seed=1) != drawn(patients, 4, 5, seed=2)


def test_names_decide_the_order_not_their_place_in_the_list():
    forward = [f"p{number}" for number in range(10)]
    backward = forward[::-1]
    first = [forward[index] for batch in drawn(forward, 5, 4) for index in batch]
    second = [backward[index] for batch in drawn(backward, 5, 4) for index in batch]
    assert first == second


def test_a_mean_counts_only_the_steps_in_which_a_name_appeared():
    means = RunningMean()
    means.add({"loss": 1.0})
    means.add({"loss": 3.0, "late": 5.0})
    assert means.result() == {"late": 5.0, "loss": 2.0}
