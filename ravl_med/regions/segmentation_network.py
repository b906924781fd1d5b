"""The network of a segmenter folder: MONAI's by name with plain weights, or TorchScript if allowed.

TorchScript is a program. It has operators that read and write any file of whoever runs it, and a
part of it runs while it is opened. It is opened with the user's consent alone, and its source is
searched before.

References
----------
MONAI bundle specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ravl_med.errors import ModelError
from ravl_med.storage.bounded_reading import SMALL, parse_json, parse_yaml, read_regular

_NETWORKS = {
    "AttentionUnet": "attentionunet",
    "BasicUNet": "basic_unet",
    "DynUNet": "dynunet",
    "SegResNet": "segresnet",
    "UNet": "unet",
    "UNETR": "unetr",
    "VNet": "vnet",
}
"""Networks of MONAI that are built by name, and the modules of monai.networks.nets they are in."""

_LARGEST = 4 << 30  # bytes of a file of weights
_MOST = 16_384  # of any whole number among the arguments, such as channels or pixels
_MOST_PARAMETERS = 1_000_000_000
_ALLOWED = ("aten", "prim", "torchvision", "quantized", "prepacked")
_FORBIDDEN = frozenset(
    {"save", "from_file", "read_file", "write_file", "rpc_async", "rpc_sync", "rpc_remote"}
)
"""Operators of TorchScript that read or write files, or call other machines."""


def load_scripted(path: Path, name: str, device: torch.device) -> torch.jit.ScriptModule:
    """Open a TorchScript file that the user allowed to run; `name` is for messages.

    Raises
    ------
    ModelError
        It is none, or names an operator that reads or writes files or calls other machines.
    """
    load: Callable[..., torch.jit.ScriptModule] = torch.jit.load
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is")
        try:
            content = read_regular(path, _LARGEST)
            found = next(_forbidden_operators(content), None)
            network = None if found else load(io.BytesIO(content), map_location=device)
        except Exception as error:  # torch raises many types here, with paths in their messages
            raise ModelError(
                f"regions.segmenter: {name[:80]!r} does not open as TorchScript "
                f"({type(error).__name__}); expected what torch.jit.trace or torch.jit.script made "
                "and torch.jit.save wrote. A state dict or a pickled model is not opened so."
            ) from None
    if network is None:
        raise ModelError(
            f"regions.segmenter: {name[:80]!r} names {found!r}, which reads or writes files or "
            "calls for what is not part of a network; refused. Expected a network that computes "
            "alone: export it without, or name one of MONAI's with plain weights."
        )
    network.eval()
    return network


def _forbidden_operators(content: bytes) -> Iterator[str]:
    """Yield what a TorchScript file names that no network needs, by the reader that opens it."""
    reader: Any = torch._C.PyTorchFileReader(io.BytesIO(content))
    for record in reader.get_all_records():
        if record.endswith(".py"):
            yield from _forbidden_names(reader.get_record(record).decode("utf-8"))
        elif record.endswith(".pkl") and b"torch.classes" in reader.get_record(record):
            yield "torch.classes"


def _forbidden_names(source: str) -> Iterator[str]:
    """Yield forbidden names of a source, which is Python's grammar; anything else is an error."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Constant(value=str() as name) if name in _FORBIDDEN:
                yield name
            case ast.Attribute(value=ast.Name(id="ops"), attr=name) if name not in _ALLOWED:
                yield f"ops.{name}"[:80]
            case ast.Attribute(value=ast.Name(id="torch" | "__torch__"), attr="classes"):
                yield "torch.classes"
            case ast.Attribute(attr="classes", value=ast.Attribute(attr="torch")):
                yield "torch.classes"


def network_of_bundle(folder: Path) -> dict[str, Any] | None:
    """Return `network_def` of a bundle's inference config as name and arguments, or None.

    References to plain values of the config (``@spatial_dims``) are followed; expressions are not.
    """
    for suffix, parse in (("json", parse_json), ("yaml", _parse_yaml), ("yml", _parse_yaml)):
        path = folder / "configs" / f"inference.{suffix}"
        if path.is_file():
            try:
                config = parse(read_regular(path, SMALL))
                return _plain_network(config["network_def"], config)
            except (ValueError, KeyError, TypeError, OSError):
                return None
    return None


