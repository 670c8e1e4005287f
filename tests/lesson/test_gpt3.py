from mnist_mlp.lesson.gpt3 import gpt3_multiplications, gpt3_parameters


def test_gpt3() -> None:
    assert gpt3_parameters() == 174_604_259_328
    matrices, attention = gpt3_multiplications()
    assert f"{(matrices + attention) / 1e9:.0f} {2 * (matrices + attention) / 1e9:.0f}" == "179 359"
