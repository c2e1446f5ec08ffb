"""SuperposedLM around Hugging Face models that are built from a configuration, and superpose itself.

python -m pytest tests/trainer/test_superposed_lm.py
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from trainer_client.loss.multi_hot import multi_hot_cross_entropy
from trainer_client.model.superpose import superpose
from trainer_client.model.superposed_lm import SuperposedLM
from tst_data.contract.bags import IGNORED, BagGeometry, Superpose
from tst_data.errors import InvalidInputError

AUTO_MODEL: Any = transformers.AutoModelForCausalLM  # partly untyped

V, d, L = 97, 32, 12

SMALL = {
    "vocab_size": V,
    "hidden_size": d,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

TESTED = [(name, tied) for name in ("llama", "qwen3") for tied in (False, True)]


def make_model(name: str, **changes: object) -> Any:
    torch.manual_seed(11)
    return AUTO_MODEL.from_config(transformers.AutoConfig.for_model(name, **{**SMALL, **changes}))


def make_batch(s: int, kind: Superpose = "both", b: int = 3, seed: int = 0) -> dict[str, Tensor]:
    geometry = BagGeometry(bag_size=s, sequence_length=L, superpose=kind)
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randint(0, V, (b, geometry.window_length), generator=generator)
    targets = torch.full((b, L, geometry.target_slots), IGNORED)
    geometry.fill_targets(windows, targets)
    return {"inputs": geometry.inputs(windows), "targets": targets}


# --- superpose


@settings(deadline=None, max_examples=40)
@given(s=st.integers(1, 6), rows=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_superpose_is_the_mean_of_rows_in_value_and_gradient(s: int, rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    inputs = torch.randint(0, rows, (2, 3, s), generator=generator)  # few rows: duplicates in most bags
    expected = weight[inputs].mean(dim=2)
    bags = superpose(weight, inputs)
    torch.testing.assert_close(bags, expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        torch.autograd.grad(bags, weight, upstream), torch.autograd.grad(expected, weight, upstream)
    )


def test_superpose_at_bag_size_1_is_the_plain_embedding() -> None:
    embedding = nn.Embedding(10, 4)
    inputs = torch.randint(0, 10, (2, 3, 1))
    assert torch.equal(superpose(embedding, inputs), embedding(inputs[..., 0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_superpose_accumulates_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(7, 16, dtype=dtype)
    inputs = torch.randint(0, 7, (20, 10, 8))
    exact = embedding.weight.detach().float().requires_grad_()
    bags, expected = superpose(embedding, inputs), exact[inputs].mean(dim=2)
    assert bags.dtype == dtype
    torch.testing.assert_close(bags, expected.to(dtype))
    upstream = torch.randn_like(bags)
    torch.autograd.backward(bags, upstream)
    torch.autograd.backward(expected, upstream.float())
    assert exact.grad is not None
    torch.testing.assert_close(embedding.weight.grad, exact.grad.to(dtype))


@pytest.mark.parametrize(
    "inputs", [torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3, 0, dtype=torch.int64), torch.zeros(2, 3, 2)]
)
def test_superpose_refuses_what_is_not_a_bag(inputs: Tensor) -> None:
    with pytest.raises(InvalidInputError, match="are not bags"):
        superpose(torch.zeros(5, 4), inputs)


# --- the wrapped model


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tied"), TESTED)
def test_bag_size_1_equals_the_model_with_its_own_loss(name: str, tied: bool) -> None:
    model = make_model(name, tie_word_embeddings=tied)
    batch = make_batch(1)
    superposed = SuperposedLM(model)
    assert superposed.fuses_loss
    logits = model(input_ids=batch["inputs"][..., 0]).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    loss = superposed(batch).loss
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    torch.testing.assert_close(torch.autograd.grad(loss, list(model.parameters())), wanted)
    # Hugging Face shifts labels itself: hand it the same pairs of token and next token.
    tokens, following = batch["inputs"][..., 0], batch["targets"][..., 0]
    labels = torch.cat([torch.full((3, 1), IGNORED), following[:, :-1]], dim=1)
    own = model(input_ids=tokens, labels=labels).loss
    torch.testing.assert_close(own, functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["both", "input", "output"])
@pytest.mark.parametrize(("name", "tied"), TESTED)
def test_superposed_loss_and_gradient_are_those_of_the_definition(name: str, tied: bool, kind: Superpose) -> None:
    model = make_model(name, tie_word_embeddings=tied)
    batch = make_batch(4, kind)
    embeddings = model.get_input_embeddings().weight[batch["inputs"]].mean(dim=2)
    expected = multi_hot_cross_entropy(model(inputs_embeds=embeddings).logits, batch["targets"], slot_weights="power")
    loss = SuperposedLM(model, slot_weights="power")(batch).loss
    torch.testing.assert_close(loss, expected)
    parameters = dict(model.named_parameters())
    wanted = torch.autograd.grad(expected, list(parameters.values()))
    for key, gradient, want in zip(
        parameters, torch.autograd.grad(loss, list(parameters.values())), wanted, strict=True
    ):
        assert want.any(), f"{key} takes no part in the step"
        torch.testing.assert_close(gradient, want)


@pytest.mark.slow
@pytest.mark.parametrize("s", [1, 4, 8])
def test_loss_at_initialization_is_log_of_the_vocabulary(s: int) -> None:
    loss = SuperposedLM(make_model("llama"))(make_batch(s, b=8)).loss
    assert loss.item() == pytest.approx(math.log(V), rel=0.02)


def test_first_slot_weights_on_both_equal_superposing_the_input_only() -> None:
    model = make_model("qwen3")
    first = SuperposedLM(model, slot_weights="first")(make_batch(4, "both")).loss
    torch.testing.assert_close(first, SuperposedLM(model)(make_batch(4, "input")).loss)


def test_weights_given_as_numbers_reach_the_recovery_phase_as_1() -> None:
    superposed = SuperposedLM(make_model("llama"), slot_weights=[3, 1])
    assert torch.isfinite(superposed(make_batch(2)).loss)
    torch.testing.assert_close(superposed(make_batch(1)).loss, SuperposedLM(superposed.model)(make_batch(1)).loss)
    with pytest.raises(InvalidInputError, match="2 weights, but the targets have 4 slots"):
        superposed(make_batch(4))
    with pytest.raises(InvalidInputError, match="'powr' is not known"):
        SuperposedLM(superposed.model, slot_weights="powr")


@pytest.mark.slow
def test_leaking_targets_are_learned_far_below_what_honest_ones_allow() -> None:
    """Random tokens have nothing to predict: only a wrong alignment can get far below log V."""
    s, b = 4, 16
    geometry = BagGeometry(bag_size=s, sequence_length=L)
    losses = {}
    for kind in ("honest", "leaking"):
        superposed = SuperposedLM(make_model("llama", tie_word_embeddings=True, initializer_range=0.1))
        optimizer = torch.optim.AdamW(superposed.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(5)
        for _ in range(60):
            windows = torch.randint(0, V, (b, geometry.window_length), generator=generator)  # always fresh
            targets = torch.full((b, L, s), IGNORED)
            geometry.fill_targets(windows, targets)
            if kind == "leaking":
                targets = windows[:, 1:].reshape(b, L, s)
            loss = superposed({"inputs": geometry.inputs(windows), "targets": targets}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[kind] = loss.item()
    assert losses["honest"] > math.log(V) - 0.05
    assert losses["leaking"] < math.log(V) - 0.5


class Shapes(TorchDispatchMode):
    """Collects the shape of every tensor that an operation made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.shapes.add(tuple(value.shape))
        return result


