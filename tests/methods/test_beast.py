"""BEAST's mathematics and switches, and the way from a dataset of images to the next run."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ethoray import figures, record, stream, testing
from ethoray.batch import Windows, picture_batch
from ethoray.experiment import Experiment, build, restore, run
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.methods.beast import BEAST, infonce
from ethoray.nn import pictures
from ethoray.nn.contrastive import nt_xent
from ethoray.nn.vit import hide, masked_autoencoding, patchify
from ethoray.probes.linear import Linear
from ethoray.readers import ReadError
from ethoray.schema import SchemaError
from ethoray.testing import toy_batch, toy_spec, toy_stream

SMALL = BEAST(
    pixels=0,
    patch=8,
    width=24,
    depth=2,
    heads=2,
    hidden=48,
    decoder=(16, 1, 2, 32),
    projection=12,
    lr=2e-3,
    lr_images=0,
)
SPEC = toy_spec(needs="images")
QUICK = Budget(steps=6, log_every=2, save_every=2, device="cpu")


def built(method=SMALL, spec=SPEC):
    torch.manual_seed(spec.seed)
    return method.build(spec)


def brute(first, second, temperature):
    z = F.normalize(torch.cat([first, second]), dim=1)
    total = 0.0
    for i in range(len(z)):
        others = [z[i] @ z[j] / temperature for j in range(len(z)) if j != i]
        total += torch.stack(others).exp().sum().log() - z[i] @ z[(i + len(first)) % len(z)] / temperature
    return total / len(z)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_infonce_equals_brute_force_whoever_computes_it(temperature):
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 5, dtype=torch.float64)
    expected = brute(first, second, temperature).item()
    assert infonce(first, second, temperature).item() == pytest.approx(expected, abs=1e-12)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_infonce_by_hand():
    same = torch.ones(64, 3)
    assert infonce(same, same, 1.0).item() == pytest.approx(math.log(127), abs=1e-5)  # 4.844: nothing to tell apart
    apart = torch.eye(64)
    expected = math.log(math.e + 126) - 1  # 3.858: partners alike, all others at right angles
    assert infonce(apart, 3 * apart, 1.0).item() == pytest.approx(expected, abs=1e-5)


def test_the_loss_is_its_two_parts_and_each_is_what_it_says():
    encoder, batch = built(replace(SMALL, augment="none")).train(), toy_stream(SPEC)(0)
    torch.manual_seed(5)
    terms = encoder.loss(batch)
    torch.manual_seed(5)
    hiding = hide(torch.rand(4, 2, 16).flatten(0, 1), 0.75)
    patches = patchify(pictures.prepare(batch.images.flatten(0, 1), (32, 32)), 8)
    cls, errors = masked_autoencoding(encoder.vit, encoder.decoder, patches, hiding)
    z = encoder.projector(cls)
    assert terms["mse"].item() == pytest.approx(errors.mean().item(), rel=1e-6)
    assert terms["infonce"].item() == pytest.approx(brute(z[0::2], z[1::2], 1.0).item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx((terms["mse"] + 0.03 * terms["infonce"]).item(), rel=1e-6)


def test_partners_are_the_two_images_of_a_window():
    encoder, batch = built(replace(SMALL, augment="none", mask=0.0, reconstruction=0.0)), toy_stream(SPEC)(0)
    twins = replace(batch, images=batch.images[:, :1].expand(-1, 2, -1, -1, -1))
    z = encoder.projector(encoder.vit(patchify(pictures.prepare(twins.images.flatten(0, 1), (32, 32)), 8))[:, 0])
    right, wrong = brute(z[0::2], z[1::2], 1.0).item(), brute(z[0::2], z[1::2].roll(1, 0), 1.0).item()
    found = encoder.loss(twins)["infonce"].item()
    assert found == pytest.approx(right, rel=1e-3) and found < 0.99 * wrong


def gradients(method, batch):
    encoder = built(method).train()
    torch.manual_seed(7)
    terms = encoder.loss(batch)
    terms["loss"].backward()
    return terms, {name: p.grad for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("parts", [2, 3])
def test_gradients_gathered_part_by_part_are_those_of_the_whole_batch(parts):
    batch = toy_stream(SPEC)(0)
    (terms, whole), (again, cut) = (gradients(replace(SMALL, parts=n), batch) for n in (1, parts))
    assert all(again[name].item() == pytest.approx(terms[name].item(), rel=1e-5) for name in terms)
    for name, gradient in whole.items():
        assert (cut[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize(
    ("changes", "parts", "terms"),
    [
        ({}, {"vit", "decoder", "projector"}, {"loss", "mse", "infonce"}),
        ({"contrast": 0.0}, {"vit", "decoder"}, {"loss", "mse"}),  # ViT-M
        ({"reconstruction": 0.0, "contrast": 1.0}, {"vit", "projector"}, {"loss", "infonce"}),  # ViT-C
        ({"reconstruction": 0.0, "contrast": 1.0, "mask": 0.0}, {"vit", "projector"}, {"loss", "infonce"}),
        ({"arch": "resnet", "width": 96, "blocks": (1, 1, 1, 1)}, {"net"}, {"loss"}),
    ],
)
def test_what_is_compared_with_is_a_switch(changes, parts, terms):
    encoder = built(replace(SMALL, **changes))
    assert {name.partition(".")[0] for name, _ in encoder.named_parameters()} == parts
    (progress,) = encoder.fit(toy_stream(SPEC), Budget(steps=1, device="cpu"))
    assert terms <= set(progress.metrics) and all(math.isfinite(v) for v in progress.metrics.values())


def test_without_contrast_single_images_are_enough():
    spec = replace(SPEC, frames=1)
    batch = toy_batch(spec, 8)
    singles = picture_batch(batch.images.transpose(0, 1), 10.0)
    (progress,) = built(replace(SMALL, contrast=0.0), spec).fit(lambda _: singles, Budget(steps=1, device="cpu"))
    assert math.isfinite(progress.metrics["mse"])
    with pytest.raises(SchemaError, match="contrast needs pairs of images; set contrast=0"):
        built(SMALL, spec)


def test_spaces_are_tokens_of_whole_images():
    encoder = built(replace(SMALL, spaces=("cls", "mean", "patches"))).eval()
    batch = toy_batch(SPEC, 3, windows=2)
    with torch.no_grad():
        spaces = encoder.embed(batch)
        tokens = encoder.vit(patchify(pictures.prepare(batch.images.flatten(0, 1), (32, 32)), 8)).view(2, 3, 17, 24)
    torch.testing.assert_close(spaces["cls"], tokens[:, :, :1])
    torch.testing.assert_close(spaces["mean"][:, :, 0], tokens[:, :, 1:].mean(2))
    torch.testing.assert_close(spaces["patches"].view(2, 3, 16, 24), tokens[:, :, 1:])


@pytest.mark.parametrize("norm_pixels", [False, True])
def test_what_is_rebuilt_is_the_hidden_patches_and_nothing_else(norm_pixels, tmp_path):
    batch = toy_batch(SPEC, 3)
    encoder = built(replace(SMALL, norm_pixels=norm_pixels)).eval()
    images, seen, made = encoder.rebuild(batch, seed=1)
    assert images.dtype == torch.uint8 and images.shape == (3, 32, 32, 3)
    assert torch.equal(images[..., :1], batch.images.flatten(0, 1))
    parts = [patchify(x, SMALL.patch) for x in (images, seen, made)]
    hidden = (parts[0] != parts[1]).any(2)
    assert (hidden.sum(1) <= 12).all() and hidden.float().mean() > 0.6  # of 16; grey on grey may not show
    assert torch.equal(parts[2][~hidden], parts[0][~hidden])
    assert not torch.equal(images, made)
    assert all(torch.equal(a, b) for a, b in zip((images, seen, made), encoder.rebuild(batch, seed=1), strict=True))
    files = figures.rebuilt(images.numpy(), seen.numpy(), made.numpy(), tmp_path / "rebuilt")
    assert [file.suffix for file in files] == [".svg", ".png"] and all(file.exists() for file in files)
    with pytest.raises(SchemaError, match="contrast alone"):
        built(replace(SMALL, reconstruction=0.0)).rebuild(batch)


def test_images_may_be_brought_to_another_size():
    encoder = built(replace(SMALL, pixels=64))
    assert encoder.shape.grid == (8, 8)
    assert encoder.eval().embed(toy_batch(SPEC, 2))["cls"].shape == (1, 2, 1, 24)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "cnn"}, "arch is vit or resnet"),
        ({"arch": "resnet", "weights": "somewhere"}, "starts afresh"),
        ({"augment": "colour"}, "augment is one of none, crop, turn"),
        ({"mask": 1.0}, "mask is a share below 1"),
        ({"mask": 0.0}, "above 0 when hidden patches are rebuilt"),
        ({"reconstruction": 0.0, "contrast": 0.0}, "one of them is above 0"),
        ({"contrast": -1.0}, "none below"),
        ({"spaces": ("cls", "tokens")}, "spaces are some of cls, mean, patches"),
        ({"decoder": (8, 1)}, "a decoder is its width, depth, heads and hidden width"),
        ({"parts": 0}, "parts is at least 1"),
        ({"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(SchemaError, match=words):
        replace(SMALL, **changes)


def test_too_few_patches_to_see_are_refused():
    with pytest.raises(SchemaError, match="hiding 97% of 16 patches leaves none to see"):
        built(replace(SMALL, mask=0.97))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four films of 40 images, prepared; two of them for test."""
    return testing.toy_film_dataset(tmp_path_factory.mktemp("films") / "films", recordings=4, seconds=4.0)


