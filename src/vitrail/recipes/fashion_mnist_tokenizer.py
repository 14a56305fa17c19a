"""Visual tokens for Fashion-MNIST: 7×7 codes out of 512 for every picture, to be predicted by fashion_mnist_beit.

Command: ``vitrail pretrain --recipe fashion_mnist_tokenizer --out runs/fashion-mnist-tokenizer``
Cost: 13 minutes of one CPU core.
Expected: 0.052 mean absolute error and a perplexity of 280 of the 512 codes over the last batches (seed 0); a
perplexity of 1 or 2 would be a collapse.
"""

from __future__ import annotations

from vitrail.jobs.pretrain_config import PretrainConfig


def config() -> PretrainConfig:
    """DALL·E's architecture with 16 channels in place of 256, one block a group, codes of 4×4 pixels."""
    return PretrainConfig(
        data="fashion-mnist",
        method="tokenizer",
        method_options=(
            # The divergence counts from the first step on, and little. Where its weight rises slowly, a short run
            # soon says everything in two codes; where it is the paper's 6.6, codes of 16 grey pixels say nothing.
            *("kl_weight=0.3", "kl_share=0"),
            *("temperature=2", "last_temperature=0.25", "temperature_share=0.9"),
            # Half the pictures' pixels are a background of exactly 0, see TokenizerOptions.
            "least_scale=0.5",
        ),
        model="dvae_tiny_stride4_28",
        crop=1.0,
        crop_scale=None,
        epochs=4,
        batch_size=128,
        lr=3e-3,
        warmup_fraction=0.05,
        weight_decay=1e-4,
        betas=(0.9, 0.999),
        # Making a batch of such small pictures is less work than handing it over from another process.
        workers=0,
    )
