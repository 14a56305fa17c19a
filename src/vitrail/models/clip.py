"""Pairs of an image and a text tower whose vectors can be compared: CLIP and SigLIP.

Sources: CLIP (Radford et al. 2021, figure 3), SigLIP (Zhai et al. 2023, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.models.model import Model, shared_numbers
from vitrail.models.text import TextPool, TextTower
from vitrail.models.tower import TOWER_MODELS, ImageTower, ImageTowerConfig
from vitrail.nn.init import init_jax, init_scaled
from vitrail.nn.tokens import Tokens


@dataclass(frozen=True)
class DualEncoderConfig(ImageTowerConfig):
    """The numbers of a pair: those of the image tower, and these.

    Attributes:
        text_dim, text_depth, text_heads, text_mlp_ratio: as ``embed_dim`` … of the text tower.
        vocab_size, context_length: token numbers, and tokens of the longest sentence.
        end_token, pad_token: numbers that end a sentence and fill it up.
        clean: how sentences are brought into the form that the tokenizer was made for (see ``data.text``).
        text_causal, text_pool: who sees whom in the text, and which token stands for it.
        joint_dim: width in which pictures and texts meet.
        image_projection: the image tower's vector goes through a linear layer; else it is ``joint_dim`` wide already.
        text_projection_bias: whether the text's linear layer has one.
        loss: what the pair is trained by: ``"softmax"`` over a batch, or ``"sigmoid"`` of each pair, with a bias.
    """

    text_dim: int = 512
    text_depth: int = 12
    text_heads: int = 8
    text_mlp_ratio: float = 4.0
    vocab_size: int = 49408
    context_length: int = 77
    end_token: int = 49407
    pad_token: int = 49407
    clean: Literal["none", "lower", "canonical"] = "none"
    text_causal: bool = True
    text_pool: TextPool = "end"
    joint_dim: int = 512
    image_projection: bool = True
    text_projection_bias: bool = False
    loss: Literal["softmax", "sigmoid"] = "softmax"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes:
            raise VitrailError("a pair of towers has no classifier: num_classes must be 0; its classes are texts")
        if self.text_dim % self.text_heads:
            raise VitrailError(f"text_dim {self.text_dim} is not divisible by text_heads {self.text_heads}")
        if not self.image_projection and self.joint_dim != self.embed_dim:
            raise VitrailError(
                f"without image_projection joint_dim must be embed_dim ({self.embed_dim}), not {self.joint_dim}"
            )
        for name, number in (("end_token", self.end_token), ("pad_token", self.pad_token)):
            if not 0 <= number < self.vocab_size:
                raise VitrailError(f"{name} {number} is no token of a vocabulary of {self.vocab_size}")

    @property
    def tower(self) -> ImageTowerConfig:
        """The image tower's own numbers."""
        return ImageTowerConfig(**shared_numbers(self, ImageTowerConfig))


