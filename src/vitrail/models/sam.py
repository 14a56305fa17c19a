"""Segment Anything: masks of whatever points, boxes or rough masks point at (Kirillov et al. 2023).

The picture is encoded once, which is the dear part; each prompt is then answered by two small heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.contracts import Role, VitrailError
from vitrail.heads.mask import MaskDecoder
from vitrail.heads.prompt import PromptEncoder
from vitrail.models.model import Model, shared_numbers
from vitrail.models.sam_encoder import SAM_ENCODERS, SamEncoder, SamEncoderConfig
from vitrail.nn.tokens import Tokens


@dataclass(frozen=True)
class SamConfig(SamEncoderConfig):
    """The numbers of SAM: those of its image encoder, whose ``neck_dim`` is the width of all else, and the heads'.

    Attributes:
        decoder_depth, decoder_heads, decoder_mlp_dim: blocks of the mask decoder, their heads, the width of their MLP.
        decoder_eps: epsilon of the norms in these blocks.
        mask_channels: of the first steps of shrinking a mask prompt.
        num_masks: masks for an ambiguous prompt.
        iou_dim: width of the MLP that predicts the quality of masks.
    """

    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    decoder_eps: float = 1e-5
    mask_channels: int = 16
    num_masks: int = 3
    iou_dim: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes:
            raise VitrailError(f"SAM names no classes: num_classes must be 0, not {self.num_classes}")
        if self.neck_dim % (2 * self.decoder_heads) or self.neck_dim % 8 or self.mask_channels % 4:
            raise VitrailError(
                f"neck_dim {self.neck_dim} must be a multiple of 8 and of twice decoder_heads ({self.decoder_heads}), "
                f"and mask_channels {self.mask_channels} one of 4"
            )

    @property
    def encoder(self) -> SamEncoderConfig:
        """The image encoder's part."""
        return SamEncoderConfig(**shared_numbers(self, SamEncoderConfig))


