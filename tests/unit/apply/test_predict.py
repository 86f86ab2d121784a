"""Predictions of rows, good and bad ones, by one model, committees and dropout."""

import numpy as np
import pytest
import torch

from geomlib.apply.predict import Predictor
from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError, DataError
from geomlib.files.committee import write_committee
from geomlib.files.modelfile import save
from geomlib.models import DMPNN
from geomlib.models.property import PropertyNet

TARGETS = [{"name": "a"}, {"name": "b", "kind": "binary"}]
ROWS = ["CCO", "c1ccccc1", "C(", "", "CC(=O)Oc1ccccc1C(=O)O", "C(C)(C)(C)(C)C", "[Na+].[Cl-]", "C"]


def net(seed=0, **options):
    torch.manual_seed(seed)
    made = DMPNN(TARGETS, **{"hidden": 12, "depth": 2, "head_layers": [8], "dropout": 0.2, **options})
    with torch.no_grad():
        made.normalizer.mean.copy_(torch.tensor([3.0, 0.0]))
    return made.eval()


def test_bad_rows_have_errors_and_good_ones_their_values():
    model = net()
    found = Predictor(model).predict(ROWS)
    assert found.columns == ("a", "b") and found.values.shape == (8, 2)
    assert [k for k, error in enumerate(found.errors) if error] == [2, 3, 5]
    assert "no molecule" in found.errors[2] and "valence" in found.errors[5]
    assert np.isnan(found.values[[2, 3, 5]]).all()
    for k in (0, 1, 4, 6, 7):
        alone = model(model.spec.build(from_smiles(ROWS[k])))["target"].detach().numpy()
        np.testing.assert_allclose(found.values[k], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 9, 30])
def test_batches_change_nothing(max_tokens):
    whole, cut = (Predictor(net(), max_tokens=size).predict(ROWS) for size in (10_000, max_tokens))
    np.testing.assert_allclose(cut.values, whole.values, rtol=1e-5, atol=1e-6)
    assert cut.errors == whole.errors


def test_committees_tell_mean_and_deviation(tmp_path):
    files = [save(net(seed), tmp_path / f"{seed}.safetensors") for seed in range(3)]
    listed = write_committee(tmp_path / "committee.json", files)
    found = Predictor(listed).predict(ROWS[:2])
    single = np.stack([Predictor(file).predict(ROWS[:2]).values for file in files])
    assert found.columns == ("a", "b", "a_std", "b_std")
    np.testing.assert_allclose(found.values, np.concatenate([single.mean(0), single.std(0)], axis=1), rtol=1e-6)


def test_dropout_gives_a_spread_that_can_be_repeated():
    model = net()
    state = torch.get_rng_state()
    first, second = (Predictor(model, dropout_samples=20).predict(ROWS[:2]) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    assert (first.values[:, 2:] > 0).all() and torch.equal(torch.get_rng_state(), state)
    assert not any(part.training for part in model.modules())
    with pytest.raises(ConfigError, match="has no dropout"):
        Predictor(net(dropout=0.0), dropout_samples=2)


def test_a_net_that_refuses_a_row():
    class Short(PropertyNet):
        family = "short"

        def __init__(self):
            super().__init__()
            self.spec = net().spec
            self.set_head(1, ["a"], head="plain", head_layers=[])

        def embed(self, batch):
            lengths = torch.bincount(batch.character_component, minlength=len(batch.component_graph))
            if bool((lengths > 5).any()):
                raise DataError("too long")
            return lengths.float().unsqueeze(1)

    found = Predictor(Short()).predict([*ROWS[:2], "CC", "C" * 9, "N"])
    assert [error is None for error in found.errors] == [True, False, True, False, True]


def test_embeddings_and_mixtures():
    model = net()
    found = Predictor([model, net(1)]).embed(["CCO", "C("])
    expected = model.embed(model.spec.build(from_smiles("CCO"))).detach().numpy()
    np.testing.assert_allclose(found.values[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found.errors[1] and len(found.columns) == model.embedding_width
    ends = Predictor(model).predict(
        [from_smiles(["CCO", "O"], [1.0, 0.0]), "CCO", from_smiles(["O", "CCO"], [0.0, 1.0])]
    )
    np.testing.assert_allclose(ends.values[[0, 2]], ends.values[[1, 1]], rtol=1e-5)


def test_what_is_refused(tmp_path):
    other = DMPNN(["c"], hidden=8)
    with pytest.raises(ConfigError, match="predicts c, the models before it a, b"):
        Predictor([net(), other])
    with pytest.raises(ConfigError, match="0 models"):
        Predictor([])
    other.remove_head()
    with pytest.raises(ConfigError, match="predicts no properties"):
        Predictor(other)