def experiment(films, method=SMALL, budget=QUICK, **windows):
    return Experiment(Windows(films.uri, batch_size=4, **windows), method, (Linear(),), budget, seed=1)


@pytest.fixture(scope="module")
def trained(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    return folder, run(experiment(films), folder)


def test_a_run_goes_from_images_to_scores(trained):
    folder, scores = trained
    assert set(scores) == {"running/cls"} and 0 <= scores["running/cls"] <= 1
    last = record.read_metrics(folder)[-1]
    assert last["step"] == 6 and {"mse", "infonce", "monitor/cls/rank"} <= set(last)


@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_that_was_killed_in_an_epoch_ends_with_the_same_weights(films, trained, tmp_path, stop):
    class Killed(BaseException):
        pass

    def log(progress):
        if progress.step == stop:
            raise Killed

    assert stream.plan(experiment(films).data, films, 1).steps_per_epoch > 2
    with pytest.raises(Killed):
        run(experiment(films), tmp_path, log)
    torch.manual_seed(999)
    assert run(experiment(films), tmp_path) == trained[1]
    expected, found = record.load_state(trained[0]), record.load_state(tmp_path)
    assert expected.keys() == found.keys() and all(torch.equal(expected[n], found[n]) for n in expected)


@pytest.mark.parametrize("pairs", ["video", "none"])
def test_other_pairs_are_a_word(films, tmp_path, pairs):
    method = replace(SMALL, contrast=0.0) if pairs == "none" else SMALL
    run(experiment(films, method, replace(QUICK, steps=2), pairs=pairs), tmp_path)
    assert record.finished(tmp_path)


def test_training_goes_on_from_a_run_with_every_part_of_it(films, trained, tmp_path, caplog):
    start = Budget(steps=1, device="cpu")
    again = experiment(films, replace(SMALL, weights=str(trained[0]), frozen=True), start)
    with caplog.at_level(logging.INFO, "ethoray.nn.vit_weights"):
        run(again, tmp_path)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "ethoray.nn.vit_weights"]
    assert "afresh" not in line and "not used" not in line
    before, after = record.load_state(trained[0]), record.load_state(tmp_path)
    names = [n for n in before if n.startswith("encoder/") and n != "encoder/images"]
    assert len(names) > 50 and all(torch.equal(before[n], after[n]) for n in names)
    assert record.finished(tmp_path)["running/cls"] == pytest.approx(trained[1]["running/cls"])


