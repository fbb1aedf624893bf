"""Published weights of masked autoencoders, under our names: Hugging Face's ViT-MAE, the original MAE, BEAST, our own.

Files are read without running anything in them: safetensors, or torch files that hold tensors only.
"""

from __future__ import annotations

import logging
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ethoray.nn.vit import sines
from ethoray.readers import ReadError

_NEAR = 1e-3
_log = logging.getLogger(__name__)
_NAMES = ("checkpoint.safetensors", "model.safetensors", "pytorch_model.bin")
_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin"}
_INSIDE = ("state_dict", "model_state_dict", "model")

_RULES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        # Hugging Face's ViT-MAE; BEAST's are the same behind "vit_mae."
        (r"vit\.embeddings\.cls_token", "vit.cls"),
        (r"vit\.embeddings\.patch_embeddings\.projection\.(weight|bias)", r"vit.patch.\1"),
        (r"vit\.layernorm\.(weight|bias)", r"vit.norm.\1"),
        (r"vit\.(?:encoder\.)?layers?\.(\d+)\.(.+)", r"vit.blocks.\1.\2"),
        (r"decoder\.mask_token", "decoder.mask"),
        (r"decoder\.decoder_embed\.(weight|bias)", r"decoder.embed.\1"),
        (r"decoder\.decoder_norm\.(weight|bias)", r"decoder.norm.\1"),
        (r"decoder\.decoder_pred\.(weight|bias)", r"decoder.predict.\1"),
        (r"decoder\.decoder_layers\.(\d+)\.(.+)", r"decoder.blocks.\1.\2"),
        # the original MAE
        (r"cls_token", "vit.cls"),
        (r"patch_embed\.proj\.(weight|bias)", r"vit.patch.\1"),
        (r"norm\.(weight|bias)", r"vit.norm.\1"),
        (r"blocks\.(\d+)\.(.+)", r"vit.blocks.\1.\2"),
        (r"mask_token", "decoder.mask"),
        (r"decoder_embed\.(weight|bias)", r"decoder.embed.\1"),
        (r"decoder_norm\.(weight|bias)", r"decoder.norm.\1"),
        (r"decoder_pred\.(weight|bias)", r"decoder.predict.\1"),
        (r"decoder_blocks\.(\d+)\.(.+)", r"decoder.blocks.\1.\2"),
        # BEAST's projector
        (r"proj\.proj\.0\.(weight|bias)", r"projector.first.\1"),
        (r"proj\.proj\.1\.(weight|bias)", r"projector.norm1.\1"),
        (r"proj\.proj\.3\.(weight|bias)", r"projector.second.\1"),
        (r"proj\.proj\.4\.(weight|bias)", r"projector.norm2.\1"),
        (r"proj\.proj\.6\.(weight|bias)", r"projector.third.\1"),
    )
)
_LAYER = {  # the parts of a block in both publications
    "layernorm_before": "norm1", "layernorm_after": "norm2", "attention.output.dense": "out",
    "attention.attention.query": "q", "attention.attention.key": "k", "attention.attention.value": "v",
    "intermediate.dense": "up", "output.dense": "down",
    "norm1": "norm1", "norm2": "norm2", "attn.qkv": "qkv", "attn.proj": "out", "mlp.fc1": "up", "mlp.fc2": "down",
}  # fmt: skip
_POSITIONS = re.compile(r".*pos(ition)?_embed(dings)?")  # fixed: they are computed
_UNUSED = re.compile(  # statistics and losses that inference does not need, and what a run of ours counts
    r".*(running_mean|running_var|num_batches_tracked)|temperature|perceptual_loss\..*|vit\.pooler\..*|images"
)
_OURS = re.compile(
    r"(vit\.(cls|patch\.|blocks\.\d+\.(norm|qkv|out|up|down)|norm\.)|decoder\.(mask$|embed\.|blocks\.|norm\.|predict\.)|projector\.)"
)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Put the weights of a file, or of a folder that holds one, into a model with ``vit``, ``decoder``, ``projector``.

    The encoder has to be whole; a decoder or a projector the file lacks stays as it is, and the log says so. Raises
    ReadError naming the file when it cannot be read, holds names nobody knows, or weights of another size.
    """
    file = find_weights(path)
    found = translate(read_weights(file), file)
    wanted = dict(model.named_parameters())
    parts = {name.partition(".")[0] for name in found}
    lacking = sorted(n for n in wanted if n not in found and n.partition(".")[0] in parts | {"vit"})
    if lacking:
        raise ReadError(
            f"{file}: has no {', '.join(lacking[:4])}{' ...' if len(lacking) > 4 else ''}; {_sizes(wanted)}"
        )
    for name, tensor in found.items():
        if name not in wanted:
            if name.partition(".")[0] in {n.partition(".")[0] for n in wanted}:
                raise ReadError(f"{file}: {name} has no place in this model; {_sizes(wanted)}")
            continue
        if tensor.shape != wanted[name].shape:
            raise ReadError(
                f"{file}: {name} is {tuple(tensor.shape)}, this model's {tuple(wanted[name].shape)}; {_sizes(wanted)}"
            )
    with torch.no_grad():
        for name, tensor in found.items():
            if name in wanted:
                wanted[name].copy_(tensor)
    fresh = sorted({n.partition(".")[0] for n in wanted} - parts)
    unused = sorted(parts - {n.partition(".")[0] for n in wanted})
    more = f"; {' and '.join(fresh)} start afresh" * bool(fresh) + f"; {' and '.join(unused)} not used" * bool(unused)
    _log.info("weights of %s loaded: %d tensors%s", file, len(found), more)


def _sizes(wanted: Mapping[str, Tensor]) -> str:
    depth = 1 + max(int(n.split(".")[2]) for n in wanted if n.startswith("vit.blocks."))
    return f"the encoder here is {wanted['vit.cls'].shape[0]} wide and {depth} deep: choose the preset they belong to"


def find_weights(path: str | Path) -> Path:
    """The file that is meant; in a folder a checkpoint of ours, one of Hugging Face's names, or the only file."""
    place = Path(path)
    if place.is_file():
        return place
    if not place.is_dir():
        raise ReadError(f"{place}: no such file or folder of weights; download them first, nothing is fetched here")
    for name in _NAMES:
        if (place / name).is_file():
            return place / name
    there = sorted(p for p in place.iterdir() if p.suffix in _SUFFIXES)
    if len(there) != 1:
        held = ", ".join(p.name for p in there) or "none"
        raise ReadError(f"{place}: should hold one file of weights ({', '.join(sorted(_SUFFIXES))}); it holds {held}")
    return there[0]


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; raises ReadError when it is damaged or holds more than tensors."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError) as error:
        raise ReadError(f"{file}: not a file of weights, or a damaged one ({error})") from error
    except pickle.UnpicklingError as error:
        raise ReadError(
            f"{file}: holds more than weights, which could run code, and is not opened; save its state_dict alone, "
            "best as safetensors"
        ) from error
    for name in _INSIDE:
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
            break
    if not isinstance(held, Mapping) or not all(isinstance(v, Tensor) for v in held.values()):
        raise ReadError(f"{file}: holds no dictionary of weights by name")
    return {str(name): tensor for name, tensor in held.items()}


