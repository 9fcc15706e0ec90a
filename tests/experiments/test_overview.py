"""How long a run still takes."""

import pytest

from experiments.overview import seconds_left
from tests.small_federation import small_study


def finished(stage, *seconds):
    return [
        {"event": "round_finished", "stage": stage, "round": index, "seconds": s}
        for index, s in enumerate(seconds, start=1)
    ]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        (finished("codec", 2.0), None),  # nobody knows yet how long a round of diffusion takes
        ([{"event": "run_started"}, *finished("codec", 2.0, 4.0), *finished("diffusion", 5.0)], 5.0),
        ([*finished("codec", 2.0), *finished("diffusion", 5.0)], 7.0),
        ([*finished("codec", 2.0, 4.0), *finished("diffusion", 5.0, 6.0)], 0.0),
        ([*finished("codec", 9.0), *finished("codec", 2.0, 4.0), *finished("diffusion", 5.0)], 5.0),  # again
    ],
)
def test_rounds_that_are_left_take_as_long_as_those_that_are_finished(events, expected):
    assert seconds_left(small_study(), events) == expected
