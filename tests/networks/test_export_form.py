"""The exportable twin: the same numbers, no ELU, and the original untouched."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.networks.export_form import ExportablePool, any_size, exportable
from src.networks.vnet import VNet
from src.ops.activation import ExportableELU


class Small(nn.Cell):
    """ELUs as an attribute, inside a SequentialCell, and inside a CellList."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(3, 4)
        self.act = nn.ELU()
        self.sequence = nn.SequentialCell(nn.ELU(), nn.Dense(4, 4), nn.ELU())
        self.items = nn.CellList([nn.Dense(4, 4), nn.ELU()])

    def construct(self, x: Tensor) -> Tensor:
        x = self.sequence(self.act(self.dense(x)))
        for item in self.items:
            x = item(x)
        return x


def count(network: nn.Cell, kind: type) -> int:
    return sum(isinstance(cell, kind) for _, cell in network.cells_and_names())


def test_twin_computes_the_same_without_elu():
    ms.set_seed(1)
    network = Small()
    twin = exportable(network)
    assert (count(twin, nn.ELU), count(twin, ExportableELU)) == (0, 4)
    assert (count(network, nn.ELU), count(network, ExportableELU)) == (4, 0)
    x = Tensor(np.linspace(-4, 4, 15).reshape(5, 3), ms.float32)
    np.testing.assert_allclose(twin(x).asnumpy(), network(x).asnumpy(), atol=1e-6)


def test_v_net_for_any_size_leaves_its_input_unchecked():
    network = VNet(base_channels=1)
    twin = any_size(network)
    assert (network.checks_size, twin.checks_size) == (True, False)
    for found, expected in zip(twin.get_parameters(), network.get_parameters(), strict=True):
        assert found.name == expected.name
        np.testing.assert_array_equal(found.asnumpy(), expected.asnumpy())
    x = Tensor(np.zeros((1, 1, 24, 16, 16)), ms.float32)
    with pytest.raises(ValueError, match="every volume axis must be a multiple of 16"):
        network(x)
    with pytest.raises(ValueError, match="(?i)concat"):  # as an exported graph does
        twin(x)


def test_twin_has_weights_of_its_own_under_the_same_names():
    network = Small()
    twin = exportable(network)
    names = [parameter.name for parameter in network.get_parameters()]
    assert [parameter.name for parameter in twin.get_parameters()] == names
    network.dense.weight.set_data(Tensor(np.zeros((4, 3)), ms.float32))
    assert np.abs(twin.dense.weight.asnumpy()).max() > 0


def test_what_has_no_exportable_form_is_refused():
    with pytest.raises(ValueError, match="bare ELU"):
        exportable(nn.ELU())


def test_pooling_with_a_border_has_another_form():
    class Pooled(nn.Cell):
        def __init__(self):
            super().__init__()
            self.items = nn.CellList([nn.MaxPool2d(3, 2, pad_mode="pad", padding=1), nn.MaxPool2d(2, 2)])

        def construct(self, x: Tensor) -> Tensor:
            for item in self.items:
                x = item(x)
            return x

    network = Pooled()
    twin = exportable(network)
    assert count(twin, ExportablePool) == 1
    assert count(network, ExportablePool) == 0
    x = np.random.default_rng(0).random((1, 2, 8, 12)).astype(np.float32)
    np.testing.assert_array_equal(twin(Tensor(x)).asnumpy(), network(Tensor(x)).asnumpy())
    rows = x[:, :, :4].max(axis=2)  # of the first window of the second pooling: rows -1 to 3
    np.testing.assert_array_equal(twin(Tensor(x)).asnumpy()[:, :, 0, 0], rows[:, :, :4].max(axis=2))
