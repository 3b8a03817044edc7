"""Whole numbers as English words, spelled like the package num2words, on whose output SmolVLM was trained."""

from __future__ import annotations

__all__ = ["in_words"]

_SMALL = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """The words of a number from 0 to 999,999: 1234 is "one thousand, two hundred and thirty-four".

    Raises ValueError for any other number.
    """
    if not 0 <= number < 1_000_000:
        raise ValueError(f"{number} cannot be written in words here: 0 to 999,999")
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_SMALL[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    said = f"{in_words(thousands)} thousand"
    if not rest:
        return said
    return said + (", " if rest >= 100 else " and ") + in_words(rest)
