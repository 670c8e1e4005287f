"""What Step 8 finds after each epoch. No torch is imported here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """The result of an epoch; a row of metrics.jsonl. Losses are mean cross-entropies in nats.

    `train_loss` and `train_accuracy` are measured on each batch just before its update; in row 0,
    the untrained network, on the whole training set. `learning_rate` is that of the last update
    (in row 0: of the first). `seconds` counts from the first update, here or since resuming.
    """

    epoch: int
    updates: int
    examples_seen: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