def test_a_projector_is_not_needed_to_go_on_without_contrast(films, trained, tmp_path, caplog):
    method = replace(SMALL, weights=str(trained[0]), contrast=0.0)
    with caplog.at_level(logging.INFO, "ethoray.nn.vit_weights"):
        run(experiment(films, method, Budget(steps=1, device="cpu")), tmp_path)
    assert "projector not used" in caplog.text


def test_weights_that_are_missing_end_the_run_before_it_trains(films, tmp_path):
    with pytest.raises(ReadError, match=r"nowhere: no such file or folder of weights; download them first"):
        run(experiment(films, replace(SMALL, weights=str(tmp_path / "nowhere"))), tmp_path / "run")


def test_weights_of_another_size_name_the_size_that_is_wanted(films, trained, tmp_path):
    narrow = replace(SMALL, width=16, weights=str(trained[0]))
    with pytest.raises(ReadError, match=r"checkpoint\.safetensors: .*the encoder here is 16 wide and 2 deep"):
        run(experiment(films, narrow), tmp_path)


def test_a_restored_encoder_needs_neither_the_weights_it_began_with_nor_the_data(films, trained, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes((trained[0] / "checkpoint.safetensors").read_bytes())
    run(experiment(films, replace(SMALL, weights=str(folder)), Budget(steps=1, device="cpu")), tmp_path / "run")
    (folder / "checkpoint.safetensors").unlink()
    _, encoder = restore(tmp_path / "run")
    assert encoder.embed(toy_batch(SPEC, 2))["cls"].isfinite().all()


def test_a_method_of_images_and_data_of_keypoints_say_so(toy, films):
    with pytest.raises(SchemaError, match="beast learns from images and batches of this dataset hold keypoints"):
        build(Experiment(Windows("toy"), SMALL, ()), stream.spec(Windows("toy"), toy, 0))
    with pytest.raises(SchemaError, match="bams learns from keypoints and batches of this dataset hold images"):
        build(Experiment(Windows("films"), BAMS(), ()), stream.spec(Windows("films"), films, 0))


@pytest.mark.slow
@pytest.mark.cluster
def test_two_workers_with_ray_data_learn_what_one_does_with_the_whole_batch(films, trained, tmp_path):
    import ray

    from ethoray import cluster

    stream.start_ray(num_cpus=2, log_to_driver=False)
    try:
        scores = cluster.launch(experiment(films), tmp_path, 2)
    finally:
        ray.shutdown()
    one, two = record.read_metrics(trained[0]), record.read_metrics(tmp_path)
    for name in ("loss", "mse", "infonce"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-5)
        # AdamW divides a gradient by its own size: what is rounding in a sum is a little more after each step.
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-3)
    assert scores == pytest.approx(trained[1], abs=0.05)
