"""Every planted bug still has its place: `make mutants`, which takes minutes, then finds it there."""

from pathlib import Path

import pytest
from planted import MUTANTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_has_its_place_and_tests(mutant):
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert all((ROOT / test).is_file() for test in mutant.tests)


def test_there_are_at_least_fifteen_and_no_name_twice():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15