class DualEncoder(Model[DualEncoderConfig]):
    """Pictures and texts into one space; how well they fit is their scalar product.

    Shapes:
        ``(B, in_channels, H, W)`` and token numbers ``(T, context_length)`` to logits ``(B, T)``.
    """

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.image = ImageTower(config.tower)
        self.img_size, self.patch_size = self.image.img_size, self.image.patch_size
        self.in_channels, self.num_classes, self.taps = config.in_channels, 0, config.depth
        self.text = TextTower(
            config.vocab_size,
            config.context_length,
            dim=config.text_dim,
            depth=config.text_depth,
            num_heads=config.text_heads,
            mlp_ratio=config.text_mlp_ratio,
            causal=config.text_causal,
            pool=config.text_pool,
            end_token=config.end_token,
            activation=config.activation,
            norm_eps=config.norm_eps,
        )
        features, joint = self.image.num_features, config.joint_dim
        self.image_proj = nn.Linear(features, joint, bias=False) if config.image_projection else nn.Identity()
        self.text_proj = nn.Linear(config.text_dim, joint, bias=config.text_projection_bias)
        sigmoid = config.loss == "sigmoid"
        # Starts as published: a temperature of 0.07 for the softmax, 10 and -10 for the sigmoid.
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0 if sigmoid else 1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None
        self._initialise()

    def _initialise(self) -> None:
        text, dim = self.text, self.config.text_dim
        if self.config.loss == "sigmoid":
            init_jax(text.blocks)
            nn.init.normal_(text.token_embed.weight, std=dim**-0.5)
            nn.init.normal_(text.pos_embed, std=dim**-0.5)
        else:
            init_scaled(text.blocks, dim, self.config.text_depth)
            nn.init.normal_(text.token_embed.weight, std=0.02)
        for layer in (self.image_proj, self.text_proj):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def embed_images(self, images: Tensor) -> Float[Tensor, "b e"]:
        """Pictures as vectors of length one."""
        return F.normalize(self.image_proj(self.image(images)), dim=-1)

    def embed_texts(self, token_ids: Int[Tensor, "t l"]) -> Float[Tensor, "t e"]:
        """Texts as vectors of length one."""
        return F.normalize(self.text_proj(self.text(token_ids)), dim=-1)

    def logits(self, images: Float[Tensor, "b e"], texts: Float[Tensor, "t e"]) -> Float[Tensor, "b t"]:
        """How well embedded pictures and texts fit: ``exp(scale) · cosine``, plus the bias where there is one."""
        scores = self.logit_scale.exp() * images @ texts.T
        return scores if self.logit_bias is None else scores + self.logit_bias

    def probabilities(self, logits: Float[Tensor, "b t"]) -> Float[Tensor, "b t"]:
        """Of each text for a picture: among all of them (softmax), or each by itself (sigmoid)."""
        return logits.softmax(dim=-1) if self.logit_bias is None else logits.sigmoid()

    def forward(self, images: Tensor, token_ids: Int[Tensor, "t l"]) -> Float[Tensor, "b t"]:
        """Logits of every picture with every text."""
        return self.logits(self.embed_images(images), self.embed_texts(token_ids))

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """The image tower's."""
        return self.image.intermediates(images, depths, norm)

    def example_inputs(self, batch: int = 1, img_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Noise pictures, and as many texts of random words that end where the context does."""
        images = super().example_inputs(batch, img_size)
        shape = (batch, self.config.context_length)
        token_ids = torch.randint(self.config.vocab_size, shape, device=images[0].device)
        token_ids[:, -1] = self.config.end_token
        return (*images, token_ids)

    def roles(self) -> dict[str, Role]:
        """Depths that meet at the end: the last blocks of both towers are equally far from the projections."""
        last = max(self.config.depth, self.config.text_depth) + 1
        roles = {}
        towers = (
            ("image", self.image.roles(), self.config.depth),
            ("text", self._text_roles(), self.config.text_depth),
        )
        for tower, own, depth in towers:
            for name, role in own.items():
                roles[f"{tower}.{name}"] = replace(role, depth=role.depth + last - 1 - depth if role.depth else 0)
        for name, parameter in self.named_parameters():
            if name not in roles:
                roles[name] = Role(last, decay=parameter.ndim > 1)
        return roles

    def _text_roles(self) -> dict[str, Role]:
        roles = {}
        for name, parameter in self.text.named_parameters():
            part = name.split(".")
            depth = int(part[1]) + 1 if part[0] == "blocks" else self.config.text_depth + 1 if part[0] == "norm" else 0
            roles[name] = Role(depth, decay=parameter.ndim > 1 and part[0] not in ("token_embed", "pos_embed"))
        return roles


def _sizes() -> dict[str, DualEncoderConfig]:
    """The published pairs."""
    table: dict[str, DualEncoderConfig] = {}
    for size, pixels in (("base_patch32", 224), ("base_patch16", 224), ("large_patch14", 224), ("large_patch14", 336)):
        numbers = asdict(TOWER_MODELS[f"vit_{size}_clip_quickgelu_{pixels}"])
        width = 768 if size.startswith("large") else 512
        table[f"clip_vit_{size}_{pixels}"] = DualEncoderConfig(
            **numbers, text_dim=width, text_heads=width // 64, joint_dim=width
        )
    for name, tower in TOWER_MODELS.items():
        if "siglip" not in name:
            continue
        table[f"siglip_{name.replace('_siglip', '')}"] = DualEncoderConfig(
            **asdict(tower),
            text_dim=tower.embed_dim,
            text_depth=tower.depth,
            text_heads=tower.num_heads,
            text_mlp_ratio=tower.mlp_ratio,
            vocab_size=32_000,
            context_length=16 if name == "vit_so400m_patch14_siglip_224" else 64,
            end_token=1,
            pad_token=1,
            clean="canonical",
            text_causal=False,
            text_pool="last",
            joint_dim=tower.embed_dim,
            image_projection=False,
            text_projection_bias=True,
            loss="sigmoid",
        )
    return table


PAIR_MODELS: dict[str, DualEncoderConfig] = _sizes()
