"""How far two texts agree, by whole marks, and how a row opens an answer where the prompt at inference opens it otherwise. Light."""

from __future__ import annotations

import re
from collections.abc import Sequence

THINK_MARKS = re.compile(r"</?[\w:|]*think\w*\|?>|\[/?THINK\]|<\|(?:START|END)_THINKING\|>", re.IGNORECASE)
_OPENS_THOUGHT = re.compile(rf"(?:{THINK_MARKS.pattern})\s*$", re.IGNORECASE)
_SHOWN = 60
_FURTHEST = 400  # characters that may stand between an answer's last word and its end, such as what closes a call


class Marks:
    """The special tokens of a tokenizer, and the tags of thoughts, as marks in a text."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """Take the tokens, longest first."""
        self._pattern = re.compile("|".join(map(re.escape, tokens))) if tokens else None
        self._run = re.compile(f"(?:{self._pattern.pattern})+") if self._pattern else None
        self._longest = max([24, *map(len, tokens)])

    def shared(self, one: str, other: str, known: int = 0) -> int:
        """Return how many characters two texts begin alike with; a mark is alike as a whole or not at all."""
        place = _alike(one, other, known)
        for text in (one, other):
            start = max(0, place - self._longest)
            for pattern in (self._pattern, THINK_MARKS):
                for mark in pattern.finditer(text, start, place + self._longest) if pattern else ():
                    if mark.start() < place < mark.end():
                        place = mark.start()
        return place

    def run_at(self, text: str, place: int) -> str:
        """Return the marks that stand at a place, one right behind the other."""
        found = self._run.match(text, place) if self._run else None
        return found[0] if found else ""

    def all_in(self, text: str) -> list[str]:
        """Return the marks of a text, in order."""
        return self._pattern.findall(text) if self._pattern else []

    def closing(self, text: str, said: int, limit: int, openers: frozenset[str]) -> int:
        """Return where the marks end that stand first behind a place, but for those that open a turn; the place where there are none.

        Up to `limit` something else may stand before them; beyond it white space alone.
        """
        end = said
        for mark in self._pattern.finditer(text, said, said + _FURTHEST) if self._pattern else ():
            if mark[0] in openers or ((end > said or mark.end() > limit) and text[end : mark.start()].strip()):
                break
            end = mark.end()
        return end

    def ends(self, text: str) -> bool:
        """Return whether a text ends with a mark."""
        return self.start_of_last(text) is not None

    def start_of_last(self, text: str) -> int | None:
        """Return where the mark begins that a text ends with; None where it ends with none."""
        tail = max(0, len(text) - 2 * self._longest)
        marks = list(self._pattern.finditer(text, tail)) if self._pattern else []
        return marks[-1].start() if marks and marks[-1].end() == len(text) else None

    def bare(self, text: str) -> str:
        """Cut marks and white space off a text's end."""
        while (shorter := self._cut(text.rstrip())) != text:
            text = shorter
        return text

    def _cut(self, text: str) -> str:
        start = self.start_of_last(text)
        return text if start is None else text[:start]


def before_thought(text: str, place: int) -> int:
    """Return the place before the tags of thoughts that a text has up to a place, if it ends with some there."""
    while found := _OPENS_THOUGHT.search(text[max(0, place - _SHOWN) : place]):
        place = max(0, place - _SHOWN) + found.start()
    return place


def endings(row: str, prompt: str, place: int, said: int) -> tuple[str, str]:
    """Return both ways to open an answer, from a little before where they part, without a word of the turns before.

    Args:
        row: The row up to the first word of the answer.
        prompt: The prompt at inference.
        place: Where they part.
        said: Where the last word of the turns before ends; 0 where that is not known, and only what parts them is shown.
    """
    start = max(0, place - _SHOWN // 3)
    start = max([start - _SHOWN, 0, *(row.rfind(mark, 0, start + 1) for mark in "\n<[")])  # no mark is cut
    start = max(start, min(said, place) if said else place)
    return row[start:], prompt[start:]


def _alike(one: str, other: str, known: int) -> int:
    low, high = known, min(len(one), len(other))
    if one[:low] != other[:low]:
        low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