def test_neither_logits_by_slot_nor_embeddings_by_slot_are_ever_held() -> None:
    s = 8
    model = SuperposedLM(make_model("llama"))
    with Shapes() as seen:
        model(make_batch(s)).loss.backward()
    largest = max(math.prod(shape) for shape in seen.shapes)
    assert largest <= max(3 * L * V, V * d, 3 * L * 48)
    assert (3, L, s, d) not in seen.shapes


def test_model_without_a_fused_head_takes_the_loss_from_its_own_logits() -> None:
    model = make_model("gemma2", final_logit_softcapping=0.5, query_pre_attn_scalar=8)
    superposed = SuperposedLM(model)
    assert superposed.takes_bags
    assert not superposed.fuses_loss
    batch = make_batch(4)
    embeddings = model.get_input_embeddings()(batch["inputs"]).mean(dim=2)  # transformers 4: the trunk scales them
    expected = multi_hot_cross_entropy(model(inputs_embeds=embeddings).logits, batch["targets"])
    torch.testing.assert_close(superposed(batch).loss, expected)


def test_scale_of_the_embedding_module_comes_after_the_mean() -> None:
    model = make_model("gemma3_text", query_pre_attn_scalar=8)
    superposed = SuperposedLM(model)
    assert superposed.takes_bags
    inputs = make_batch(4)["inputs"]
    torch.testing.assert_close(superposed._embed(inputs), model.get_input_embeddings()(inputs).mean(dim=2))


