"""The queue before the model: order, how many wait, and how long."""

import asyncio
import threading
import time

import pytest

from nemo_speechlm.serving.turns import Busy, TimeUp, Turns


def test_one_at_a_time_in_the_order_of_arrival():
    order, at_once = [], []

    def work(number):
        at_once.append(number)
        assert len(at_once) == 1
        order.append(number)
        at_once.pop()
        return 10 * number

    async def all_of_them():
        turns = Turns(waiting=4, time_limit=30)
        return await asyncio.gather(*(turns.run(lambda check, n=n: work(n)) for n in range(5)))

    assert asyncio.run(all_of_them()) == [0, 10, 20, 30, 40]
    assert order == [0, 1, 2, 3, 4]


def test_no_more_than_so_many_wait():
    go = threading.Event()

    async def crowd():
        turns = Turns(waiting=1, time_limit=30)
        first = asyncio.create_task(turns.run(lambda check: go.wait(20)))
        second = asyncio.create_task(turns.run(lambda check: "second"))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="2 recordings are before this one"):
            await turns.run(lambda check: None)
        go.set()
        assert await first
        assert await second == "second"
        return await turns.run(lambda check: "again")

    assert asyncio.run(crowd()) == "again"


def test_time_is_up_for_who_waits_and_for_the_work_itself():
    go, checked = threading.Event(), []

    def slow(check):
        go.wait(20)
        try:
            check()
        except TimeUp:
            checked.append("slow")
            raise

    async def late():
        turns = Turns(waiting=4, time_limit=0.05)
        began = time.monotonic()
        tasks = [turns.run(slow), turns.run(lambda check: checked.append("the next"))]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - began < 5
        assert [type(end) for end in ends] == [TimeUp, TimeUp]
        assert "not done within 0.05 s (time_limit)" in str(ends[0])
        go.set()  # only now does the work come to see that it is late
        turns._time_limit = 10
        return await turns.run(lambda check: "on time")

    assert asyncio.run(late()) == "on time"
    assert checked == ["slow"]  # the next one's turn came too late, so it was not begun


def test_an_error_is_that_of_its_own_work_alone():
    async def wrong():
        turns = Turns(waiting=4, time_limit=30)
        ends = await asyncio.gather(
            turns.run(lambda check: {}["gone"]), turns.run(lambda check: 7), return_exceptions=True
        )
        turns.close()
        return ends

    error, right = asyncio.run(wrong())
    assert isinstance(error, KeyError)
    assert right == 7
