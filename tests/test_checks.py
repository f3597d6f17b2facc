import pytest

from nemo_speechlm.checks import check_choice, check_number, check_whole
from nemo_speechlm.errors import InputError


@pytest.mark.parametrize("value", [0, 7])
def test_whole_numbers(value):
    check_whole("x", value)


@pytest.mark.parametrize("value", [-1, True, 2.0, "3", None])
def test_what_is_no_whole_number(value):
    with pytest.raises(InputError, match=r"x is .*, expected a whole number of at least 0"):
        check_whole("x", value)


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (0, {"above": 0, "most": 1}, "a number above 0 and at most 1"),
        (1.1, {"above": 0, "most": 1}, "a number above 0 and at most 1"),
        (1, {"above": 0, "below": 1}, "a number above 0 and below 1"),
        (-0.1, {"least": 0, "most": 1}, "a number from 0 to 1"),
        (-1, {"least": 0}, "a number of at least 0"),
        (float("nan"), {}, "a number"),
        (True, {"least": 0}, "a number of at least 0"),
        ("1", {}, "a number"),
    ],
)
def test_what_is_no_such_number(value, bounds, words):
    with pytest.raises(InputError) as caught:
        check_number("share", value, **bounds)
    assert str(caught.value) == f"share is {value!r}, expected {words}"


def test_numbers_within_bounds():
    check_number("share", 1, above=0, most=1)
    check_number("share", 0.5, least=0.5)
    check_number("share", -3.5)


def test_choices():
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(InputError, match="kind is 'c', expected a or b"):
        check_choice("kind", "c", ("a", "b"))
