"""The contrastive loss by hand, and the background bank's ring."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ntdm.nn.background import BackgroundBank
from ntdm.nn.losses import occlusion_cross_entropy, texel_cross_entropy


def test_hand_computed():
    features = torch.tensor([[1.0, 0.0]])
    positives = torch.tensor([[0.6, 0.8]])
    negatives = torch.tensor([[0.0, 1.0], [0.8, 0.6]])
    log_weight = torch.tensor([0.0, math.log(0.1)])
    loss = texel_cross_entropy(
        features, positives, negatives, log_weight, torch.ones(1, 2, dtype=torch.bool), 0.5
    )
    own, first, second = math.exp(0.6 / 0.5), 1.0, 0.1 * math.exp(0.8 / 0.5)
    assert float(loss) == pytest.approx(-math.log(own / (own + first + second)), abs=1e-6)


def test_near_negatives_do_not_count():
    generator = torch.Generator().manual_seed(0)
    draw = [torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (5, 5, 4)]
    far = torch.ones(5, 4, dtype=torch.bool)
    far[:, 2] = False
    masked = texel_cross_entropy(*draw, torch.zeros(4), far, 0.07)
    without = texel_cross_entropy(
        draw[0], draw[1], draw[2][[0, 1, 3]], torch.zeros(3), far[:, [0, 1, 3]], 0.07
    )
    torch.testing.assert_close(masked, without)
    # Its own mask for every texel: only texel 0 is near to negative 1.
    far = torch.ones(5, 4, dtype=torch.bool)
    far[0, 1] = False
    each = [
        texel_cross_entropy(
            draw[0][i : i + 1], draw[1][i : i + 1], draw[2][far[i]], torch.zeros(int(far[i].sum())),
            torch.ones(1, int(far[i].sum()), dtype=torch.bool), 0.07,
        )
        for i in range(5)
    ]  # fmt: skip
    torch.testing.assert_close(
        texel_cross_entropy(*draw, torch.zeros(4), far, 0.07), torch.stack(each).mean()
    )


def test_all_negatives_near_gives_zero_and_finite_gradients():
    features = torch.tensor([[1.0, 0.0]], requires_grad=True)
    far = torch.zeros(1, 3, dtype=torch.bool)
    loss = texel_cross_entropy(
        features, torch.tensor([[0.0, 1.0]]), torch.eye(3)[:, :2], torch.zeros(3), far, 1
    )
    loss.backward()
    assert loss.item() == 0
    assert features.grad.isfinite().all()


def test_no_texels_gives_zero_with_a_graph():
    features = torch.zeros(0, 4, requires_grad=True)
    far = torch.zeros(0, 2, dtype=torch.bool)
    loss = texel_cross_entropy(features, features.detach(), torch.zeros(2, 4), torch.zeros(2), far, 0.07)
    loss.backward()
    assert loss.item() == 0


def test_gradients_reach_features_positives_and_negatives():
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True) for n in (2, 2, 4)
    ]
    far = torch.tensor([[True, True, False, True], [True, True, True, True]])
    weight = torch.tensor([0.0, 0.0, -1.0, -2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *x: texel_cross_entropy(*x, weight, far, 0.3), given)


def numbered(first: int, last: int) -> torch.Tensor:
    return torch.arange(float(first), float(last))[:, None].expand(-1, 2)


def test_bank_overwrites_its_oldest():
    bank = BackgroundBank(5, 2)
    assert bank.valid().shape == (0, 2)
    bank.push(numbered(1, 4))
    assert bank.valid()[:, 0].tolist() == [1, 2, 3]
    bank.push(numbered(4, 8))  # wraps: 6 and 7 take the places of 1 and 2
    assert bank.valid()[:, 0].tolist() == [6, 7, 3, 4, 5]
    bank.push(numbered(8, 9))
    assert bank.valid()[:, 0].tolist() == [6, 7, 8, 4, 5]


def test_bank_keeps_the_last_of_more_than_it_holds():
    bank = BackgroundBank(3, 2)
    bank.push(numbered(0, 8))
    assert sorted(bank.valid()[:, 0].tolist()) == [5, 6, 7]


class WrittenSlots(TorchDispatchMode):
    """Keeps the indices of every indexed write."""

    def __init__(self):
        super().__init__()
        self.indices = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function is torch.ops.aten.index_put_.default:
            self.indices.append(arguments[1][0].tolist())
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("before", [0, 2, 7])
def test_bank_writes_each_slot_once_and_ends_as_if_pushed_one_by_one(before):
    together, singly = BackgroundBank(3, 2), BackgroundBank(3, 2)
    together.push(numbered(0, before)[:3])
    singly.push(numbered(0, before)[:3])
    with WrittenSlots() as written:
        together.push(numbered(10, 18))
    assert [sorted(slots) for slots in written.indices] == [[0, 1, 2]]
    for row in numbered(10, 18):
        singly.push(row[None])
    assert torch.equal(together.features, singly.features) and together.cursor == singly.cursor


def test_bank_takes_nothing():
    bank = BackgroundBank(3, 2)
    bank.push(torch.zeros(0, 2))
    assert len(bank.valid()) == 0


def test_bank_samples_what_it_holds():
    bank = BackgroundBank(100, 2)
    assert bank.sample(4, torch.Generator()).shape == (0, 2)
    bank.push(numbered(1, 4))
    drawn = bank.sample(200, torch.Generator().manual_seed(0))
    assert drawn.shape == (200, 2)
    assert set(drawn[:, 0].tolist()) == {1, 2, 3}  # and none of the 97 empty slots


def test_bank_is_restored_with_its_cursor():
    bank, other = BackgroundBank(5, 2), BackgroundBank(5, 2)
    bank.push(numbered(1, 8))
    other.load_state_dict(bank.state_dict())
    for each in (bank, other):
        each.push(numbered(8, 10))
    torch.testing.assert_close(bank.features, other.features)


def test_hidden_cells_hand_computed():
    logit = torch.tensor([0.14, -0.07], dtype=torch.float64, requires_grad=True)
    loss = occlusion_cross_entropy(logit, 0.07)
    expected = (math.log1p(math.exp(2)) + math.log1p(math.exp(-1))) / 2
    assert loss.item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda x: occlusion_cross_entropy(x, 0.07), (logit,))


def test_no_hidden_cells_give_zero_with_a_graph():
    logit = torch.zeros(0, requires_grad=True)
    loss = occlusion_cross_entropy(logit, 0.07)
    loss.backward()
    assert loss == 0 and logit.grad is not None
