"""Random damage to bytes and to JSON, and the judgment of what a reader makes of it."""

import json
import random
import traceback

from pe_spatial.commands.shell import explain
from pe_spatial.common.errors import UserError

ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "abc",
    "\x00",
    "é" * 300,
    [],
    [[]],
    {},
    [None],
    {"a": 1},
)


def damage(content, rng):
    """Bytes with some flipped, cut out, swapped, repeated, inserted, zeroed or overwritten."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        piece = data[place : place + length]
        match rng.randrange(8):
            case 0 | 1:
                for number in range(place, min(place + rng.choice((1, 1, 4)), len(data))):
                    data[number] ^= 1 << rng.randrange(8)
            case 2:
                del data[place:]
            case 3:
                del data[place : place + length]
            case 4:
                other = rng.randrange(len(data) + 1)
                data[place : place + length], data[other : other + len(piece)] = data[other : other + len(piece)], piece
            case 5:
                data[place:place] = piece or bytes(1)
            case 6:
                data[place : place + len(piece)] = bytes([rng.choice((0, 0, 255, 32))]) * len(piece)
            case 7:
                data[place:place] = rng.randbytes(length)
    return bytes(data)


def damage_near(content, rng, start):
    """The same, after the first `start` bytes only."""
    return content[:start] + damage(content[start:], rng)


def distort(tree, rng):
    """A JSON value with one of its parts replaced by something odd, removed, repeated or renamed."""
    tree = json.loads(json.dumps(tree))
    places = list(_places(tree))
    if not places:
        return rng.choice(ODD)
    parent, key = rng.choice(places)
    match rng.randrange(6):
        case 0 | 1 | 2:
            parent[key] = rng.choice(ODD)
        case 3:
            del parent[key]
        case 4:
            other, second = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[second]))
        case 5:
            parent[key] = [parent[key]] if rng.random() < 0.5 else str(parent[key])
    return tree


def _places(tree):
    for key, value in list(tree.items()) if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def verdict(read, problems_of=None):
    """What is wrong with how a reader takes its input; empty where it returns, or says in one line what is wrong.

    What `read` returns is a text: a complaint of its own, or nothing. A file of which a list of problems may be given,
    a line each, is named in each of them.
    """
    try:
        return read() or ""
    except (UserError, OSError) as error:
        lines = explain(error).strip().split("\n")
        listed = problems_of is not None and all(line.startswith(str(problems_of)) for line in lines)
        return "" if lines[0] and (len(lines) == 1 or listed) else f"no single line: {lines!r}"
    except Exception:
        return traceback.format_exc()


def generator(seed, *names):
    """Random numbers that depend on nothing but their arguments."""
    return random.Random("/".join(map(str, (seed, *names))))
