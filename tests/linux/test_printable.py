"""Text that a terminal shows and does not obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.linux.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße 日本", "Grüße 日本"),
        ("a\x1b[31m\x7f\n", r"a\x1b[31m\x7f\x0a"),
        ("\x80\x85\x9b", r"\xc2\x80\xc2\x85\xc2\x9b"),
        ("\u2028\u2029", r"\xe2\x80\xa8\xe2\x80\xa9"),
        ("\u200e\u200f\u202a\u202e\u2066\u2069", r"\xe2\x80\x8e\xe2\x80\x8f\xe2\x80\xaa\xe2\x80\xae\xe2\x81\xa6\xe2\x81\xa9"),
        ("\udc80\udcff", r"\x80\xff"),
        ("\ud800", r"\xed\xa0\x80"),
    ],
)  # fmt: skip
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()) | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_any_text_becomes_one_line_that_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
