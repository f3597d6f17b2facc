"""Which key an error about a value is put down to."""

import pytest

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.training.building import _innermost, blaming


def checked(width, heads):
    assert width % heads == 0


def test_an_assertion_without_words_is_told_by_its_condition():
    with pytest.raises(AssertionError) as silent:
        checked(8, 3)
    bare = AssertionError().with_traceback(silent.value.__traceback__)
    assert _innermost(bare) == "checked expects width % heads == 0 (AssertionError)"
    assert _innermost(AssertionError()) == "it cannot be used (AssertionError)"
    assert _innermost(AssertionError("too few")) == "too few (AssertionError)"


def test_a_wrong_value_names_the_key():
    with pytest.raises(SpeechLMError, match=r"^model\.optim: it is odd$"), blaming("model.optim"):
        raise ValueError("it is odd")
