"""What a study may fill of the coordinator's disk."""

from deploy.disk_need import SPARE_BYTES, disk_need
from tests.small_federation import small_study


def test_it_grows_with_sites_and_model():
    few, many = small_study(("a", "b")), small_study(("a", "b", "c", "d"))
    larger = small_study(("a", "b"), codec__model__channels=64)
    assert SPARE_BYTES < disk_need(few) < disk_need(many)
    assert disk_need(few) < disk_need(larger)
