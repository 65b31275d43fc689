"""Which patterns a name matches, at a cost that does not grow with those it does not.

A trie by tokens: a name walks at most three ways from each node (its own token, `*`, `>`),
however many patterns there are. 10,000 other patterns cost nothing. The answer is in the
order in which the patterns were added, so that runs repeat exactly.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

from msg.core.names import is_broker_name

T = TypeVar("T", bound=Hashable)


class PatternTrie(Generic[T]):
    """Values under patterns (or plain names): `match` gives those that a name reaches.

    A value may stand under many patterns and a pattern may have many values; `match` gives
    a value once for each pattern that reaches it.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._added = 0  # serial numbers give the order of insertion
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: T) -> None:
        """Put a value under a valid pattern; again is no change and keeps its place."""
        node = self._root
        for token in pattern.split("."):
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Node()
            node = child
        if value not in node.values:
            self._added += 1
            self._size += 1
            node.values[value] = self._added

    def remove(self, pattern: str, value: T) -> bool:
        """Take a value away; False when it was not there. Branches left empty go."""
        path = [self._root]
        tokens = pattern.split(".")
        for token in tokens:
            child = path[-1].children.get(token)
            if child is None:
                return False
            path.append(child)
        if path[-1].values.pop(value, None) is None:
            return False
        self._size -= 1
        for parent, token, child in zip(
            reversed(path[:-1]), reversed(tokens), reversed(path), strict=False
        ):
            if child.values or child.children:
                break
            del parent.children[token]
        return True

    def match(self, name: str) -> list[T]:
        """The values whose pattern matches this name, in the order they were added."""
        tokens = name.split(".")
        last = len(tokens) - 1
        reached: list[tuple[int, T]] = []
        pending = [(self._root, 0)]
        wild = not is_broker_name(name)  # in first place wildcards don't see the broker's names
        while pending:
            node, at = pending.pop()
            children = node.children
            ways = [children.get(tokens[at])]
            if wild or at:
                ways.append(children.get("*"))
                rest = children.get(">")
                if rest is not None:
                    reached += [(serial, value) for value, serial in rest.values.items()]
            for child in ways:
                if child is None:
                    continue
                if at < last:
                    pending.append((child, at + 1))
                else:
                    reached += [(serial, value) for value, serial in child.values.items()]
        reached.sort(key=_serial)
        return [value for _, value in reached]


def matches(pattern: str, name: str) -> bool:
    """Whether this one pattern matches this name."""
    wanted, given = pattern.split("."), name.split(".")
    if is_broker_name(name) and wanted[0] in ("*", ">"):
        return False
    if wanted[-1] == ">":
        del wanted[-1]
        if len(given) <= len(wanted):
            return False
        del given[len(wanted) :]
    return len(wanted) == len(given) and all(
        want in ("*", token) for want, token in zip(wanted, given, strict=True)
    )


class _Node(Generic[T]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[T, int] = {}  # with the serial number of its insertion


def _serial(reached: tuple[int, object]) -> int:
    return reached[0]
