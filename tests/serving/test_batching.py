"""The thread that owns the model: batches form while it is busy, and nobody gets another's answer."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
import torch
from running import MeanBackend
from torch import Tensor

from inceptionv4.errors import ServingError
from inceptionv4.serving.batching import Batcher


def image(value: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.full((1, 3, 75, 75), value, dtype=dtype)


def run(backend: MeanBackend, work: Any, limit: int = 100) -> Any:
    """What the coroutine `work(batcher)` comes to, with a model that is warm."""
    batcher = Batcher(backend, limit, lambda images, seconds: None)
    batcher.start()
    backend.batches.clear()
    try:
        return asyncio.run(work(batcher))
    finally:
        backend.free.set()
        batcher.close(10)
        assert not batcher.is_alive


async def until_taken(batcher: Batcher) -> None:
    while batcher._jobs:
        await asyncio.sleep(0.001)


def test_a_model_is_warm_before_it_is_asked(backend: MeanBackend) -> None:
    batcher = Batcher(backend, 1, lambda images, seconds: None)
    batcher.start()
    assert backend.batches == [4, 1]
    batcher.close(10)


def test_a_model_that_cannot_answer_does_not_start(backend: MeanBackend) -> None:
    def fail(images: Tensor) -> None:
        raise RuntimeError("no memory")

    backend.before = fail
    with pytest.raises(RuntimeError, match="no memory"):
        Batcher(backend, 1, lambda images, seconds: None).start()


def test_what_waits_is_gathered_and_each_gets_its_own_answer(backend: MeanBackend) -> None:
    async def work(batcher: Batcher) -> list[Tensor]:
        backend.free.clear()
        first = asyncio.ensure_future(batcher.infer(image(200)))
        await asyncio.sleep(0)
        await until_taken(batcher)
        others = [asyncio.ensure_future(batcher.infer(image(value))) for value in range(9)]
        await asyncio.sleep(0.05)
        backend.free.set()
        return list(await asyncio.gather(first, *others))

    answers = run(backend, work)
    assert backend.batches == [1, 4, 4, 1]
    for value, answer in zip((200, *range(9)), answers, strict=True):
        assert torch.equal(answer, backend.expected(image(value)))


def test_one_request_of_many_images_keeps_their_order(backend: MeanBackend) -> None:
    images = torch.cat([image(value) for value in range(11)])
    answer = run(backend, lambda batcher: batcher.infer(images))
    assert torch.equal(answer, backend.expected(images))
    assert backend.batches == [4, 4, 3]


def test_pixels_and_floats_do_not_share_a_batch(backend: MeanBackend) -> None:
    kinds = [torch.uint8, torch.float32, torch.float32, torch.uint8, torch.uint8]
    seen = []
    backend.before = lambda images: seen.append((images.dtype, len(images)))

    async def work(batcher: Batcher) -> list[Tensor]:
        seen.clear()
        backend.free.clear()
        tasks = [asyncio.ensure_future(batcher.infer(image(200)))]
        await asyncio.sleep(0)
        await until_taken(batcher)
        tasks += [asyncio.ensure_future(batcher.infer(image(number, kind))) for number, kind in enumerate(kinds)]
        await asyncio.sleep(0.05)
        backend.free.set()
        return list(await asyncio.gather(*tasks))

    answers = run(backend, work)
    assert seen == [(torch.uint8, 1), (torch.uint8, 1), (torch.float32, 2), (torch.uint8, 2)]
    for number, answer in enumerate(answers[1:]):
        assert torch.equal(answer, backend.expected(image(number)))


@pytest.mark.parametrize("fault", ["raises", "too few", "another shape"])
def test_a_failure_is_its_own_batchs_alone(
    backend: MeanBackend, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    infer = backend.infer

    def faulty(images: Tensor) -> Tensor:
        answer = infer(images)
        if not (images == 13).any():
            return answer
        if fault == "raises":
            raise RuntimeError("a secret of /the/runtime")
        return answer[1:] if fault == "too few" else answer[:, 1:]

    monkeypatch.setattr(backend, "infer", faulty)

    async def work(batcher: Batcher) -> list[Any]:
        backend.free.clear()
        tasks = [asyncio.ensure_future(batcher.infer(image(200)))]
        await asyncio.sleep(0)
        await until_taken(batcher)
        tasks += [asyncio.ensure_future(batcher.infer(image(value))) for value in (10, 11, 12, 13, 14, 15)]
        await asyncio.sleep(0.05)
        backend.free.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(backend, work)
    for value, answer in zip((200, 10, 11, 12, 13, 14, 15), answers, strict=True):
        if value in (10, 11, 12, 13):
            assert isinstance(answer, ServingError)
            assert answer.status == 500
            assert "secret" not in str(answer)
        else:
            assert torch.equal(answer, backend.expected(image(value)))
    assert caplog.records


def test_what_is_cancelled_never_reaches_the_model(backend: MeanBackend) -> None:
    async def work(batcher: Batcher) -> None:
        backend.free.clear()
        first = asyncio.ensure_future(batcher.infer(image(1)))
        await asyncio.sleep(0)
        await until_taken(batcher)
        gone = [asyncio.ensure_future(batcher.infer(image(2))) for _ in range(6)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        last = asyncio.ensure_future(batcher.infer(image(3)))
        await asyncio.sleep(0.05)
        backend.free.set()
        await asyncio.gather(first, last)

    run(backend, work)
    assert backend.batches == [1, 1]


def test_no_more_are_admitted_than_the_limit(backend: MeanBackend) -> None:
    batcher = Batcher(backend, 5, lambda images, seconds: None)
    with batcher.admit(3):
        with pytest.raises(ServingError, match="3 images wait already") as refused, batcher.admit(3):
            pass
        assert refused.value.status == 503
        with batcher.admit(2):
            assert batcher.admitted == 5
    with suppress(KeyError), batcher.admit(5):
        raise KeyError
    assert batcher.admitted == 0


def test_many_coroutines_at_once(backend: MeanBackend) -> None:
    """No image is lost or swapped, whichever batches they fall into."""
    values = torch.randint(0, 256, (300,), generator=torch.Generator().manual_seed(0)).tolist()

    async def work(batcher: Batcher) -> list[Tensor]:
        async def one(number: int) -> Tensor:
            await asyncio.sleep(number % 7 / 1000)
            return await batcher.infer(image(values[number]))

        return await asyncio.gather(*map(one, range(len(values))))

    answers = run(backend, work, limit=300)
    assert sum(backend.batches) == 300
    assert max(backend.batches) <= 4
    assert len(backend.batches) < 300
    for value, answer in zip(values, answers, strict=True):
        assert torch.equal(answer, backend.expected(image(value)))


def test_each_batch_is_answered_in_the_same_thread(backend: MeanBackend) -> None:
    threads = set()
    backend.before = lambda images: threads.add(threading.current_thread())

    async def work(batcher: Batcher) -> None:
        for value in range(3):
            await batcher.infer(image(value))

    run(backend, work)
    assert len(threads) == 1
    assert threading.main_thread() not in threads
