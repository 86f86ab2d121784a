"""What a spec builds, says and refuses. Budget: 1 s."""

import json

import pytest
import torch
from ase.build import bulk, molecule

from geomlib.data.atoms import from_atoms
from geomlib.data.graph import collate
from geomlib.errors import FileFormatError, SpecMismatch
from geomlib.graphs.builder import Builder
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import BUILDERS, GraphSpec

SPEC = GraphSpec((RadiusEdges(5.0, 100), LineGraph(3.0)))


def test_json_round_trip():
    text = json.dumps(SPEC.to_dict())
    assert GraphSpec.from_dict(json.loads(text)) == SPEC
    assert json.loads(text) == {
        "builders": [
            {"kind": "radius_edges", "cutoff": 5.0, "max_neighbors": 100},
            {"kind": "line_graph", "cutoff": 3.0, "max_neighbors": None},
        ]
    }


def test_hash_is_stable_and_tells_specs_apart():
    assert SPEC.hash == GraphSpec((RadiusEdges(5.0, 100), LineGraph(3.0))).hash
    others = [
        GraphSpec((RadiusEdges(5.5, 100), LineGraph(3.0))),
        GraphSpec((RadiusEdges(5.0), LineGraph(3.0))),
        GraphSpec((RadiusEdges(5.0, 100),)),
        GraphSpec(()),
    ]
    assert len({spec.hash for spec in [SPEC, *others]}) == 5


def test_prepare_then_complete_is_build():
    graph = SPEC.prepare(from_atoms(bulk("Cu")))
    assert "edge_index" in graph and "line_index" not in graph
    SPEC.complete(graph)
    whole = SPEC.build(from_atoms(bulk("Cu")))
    assert set(graph.keys()) == set(whole.keys())
    assert all(torch.equal(graph[key], whole[key]) for key in graph.keys())  # noqa: SIM118


def test_check_names_what_is_missing():
    graph = from_atoms(molecule("H2O"))
    with pytest.raises(SpecMismatch, match=r"lacks 'edge_index'.*net\.spec\.build"):
        SPEC.check(graph)
    with pytest.raises(SpecMismatch, match="lacks 'line_index'"):
        SPEC.check(SPEC.prepare(graph))
    SPEC.check(SPEC.complete(graph))
    SPEC.check(SPEC.build(collate([from_atoms(molecule("H2O")), from_atoms(bulk("Cu"))])))


def test_find():
    assert SPEC.find(LineGraph) == LineGraph(3.0)
    assert GraphSpec((RadiusEdges(4.0),)).find(LineGraph) is None


def test_unknown_builders_and_arguments_are_named():
    with pytest.raises(FileFormatError, match=r"'radius_edge', which is unknown .*'radius_edges'"):
        GraphSpec.from_dict({"builders": [{"kind": "radius_edge", "cutoff": 3.0}]})
    with pytest.raises(FileFormatError, match=r"no argument \['cutof'\]"):
        GraphSpec.from_dict({"builders": [{"kind": "radius_edges", "cutof": 3.0}]})


def test_every_builder_is_complete():
    for kind, cls in BUILDERS.items():
        assert cls.kind == kind and cls.provides and cls.build is not Builder.build


def test_a_builder_must_build():
    with pytest.raises(TypeError, match="must define build"):
        Builder().build(from_atoms(molecule("H2O")))
