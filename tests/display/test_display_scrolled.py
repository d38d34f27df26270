"""Rows of old pictures after a window has changed its size: how many to erase, and which lines to print again."""

from __future__ import annotations

from llmbatch.display.scrolled import Scrolled

NINE = [60] * 9


def scrolled(lengths: list[int], size: tuple[int, int]) -> Scrolled[str]:
    """Follows a picture with lines of these *lengths*."""
    found: Scrolled[str] = Scrolled()
    found.drawn(lengths, size)
    return found


def test_a_window_of_the_same_size_erases_nothing() -> None:
    """Nor does one for which nothing was drawn."""
    assert scrolled(NINE, (80, 24)).resized((80, 24)).rows == 0
    assert Scrolled[str]().resized((80, 24)).rows == 0


def test_a_narrower_window_wraps_the_lines() -> None:
    """Each line of 60 columns takes two rows of 40."""
    assert scrolled(NINE, (80, 24)).resized((40, 24)).rows == 18


def test_a_lower_window_has_only_the_rows_that_fit() -> None:
    """The other three are in the history, and come back with the next three rows."""
    picture = scrolled(NINE, (80, 24))

    assert picture.resized((80, 6)).rows == 6
    picture.drawn(NINE[:5], (80, 6))
    assert picture.resized((80, 8)).rows == 5 + 2
    picture.drawn(NINE[:7], (80, 8))
    assert picture.resized((80, 24)).rows == 7 + 1
    picture.drawn(NINE, (80, 24))
    assert picture.resized((80, 30)).rows == 9


def test_lines_printed_meanwhile_are_printed_again() -> None:
    """They stand between the picture and the old one, which can only be erased with them."""
    picture = scrolled(NINE, (80, 24))
    picture.resized((80, 6))
    picture.drawn(NINE[:5], (80, 6))
    picture.printed("a notice", 8)
    picture.drawn(NINE[:5], (80, 6))

    erasure = picture.resized((80, 24))

    assert (erasure.rows, erasure.lines) == (5 + 1 + 3, ["a notice"])


def test_lines_printed_above_the_whole_picture_are_left_alone() -> None:
    """Nothing of an old picture is above them."""
    picture = scrolled(NINE, (80, 24))
    picture.printed("a notice", 8)
    picture.drawn(NINE, (80, 24))

    assert picture.resized((80, 30)).lines == []


def test_a_wider_window_takes_back_the_rows_that_wrapping_had_made() -> None:
    """Three wrapped lines of the picture left the screen; unwrapped, they are three rows."""
    picture = scrolled(NINE, (80, 12))
    assert picture.resized((40, 12)).rows == 12
    picture.drawn([39] * 9, (40, 12))

    assert picture.resized((80, 24)).rows == 9 + 3