class Sam(Model[SamConfig]):
    """Image encoder, prompt encoder and mask decoder.

    One embedding serves many prompts: ``decode`` takes ``P`` of them for each picture.

    Args:
        config: all numbers.

    Example::

        embedding = model.encode(images)  # (1, 256, 64, 64)
        points, labels = torch.tensor([[[[120.0, 80.0]]]]), torch.tensor([[[1]]])
        masks, iou = model.decode(embedding, points, labels)  # (1, 1, 3, 256, 256), (1, 1, 3)
    """

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = 0
        self.image_encoder = SamEncoder(config.encoder)
        self.img_size = self.image_encoder.img_size
        self.patch_size = self.image_encoder.patch_size
        self.in_channels = config.in_channels
        self.taps = config.depth
        self.prompt_encoder = PromptEncoder(config.neck_dim, config.mask_channels)
        self.mask_decoder = MaskDecoder(
            config.neck_dim,
            config.decoder_depth,
            config.decoder_heads,
            config.decoder_mlp_dim,
            config.num_masks,
            config.iou_dim,
            config.decoder_eps,
        )

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d rows columns"]:
        """The embedding of pictures, ``neck_dim`` channels on the patch grid."""
        return self.image_encoder.features(images).feature_map()

    def decode(
        self,
        embedding: Float[Tensor, "b d rows columns"],
        points: Float[Tensor, "b p n 2"] | None = None,
        labels: Int[Tensor, "b p n"] | None = None,
        boxes: Float[Tensor, "b p 4"] | None = None,
        masks: Float[Tensor, "b p rows4 columns4"] | None = None,
        multimask: bool = True,
    ) -> tuple[Float[Tensor, "b p m rows4 columns4"], Float[Tensor, "b p m"]]:
        """Masks for ``P`` prompts a picture, and the IoU that each is expected to have with the truth.

        Args:
            embedding: from :meth:`encode`.
            points: ``(x, y)`` in pixels of the model's input, ``N`` for each prompt.
            labels: 1 on the object, 0 beside it, -1 for a point that is not there (prompts of different lengths).
            boxes: ``(x0, y0, x1, y1)`` in pixels of the model's input, at most one for each prompt.
            masks: logits of a rough mask, four to a patch side; an earlier answer, for instance.
            multimask: ``num_masks`` masks, for a prompt that may mean several things (a single click); else the one
                that is meant for prompts that say more.

        Returns:
            Logits (above 0 is inside), four to a patch side, and predicted IoU.

        Raises:
            VitrailError: no prompt at all, points without labels, or a mask prompt of another size.
        """
        if (points is None) != (labels is None):
            raise VitrailError("points and labels belong together: give both or neither")
        given = [prompt for prompt in (points, boxes, masks) if prompt is not None]
        if not given:
            raise VitrailError("there is no prompt: give points with labels, boxes or masks")
        count = given[0].shape[1]
        rows, columns = embedding.shape[-2:]
        if masks is not None and masks.shape[-2:] != (4 * rows, 4 * columns):
            raise VitrailError(
                f"mask prompts are {tuple(masks.shape[-2:])}, but a grid of {rows}x{columns} takes "
                f"{4 * rows}x{4 * columns}"
            )
        size = (rows * self.patch_size[0], columns * self.patch_size[1])
        found = self.prompt_encoder.sparse(_each(points), _each(labels), _each(boxes), size)
        image = embedding.flatten(2).transpose(1, 2).repeat_interleave(count, dim=0)
        sparse = torch.cat(found, dim=1) if found else image[:, :0]
        tokens = Tokens(image + self.prompt_encoder.dense(_each(masks)), (rows, columns))
        places = self.prompt_encoder.positions.grid(tokens.grid)
        logits, iou = self.mask_decoder(tokens, places, sparse)
        chosen = slice(1, None) if multimask else slice(0, 1)
        return logits[:, chosen].unflatten(0, (-1, count)), iou[:, chosen].unflatten(0, (-1, count))

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        points: Float[Tensor, "b p n 2"] | None = None,
        labels: Int[Tensor, "b p n"] | None = None,
        boxes: Float[Tensor, "b p 4"] | None = None,
        masks: Float[Tensor, "b p rows4 columns4"] | None = None,
        multimask: bool = True,
    ) -> tuple[Float[Tensor, "b p m rows4 columns4"], Float[Tensor, "b p m"]]:
        """:meth:`decode` of :meth:`encode`."""
        return self.decode(self.encode(images), points, labels, boxes, masks, multimask)

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Those of the image encoder."""
        return self.image_encoder.intermediates(images, depths, norm)

    def example_inputs(self, batch: int = 1, img_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Noise pictures and a click in the middle of each."""
        (images,) = super().example_inputs(batch, img_size)
        height, width = images.shape[-2:]
        middle = torch.tensor([width / 2, height / 2], device=images.device).expand(batch, 1, 1, 2)
        return images, middle, torch.ones(batch, 1, 1, dtype=torch.int64, device=images.device)

    def roles(self) -> dict[str, Role]:
        """The encoder's own; both heads count as behind its last block."""
        tables = ("kinds", "no_mask", "iou_token", "mask_tokens")
        roles = {f"image_encoder.{name}": role for name, role in self.image_encoder.roles().items()}
        for name, parameter in self.named_parameters():
            if name not in roles:
                decay = parameter.ndim > 1 and name.split(".")[-1] not in tables
                roles[name] = Role(self.taps + 1, decay)
        return roles


def _each(prompts: Tensor | None) -> Tensor | None:
    """A row for every prompt of every picture."""
    return None if prompts is None else prompts.flatten(0, 1)


SAM_MODELS: dict[str, SamConfig] = {
    name.replace("samvit", "sam_vit"): SamConfig(**asdict(config)) for name, config in SAM_ENCODERS.items()
}
