"""Fixed numbers of the lesson and of its data sets, for every module; importing this is free."""

LESSON_LAYER_SIZES = (784, 128, 64, 10)  # inputs, two hidden layers, outputs
LESSON_PARAMETERS = 109_386  # the lesson's count for these layers: 100,480 + 8,256 + 650
SIDE = 28  # rows, and columns, of an image
INPUT_SIZE = SIDE * SIDE
CLASSES = 10
TRAINING_EXAMPLES = {"mnist": 60_000, "digits": 1_437}  # before any are held out for validation


def show_loss(loss: float) -> str:
    """A loss with four decimals, or a huge one with a power of ten."""
    return f"{loss:.4f}" if loss < 1e5 else f"{loss:.1e}"
