# SPDX-License-Identifier: Apache-2.0
"""A Switch model made of a dense one begins where that is, whatever a token's gates add up to."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
import stored
from batches import teacher_forced

from switch_t5.cli import gin_setup, model_file
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.errors import CheckpointError, ConfigError
from switch_t5.interop import own_names
from switch_t5.interop.convert import model_of
from switch_t5.interop.upcycle import TOLERANCE, check_target, gates_of_a_token, upcycle
from switch_t5.model.definition import define_model
from switch_t5.model.router_config import RouterConfig
from switch_t5.sharding.mesh import MeshShape, make_mesh

ROUTERS = {
  "one choice": (RouterConfig(), 1 / 4),
  "two choices": (RouterConfig(num_selected_experts=2), 2 / 4),
  "two, gates of sum 1": (RouterConfig(num_selected_experts=2, renormalize_gates=True), 1.0),
  "sigmoid": (RouterConfig(scores="sigmoid", num_selected_experts=2), 1.0),
}
ONE_LAYER = {"num_encoder_layers": 1, "num_decoder_layers": 1}
MODELS = {"ReLU": stored.dense(**ONE_LAYER), "gated": stored.gated(**ONE_LAYER)}


def switch(model="ReLU", **changes):
  """The Switch model of one of `MODELS`, its layers sparse."""
  dense = MODELS[model]
  return stored.switch(
    mlp_activations=dense.mlp_activations,
    logits_via_embedding=dense.logits_via_embedding,
    num_encoder_sparse_layers=1,
    **ONE_LAYER | changes,
  )


def dense_checkpoint(config):
  """Random numbers of the sizes that a trained model has."""
  checkpoint = stored.checkpoint(config)
  for name, array in checkpoint.parameters().items():
    values = array.read()
    values = np.abs(values) if name.endswith("scale") else values / 2
    if name.endswith("kernel"):
      values = values / np.sqrt(values.shape[0], dtype=np.float32)
    checkpoint.arrays[f"target/{name}"] = stored.array(values)
  return checkpoint


def run(checkpoint, config):
  """Returns the logits of a batch with padding, dropless, and the routers' report."""
  definition = define_model(dataclasses.replace(config, activation_dtype="float32"))
  rng = np.random.default_rng(1)
  lengths, segments = (24, 12), []
  for length in lengths:
    real = np.arange(length) < rng.integers(length // 2, length + 1, (8, 1))
    segments.append((rng.integers(3, 200, real.shape, np.int32) * real, real.astype(np.int32)))
  batch = teacher_forced(*segments, weights=segments[1][1])
  answer = jax.jit(lambda params: definition.build(params)(batch, capacity_factor=None))
  params = jax.device_put(own_names.load_params(checkpoint, definition))
  with jax.set_mesh(make_mesh(MeshShape())):
    quick = {"xla_backend_optimization_level": 0}
    output = answer.lower(params).compile(quick)(params)
  return np.asarray(output.logits)[segments[1][1].ravel() > 0], output.router


@pytest.fixture(scope="module")
def of_dense():
  """The checkpoint and the logits of each of `MODELS`."""
  sources = {name: dense_checkpoint(config) for name, config in MODELS.items()}
  return {name: (source, run(source, MODELS[name])[0]) for name, source in sources.items()}


@pytest.mark.parametrize(
  ("model", "router"), [("gated", "one choice"), *(("ReLU", router) for router in [*ROUTERS][1:])]
)
def test_its_logits_are_the_dense_models(model, router, of_dense):
  options, total = ROUTERS[router]
  target = switch(model, encoder_router=options, decoder_router=options)
  assert gates_of_a_token(options, 4) == total
  source, wanted = of_dense[model]
  got, report = run(upcycle(source, target), target)
  assert np.abs(got - wanted).max() < TOLERANCE * np.abs(wanted).max()
  assert (np.asarray(report.expert_load) > 0).all()  # the tokens are spread


def test_what_is_not_made_up_for_is_another_model(of_dense):
  """The test above can fail: gates of 1/4, and experts as they are."""
  top_two = RouterConfig(num_selected_experts=2, renormalize_gates=True)
  source, wanted = of_dense["ReLU"]
  made = upcycle(source, switch(encoder_router=top_two, decoder_router=top_two))
  got, _ = run(made, switch())
  assert np.abs(got - wanted).max() > 100 * TOLERANCE * np.abs(wanted).max()


def test_experts_are_copies_and_all_else_is_the_dense_models_to_the_bit():
  source = dense_checkpoint(stored.dense())
  found, dense = upcycle(source, stored.switch()).parameters(), source.parameters()
  drawn = [name for name in found if "/router/" in name]
  assert len(drawn) == 3 and len({found[name].read().tobytes() for name in drawn}) == 3
  for name in found.keys() - set(drawn):
    wanted = dense[name.replace("/expert/", "/")].read()
    if "/expert/" in name:
      wanted = np.stack([wanted] * 4) * np.float32(4 if "/wo/" in name else 1)
    assert found[name].shape == wanted.shape
    np.testing.assert_array_equal(found[name].read(), wanted, err_msg=name)


def test_it_has_the_dense_models_step_and_no_optimizer_state_and_is_the_same_each_time():
  source = stored.checkpoint(stored.dense(), step=7)
  one, other = (upcycle(source, stored.switch()) for _ in range(2))
  assert one.step == 7
  assert not any(name.startswith("state/param_states") for name in one.arrays)
  stored.assert_same(one, other)
  assert model_of(one).num_experts == 4


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"d_ff": 64, "num_heads": 2}, "d_ff 64, not 32; num_heads 2, not 4"),
    ({"vocab_size": 512}, "padded_vocab_size 512, not 256"),
    ({"expert_d_ff": 8}, "expert_d_ff 8, not 32"),
    ({"num_shared_experts": 1}, "num_shared_experts = 1"),
    ({"sparse_sublayers": "both"}, "sparse_sublayers = 'both'"),
    ({"encoder_router": RouterConfig(kind="expert_choice")}, "kind = 'expert_choice'"),
    ({"decoder_router": RouterConfig(kind="hash")}, "kind = 'hash'"),
    (
      {
        "encoder_router": RouterConfig(
          num_selected_experts=2, renormalize_gates=True, second_expert_policy="threshold"
        )
      },
      "second_expert_policy = 'threshold'",
    ),
    ({"encoder_router": RouterConfig(bias_update_rate=1e-3)}, "bias_update_rate = 0.001"),
  ],
)
def test_what_a_dense_model_cannot_become_is_refused_by_name(changes, message):
  with pytest.raises(ConfigError, match=message):
    upcycle(stored.checkpoint(stored.dense()), stored.switch(**changes))


