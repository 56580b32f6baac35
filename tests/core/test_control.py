"""Requests: what a task sees of what a person asked."""

from __future__ import annotations

import threading

import pytest

from lora_studio.core.control import REQUESTS, Control, TaskContext
from lora_studio.core.errors import Cancelled


def test_a_first_stop_saves_and_a_second_abandons() -> None:
    control = Control()
    control.stop()
    assert (control.stopping, control.abandoning) == (True, False)
    control.stop()
    assert control.abandoning


def test_abandoning_is_stopping_too() -> None:
    control = Control()
    control.abandon()
    assert (control.stopping, control.abandoning) == (True, True)


def test_a_stop_wakes_a_paused_task() -> None:
    control = Control()
    control.pause()
    woken = threading.Event()
    waiter = threading.Thread(target=lambda: (control.wait_while_paused(), woken.set()))
    waiter.start()
    assert not control.wait_while_paused(timeout=0)
    control.stop()
    waiter.join(30)
    assert woken.is_set()


def test_a_task_that_is_stopping_cannot_be_paused() -> None:
    control = Control()
    control.stop()
    control.pause()
    assert not control.paused


def test_resuming_ends_a_pause() -> None:
    control = Control()
    control.pause()
    assert control.paused
    control.resume()
    assert control.wait_while_paused(timeout=0)


def test_requests_for_checkpoint_and_sample_are_taken_once() -> None:
    control = Control()
    assert not control.take_checkpoint_request()
    control.checkpoint_now()
    control.sample_now()
    assert control.take_checkpoint_request()
    assert control.take_sample_request()
    assert not control.take_checkpoint_request()
    assert not control.take_sample_request()


def test_check_raises_only_when_asked_to_end() -> None:
    control = Control()
    control.check()
    control.stop()
    with pytest.raises(Cancelled):
        control.check()


def test_every_request_can_be_made_by_name_and_reaches_the_listener() -> None:
    heard: list[str] = []
    control = Control(listener=heard.append)
    for name in REQUESTS:
        control.request(name)
    assert heard == list(REQUESTS)


def test_a_request_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="check"):
        Control().request("check")


def test_contexts_share_nothing() -> None:
    first, second = TaskContext(), TaskContext()
    first.warm["model"] = object()
    first.control.stop()
    assert second.warm == {}
    assert not second.control.stopping
    first.post("nobody listens")
