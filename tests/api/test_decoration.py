"""What Django users try to decorate, and what they are told instead."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from django.views import View

from cq import task
from cq.exceptions import InvalidOption
from tests.tasks import adds


class Order:
    def pack(self) -> None: ...

    @staticmethod
    def price(cqt: Any) -> None: ...

    @classmethod
    def find(cls, cqt: Any) -> None: ...

    @property
    def total(self) -> int:
        return 0

    def __call__(self, cqt: Any) -> None: ...


class OrderView(View):
    def get(self, request: Any) -> None: ...


def nested() -> Any:
    def inner(cqt: Any) -> None: ...

    return inner


def generates(cqt: Any) -> Any:
    yield


async def generates_later(cqt: Any) -> Any:
    yield


async def awaits(cqt: Any) -> None: ...


def called() -> Any:
    made = awaits(None)
    made.close()
    return made


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda cqt: None, "A lambda cannot be a task.*Write it with def at the top level of a module"),
        (nested(), "defined inside a function.*Move it to the top level of a module"),
        (Order.pack, "it is a method. Write a function.*that takes the instance"),
        (Order().pack, "Write a function that takes what the method needs"),
        (Order.__dict__["price"], "Write a function that takes what the method needs"),
        (Order.__dict__["find"], "Write a function that takes what the method needs"),
        (Order.find, "Write a function that takes what the method needs"),
        (Order.__dict__["total"], "Write a function that takes what the method needs"),
        (functools.partial(adds.definition.func, b=1), r"give what is fixed at the call: f\.delay\(fixed"),
        (functools.partialmethod(Order.pack), "Decorate the function itself"),
        (Order, "makes an instance of the class and calls it"),
        (OrderView.as_view(), "defined inside a function|Write"),
        (Order(), "expected a function written with def at the top level of a module. Write one that does this"),
        (print, "Write a function that calls it"),
        (called(), "Decorate the function that returned this coroutine, without calling it"),
        (generates, "it is a generator. Return a list, or make subtasks"),
        (generates_later, "it is a generator. Return a list, or make subtasks"),
        (5, "expected a function written with def"),
        (adds, "is a task function already"),
    ],
)
def test_what_workers_could_not_find_again_is_refused_with_the_way_to_do_it(what: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        task(what)
    with pytest.raises(InvalidOption, match=says):
        task("tests.refused")(what)
