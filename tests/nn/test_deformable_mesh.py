"""deformable_mesh.py: Γ(z) against Eq. 1 written out, the cached constant, gradients, and shape files."""

import json

import pytest
import safetensors.torch
import torch

from ntdm.config.stages import ShapeConfig
from ntdm.nn import deformable_mesh
from ntdm.shapes import files

SMALL = ShapeConfig(subdivisions=1, width=16, layers=2, frequencies=3)


def trained_like(num_latents: int, seed: int = 0) -> deformable_mesh.DeformableMesh:
    """A model whose last layer is not nearly zero, nor its offsets, so that its latents matter."""
    torch.manual_seed(seed)
    model = deformable_mesh.DeformableMesh(SMALL, num_latents)
    torch.nn.init.normal_(model.last.weight, std=0.1)
    torch.nn.init.normal_(model.offsets, std=0.05)
    return model


def test_starts_as_the_scaled_sphere():
    torch.manual_seed(0)
    model = deformable_mesh.DeformableMesh(SMALL, 3)
    vertices = model(model.one_hot())
    assert vertices.shape == (3, 42, 3)
    assert (vertices - model.scale * model.template.vertices).abs().max() < 5e-3


def test_is_equation_1_with_one_first_layer():
    model = trained_like(3)
    z = torch.rand(2, 3)
    points = model.template.vertices
    embedding = deformable_mesh.harmonic_embedding(points, SMALL.frequencies)
    assert embedding.shape == (42, 3 + 6 * 3)
    torch.testing.assert_close(embedding[:, 3 + 3 : 3 + 6], (2 * points).sin())
    both = torch.cat([embedding.expand(2, -1, -1), z[:, None].expand(-1, 42, -1)], -1)
    weight = torch.cat([model.from_embedding.weight, model.from_latent.weight], 1)
    h = torch.nn.functional.linear(both, weight, model.from_embedding.bias)
    left_out = z[:, 0, None, None] * model.offsets[0] + z[:, 1, None, None] * model.offsets[1]
    left_out = left_out + z[:, 2, None, None] * model.offsets[2]
    expected = model.scale * (points + model.last(model.hidden(h)) + left_out)
    torch.testing.assert_close(model(z), expected)
    torch.testing.assert_close(model(z, torch.tensor([1.0, 2.0]))[1], 2 * expected[1])
    some = torch.tensor([7, 0])
    torch.testing.assert_close(model.network(z, some), model.network(z)[:, some])


def test_a_batch_larger_than_a_chunk_equals_its_parts():
    model = trained_like(2).requires_grad_(False)
    z = torch.rand(deformable_mesh.CHUNK + 5, 2)
    torch.testing.assert_close(model(z)[-1:], model(z[-1:]))


def test_no_latents_make_no_meshes():
    # As where no photo of a batch may show a category.
    model = trained_like(3)
    assert model(torch.zeros(0, 3)).shape == (0, 42, 3)


def test_frozen_weights_keep_the_constant_and_notice_a_change():
    model = trained_like(2)
    z = torch.rand(4, 2, requires_grad=True)
    scale_factor = torch.ones(4, requires_grad=True)
    free = model(z, scale_factor)
    expected = torch.autograd.grad(free.square().sum(), [z, scale_factor])
    model.requires_grad_(False)
    frozen = model(z, scale_factor)
    torch.testing.assert_close(frozen, free)
    for a, b in zip(torch.autograd.grad(frozen.square().sum(), [z, scale_factor]), expected, strict=True):
        torch.testing.assert_close(a, b)
    kept = model._constant
    model(z)
    assert model._constant is kept
    other = trained_like(2, seed=1)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(z), other(z))


def test_gradients_are_exact():
    model = trained_like(2).double().requires_grad_(False)
    z = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    s = torch.rand(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: model(a, b), (z, s))


def test_wrong_latents_are_refused():
    with pytest.raises(ValueError, match=r"want \[B, 2\]"):
        trained_like(2)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least one latent"):
        deformable_mesh.DeformableMesh(SMALL, 0)


def test_shape_file_round_trip(tmp_path):
    model = trained_like(3)
    path = files.save_shape(tmp_path / "car.safetensors", model, {"category": "car", "cad_index": [0, 2, 5]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["car.json", "car.safetensors"]
    back = files.load_shape(path)
    assert back.config == SMALL
    assert not any(p.requires_grad for p in back.parameters())
    torch.testing.assert_close(back(back.one_hot()), model(model.one_hot()), rtol=0, atol=0)
    assert files.read_meta(path)["cad_index"] == [0, 2, 5]


def test_a_shape_file_of_version_1_is_read_as_one_without_offsets(tmp_path):
    model = trained_like(3)
    torch.nn.init.zeros_(model.offsets)
    path = files.save_shape(tmp_path / "car.safetensors", model, {})
    weights = safetensors.torch.load_file(path)
    del weights["offsets"]
    safetensors.torch.save_file(weights, path)
    description = json.loads(path.with_suffix(".json").read_text())
    description["schema_version"] = 1
    description["config"]["transport_share"] = 0.2
    path.with_suffix(".json").write_text(json.dumps(description))
    back = files.load_shape(path)
    torch.testing.assert_close(back(back.one_hot()), model(model.one_hot()), rtol=0, atol=0)
    assert back.config == SMALL


def test_damaged_shape_files_say_what_is_wrong(tmp_path):
    path = tmp_path / "car.safetensors"
    with pytest.raises(ValueError, match="fit-shapes"):
        files.load_shape(path)
    files.save_shape(path, trained_like(3), {})
    description = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**description, "num_latents": 4}))
    with pytest.raises(ValueError, match="does not match its description"):
        files.load_shape(path)
    path.with_suffix(".json").write_text(json.dumps({**description, "schema_version": 9}))
    with pytest.raises(ValueError, match="this version reads"):
        files.load_shape(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        files.load_shape(path)
    path.with_suffix(".json").write_text(json.dumps(description))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="does not match"):
        files.load_shape(path)
    path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        files.load_shape(path)
