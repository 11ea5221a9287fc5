"""How values are written: texts made harmless and short, numbers with true minus signs, unknown values as a dash."""

import pytest

from training.report.formats import count, decimals, percent, plain, points, short, sided, signed, signed_decimals


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("turned \u202eround\u202c", "turned \ufffdround\ufffd"),
        ("bell \x07 and \x1b[31m", "bell \ufffd and \ufffd[31m"),
        ("half \ud800 a pair", "half \ufffd a pair"),
        ("family 👨\u200d👩\u200d👧", "family 👨\u200d👩\u200d👧"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("<b>kept & escaped later</b>", "<b>kept & escaped later</b>"),
    ],
)
def test_texts_are_made_harmless(text: str, shown: str) -> None:
    assert short(text) == shown


def test_long_texts_end_with_an_ellipsis_within_the_limit() -> None:
    assert short("word " * 100, 20) == "word word word word…"
    assert len(short("x" * 10_000_000, 50)) == 50
    assert short("x" * 50, 50) == "x" * 50


def test_numbers() -> None:
    assert points(0.93471) == "93.5"
    assert points(-0.001) == "−0.1"
    assert signed(0.0123) == "+1.23"
    assert signed(-0.0123) == "−1.23"
    assert decimals(None) == decimals(float("nan")) == signed_decimals(None) == percent(None) == "–"
    assert count(1234567) == "1\u2009234\u2009567"
    assert percent(0.666) == "67\u00a0%"


def test_recipe_values() -> None:
    assert plain({"min_effect": 0.02, "guards": ("a", "b")}) == "min_effect 0.02, guards a, b"
    assert (plain(None), plain(True), plain({}), plain(1e-3), plain("mlp"), plain(7)) == (
        "–", "yes", "–", "0.001", "mlp", "7",
    )  # fmt: skip


def test_a_difference_is_marked_where_its_interval_excludes_zero() -> None:
    assert [sided({"low": low, "high": high}) for low, high in ((0.1, 0.2), (-0.1, 0.2), (-0.2, -0.1))] == [
        "yes",
        "",
        "no",
    ]
