import numpy as np
import pytest

from mnist_mlp.views.predictions import Mistake, calibrate, find_mistakes


def test_the_most_confident_mistake_comes_first() -> None:
    p = np.array([[0.6, 0.4], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]])
    labels = np.array([1, 0, 0, 1])
    found = [Mistake(2, 0, 1, 0.9), Mistake(1, 0, 1, 0.8), Mistake(0, 1, 0, 0.6)]
    assert find_mistakes(p, labels) == found
    assert find_mistakes(np.eye(10), np.arange(10)) == []


def test_the_calibration_error_by_hand() -> None:
    error, (low, high) = calibrate(
        np.array([0.5, 0.6, 0.9, 1.0]), np.array([True, False, True, True]), bins=2
    )
    assert (low.images, low.confidence, low.accuracy) == (1, 0.5, 1.0)
    assert high.images == 3
    assert high.confidence == pytest.approx(2.5 / 3)
    assert high.accuracy == pytest.approx(2 / 3)
    assert error == pytest.approx(1 / 4 * 0.5 + 3 / 4 * (2.5 - 2) / 3)
