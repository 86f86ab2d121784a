"""What nets of properties share: heads, scales of targets, statistics."""

import pytest
import torch

from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError, DataError
from geomlib.models.property import PropertyNet


class Length(PropertyNet):
    """Embeds a molecule as the length of its SMILES."""

    def __init__(self, targets=("a",), **options):
        super().__init__()
        self.set_head(3, list(targets), **options)

    def embed(self, batch):
        return torch.full((batch.num_graphs, 3), 0.1 * len(batch.smiles))


def test_raw_and_natural_units():
    net = Length(("a", {"name": "b", "kind": "binary"}))
    net.fit_statistics(
        [from_smiles("C", target=torch.tensor([[10.0, 0.0]])), from_smiles("CC", target=torch.tensor([[20.0, 1.0]]))]
    )
    found = net(from_smiles("CCC"))
    raw = found["target_raw"]
    torch.testing.assert_close(found["target"][:, 0], 15.0 + raw[:, 0] * 50.0**0.5)
    torch.testing.assert_close(found["target"][:, 1], raw[:, 1].sigmoid())


def test_plain_head_by_hand():
    net = Length(head="plain", head_layers=[4])
    first, last = net.head[0], net.head[-1]
    embedding = net.embed(from_smiles("CC"))
    expected = last(torch.relu(first(embedding)))
    torch.testing.assert_close(net(from_smiles("CC"))["target_raw"], expected)


def test_residual_head_by_hand():
    net = Length(dropout=0.2).eval()
    h = net.embed(from_smiles("CC"))
    for layer in net.head[:-1]:
        h = h + torch.nn.functional.gelu(layer.linear(h))
    assert len(net.head) == 3
    torch.testing.assert_close(net(from_smiles("CC"))["target_raw"], net.head[-1](h))


def test_without_head_there_is_an_embedding_only():
    net = Length()
    net.remove_head()
    net.fit_statistics([from_smiles("C")])
    assert net.embedding_width == 3 and not list(net.parameters())
    with pytest.raises(ConfigError, match="no head"):
        net(from_smiles("C"))


def test_statistics_need_labels():
    with pytest.raises(DataError, match="no field 'target'"):
        Length().fit_statistics([from_smiles("C")])
    with pytest.raises(DataError, match="no training graphs"):
        Length().fit_statistics([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "wide"}, "residual or plain"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"head_layers": [4]}, "that of the embedding, 3"),
        ({"head": "plain", "head_layers": [0]}, "positive widths"),
    ],
)
def test_arguments_that_make_no_head(options, message):
    with pytest.raises(ConfigError, match=message):
        Length(**options)
