"""Seeded mutations: of bytes, of text, and of what JSON and YAML hold."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

LONG = "a" * 100_000
HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 7, 2**31, 2**63, 10**9, 10**30, -(10**9), 0.5, -0.5, 1e308, 1e-308),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "x",
        "0",
        "1e9",
        "\0",
        "a\nb",
        "[/x]",
        "[red]",
        "\x1b[2J",
        "\ud800",
    ),
    *(
        "../../x",
        "/etc/passwd",
        "-rf",
        "{}",
        "{0.__class__}",
        "%s%n",
        "ünï☃",
        "\u202e",
        " ",
        LONG,
        "__import__('os')",
    ),
    *([], {}, [[]], [None], [0], [1, 2], ["x"], [1e308] * 3, {"": 0}, {"x": {"y": []}}, {"0": None}, [{}]),
]
BYTES = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b'"',
    b",",
    b"[",
    b"{",
    b"=",
    b"&a *a",
    b"!!python/name:os.system",
]


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All containers in a tree with their keys."""
    found: list[tuple[Any, Any]] = []
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    for key in keys:
        found += [(value, key), *_places(value[key])]
    return found


def _near(value: Any, draw: random.Random) -> Any:
    """A value of the same kind, not far off."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice([value + 1, value - 1, value * 2, value // 2, -value, value * 1000, value + 7])
    if isinstance(value, float):
        return draw.choice([value * 2, -value, value / 1000, value + 1, value * 1e6])
    if isinstance(value, str):
        return draw.choice([value + "x", value[1:], value.upper(), f"[{value}]", value + "\n", value * 2])
    if isinstance(value, list):
        return draw.choice([value[1:], value[::-1], value * 2, [*value, None]])
    return copy.deepcopy(value)


def mutate_tree(value: Any, draw: random.Random) -> Any:
    """Changes one to three entries of a tree of dicts and lists."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        places = _places(value)
        if not places:
            return draw.choice(HOSTILE)
        holder, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.3:
            holder[key] = _near(holder[key], draw)
        elif kind < 0.7:
            holder[key] = copy.deepcopy(draw.choice(HOSTILE))
        elif kind < 0.8:
            del holder[key]
        elif kind < 0.85:
            holder[key] = nested(draw.choice([3, 50, 300]))
        elif kind < 0.9:
            holder[key] = copy.deepcopy(draw.choice(places)[0])
        elif isinstance(holder, dict):
            holder[draw.choice(["x", "", "[/x]", LONG[:300], "__class__", str(key) + "s"])] = holder.get(key)
        else:
            holder += [copy.deepcopy(holder[key])] * draw.randint(1, 20)
    return draw.choice(HOSTILE) if draw.random() < 0.02 else value


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Cuts, flips, repeats, or puts something in."""
    kind, size = draw.random(), len(data)
    if kind < 0.03:
        return b""
    if kind < 0.25:
        return data[: draw.randrange(size + 1)]
    if kind < 0.6:
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8, 64])):
            if changed:
                changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    at = draw.randrange(size + 1)
    if kind < 0.8:
        return data[:at] + draw.choice(BYTES) * draw.choice([1, 1, 2, 1000]) + data[at:]
    if kind < 0.9:
        end = draw.randrange(at, size + 1)
        return data[:at] + data[at:end] * draw.choice([0, 2, 50]) + data[end:]
    return data[:at] + bytes(draw.randrange(256) for _ in range(draw.choice([1, 100, 5000])))


def mutate_json(value: Any, draw: random.Random) -> bytes:
    """JSON that is mutated as a tree or, less often, as bytes."""
    kind = draw.random()
    if kind < 0.75:
        return json.dumps(mutate_tree(value, draw)).encode()
    if kind < 0.8:
        depth = draw.choice([500, 20_000, 200_000])
        opening = draw.choice(["[", '{"a":'])
        text = json.dumps(value)
        at = draw.randrange(len(text))
        return (text[:at] + opening * depth + text[at:]).encode()
    if kind < 0.83:
        return json.dumps(value).replace("1", "1" * 5000).encode()
    return mutate_bytes(json.dumps(value).encode(), draw)
