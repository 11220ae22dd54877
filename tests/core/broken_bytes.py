"""Breaks a file as transfers, editors and programs do: some bytes inserted, changed, lost or repeated."""

import random
from collections.abc import Sequence


def broken(draw: random.Random, content: bytes, pieces: Sequence[bytes]) -> bytes:
    """The content with up to twenty faults, often none or one; ``pieces`` are what may be inserted."""
    changed = bytearray(content)
    for _ in range(draw.choice([0, 1, 1, 2, 5, 20])):
        place = draw.randrange(len(changed) + 1)
        match draw.randrange(4):
            case 0:
                changed[place:place] = draw.choice(pieces)
            case 1:
                changed[place : place + 1] = bytes([draw.randrange(256)])
            case 2:
                del changed[place : place + draw.randrange(1, 9)]
            case _:
                changed[place:place] = changed[draw.randrange(len(changed) + 1) :][: draw.randrange(1, 30)]
    return bytes(changed)
