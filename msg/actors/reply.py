"""A reply: one answer to one question between actors."""

from typing import Generic, TypeVar

import attrs
import outcome
import trio

from msg.actors.waits import waiting
from msg.errors import ClientError

T = TypeVar("T")


@attrs.define(eq=False)
class Reply(Generic[T]):
    """One answer to one question. Setting it never waits, and a second one is ignored.

    Whoever takes a reply must answer it or fail it, also when it ends: the asker has no
    timeout. It may have left meanwhile; that is no concern of the answerer's. `of` names
    the answerer, for dumps.
    """

    of: str = ""
    _outcome: outcome.Outcome[T] | None = None
    _answered: trio.Event = attrs.field(factory=trio.Event)

    def set(self, value: T) -> None:
        self._settle(outcome.Value(value))

    def fail(self, error: Exception) -> None:
        self._settle(outcome.Error(error.alone() if isinstance(error, ClientError) else error))

    async def wait(self) -> T:
        with waiting(self.of, "an answer"):
            await self._answered.wait()
        # an error refers to this frame and the asker's, which hold this reply: it lets go of it
        result, self._outcome = self._outcome, None
        if result is None:
            raise AssertionError("a reply is waited for once")
        try:
            return result.unwrap()
        finally:
            del result

    def _settle(self, result: outcome.Outcome[T]) -> None:
        if not self._answered.is_set():
            self._outcome = result
            self._answered.set()
