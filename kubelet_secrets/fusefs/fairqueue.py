"""Whose turn it is: a queue that shares the server's time among accounts, however much one of them asks for. No I/O.

Start-time fair queuing: each account has spent so much time; who has spent least and waits is next. An account that has not
waited for a while starts where the others are, so nobody saves up time, and a newcomer waits for one item of somebody else's
at most. Cost is what serving took, as told afterwards.

Source: Goyal, Vin, Cheng, Start-time fair queuing, SIGCOMM 1996. Used by ``crowd``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

_REMEMBERED = 1024


class _Account(Generic[T]):
    __slots__ = ("items", "spent_s")

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.spent_s = 0.0


class FairQueue(Generic[T]):
    """Items in order of arrival within an account, accounts in order of what they have spent."""

    def __init__(self) -> None:
        self._accounts: dict[Hashable, _Account[T]] = {}
        self._waiting: dict[Hashable, _Account[T]] = {}  # those with items
        self._now_s = 0.0  # what the account served last had spent before

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, key: Hashable, item: T) -> None:
        """Queue *item* for the account *key*."""
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= _REMEMBERED:
                self._forget_idle()
            account = self._accounts[key] = _Account()
        if not account.items:
            account.spent_s = max(account.spent_s, self._now_s)
            self._waiting[key] = account
        account.items.append(item)

    def pop(self) -> tuple[Hashable, T]:
        """Take the next item, with its account.

        Raises:
            ValueError: nobody waits.
        """
        key = min(self._waiting, key=lambda each: self._waiting[each].spent_s)
        account = self._waiting[key]
        self._now_s = account.spent_s
        item = account.items.popleft()
        if not account.items:
            del self._waiting[key]
        return key, item

    def charge(self, key: Hashable, cost_s: float) -> None:
        """What was popped last from the account took so long."""
        self._accounts[key].spent_s += cost_s

    def _forget_idle(self) -> None:
        """Of an account that would start where the others are there is nothing to remember."""
        self._accounts = {
            key: account for key, account in self._accounts.items() if account.items or account.spent_s > self._now_s
        }
