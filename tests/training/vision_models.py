"""Tiny models that read images, and a task that neither texts nor images tell alone."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nProcessor,
    Gemma3Processor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30)}
FILLERS = tuple(f"w{number}" for number in range(12))
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>", "<boi>", "<boa>")
WORDS = (*SPECIALS, *COLOURS, *FILLERS)
SOUND = ("<eoi>", "<image>", "<eoa>", "<audio>")
VOCABULARY = (*WORDS, *SOUND)
ID = {word: number for number, word in enumerate(VOCABULARY)}
LANGUAGE_DEPTH = 2
VISION_DEPTH = 3
IMAGE_TOKENS = 4
SIDE = 16


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with the tokens that stand for images and sounds."""
    tokenizer = Tokenizer(WordLevel(ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", ID["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={
            "boi_token": "<boi>",
            "eoi_token": "<eoi>",
            "image_token": "<image>",
            "boa_token": "<boa>",
            "eoa_token": "<eoa>",
            "audio_token": "<audio>",
        },
    )


def build_model() -> PreTrainedModel:
    """Gemma 3 with a SigLIP tower that is deeper than its language model, 32 wide."""
    torch.manual_seed(0)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={**_language(), "num_hidden_layers": LANGUAGE_DEPTH},
            vision_config={
                **shared,
                "num_hidden_layers": VISION_DEPTH,
                "image_size": SIDE,
                "patch_size": 4,
            },
            mm_tokens_per_image=IMAGE_TOKENS,
            image_token_index=ID["<image>"],
            boi_token_index=ID["<boi>"],
            eoi_token_index=ID["<eoi>"],
        )
    )
    # It begins at zero, so that an untrained model would see nothing.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model


def build_gemma3n() -> PreTrainedModel:
    """Gemma 3n with a tiny tower of timm; its layers are all of its own making."""
    torch.manual_seed(0)
    text = {
        **_language(),
        "vocab_size_per_layer_input": len(WORDS),
        "hidden_size_per_layer_input": 8,
        "num_hidden_layers": 5,
        "num_kv_shared_layers": 0,
        "laurel_rank": 4,
        "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
    }
    return Gemma3nForConditionalGeneration(
        Gemma3nConfig(
            text_config=text,
            vision_config={
                "architecture": "test_resnet",
                "hidden_size": 96,
                "vocab_size": 2,
                "vocab_offset": len(WORDS),
            },
            audio_config={
                "vocab_size": 2,
                "vocab_offset": len(WORDS) + 2,
                "hidden_size": 32,
                "conf_num_attention_heads": 2,
                "conf_num_hidden_layers": 1,
                "input_feat_size": 16,
                "sscp_conv_channel_size": [8, 4],
            },
            vision_soft_tokens_per_image=IMAGE_TOKENS,
            image_token_id=ID["<image>"],
            boi_token_id=ID["<boi>"],
            eoi_token_id=ID["<eoi>"],
            audio_token_id=ID["<audio>"],
            boa_token_id=ID["<boa>"],
            eoa_token_id=ID["<eoa>"],
        )
    )


def _language() -> dict[str, object]:
    return {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "sliding_window": 32,
        "pad_token_id": ID["<pad>"],
        "bos_token_id": ID["<bos>"],
        "eos_token_id": ID["<eos>"],
    }


def build_processor(family: str = "gemma3") -> ProcessorMixin:
    """The family's processor, with a tokenizer of a few words and small images."""
    tokenizer = build_tokenizer()
    if family == "gemma3n":
        return Gemma3nProcessor(
            Gemma3nAudioFeatureExtractor(feature_size=16),
            SiglipImageProcessorPil(size={"height": 64, "width": 64}),
            tokenizer,
            image_seq_length=IMAGE_TOKENS,
        )
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_pan_and_scan=False)
    return Gemma3Processor(images, tokenizer, image_seq_length=IMAGE_TOKENS)


def save_model(folder: Path, family: str = "gemma3") -> Path:
    """Write a model and its processor as a user's local folder."""
    model = build_gemma3n() if family == "gemma3n" else build_model()
    model.save_pretrained(folder)
    build_processor(family).save_pretrained(folder)
    return folder


def draw(colour: str, seed: int) -> Image.Image:
    """A picture of nothing but a colour, in a shade of its own."""
    rng = random.Random(seed)
    shade = tuple(min(255, max(0, part + rng.randint(-8, 8))) for part in COLOURS[colour])
    return Image.new("RGB", (SIDE, SIDE), shade)


def write_news(
    folder: Path, count: int = 160, *, image_every: int = 1, telling: float = 0.0
) -> Path:
    """Write posts about a colour with a picture of one; they are fake where the two differ.

    Neither the text nor the image alone tells anything.

    Args:
        image_every: of so many posts one has an image.
        telling: share of the posts whose texts tell the label after all, by another word.
    """
    (folder / "images").mkdir(parents=True)
    rng = random.Random(0)
    place = folder / "news.csv"
    with place.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "image", "label"])
        for i in range(count):
            said, shown = (list(COLOURS)[i // power % 2] for power in (1, 2))
            told = bool(telling) and rng.random() < telling
            words = [FILLERS[said == shown] if told else rng.choice(FILLERS[2:]), said]
            name = ""
            if i // 4 % image_every == 0:
                name = f"images/{i}.png"
                draw(shown, i).save(folder / name)
            writer.writerow([f"{' '.join(words)} n{i}", name, "real" if said == shown else "fake"])
    return place
