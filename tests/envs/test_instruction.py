"""Instructions as hashed words: the same numbers everywhere, words kept apart, any text accepted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.dmlab.instruction import hash_words, instruction_space

KNOWN = [859, 809, 274, 346, 229]
WORDS = """pick up the red blue green yellow white black cyan magenta hat cake balloon suitcase can object large small
tiny big near next to with in room are there more than fewer touch avoid collect go between"""


def test_known_numbers():
    assert hash_words("Pick up the red hat.").tolist() == KNOWN + [0] * (16 - len(KNOWN))


def test_case_punctuation_and_blanks_do_not_count_but_order_does():
    assert (hash_words("Red, HAT!") == hash_words("  red hat")).all()
    assert (hash_words("red hat") != hash_words("hat red")).any()


def test_long_texts_are_cut_and_empty_ones_are_zeros():
    assert (hash_words("a b c d", words=2) == hash_words("a b", words=2)).all()
    assert not hash_words("").any()


def test_the_words_of_the_language_levels_hardly_collide():
    words = WORDS.split()
    hashed = [int(hash_words(word)[0]) for word in words]
    assert len(set(hashed)) >= len(words) - 2


@given(st.text(max_size=200), st.integers(1, 20), st.integers(2, 2000))
def test_every_text_is_in_the_space(text, words, vocabulary):
    hashed = hash_words(text, words, vocabulary)
    assert hashed in instruction_space(words, vocabulary)
    assert hashed.dtype == np.int64


@pytest.mark.parametrize("vocabulary", [2, 3])
def test_a_word_is_never_no_word(vocabulary):
    assert all(hash_words(chr(97 + i), 1, vocabulary)[0] > 0 for i in range(26))
