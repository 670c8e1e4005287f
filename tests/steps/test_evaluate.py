import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)
from torch import nn

from mnist_mlp.steps import evaluate
from mnist_mlp.steps.evaluate import evaluate_model


@pytest.mark.parametrize("missing", [None, 3])
def test_against_scikit_learn(missing: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "CHUNK", 128)  # the last chunk is a ragged one
    logits = torch.randn(1000, 10, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.randint(0, 10, (1000,), generator=torch.Generator().manual_seed(1))
    if missing is not None:  # a digit that neither occurs nor is guessed
        labels[labels == missing] = 0
        logits[:, missing] = -100
    result = evaluate_model(nn.Identity(), logits, labels)
    guesses = logits.argmax(dim=1)
    probabilities = logits.double().softmax(dim=1).numpy()
    assert result.examples == 1000
    assert result.loss == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-6)
    assert result.accuracy == accuracy_score(labels, guesses)
    matrix = confusion_matrix(labels, guesses, labels=range(10))
    assert result.confusion_matrix == matrix.tolist()
    theirs = precision_recall_fscore_support(labels, guesses, labels=range(10), zero_division=0)
    ours = [[row.precision, row.recall, row.f1, row.support] for row in result.per_class]
    for row, expected in zip(ours, zip(*theirs, strict=True), strict=True):
        assert row == pytest.approx(expected)


def test_the_model_is_left_in_its_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    images, labels = torch.eye(10), torch.arange(10)
    assert evaluate_model(model, images, labels).accuracy == 1  # dropout was off
    assert model.training
    model.eval()
    evaluate_model(model, images, labels)
    assert not model.training
