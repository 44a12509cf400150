"""What is stopped early has ended before anyone goes on."""

import asyncio

import pytest

from leafe_verl.core.concurrency import Interrupted, unless_stopped


def test_work_that_swallows_a_cancellation_has_ended_when_the_stop_is_told():
    """asyncio.wait_for swallows one before Python 3.12, where what it waits for is done in the same moment."""
    steps = []

    async def stubborn():
        for number in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                steps.append(number)
                if number == 2:
                    raise

    async def stopped():
        stop = asyncio.Event()
        asyncio.get_running_loop().call_soon(stop.set)
        with pytest.raises(Interrupted):
            await unless_stopped(stop, stubborn())
        return list(steps)

    assert asyncio.run(stopped()) == [0, 1, 2]


def test_work_that_is_done_gives_its_result():
    async def work():
        return 7

    assert asyncio.run(unless_stopped(asyncio.Event(), work())) == 7
