"""Sizes are checked before memory is taken. Budget: 1 s."""

import builtins

import pytest

from geomlib import memory
from geomlib.errors import DataError
from geomlib.memory import available_memory, require_memory


def test_available_memory_is_plausible():
    assert 2**24 < available_memory() < 2**60


def test_available_memory_without_meminfo(monkeypatch):
    def refused(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", refused)
    assert 2**20 < available_memory() < 2**60


def test_small_things_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    require_memory(2**27, "something small")


def test_message(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    require_memory(2**29, "half of it")
    with pytest.raises(DataError, match=r"the thing needs about 2.0 GiB but 1.0 GiB are free: use a smaller cutoff"):
        require_memory(2**31, "the thing")
