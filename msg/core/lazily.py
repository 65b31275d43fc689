"""Objects with fields that most of them never use.

A turn has some twenty lists, and a usual one fills five. Made at each turn, and each looked at
when it is carried out, the others cost a queue of few messages more than its messages do.
"""

from typing import Any, ClassVar


class Lazily:
    """The fields named in `RARE` are made when they are first looked at; `rare` says whether
    any was: if not, there is nothing in them. Who inherits sets `rare` to False."""

    __slots__ = ("rare",)
    RARE: ClassVar[dict[str, type]] = {}
    rare: bool

    def __getattr__(self, name: str) -> Any:  # of a slot that has nothing yet
        make = self.RARE.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        self.rare = True
        value = make()
        setattr(self, name, value)
        return value
