"""PE-Core's two halves against open_clip's on the same weights: `pe-spatial benchmark text`."""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pe_spatial.backbones import PECore
from pe_spatial.backbones.text import fill_template
from pe_spatial.backbones.weights import to_timm
from pe_spatial.commands.benchmark import measuring
from pe_spatial.common.errors import MissingPackage, OptionError

# sentences as they are usual, of 5 to 10 tokens with start and end
TEMPLATES = ("a photo of a {c}.", "a bad photo of the {c}.", "itap of my {c}.", "a {c} in a video game.")
NAMES = ("cat", "dog", "fire truck", "red bicycle", "tench", "golden retriever", "street sign", "espresso")

# our names and open_clip's
OPEN_CLIP = {
    "PE-Core-T16-384": "PE-Core-T-16-384",
    "PE-Core-S16-384": "PE-Core-S-16-384",
    "PE-Core-B16-224": "PE-Core-B-16",
    "PE-Core-L14-336": "PE-Core-L-14-336",
    "PE-Core-G14-448": "PE-Core-bigG-14-448",
}

Encode = Callable[[], Tensor]


@torch.no_grad()
def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run, show and return the figures."""
    torch.manual_seed(0)
    ours = PECore(options.variant).to(options.device)
    theirs = open_clip_model(ours, options.variant).to(options.device)
    texts = [fill_template(TEMPLATES[i % len(TEMPLATES)], NAMES[i % len(NAMES)]) for i in range(options.texts)]
    tokens = ours.tokenize(texts)
    images = torch.randn(options.batch_size, 3, ours.image_size, ours.image_size, device=options.device)
    longest = int(tokens.argmax(dim=1).max()) + 1
    print(f"{len(texts)} texts of up to {longest} tokens (context {tokens.shape[1]}), {len(images)} images")
    pairs: dict[str, tuple[Encode, Encode]] = {
        "text": (partial(ours.encode_text, tokens), partial(theirs.encode_text, tokens)),
        "text, no prompt cut": (partial(whole_context, ours, tokens), partial(theirs.encode_text, tokens)),
        "image": (partial(ours.encode_image, images), partial(theirs.encode_image, images)),
    }
    clock = measuring.clock_of(options.device, options.clock)
    rows = []
    for name, (mine, other) in pairs.items():
        ways = {"ours": mine, "open_clip": other}
        times = measuring.take_turns(
            {way: partial(_seconds, encode, clock) for way, encode in ways.items()}, options.rounds
        )
        row = {
            "what": name,
            "ours_s": statistics.median(times["ours"]),
            "open_clip_s": statistics.median(times["open_clip"]),
            "open_clip_over_ours": measuring.median_ratio(times["ours"], times["open_clip"]),
            "largest_difference": (mine() - other()).abs().max().item(),
        }
        rows.append(row)
        measuring.show(row)
    return {"variant": options.variant, "texts": len(texts), "clock": options.clock, "rows": rows}


def _seconds(encode: Encode, clock: measuring.Clock, _: int) -> float:
    return measuring.timed(encode, clock)


def whole_context(model: PECore, tokens: Tensor) -> Tensor:
    """The features of tokens with all places of the context computed, as open_clip does."""
    states = model.text_hidden(tokens)
    return states[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=1)] @ model.text_projection


def open_clip_model(model: PECore, variant: str) -> Any:  # noqa: ANN401 - open_clip ships no types
    """open_clip's model of a released PE-Core, with the same weights.

    Raises:
        MissingPackage: open_clip is not installed.
        OptionError: It has no such model.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise MissingPackage("open_clip is not installed; pip install 'pe_spatial[text]'") from error
    name = OPEN_CLIP.get(variant, "")
    if name not in open_clip.list_models():
        raise OptionError(f"open_clip has no model {variant}; give a released PE-Core")
    theirs = open_clip.create_model(name, pretrained=None).eval()
    state = model.state_dict()
    image = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
    text = {f"text.{key}": tensor for key, tensor in state.items() if not key.startswith("visual.")}
    scale = text.pop("text.logit_scale")
    theirs.load_state_dict(
        {"logit_scale": scale, **text, **{f"visual.trunk.{key}": tensor for key, tensor in to_timm(image).items()}}
    )
    return theirs
