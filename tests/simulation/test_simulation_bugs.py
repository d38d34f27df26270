"""What the simulation would find: every planted bug, within some hundred stories."""

from __future__ import annotations

import pytest
from hunt import tell
from simulation_bugs import BUGS, FIRST
from simulation_story import NEWER

WITHIN = 800
"""The bug that hides best shows in story 333: "charged by the word of the smallest request alone"."""

LONG = {
    "one parked row probes again and again, and no other has its turn",
    "a row that is throttled alone never ends",
    "a bad row is tried for ever",
}
"""Their stories go on for seconds, up to a quarter of a minute."""


@pytest.mark.slow  # up to some seconds of stories
@pytest.mark.no_cover
@pytest.mark.parametrize("words", [pytest.param(words, marks=[pytest.mark.long] * (words in LONG)) for words in BUGS])
def test_a_planted_bug_is_found(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hunt that finds nothing says something only if it finds what is there."""
    BUGS[words](monkeypatch)

    for seed in dict.fromkeys((*FIRST, *range(200), *range(NEWER, NEWER + 200), *range(200, WITHIN))):
        broken = tell(seed, seed + 1).broken
        if broken:
            break

    assert broken, f"{WITHIN} stories do not notice: {words}"
    assert any("claim" in found or "not done" in found or "does not end" in found for _, found in broken), broken
