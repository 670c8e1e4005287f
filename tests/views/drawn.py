"""What the tests of the views share."""

import xml.etree.ElementTree as ET

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def texts(svg: bytes) -> list[str]:
    """What can be read in an SVG, as text and not as outlines."""
    found = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in found]


def sheet_of(figure: Figure) -> NDArray[np.float64]:
    """All tiles as drawn; NaN between."""
    array = figure.axes[0].images[0].get_array()
    assert array is not None
    return np.ma.MaskedArray(array).filled(np.nan)
