"""Budget: 3 s."""

import json
import math
import random
import struct
import subprocess
import sys

import pytest

from geomlib.errors import FileFormatError, NewerFile
from geomlib.files.header import FORMAT, SCHEMA, read_header, read_manifest

MANIFEST = {
    "format": FORMAT,
    "schema": SCHEMA,
    "family": "dpa3",
    "family_version": 1,
    "config": {"x": 0.1},
    "spec": {"builders": []},
    "wrappers": [],
}


def write(path, manifest=MANIFEST, tensors=None, data=b"\0" * 8, metadata=None):
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} if tensors is None else tensors
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    header = {**header, "__metadata__": {"geomlib": text} if metadata is None else metadata}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def test_reads_manifest_and_tensor_entries(file):
    header = read_header(write(file))
    assert header.manifest == MANIFEST == read_manifest(file)
    assert json.loads(header.text) == MANIFEST
    assert (header.tensors["w"].dtype, header.tensors["w"].shape) == ("F32", (2,))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileFormatError, match=r"nothing\.safetensors: no such file"):
        read_manifest(tmp_path / "nothing.safetensors")
    with pytest.raises(FileFormatError, match="is a folder"):
        read_manifest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"give '.*model\.safetensors'"):
        read_manifest(tmp_path)


def test_every_truncation_is_refused(file):
    whole = write(file).read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="truncated"):
            read_header(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(FileFormatError, match="damaged: its tensors take 8 bytes, but 9 follow"):
        read_header(file)


@pytest.mark.parametrize("length", [10**6, 2**40, 2**63, 2**64 - 1])
def test_absurd_header_length_costs_no_memory(file, length):
    file.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(FileFormatError, match=f"promise a header of {length} bytes, but 2 follow"):
        read_header(file)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}, "truncated: its tensors take 4000000"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "gives 8 bytes to a tensor of F32 and shape"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "gives -8 bytes"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "list of whole numbers"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}, "3 offsets, expected 2"),
        ({"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}, "list of whole numbers"),
        ({"dtype": "OBJ", "shape": [2], "data_offsets": [0, 8]}, "unknown dtype 'OBJ'"),
        ({"dtype": "F32", "shape": [2]}, "lacks dtype, shape or data_offsets"),
        ([], "lacks dtype, shape or data_offsets"),
    ],
)
def test_bad_tensor_entries(file, entry, message):
    write(file, tensors={"w": entry})
    with pytest.raises(FileFormatError, match=message):
        read_header(file)


@pytest.mark.parametrize(
    "raw", [b"not json", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000], ids=range(6)
)
def test_header_that_is_no_json_object(file, raw):
    file.write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(FileFormatError, match="is not a model file"):
        read_header(file)


@pytest.mark.parametrize("metadata", [{}, {"geomlib": 3}, {"format": "pt"}, []], ids=str)
def test_safetensors_of_others(file, metadata):
    write(file, metadata=metadata)
    with pytest.raises(FileFormatError, match="without a geomlib manifest"):
        read_header(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "says format 'other', expected 'geomlib-model'"),
        ({"schema": "1"}, "says schema '1'"),
        ({"schema": True}, "says schema True"),
        ({"family": 3}, "'family' is int in its manifest, expected str"),
        ({"config": None}, "'config' is NoneType in its manifest, expected dict"),
    ],
)
def test_manifest_of_the_wrong_kind(file, change, message):
    write(file, manifest={**MANIFEST, **change})
    with pytest.raises(FileFormatError, match=message):
        read_manifest(file)


def test_missing_manifest_key(file):
    write(file, manifest={key: value for key, value in MANIFEST.items() if key != "spec"})
    with pytest.raises(FileFormatError, match="'spec' is missing in its manifest"):
        read_manifest(file)


def test_newer_schema_names_the_version_that_made_it(file):
    write(file, manifest={**MANIFEST, "schema": SCHEMA + 1, "versions": {"geomlib": "9.1"}})
    with pytest.raises(NewerFile, match=r"made by a newer geomlib \(9\.1\).*upgrade"):
        read_manifest(file)


@pytest.mark.parametrize(
    ("start", "kind"), [(b"PK\x03\x04", "zip archive"), (b"\x80\x04\x95", "pickle"), (b"\x89HDF\r\n\x1a\n", "HDF5")]
)
def test_other_kinds_of_files_are_named(file, start, kind):
    file.write_bytes(start + b"\0" * 100)
    with pytest.raises(FileFormatError, match=kind):
        read_header(file)


def test_random_damage_never_gets_further_than_a_clear_refusal(file):
    whole = write(file).read_bytes()
    generator = random.Random(3)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged)
        try:
            entry = read_header(file).tensors
        except FileFormatError:
            refused += 1
        else:  # damage in a number or a name can leave a header that is still consistent
            assert all(math.prod(tensor.shape) <= 8 for tensor in entry.values())
    assert refused > 200


def test_reading_a_manifest_imports_no_torch(file):
    write(file)
    code = (
        "import sys; from geomlib.files.header import read_manifest; "
        f"assert read_manifest({str(file)!r})['family'] == 'dpa3'; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'safetensors')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
