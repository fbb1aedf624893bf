"""Published weights: their names and shapes as published, and a plain computation of what they should give."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ethoray.nn.vit import Decoder, Projector, Shape, ViT, hide, masked_autoencoding, patchify, sines
from ethoray.nn.vit_weights import find_weights, load_weights, translate
from ethoray.readers import ReadError

BASE = Shape((224, 224), 16, 768, 12, 12, 3072, (512, 8, 16, 2048))
SMALL = Shape((32, 32), 8, 24, 2, 3, 32, (16, 2, 4, 24))


class Autoencoder(nn.Module):
    def __init__(self, shape, projection=0):
        super().__init__()
        self.vit, self.decoder = ViT(shape), Decoder(shape)
        if projection:
            self.projector = Projector(shape.width, projection)


def layers(stem, width, hidden, depth, separate):
    """Names and shapes of transformer blocks: Hugging Face's, or those of the original."""
    found = {}
    for n in range(depth):
        block = f"{stem}.{n}."
        if separate:
            found |= {f"{block}attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
            found |= {f"{block}attention.output.dense": (width, width)}
            found |= {f"{block}intermediate.dense": (hidden, width), f"{block}output.dense": (width, hidden)}
            norms = ("layernorm_before", "layernorm_after")
        else:
            found |= {f"{block}attn.qkv": (3 * width, width), f"{block}attn.proj": (width, width)}
            found |= {f"{block}mlp.fc1": (hidden, width), f"{block}mlp.fc2": (width, hidden)}
            norms = ("norm1", "norm2")
        found |= {f"{block}{norm}": (width,) for norm in norms}
    return found


def named(linear, plain):
    """Every linear layer or norm has a weight of that shape and a bias as long as its first axis."""
    weights = {f"{name}.weight": shape for name, shape in linear.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in linear.items()} | plain


def hugging_face(shape, stem="vit.encoder.layer"):
    (rows, columns), (width, depth, _, hidden) = shape.grid, shape.decoder
    places = 1 + rows * columns
    linear = layers(stem, shape.width, shape.hidden, shape.depth, True)
    linear |= layers("decoder.decoder_layers", width, hidden, depth, True)
    linear |= {
        "vit.embeddings.patch_embeddings.projection": (shape.width, 3, shape.patch, shape.patch),
        "vit.layernorm": (shape.width,),
        "decoder.decoder_embed": (width, shape.width),
        "decoder.decoder_norm": (width,),
        "decoder.decoder_pred": (shape.values, width),
    }
    return named(
        linear,
        {
            "vit.embeddings.cls_token": (1, 1, shape.width),
            "vit.embeddings.position_embeddings": (1, places, shape.width),
            "decoder.mask_token": (1, 1, width),
            "decoder.decoder_pos_embed": (1, places, width),
        },
    )


def original(shape):
    (rows, columns), (width, depth, _, hidden) = shape.grid, shape.decoder
    linear = layers("blocks", shape.width, shape.hidden, shape.depth, False)
    linear |= layers("decoder_blocks", width, hidden, depth, False)
    linear |= {
        "patch_embed.proj": (shape.width, 3, shape.patch, shape.patch),
        "norm": (shape.width,),
        "decoder_embed": (width, shape.width),
        "decoder_norm": (width,),
        "decoder_pred": (shape.values, width),
    }
    return named(
        linear,
        {
            "cls_token": (1, 1, shape.width),
            "pos_embed": (1, 1 + rows * columns, shape.width),
            "mask_token": (1, 1, width),
            "decoder_pos_embed": (1, 1 + rows * columns, width),
        },
    )


def beast(shape, projection):
    linear = {f"proj.proj.{n}": (shape.width, shape.width) for n in (0, 3)}
    linear |= {"proj.proj.6": (projection, shape.width)} | {f"proj.proj.{n}": (shape.width,) for n in (1, 4)}
    counted = {f"proj.proj.{n}.{what}": (shape.width,) for n in (1, 4) for what in ("running_mean", "running_var")}
    counted |= {f"proj.proj.{n}.num_batches_tracked": () for n in (1, 4)}
    inside = {f"vit_mae.{name}": size for name, size in hugging_face(shape).items()}
    return inside | named(linear, counted)


def filled(shapes, shape, seed=0):
    """Random weights of these names; positions as they are published."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, size in shapes.items():
        if "pos" in name and "embed" in name:
            codes = sines(shape.grid, size[-1])
            out[name] = torch.cat([torch.zeros(1, size[-1]), codes])[None]
        else:
            out[name] = 0.2 * torch.randn(size, generator=generator)
    return out


def plain_loss(w, shape, images, noise):
    """ViT-MAE as published, the slow way: every patch is computed, and hidden ones are masked out of the attention."""
    hidden = noise.argsort(1).argsort(1) >= int(noise.shape[1] * 0.25)

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def attend(x, stem, heads, away):
        parts = [linear(f"{stem}.{p}", x).unflatten(-1, (heads, -1)) for p in ("query", "key", "value")]
        scores = torch.einsum("nqhd,nkhd->nhqk", parts[0], parts[1]) * parts[0].shape[-1] ** -0.5
        scores = scores.masked_fill(away[:, None, None], -torch.inf)
        return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), parts[2]).flatten(2)

    def block(x, stem, heads, away):
        seen = attend(norm(f"{stem}.layernorm_before", x), f"{stem}.attention.attention", heads, away)
        x = x + linear(f"{stem}.attention.output.dense", seen)
        inner = F.gelu(linear(f"{stem}.intermediate.dense", norm(f"{stem}.layernorm_after", x)))
        return x + linear(f"{stem}.output.dense", inner)

    kernel = w["vit.embeddings.patch_embeddings.projection.weight"]
    x = F.conv2d(images.permute(0, 3, 1, 2), kernel, w["vit.embeddings.patch_embeddings.projection.bias"], shape.patch)
    x = x.flatten(2).transpose(1, 2)
    x = (
        torch.cat([w["vit.embeddings.cls_token"].expand(len(x), -1, -1), x], 1)
        + w["vit.embeddings.position_embeddings"]
    )
    away = F.pad(hidden, (1, 0))
    for n in range(shape.depth):
        x = block(x, f"vit.encoder.layer.{n}", shape.heads, away)
    x = norm("vit.layernorm", x)
    cls = x[:, 0]
    x = linear("decoder.decoder_embed", x)
    x = torch.where(away[..., None], w["decoder.mask_token"], x) + w["decoder.decoder_pos_embed"]
    for n in range(shape.decoder[1]):
        x = block(x, f"decoder.decoder_layers.{n}", shape.decoder[2], torch.zeros_like(away))
    x = linear("decoder.decoder_pred", norm("decoder.decoder_norm", x))[:, 1:]
    wanted = F.unfold(images.permute(0, 3, 1, 2), shape.patch, stride=shape.patch)  # channel by channel
    wanted = wanted.unflatten(1, (3, -1)).permute(0, 3, 2, 1).flatten(2)
    errors = (x - wanted).square().mean(2)
    return cls, (errors * hidden).sum() / hidden.sum()


@pytest.mark.parametrize("names", [hugging_face, original, lambda shape: beast(shape, 768)])
def test_every_published_name_and_shape_has_its_place(names):
    with torch.device("meta"):
        model = Autoencoder(BASE, 768)
        tensors = {n: torch.empty(s) for n, s in names(BASE).items() if "pos" not in n or "embed" not in n}
    wanted = {name: p.shape for name, p in model.named_parameters()}
    found = {name: t.shape for name, t in translate(tensors).items()}
    missing = {name for name in wanted if name not in found}
    assert all(name.startswith("projector.") for name in missing) and len(missing) in (0, 10)
    assert found == {name: size for name, size in wanted.items() if name not in missing}


def test_newer_layers_are_known_without_the_word_encoder():
    assert (
        translate(filled(hugging_face(SMALL, "vit.layers"), SMALL)).keys()
        == translate(filled(hugging_face(SMALL), SMALL)).keys()
    )


def test_published_weights_give_the_loss_of_a_plain_computation_of_all_patches(tmp_path):
    weights = filled(hugging_face(SMALL), SMALL)
    save_file(weights, tmp_path / "model.safetensors")
    model = Autoencoder(SMALL)
    load_weights(model, tmp_path)
    generator = torch.Generator().manual_seed(3)
    images, noise = torch.randn(5, 32, 32, 3, generator=generator), torch.rand(5, 16, generator=generator)
    cls, errors = masked_autoencoding(model.vit, model.decoder, patchify(images, 8), hide(noise, 0.75))
    expected_cls, expected = plain_loss(weights, SMALL, images, noise)
    torch.testing.assert_close(cls, expected_cls, rtol=1e-5, atol=1e-5)
    assert errors.mean().item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_original_and_hugging_faces_names_hold_the_same_model():
    theirs = filled(original(SMALL), SMALL)
    named = {}
    for name, tensor in theirs.items():
        for short, long in (
            ("decoder_blocks.", "decoder.decoder_layers."), ("blocks.", "vit.encoder.layer."),
            ("patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
            ("cls_token", "vit.embeddings.cls_token"), ("mask_token", "decoder.mask_token"),
            ("norm.", "vit.layernorm."), ("decoder_", "decoder.decoder_"), ("pos_embed", ""),
        ):  # fmt: skip
            if name.startswith(short):
                name = long + name.removeprefix(short) if long else ""
                break
        for short, long in (
            (".norm1", ".layernorm_before"), (".norm2", ".layernorm_after"), (".attn.proj", ".attention.output.dense"),
            (".mlp.fc1", ".intermediate.dense"), (".mlp.fc2", ".output.dense"),
        ):  # fmt: skip
            name = name.replace(short, long)
        if ".attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                named[name.replace(".attn.qkv", f".attention.attention.{part}")] = third
        elif name:
            named[name] = tensor
    left, right = translate(theirs), translate(named)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[n], right[n]) for n in left)


def test_a_checkpoint_of_beast_is_whole_and_its_projector_computes_what_it_did(tmp_path):
    weights = filled(beast(SMALL, 10), SMALL)
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "best.ckpt")
    model = Autoencoder(SMALL, 10)
    load_weights(model, tmp_path / "best.ckpt")
    x = torch.randn(6, 24)
    theirs = nn.Sequential(
        nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU(),
        nn.Linear(24, 10),
    ).train()  # fmt: skip
    theirs.load_state_dict({n.removeprefix("proj.proj."): t for n, t in weights.items() if n.startswith("proj.")})
    torch.testing.assert_close(model.projector(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_an_encoder_alone_is_enough_and_what_starts_afresh_is_said(tmp_path, caplog):
    weights = {n.removeprefix("vit."): t for n, t in filled(hugging_face(SMALL), SMALL).items() if n.startswith("vit.")}
    save_file(weights, tmp_path / "encoder.safetensors")
    model = Autoencoder(SMALL, 10)
    before = model.decoder.mask.clone()
    with caplog.at_level(logging.INFO, "ethoray.nn.vit_weights"):
        load_weights(model, tmp_path / "encoder.safetensors")
    assert "decoder and projector start afresh" in caplog.text
    assert torch.equal(model.decoder.mask, before)
    assert torch.equal(model.vit.cls, weights["embeddings.cls_token"].flatten())


def test_weights_of_another_image_size_fit(tmp_path):
    save_file(filled(hugging_face(SMALL), SMALL), tmp_path / "model.safetensors")
    wide = Autoencoder(Shape((16, 48), 8, 24, 2, 3, 32, (16, 2, 4, 24)))
    load_weights(wide, tmp_path)
    assert wide.vit(torch.randn(1, 12, 192)).shape == (1, 13, 24)


def changed(change):
    weights = filled(hugging_face(SMALL), SMALL)
    change(weights)
    return weights


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("vit.layernorm.bias"), r"has no vit\.norm\.bias; the encoder here is 24 wide and 2 deep"),
        (lambda w: w.pop("decoder.decoder_norm.bias"), r"has no decoder\.norm\.bias"),
        (lambda w: w.pop("vit.encoder.layer.1.attention.attention.key.bias"), "not whole, only q, v"),
        (lambda w: w.update(classifier=torch.zeros(3)), "classifier: not names of a ViT-MAE"),
        (
            lambda w: w.update({"vit.layernorm.bias": torch.zeros(7)}),
            r"vit\.norm\.bias is \(7,\), this model's \(24,\)",
        ),
        (lambda w: w.update(hugging_face_third(w)), r"vit\.blocks\.2\S+ has no place in this model"),
        (
            lambda w: w.update({"vit.embeddings.position_embeddings": torch.randn(1, 17, 24)}),
            "not the fixed sines and cosines",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_is_changed(tmp_path, change, words):
    save_file(changed(change), tmp_path / "model.safetensors")
    model = Autoencoder(SMALL)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(ReadError, match=rf"model\.safetensors: .*{words}"):
        load_weights(model, tmp_path)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def hugging_face_third(weights):
    return {n.replace(".1.", ".2."): t.clone() for n, t in weights.items() if n.startswith("vit.encoder.layer.1.")}


class Trap:
    """What a pickle runs when it is opened."""

    def __reduce__(self):
        return print, ("opened",)


def test_a_file_that_could_run_code_is_not_opened(tmp_path, capsys):
    torch.save({"state_dict": {}, "hyper": Trap()}, tmp_path / "model.pt")
    with pytest.raises(ReadError, match=r"model\.pt: holds more than weights"):
        load_weights(Autoencoder(SMALL), tmp_path)
    assert "opened" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(ReadError, match=name):
        load_weights(Autoencoder(SMALL), tmp_path)


def test_a_folder_holds_one_file_or_a_known_name(tmp_path):
    with pytest.raises(ReadError, match=r"nowhere: no such file or folder"):
        find_weights(tmp_path / "nowhere")
    with pytest.raises(ReadError, match=r"should hold one file of weights .*; it holds none"):
        find_weights(tmp_path)
    for name in ("a.pth", "b.ckpt"):
        (tmp_path / name).touch()
    with pytest.raises(ReadError, match=r"it holds a\.pth, b\.ckpt"):
        find_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert find_weights(tmp_path).name == "pytorch_model.bin"
