"""The syntax of virtlockd.conf and qemu-lockd.conf."""

import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.libvirt.conf import ConfError, Value, parse, read

keys = st.from_regex(r"[a-z_][a-z0-9_]{0,12}", fullmatch=True)
line_of_text = st.text(st.characters(exclude_characters='"\n', exclude_categories=["Cs"]), max_size=20)
texts = st.one_of(
    line_of_text.map(lambda text: (f'"{text}"', text)),
    line_of_text.filter(lambda text: "'" not in text).map(lambda text: (f"'{text}'", text)),
    line_of_text.map(lambda text: (f'"""{text}\n{text}"""', f"{text}\n{text}")),
)
numbers = st.integers(-(10**9), 10**9).map(lambda number: (str(number), number))
blanks = st.sampled_from(["", " ", "\t  "])
gaps = st.sampled_from(["", " ", "\n", '  # a comment, with ] and " in it\n', "\n\n\t"])


@st.composite
def lists(draw: st.DrawFn) -> tuple[str, Value]:
    items = draw(st.lists(numbers | texts, max_size=4))
    comma = f"{draw(gaps)},{draw(gaps)}"
    source = comma.join(item for item, _ in items)
    trailing = draw(st.sampled_from(["", ","])) if items else ""
    return f"[{draw(gaps)}{source}{draw(gaps)}{trailing}{draw(gaps)}]", [value for _, value in items]


@st.composite
def settings(draw: st.DrawFn) -> tuple[str, str, Value]:
    key = draw(keys)
    source, value = draw(numbers | texts | lists())
    comment = draw(st.sampled_from(["", "# a comment", " # another = 1"]))
    return (f"{draw(blanks)}{key}{draw(blanks)}={draw(blanks)}{source}{comment}", key, value)


other_lines = st.lists(st.sampled_from(["", "   ", "# a comment", "\t# key = 1", "#"]), max_size=3)


@given(st.lists(st.tuples(other_lines, settings()), max_size=5), st.booleans())
def test_settings_are_read_as_they_were_written(
    written: list[tuple[list[str], tuple[str, str, Value]]], last_line_ends: bool
) -> None:
    lines = [line for others, (source, _, _) in written for line in [*others, source]]
    conf = parse("\n".join(lines) + "\n" * last_line_ends)
    # Of two settings of one name the first one counts.
    expected = {key: value for _, (_, key, value) in reversed(written)}
    for key, value in expected.items():
        assert key in conf
        if isinstance(value, str):
            assert conf.text(key) == value
        else:
            with pytest.raises(ConfError, match=f"{key} has to be a text"):
                conf.text(key)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            assert conf.texts(key) == value
        else:
            with pytest.raises(ConfError, match=f"{key} has to be a list of texts"):
                conf.texts(key)
        if isinstance(value, int) and 0 <= value < 2**32:
            assert conf.number(key, 5) == value
        else:
            with pytest.raises(ConfError, match=f"{key} has to be a number"):
                conf.number(key, 5)
    assert "not_there" not in conf


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    try:
        parse(text)
    except ConfError as error:
        line = error.line
    else:
        return
    assert 1 <= line <= text.count("\n") + 1


def test_defaults_are_for_what_is_not_set() -> None:
    conf = parse("")
    assert conf.number("max_clients", 1024) == 1024
    assert conf.text("log_filters") is None
    assert conf.boolean("auto_disk_leases", default=True) is True


def test_a_number_may_have_a_largest_value() -> None:
    assert parse("level = 4").number("level", 0, maximum=4) == 4
    with pytest.raises(ConfError, match="level has to be a number, 0 to 4"):
        parse("level = 5").number("level", 0, maximum=4)


@pytest.mark.parametrize(("source", "value"), [("0", False), ("1", True)])
def test_a_boolean_is_0_or_1(source: str, value: bool) -> None:
    assert parse(f"flag = {source}").boolean("flag", default=not value) is value


@pytest.mark.parametrize("source", ["2", "-1", '"1"', "[ 1 ]"])
def test_nothing_else_is_a_boolean(source: str) -> None:
    with pytest.raises(ConfError, match="flag has to be 0 or 1") as caught:
        parse(f"# first line\n\nflag = {source}").boolean("flag", default=True)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = 1\nb 2\n", 2, "'=' is missing after b"),
        ("a = 1\n\n= 2\n", 3, "a setting begins with its name"),
        ("a = \nb = 1", 1, "a value is a number, a text in quotes, or a list in brackets"),
        ("a = yes", 1, "a value is"),
        ('a = "open\n', 1, "a value is"),
        ("a = 1 b = 2", 1, "there is text after the value"),
        ("a = [ 1, 2\n\n", 3, "',' or ']' is missing in a list"),
        ("a = [\n1 2 ]", 2, "',' or ']' is missing in a list"),
        ("a = [ x ]", 1, "a value is"),
        ("a = [ [ 1 ] ]", 1, "a value is"),
    ],
)
def test_an_error_says_where_and_what(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfError) as caught:
        parse(text)
    assert caught.value.line == line
    assert message in str(caught.value)


def test_a_number_has_32_bits_and_not_more_digits_than_python_reads() -> None:
    assert parse("max = 4294967295").number("max", 0) == 2**32 - 1
    with pytest.raises(ConfError, match="max has to be a number, 0 to 4294967295"):
        parse("max = 4294967296").number("max", 0)
    with pytest.raises(ConfError, match="the number is too large"):
        parse(f"max = {'9' * 5000}")


def test_lines_are_counted_once() -> None:
    """A file of the largest size has 2.5 million lines. Counting from its start each time would take hours."""
    count = 300_000
    with pytest.raises(ConfError) as caught:
        parse("a=1\n" * count + "b")
    assert caught.value.line == count + 1


# Files that are none


@pytest.fixture(params=["FIFO", "directory", "device", "socket"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "conf"
    match request.param:
        case "FIFO":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
    return path


def test_nothing_but_an_ordinary_file_is_read(no_file: Path) -> None:
    with pytest.raises(ConfError, match=re.escape(f"{no_file}: cannot be read: it is ")):
        read(no_file)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ConfError, match=re.escape(f"{path}: has more than 10485760 bytes")):
        read(path)


def test_the_null_device_is_an_empty_configuration() -> None:
    conf = read(Path(os.devnull))
    assert conf is not None
    assert "max_clients" not in conf


def test_bytes_that_are_not_utf_8_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_bytes(b'a = "\xff"\r\nb = 1\r\n')
    conf = read(path)
    assert conf is not None
    assert (conf.text("a"), conf.number("b", 0)) == ("\udcff", 1)
