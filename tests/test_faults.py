"""The faults of scripts/faults.py, each tried less often than there."""

import pytest

from scripts.faults import FAULTS, try_fault


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_promised_holds(name: str) -> None:
    print(try_fault(name, FAULTS[name].in_tests, seed=0))
