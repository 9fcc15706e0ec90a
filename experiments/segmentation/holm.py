"""Several comparisons at once: Holm's step-down procedure (Holm 1979, Scand J Statist 6:65-70).

>>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
{'a': 0.03, 'b': 0.06, 'c': 0.06}
>>> holm({"a": 0.01, "b": 0.04}, planned=3)
{'a': 0.03, 'b': 0.08}
"""

from collections.abc import Mapping

from common.errors import MetricError


def holm(p_values: Mapping[str, float], planned: int = 0) -> dict[str, float]:
    """Return adjusted p-values: the chance of any false positive among them stays below what each is held to.

    Args:
        p_values: Of comparisons.
        planned: How many comparisons there will be, if these are not all. Those to come count as if they had
            a p-value of 1, so that an adjusted p-value can only become smaller when they are known.

    Raises:
        MetricError: A p-value is not between 0 and 1.
    """
    for name, value in p_values.items():
        if not 0 <= value <= 1:
            raise MetricError(f"the p-value of '{name}' is {value}", "give values between 0 and 1")
    adjusted, largest, num = {}, 0.0, max(planned, len(p_values))
    for rank, (name, value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (num - rank) * value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