def translate(tensors: Mapping[str, Tensor], file: Path | str = "weights") -> dict[str, Tensor]:
    """Weights under our names: linear patch embedding, one matrix for queries, keys and values, flat tokens.

    Raises ReadError listing names that are not known; nothing is left out silently but what is fixed or computed.
    """
    if any(name.startswith("encoder/") for name in tensors):  # a checkpoint of a run: optimiser and step besides
        tensors = {n.removeprefix("encoder/"): t for n, t in tensors.items() if n.startswith("encoder/")}
    out: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    odd: list[str] = []
    for name, tensor in tensors.items():
        ours = _ours(name)
        if _POSITIONS.fullmatch(name):
            _check_positions(name, tensor, file)
        if ours is None:
            odd.append(name)
        elif match := re.fullmatch(r"(.+)\.(q|k|v)\.(weight|bias)", ours):
            thirds.setdefault(f"{match[1]}.qkv.{match[3]}", {})[match[2]] = tensor
        elif ours:
            out[ours] = _shaped(ours, tensor)
    for name, parts in thirds.items():
        if set(parts) != {"q", "k", "v"}:
            raise ReadError(f"{file}: {name} is not whole, only {', '.join(sorted(parts))} of q, k, v are there")
        out[name] = torch.cat([parts[part] for part in "qkv"])
    if odd:
        raise ReadError(
            f"{file}: {', '.join(sorted(odd)[:6])}{' ...' if len(odd) > 6 else ''}: not names of a ViT-MAE, of BEAST "
            "or of a run of beast"
        )
    return out


def _check_positions(name: str, tensor: Tensor, file: Path | str) -> None:
    """Raise ReadError unless position codes of CLS and a square of patches are those that ``vit.sines`` computes."""
    codes = tensor.detach().float().flatten(0, -2)
    side = math.isqrt(len(codes) - 1)
    if side**2 != len(codes) - 1 or codes[0].abs().max() > _NEAR:
        known = False
    else:
        known = bool((codes[1:] - sines((side, side), codes.shape[1])).abs().max() <= _NEAR)
    if not known:
        raise ReadError(
            f"{file}: {name} are not the fixed sines and cosines of a masked autoencoder, so these are the weights of "
            "another model, which would see its patches in the wrong places"
        )


def _ours(name: str) -> str | None:
    """Our name of a tensor, "" for one that is not needed, None for an unknown one."""
    if _OURS.match(name):
        return name
    name = re.sub(r"^(?:module\.|_orig_mod\.)*(?:vit_mae\.)?", "", name)
    if re.match(r"embeddings\.|encoder\.layer|layernorm\.|layers\.", name):  # the encoder alone
        name = f"vit.{name}"
    if _POSITIONS.fullmatch(name) or _UNUSED.fullmatch(name):
        return ""
    for pattern, replacement in _RULES:
        if match := pattern.fullmatch(name):
            return _layer(match.expand(replacement))
    return None


def _layer(name: str) -> str | None:
    match = re.fullmatch(r"((?:vit|decoder)\.blocks\.\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        return name
    part = _LAYER.get(match[2])
    return None if part is None else f"{match[1]}.{part}.{match[3]}"


def _shaped(name: str, tensor: Tensor) -> Tensor:
    if name in ("vit.cls", "decoder.mask"):
        return tensor.flatten()
    if name == "vit.patch.weight" and tensor.ndim == 4:  # a convolution: (width, channel, row, column)
        return tensor.permute(0, 2, 3, 1).flatten(1)
    return tensor