def test_a_model_with_experts_and_a_target_without_are_refused():
  with pytest.raises(CheckpointError, match="4 experts"):
    upcycle(stored.checkpoint(stored.switch()), stored.switch())
  with pytest.raises(ConfigError, match="num_experts = 0"):
    upcycle(stored.checkpoint(stored.dense()), stored.dense())


def test_each_published_dense_size_becomes_its_switch_sizes_and_no_other():
  """Those that include it; the other sizes have no published Switch model of their base."""
  wanted = {
    "t5_demo": {"switch_demo"},
    "t5_base": {f"switch_base_{n}" for n in (8, 16, 32, 64, 128, 256)},
    "t5_large": {"switch_large_128"},
    "t5_1_1_xxl": {"switch_xxl_128"},
  }
  models = {}
  for path in sorted((gin_setup.packaged_configs() / "models").glob("*.gin")):
    if path.stem not in ("t5", "t5_1_1", "switch", "switch_base"):
      loaded = gin_setup.load([str(path)], model_file.NO_DROPOUT, [], CONFIGURABLES)
      models[path.stem] = loaded.call("ModelConfig")
  dense = {name: model for name, model in models.items() if not model.num_experts}
  assert len(dense) == 11
  for name, source in dense.items():
    fits = set()
    for other in models.keys() - dense.keys():
      with contextlib.suppress(ConfigError):
        check_target(source, models[other])
        fits.add(other)
    assert fits == wanted.get(name, set()), name
