"""Pickles read without executing them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from geomlib.data.plain_pickle import Call, Name, read_plain, to_array, value_of_key
from geomlib.errors import FileFormatError


class Touch:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_as_they_went_in(protocol):
    rng = np.random.default_rng(0)
    arrays = {
        "bytes": rng.normal(size=3).tobytes(),
        "plain": rng.normal(size=(2, 3)),
        "turned": rng.normal(size=(2, 3)).T,
        "big endian": rng.normal(size=4).astype(">f8"),
        "number": np.float64(1.5),
        "tensor": torch.randn(2, 3, dtype=torch.float64),
        "strided": torch.randn(4, 3, dtype=torch.float64)[1:, ::2].T,
        "listed": [[1, 2.5], [3, 4]],
    }
    found = read_plain(pickle.dumps(arrays, protocol=protocol))
    assert list(found) == list(arrays)
    assert np.array_equal(to_array(found["bytes"], "<f8"), np.frombuffer(arrays["bytes"]))
    for name in ("plain", "turned", "big endian", "tensor", "strided", "listed"):
        assert np.array_equal(to_array(found[name], "<f8"), np.asarray(arrays[name])), name
    assert to_array(found["number"], "<f8") == 1.5
    whole = read_plain(pickle.dumps({"z": torch.tensor([8, 1])}, protocol=protocol))
    assert to_array(whole["z"], "<i4").tolist() == [8, 1]


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed(tmp_path, protocol):
    data = pickle.dumps({"a": 1, "b": Touch(tmp_path / "made")}, protocol=protocol)
    found = read_plain(data)
    assert not (tmp_path / "made").exists()
    assert found["a"] == 1
    assert isinstance(found["b"], Call)
    with pytest.raises(FileFormatError, match="is no array"):
        to_array(found["b"], "<f8")
    pickle.loads(data)  # noqa: S301 the file does something when it is executed
    assert (tmp_path / "made").exists()


def test_objects_are_written_down():
    found = read_plain(pickle.dumps(Data(pos=torch.ones(2, 3)), protocol=4))
    assert found.function == Name("torch_geometric.data.data", "Data")
    mapping = found.state["_store"].state["_mapping"]
    assert np.array_equal(to_array(mapping["pos"], "<f8"), np.ones((2, 3)))


def test_the_beginning_is_enough_for_one_number():
    data = pickle.dumps({"id": 3, "num_nodes": 18, "pos": bytes(10_000)})
    assert value_of_key(data[:60], "num_nodes") == 18
    with pytest.raises(FileFormatError, match="is no pickle"):
        value_of_key(data[:60], "pos")
    with pytest.raises(FileFormatError, match="has no 'atoms'"):
        value_of_key(data, "atoms")


def test_every_truncation_is_said():
    data = pickle.dumps({"a": [1, (2, 3)], "b": np.ones(3), "c": b"xyz"})
    for end in range(len(data)):
        with pytest.raises(FileFormatError, match="is no pickle of plain data"):
            read_plain(data[:end])


def test_changed_bytes_are_read_or_refused():
    data = pickle.dumps({"a": torch.ones(3, dtype=torch.float64), "b": np.ones(3)})
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(2000):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        try:
            found = read_plain(bytes(changed))
            for name in ("a", "b"):
                to_array(found.get(name) if isinstance(found, dict) else found, "<f8")
        except FileFormatError:
            refused += 1
    assert 200 < refused < 2000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "found str"),
        ({"a": 1}, "found dict"),
        (b"1234567", "buffer size must be a multiple"),
        (np.array(["a"]), "its dtype is U1"),
        (np.array([None]), "content is no bytes|its dtype is O8"),
        ([["a"]], "other things than numbers"),
        (torch.ones(2, dtype=torch.bfloat16), "holds no numbers"),
    ],
)
def test_what_is_no_array(value, message):
    with pytest.raises(FileFormatError, match=message):
        to_array(read_plain(pickle.dumps(value)), "<f8")


def test_a_shape_larger_than_its_numbers_is_refused():
    with pytest.raises(FileFormatError, match="larger than its storage"):
        to_array(read_plain(pickle.dumps(torch.ones(1).expand(10**9))), "<f8")
    with pytest.raises(FileFormatError, match="cannot reshape"):
        data = pickle.dumps(np.ones(3), protocol=4).replace(b"K\x03\x85", b"K\x63\x85")
        to_array(read_plain(data), "<f8")
