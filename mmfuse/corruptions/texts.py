"""Corruptions of texts."""

from __future__ import annotations

import re

from mmfuse.corruptions.registry import register_corruption

__all__ = ["dropped_words", "typos"]


@register_corruption(
    "dropped_words", kind="text", levels=(0.1, 0.25, 0.5, 0.75, 0.9), unit="share of words"
)
def dropped_words(text, level, rng):
    """Leave words out, as a transcript of a bad line does; a text may lose all of them."""
    words = text.split()
    kept = rng.random(len(words)) >= level
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


@register_corruption(
    "typos", kind="text", levels=(0.02, 0.05, 0.1, 0.2, 0.4), unit="share of letters"
)
def typos(text, level, rng):
    """Swap a letter with the next, leave it out, double it or replace it, each equally often."""
    draws = rng.random((len(text), 3))
    out, place = [], 0
    while place < len(text):
        letter, (hit, how, which) = text[place], draws[place]
        place += 1
        if hit >= level or not re.match(r"\w", letter):
            out.append(letter)
        elif how < 0.25 and place < len(text):
            out += [text[place], letter]
            place += 1
        elif how < 0.5:
            continue
        elif how < 0.75:
            out += [letter, letter]
        else:
            out.append(chr(ord("a") + int(26 * which)))
    return "".join(out)
