"""The faults of scripts/faults.py, each tried less often than there."""

import pytest

from scripts.faults import FAULTS, try_fault


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_promised_holds(name: str) -> None:
    print(try_fault(name, FAULTS[name].in_quick_tests, seed=0))


REPEATED = [name for name, fault in FAULTS.items() if fault.in_tests > fault.in_quick_tests]


@pytest.mark.long
@pytest.mark.parametrize("name", REPEATED)
def test_what_is_promised_holds_more_often(name: str) -> None:
    print(try_fault(name, FAULTS[name].in_tests, seed=0))