def _parse_yaml(content: bytes) -> Any:
    from ruamel.yaml.error import YAMLError

    try:
        return parse_yaml(content.decode("utf-8"))
    except YAMLError as error:
        raise ValueError(type(error).__name__) from None


def _plain_network(described: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition with its references followed (ValueError where it is no plain one)."""

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            value = config[value[1:]]
        if isinstance(value, str) and value[:1] in "@$%":
            raise ValueError("an expression")
        return [plain(one) for one in value] if isinstance(value, list) else value

    network = {str(key): plain(value) for key, value in described.items() if key != "_target_"}
    return {"name": str(described["_target_"]).rpartition(".")[2], **network}


def build_network(described: Mapping[str, Any], source: str) -> nn.Module:
    """Build a network of MONAI, with random weights, from its name and plain arguments.

    Raises
    ------
    ModelError
        The name, an argument or a value is none that is allowed, or the network does not build.
    """
    arguments = dict(described)
    name = arguments.pop("name", None)
    if name not in _NETWORKS:
        raise ModelError(
            f"regions.segmenter: {source}: name is {str(name)[:40]!r}; expected one of "
            f"{', '.join(_NETWORKS)}, which are built from plain values."
        )
    module = __import__(f"monai.networks.nets.{_NETWORKS[name]}", fromlist=[name])
    kind: Callable[..., nn.Module] = getattr(module, name)
    known = [key for key in inspect.signature(kind).parameters if key != "pretrained"]
    for key, value in arguments.items():
        if key not in known:
            raise ModelError(
                f"regions.segmenter: {source}: {name} has no argument {key[:40]!r}; expected some "
                f"of {', '.join(known)}."
            )
        if not _is_plain(value):
            raise ModelError(
                f"regions.segmenter: {source}: {key} is {repr(value)[:60]}; expected names, truth "
                f"values and numbers up to {_MOST:,}, alone or in lists of at most 32."
            )
    if arguments.get("spatial_dims", 2) != 2:
        raise ModelError(
            f"regions.segmenter: {source}: spatial_dims is {arguments['spatial_dims']}; expected "
            "2, since films are planes."
        )
    arguments = {"spatial_dims": 2, **arguments}
    try:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in kind(**arguments).parameters())
        if count <= _MOST_PARAMETERS:
            return kind(**arguments).eval()
    except Exception as error:  # MONAI and torch raise many types here
        raise ModelError(
            f"regions.segmenter: {source}: MONAI does not build this {name} "
            f"({type(error).__name__}); expected the arguments that it was trained with."
        ) from None
    raise ModelError(
        f"regions.segmenter: {source}: the {name} has {count:,} parameters; expected at most "
        f"{_MOST_PARAMETERS:,}."
    )


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (list, tuple)):
        return depth < 3 and len(value) <= 32 and all(_is_plain(one, depth + 1) for one in value)
    if isinstance(value, dict):
        return (
            depth < 3 and len(value) <= 32 and all(_is_plain(v, depth + 1) for v in value.values())
        )
    if isinstance(value, str):
        return re.fullmatch(r"[\w. -]{0,40}", value) is not None
    return value is None or (isinstance(value, (bool, int, float)) and abs(value) <= _MOST)


def load_weights(network: nn.Module, path: Path, name: str) -> None:
    """Put the weights of a file into a network, all of them and nothing else.

    Raises
    ------
    ModelError
        The file is no safetensors and no state dict that loads with weights_only, or of another
        network.
    """
    from safetensors.torch import load

    try:
        content = read_regular(path, _LARGEST)
        if path.suffix == ".safetensors":
            state: Any = load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile, pickle and safetensors raise many types here
        raise ModelError(
            f"regions.segmenter: {name[:80]!r} cannot be read ({type(error).__name__}); expected "
            "safetensors, or a state dict that loads with weights_only."
        ) from None
    try:
        state = state.get("state_dict", state.get("model", state))
        network.load_state_dict(state, strict=True)
    except Exception as error:
        raise ModelError(
            f"regions.segmenter: the weights of {name[:80]!r} are not those of the network that is "
            f"described ({type(error).__name__}); expected every weight, and no other."
        ) from None
