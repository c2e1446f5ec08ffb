"""The multi-hot cross-entropy as docs/concepts/token-superposition.md#loss defines it, plain and fused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from trainer_client.loss import multi_hot as loss_module
from trainer_client.loss.multi_hot import linear_multi_hot_cross_entropy, multi_hot_cross_entropy
from trainer_client.loss.slot_weights import SLOT_WEIGHTS, SlotWeights, normalized_slot_weights
from tst_data.contract.bags import IGNORED, BagGeometry
from tst_data.errors import InvalidInputError


def slot_by_slot(logits: Tensor, targets: Tensor, weights: list[float]) -> Tensor:
    """The definition, word for word: cross-entropy of each slot over its valid positions, then the average."""
    losses, active = [], []
    for slot, weight in enumerate(weights):
        if (targets[..., slot] != IGNORED).any():
            losses.append(weight * functional.cross_entropy(logits.flatten(0, 1), targets[..., slot].flatten()))
            active.append(weight)
    return torch.stack(losses).sum() / sum(active)


Case = tuple[Tensor, Tensor, Tensor, Tensor | None, list[float]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """hidden (b, L, d), weight (V, d), targets (b, L, s) with ignored ones, bias (V,) or none, slot weights."""
    b, L, s = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    d, V = draw(st.integers(1, 7)), draw(st.integers(2, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    hidden = torch.randn(b, L, d, generator=generator, dtype=torch.float64)
    weight = torch.randn(V, d, generator=generator, dtype=torch.float64)
    bias = torch.randn(V, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    targets = torch.randint(0, V, (b, L, s), generator=generator)
    ignored = torch.rand(b, L, s, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.8]))
    ignored[0, 0, draw(st.integers(0, s - 1))] = False
    targets = targets.masked_fill(ignored, IGNORED)
    weights = draw(st.lists(st.floats(0.01, 5), min_size=s, max_size=s))
    return hidden, weight, targets, bias, weights


def gradients(loss: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [tensor for tensor in tensors if tensor is not None]))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_plain_and_fused_agree_with_the_definition_in_value_and_gradient(case: Case) -> None:
    hidden, weight, targets, bias, weights = case
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    logits = functional.linear(hidden, weight, bias)
    expected = slot_by_slot(logits, targets, weights)
    plain = multi_hot_cross_entropy(logits, targets, slot_weights=weights)
    fused = linear_multi_hot_cross_entropy(hidden, weight, targets, bias=bias, slot_weights=weights)
    torch.testing.assert_close(plain, expected)
    torch.testing.assert_close(fused, expected)
    wanted = torch.autograd.grad(expected, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(plain, leaves), wanted)
    torch.testing.assert_close(torch.autograd.grad(fused, leaves), wanted)


def test_fused_gradients_hold_over_many_chunks_and_for_any_upstream_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_module.CHUNK_ELEMENTS, "cpu", 1)
    torch.manual_seed(0)
    hidden = torch.randn(5, 67, 8, dtype=torch.float64, requires_grad=True)  # 335 positions: 6 chunks of 64
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (5, 67, 3))
    targets[:, -1, 1:] = IGNORED
    plain = multi_hot_cross_entropy(functional.linear(hidden, weight), targets)
    fused = linear_multi_hot_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(fused, plain)
    for twice in (False, True):  # the saved gradients survive a second backward pass
        wanted = torch.autograd.grad(-2.5 * plain, [hidden, weight], retain_graph=True)
        torch.testing.assert_close(
            torch.autograd.grad(-2.5 * fused, [hidden, weight], retain_graph=True), wanted, msg=f"twice={twice}"
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("slot_weights", [None, "power", [0.3]])
def test_bag_size_1_is_cross_entropy_to_the_last_bit(dtype: torch.dtype, slot_weights: SlotWeights) -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 7, 29, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 29, (3, 7, 1))
    targets[1, 2] = IGNORED
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss = multi_hot_cross_entropy(logits, targets, slot_weights=slot_weights)
    assert torch.equal(loss, expected)
    assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


@pytest.mark.parametrize("s", [1, 2, 6, 16])
def test_loss_of_uninformed_logits_is_log_of_the_vocabulary(s: int) -> None:
    torch.manual_seed(2)
    logits = 0.02 * torch.randn(2, 8, 1000)
    targets = torch.randint(0, 1000, (2, 8, s))
    for name in SLOT_WEIGHTS:
        loss = multi_hot_cross_entropy(logits, targets, slot_weights=name)
        assert loss.item() == pytest.approx(math.log(1000), rel=0.02)


def test_a_token_that_is_twice_in_a_bag_counts_twice() -> None:
    logits = torch.tensor([[[2.0, 0.5, -1.0]]])
    log_probabilities = logits[0, 0].log_softmax(-1)
    loss = multi_hot_cross_entropy(logits, torch.tensor([[[0, 0, 2]]]))
    torch.testing.assert_close(loss, -(2 * log_probabilities[0] + log_probabilities[2]) / 3)
    assert loss != multi_hot_cross_entropy(logits, torch.tensor([[[0, 2, 2]]]))


def test_ignored_slots_do_not_count_in_any_denominator() -> None:
    torch.manual_seed(3)
    logits = torch.randn(1, 4, 9)
    targets = torch.randint(0, 9, (1, 4, 3))
    targets[0, 3, 1:] = IGNORED  # the last bag of a window has a target in its first slot only
    losses = [functional.cross_entropy(logits[0, :n], targets[0, :n, slot]) for slot, n in enumerate([4, 3, 3])]
    torch.testing.assert_close(multi_hot_cross_entropy(logits, targets), torch.stack(losses).mean())
    targets[..., 2] = IGNORED  # a slot without any target is left out, the others normalized again
    torch.testing.assert_close(
        multi_hot_cross_entropy(logits, targets, slot_weights=[1, 3, 4]), (losses[0] + 3 * losses[1]) / 4
    )


@pytest.mark.parametrize("s", [1, 3])
def test_without_any_target_the_loss_is_nan_and_its_gradient_zero_as_in_cross_entropy(s: int) -> None:
    hidden = torch.randn(1, 2, 4, requires_grad=True)
    weight = torch.randn(5, 4, requires_grad=True)
    targets = torch.full((1, 2, s), IGNORED)
    for value in (
        multi_hot_cross_entropy(hidden @ weight.T, targets),
        linear_multi_hot_cross_entropy(hidden, weight, targets),
    ):
        assert value.isnan()
        assert all(not gradient.any() for gradient in gradients(value, hidden, weight))


def test_first_slot_weights_on_both_equal_the_loss_of_input_superposition() -> None:
    torch.manual_seed(4)
    s, L, V = 4, 6, 50
    windows = torch.randint(0, V, (2, s * L + 1))
    both, single = (BagGeometry(bag_size=s, sequence_length=L, superpose=kind) for kind in ("both", "input"))
    targets = torch.full((2, L, s), IGNORED)
    both.fill_targets(windows, targets)
    first = torch.full((2, L, 1), IGNORED)
    single.fill_targets(windows, first)
    logits = torch.randn(2, L, V, dtype=torch.float64)
    torch.testing.assert_close(
        multi_hot_cross_entropy(logits, targets, slot_weights="first"), multi_hot_cross_entropy(logits, first)
    )


def test_targets_reshaped_without_dropping_the_first_labels_would_leak_and_ours_do_not() -> None:
    s, L = 4, 5
    geometry = BagGeometry(bag_size=s, sequence_length=L)
    windows = torch.arange(s * L + 1)[None]  # every token is its own position in the stream
    inputs = geometry.inputs(windows)
    targets = torch.full((1, L, s), IGNORED)
    geometry.fill_targets(windows, targets)
    leaking = windows[:, 1:].reshape(1, L, s)
    seen = [set(bag) for bag in inputs[0].tolist()]
    assert [len(seen[k] & set(leaking[0, k].tolist())) for k in range(L)] == [s - 1] * L
    for k in range(L):
        wanted = [(k + 1) * s + j if (k + 1) * s + j <= s * L else IGNORED for j in range(s)]
        assert targets[0, k].tolist() == wanted
        assert all(not seen[before] & set(targets[0, k].tolist()) for before in range(k + 1))


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.num_elements = max(self.num_elements, value.numel())
        return result


@pytest.mark.parametrize("s", [1, 8])
def test_no_tensor_grows_with_s_and_the_fused_form_never_holds_all_logits(
    s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, L, d, V = 4, 64, 8, 512
    monkeypatch.setitem(loss_module.CHUNK_ELEMENTS, "cpu", 64 * V)
    hidden = torch.randn(b, L, d, requires_grad=True)
    weight = torch.randn(V, d, requires_grad=True)
    targets = torch.randint(0, V, (b, L, s))
    with LargestTensor() as plain:
        torch.autograd.backward(multi_hot_cross_entropy(hidden @ weight.T, targets))
    assert plain.num_elements == b * L * V
    with LargestTensor() as fused:
        torch.autograd.backward(linear_multi_hot_cross_entropy(hidden, weight, targets))
    assert fused.num_elements == 64 * V


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    hidden = torch.randn(4, 100, 16).to(dtype).requires_grad_()
    weight = torch.randn(300, 16).to(dtype).requires_grad_()
    targets = torch.randint(0, 300, (4, 100, 4))
    exact = (hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_())
    expected = linear_multi_hot_cross_entropy(*exact, targets)
    wanted = gradients(1000 * expected, *exact)
    fused = linear_multi_hot_cross_entropy(hidden, weight, targets)
    plain = multi_hot_cross_entropy(hidden @ weight.T, targets)
    assert fused.dtype == plain.dtype == torch.float32
    for value in (fused, plain):
        assert value.item() == pytest.approx(expected.item(), rel=2e-3)
    for gradient, want in zip(gradients(1000 * fused, hidden, weight), wanted, strict=True):
        assert gradient.dtype == dtype
        assert (gradient.double() - want).norm() < 0.01 * want.norm()


def test_autocast_multiplies_in_its_dtype_and_returns_full_precision_gradients() -> None:
    torch.manual_seed(6)
    hidden = torch.randn(2, 50, 16, requires_grad=True)
    weight = torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(0, 40, (2, 50, 2))
    expected = linear_multi_hot_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_multi_hot_cross_entropy(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert loss != expected
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    for gradient, want in zip(gradients(loss, hidden, weight), gradients(expected, hidden, weight), strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize("name", SLOT_WEIGHTS)
def test_slot_weights_sum_to_1_and_are_1_at_bag_size_1(name: str) -> None:
    assert normalized_slot_weights(name, 1) == [1.0]
    for s in (2, 7):
        weights = normalized_slot_weights(name, s)
        assert sum(weights) == pytest.approx(1)
        assert weights == sorted(weights, reverse=True)


def test_slot_weights_are_those_of_the_paper() -> None:
    assert normalized_slot_weights(None, 4) == [0.25] * 4
    assert normalized_slot_weights("first", 3) == [1, 0, 0]
    power = normalized_slot_weights("power", 3)
    assert [weight / power[0] for weight in power] == pytest.approx([1, 1 / 2, 1 / 3])
    exponential = normalized_slot_weights("exponential", 2)
    assert exponential[1] / exponential[0] == pytest.approx(math.exp(-1))
    information = normalized_slot_weights("mutual_information", 2)
    assert information[1] / information[0] == pytest.approx((3.63 + 1.35 * 2**-1.25) / (3.63 + 1.35))
    assert normalized_slot_weights(torch.tensor([1.0, 3.0]), 2) == [0.25, 0.75]


LOGITS, TARGETS = torch.zeros(2, 3, 5), torch.zeros(2, 3, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "targets", "slot_weights", "words"),
    [
        (LOGITS, TARGETS[..., 0], None, r"targets: the shape \(2, 3\) does not fit .* \(2, 3, 5\)"),
        (LOGITS, TARGETS[:, :2], None, "does not fit"),
        (LOGITS, TARGETS[..., :0], None, "s of 1 or more"),
        (LOGITS, TARGETS.int(), None, r"targets: expected int64 \(given: torch.int32\)"),
        (LOGITS.long(), TARGETS, None, "floating point"),
        (LOGITS, TARGETS, [1.0], "1 weights, but the targets have 2 slots"),
        (LOGITS, TARGETS, [1.0, -1.0], "not negative"),
        (LOGITS, TARGETS, [0.0, 0.0], "not all zero"),
        (LOGITS, TARGETS, [math.nan, 1.0], "finite"),
        (LOGITS, TARGETS, "powr", "'powr' is not known; give one of uniform, power"),
        (LOGITS, TARGETS, ["a", "b"], "list of numbers"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    logits: Tensor, targets: Tensor, slot_weights: Any, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        multi_hot_cross_entropy(logits, targets, slot_weights=slot_weights)
    assert "\n" not in str(caught.value)
    if logits.dtype.is_floating_point:
        with pytest.raises(InvalidInputError, match=words.replace("5", "4")):
            linear_multi_hot_cross_entropy(logits[..., :4], torch.zeros(5, 4), targets, slot_weights=slot_weights)


@pytest.mark.parametrize(
    ("weight", "bias", "words"),
    [
        (torch.zeros(7, 4), None, r"weight: the shape \(7, 4\) does not fit hidden"),
        (torch.zeros(7, 5), torch.zeros(5), r"bias: the shape \(5,\) does not fit"),
        (torch.zeros(7, 5).double(), None, "different dtypes .* convert them to one"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(weight: Tensor, bias: Tensor | None, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        linear_multi_hot_cross_entropy(LOGITS, weight, TARGETS, bias=bias)