def test_model_that_does_more_to_tokens_than_to_embeddings_takes_no_bags_but_trains_on_tokens() -> None:
    model = make_model("llama")
    trunk, own_forward = model.model, type(model.model).forward

    def forward(input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **options: object) -> object:
        if input_ids is not None:
            inputs_embeds = 5 * trunk.embed_tokens(input_ids)
        return own_forward(trunk, inputs_embeds=inputs_embeds, **options)

    trunk.forward = forward
    superposed = SuperposedLM(model)
    assert not superposed.takes_bags
    assert torch.isfinite(superposed(make_batch(1)).loss)
    with pytest.raises(InvalidInputError, match="LlamaForCausalLM: cannot take bags"):
        superposed(make_batch(2))


@pytest.mark.slow
def test_balancing_loss_of_a_mixture_of_experts_is_added() -> None:
    changes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "router_aux_loss_coef": 0.5}
    batch = make_batch(3)
    without = SuperposedLM(make_model("qwen3_moe", **changes))(batch).loss
    model = make_model("qwen3_moe", **changes, output_router_logits=True)
    balancing = model(inputs_embeds=superpose(model.get_input_embeddings(), batch["inputs"])).aux_loss
    torch.testing.assert_close(SuperposedLM(model)(batch).loss, without + 0.5 * balancing)


def test_wrapping_leaves_modes_weights_and_random_state_alone() -> None:
    model = make_model("llama", attention_dropout=0.3)
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    SuperposedLM(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


BERT = {
    "vocab_size": V,
    "hidden_size": d,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_that_attends_in_both_directions_is_refused(dtype: torch.dtype) -> None:
    def make(**changes: object) -> Any:
        config = transformers.AutoConfig.for_model("bert", **BERT, **changes)
        return AUTO_MODEL.from_config(config).to(dtype)

    with pytest.raises(InvalidInputError, match="BertLMHeadModel: a position depends on later tokens"):
        SuperposedLM(make())
    causal = make(is_decoder=True)
    assert SuperposedLM(causal).takes_bags
    assert all(parameter.grad is None for parameter in causal.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
        ("mixtral", {"num_local_experts": 4}),
        ("gemma2", {"query_pre_attn_scalar": 8}),
        ("gemma3_text", {"query_pre_attn_scalar": 8}),
        ("gpt2", {"n_embd": d, "n_layer": 2, "n_head": 4}),
        ("gpt_neox", {}),
        ("mistral", {"sliding_window": 2}),
    ],
)
def test_causal_models_are_taken(name: str, changes: dict[str, Any], dtype: torch.dtype, attention: str) -> None:
    classes: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    config = transformers.AutoConfig.for_model(name)
    if attention == "sdpa" and not classes[type(config)]._supports_sdpa:
        pytest.skip(f"transformers {transformers.__version__} has no sdpa for {name}")
    SuperposedLM(make_model(name, **changes, attn_implementation=attention).to(dtype))


def test_what_cannot_be_wrapped_is_refused() -> None:
    with torch.device("meta"):
        model = AUTO_MODEL.from_config(transformers.AutoConfig.for_model("llama", **SMALL))
    with pytest.raises(InvalidInputError, match="meta device"):
        SuperposedLM(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what dynamo meets inside torch and transformers
def test_compiled_model_is_not_compiled_again_at_the_switch() -> None:
    """Both phases hand the trunk (b, L, d): one graph, compiled once, with the losses of the model as it is."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, example_inputs: list[Tensor]) -> object:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    superposed = SuperposedLM(make_model("llama"))
    expected = [superposed(make_batch(s)).loss for s in (4, 1)]
    compiled = torch.compile(superposed, backend=backend)
    compiled(make_batch(4, seed=1)).loss.backward()
    before = list(graphs)
    assert max(before) > 100, "the trunk was not compiled"
    losses = [compiled(make_batch(s)).loss for s in (4, 1)]
    assert graphs == before, "the switch compiled again"
    torch.testing.assert_close(losses, expected)
    torch._dynamo.reset()
