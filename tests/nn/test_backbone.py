"""Backbones: strides, unit features, and which ImageNet files are taken and which refused."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from ntdm.nn import backbone

TRUNK = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def torchvision_state() -> dict[str, torch.Tensor]:
    """A ResNet-50 state dict in torchvision's layout: the trunk's names, and the classifier `fc`."""
    torch.manual_seed(1)
    state = backbone.ResNet50Features(8).state_dict()
    state = {k: v.clone() for k, v in state.items() if k.split(".")[0] in TRUNK}
    return state | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(torchvision_state(), path)
    return path


@pytest.mark.parametrize(("name", "dim"), [("tiny", 256), ("resnet50", 2048)])
def test_trunks_pool_the_whole_photo(name, dim):
    torch.manual_seed(0)
    model = backbone.trunk(name).eval()
    with torch.no_grad():
        pooled = model(torch.randn(2, 3, 64, 96))
    assert model.dim == dim and pooled.shape == (2, dim)


@pytest.mark.parametrize(("name", "stride"), [("tiny", 4), ("small", 4), ("resnet50", 8)])
def test_stride_and_unit_features(name, stride):
    torch.manual_seed(0)
    model = backbone.feature_net(name, 12).eval()
    photo = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        x = backbone.normalise_photo(photo)
        features = model(x)
    assert model.stride == stride and features.shape == (2, 12, 64 // stride, 96 // stride)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 64 // stride, 96 // stride))


def test_small_sees_further_than_tiny():
    reach = {}
    for name in ("tiny", "small"):
        torch.manual_seed(0)
        model = backbone.feature_net(name, 4).eval()
        photo = torch.rand(1, 3, 32, 512, requires_grad=True)
        model(photo)[0, :, 4, 64].sum().backward()
        seen = photo.grad.abs().sum((0, 1, 2)).nonzero()[:, 0]
        reach[name] = int(seen.max() - seen.min())
    # Pixels; an aeroplane is about 180 long in the crops of benchmarks/real_aeroplanes.sh.
    assert reach["tiny"] < 130 and reach["small"] > 230


def test_photos_are_normalised_as_imagenet():
    photo = torch.tensor([0, 128, 255], dtype=torch.uint8)[None, :, None, None]
    want = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(backbone.normalise_photo(photo).flatten(), torch.tensor(want))


def test_resnet50_has_torchvisions_tensors():
    # Counted from the architecture: 53 convolutions, and 53 batch norms of five tensors each.
    names = [k for k in torchvision_state() if not k.startswith("fc")]
    assert len(names) == 53 + 53 * 5
    for name in ("conv1.weight", "layer1.0.downsample.1.running_var", "layer3.5.conv3.weight"):
        assert name in names
    assert sum(v.numel() for k, v in torchvision_state().items() if "running" not in k) == 25_557_032 + 53


def test_imagenet_weights_are_loaded_by_name(weights):
    torch.manual_seed(0)
    model = backbone.feature_net("resnet50", 8, str(weights))
    loaded, want = model.state_dict(), torchvision_state()
    for name in (k for k in want if not k.startswith("fc")):
        torch.testing.assert_close(loaded[name], want[name], rtol=0, atol=0, msg=name)


def test_imagenet_weights_without_batch_counters(tmp_path):
    # Files saved before torch 0.4.1 (resnet50-19c8e357.pth) have no num_batches_tracked.
    state = {k: v for k, v in torchvision_state().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    model = backbone.feature_net("resnet50", 8, str(tmp_path / "old.pth"))
    torch.testing.assert_close(model.state_dict()["layer4.2.bn3.weight"], state["layer4.2.bn3.weight"])


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pth: no such file"):
        backbone.feature_net("resnet50", 8, str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("kept", [0, 100, 5_000_000])
def test_truncated_file_is_refused(weights, tmp_path, kept):
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cut\.pth (cannot be read|are an empty file)"):
        backbone.feature_net("resnet50", 8, str(tmp_path / "cut.pth"))


def test_missing_tensor_is_refused_and_named(tmp_path):
    state = torchvision_state()
    del state["layer3.2.conv2.weight"]
    torch.save(state, tmp_path / "hole.pth")
    with pytest.raises(ValueError, match=r"hole\.pth: layer3\.2\.conv2\.weight"):
        backbone.feature_net("resnet50", 8, str(tmp_path / "hole.pth"))


def test_tensor_of_another_shape_is_refused(tmp_path):
    torch.save(torchvision_state() | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"(?s)other\.pth do not fit ResNet-50.*conv1\.weight"):
        backbone.feature_net("resnet50", 8, str(tmp_path / "other.pth"))


@pytest.mark.parametrize("content", [[1, 2], 3, torch.zeros(4)], ids=["list", "number", "tensor"])
def test_something_else_than_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth"):
        backbone.feature_net("resnet50", 8, str(tmp_path / "odd.pth"))


class Trap:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_file_that_would_run_code_is_refused(tmp_path, plain):
    path, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    if plain:
        path.write_bytes(pickle.dumps({"conv1.weight": Trap(sprung)}))
    else:
        torch.save({"conv1.weight": Trap(sprung)}, path)
    with pytest.raises(ValueError, match=r"trap\.pth hold more than tensors"):
        backbone.feature_net("resnet50", 8, str(path))
    assert not sprung.exists()


def test_unknown_name_and_weights_for_tiny_are_refused(weights):
    with pytest.raises(ValueError, match="backbone is 'vgg': want one of tiny, small, resnet50"):
        backbone.feature_net("vgg", 8)
    with pytest.raises(ValueError, match="'tiny' has no ImageNet weights"):
        backbone.feature_net("tiny", 8, str(weights))


def test_weights_saved_from_data_parallel_are_read(tmp_path):
    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in backbone.ResNet50Trunk().state_dict().items()}
    torch.save(state, tmp_path / "r.pth")
    model = backbone.trunk("resnet50", str(tmp_path / "r.pth"))
    assert torch.equal(model.state_dict()["conv1.weight"], state["module.conv1.weight"])


def test_weights_in_a_checkpoint_below_the_home_folder_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.manual_seed(0)
    state = backbone.ResNet50Trunk().state_dict()
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "checkpoint.ckpt")
    model = backbone.trunk("resnet50", "~/checkpoint.ckpt")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weights_of_another_network_are_told_by_their_names(tmp_path):
    torch.save({"module.net.conv.weight": torch.zeros(1), "epoch": 3}, tmp_path / "r.pth")
    message = r"r\.pth: bn1\.bias and 264 more tensors are missing; it holds net\.conv\.weight, epoch; want"
    with pytest.raises(ValueError, match=message):
        backbone.trunk("resnet50", str(tmp_path / "r.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "are an empty file: get it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "are a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "are no file that torch.load reads: it begins with b'<!DOCTYPE"),
    ],
)
def test_weights_that_are_no_weights_are_called_what_they_are(tmp_path, content, message):
    (tmp_path / "r.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"r.pth {message}"):
        backbone.trunk("resnet50", str(tmp_path / "r.pth"))
