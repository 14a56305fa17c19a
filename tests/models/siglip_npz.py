"""SigLIP's own file layout, filled with random weights."""

from __future__ import annotations

import numpy as np


def siglip_npz(prefix: str, stacked: bool) -> dict[str, np.ndarray]:
    """Random weights in big_vision's layout: 64 wide, 2 deep, 1 head."""
    random = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return random.normal(0, shape[0] ** -0.5, shape).astype(np.float32)

    def dense(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
        return {f"{name}/kernel": array(rows, columns), f"{name}/bias": 0.1 * array(columns)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}/scale": 1 + 0.1 * array(64), f"{name}/bias": 0.1 * array(64)}

    def attention(name: str) -> dict[str, np.ndarray]:
        out = {}
        for part in ("query", "key", "value"):
            out |= {f"{name}/{part}/kernel": array(64, 1, 64), f"{name}/{part}/bias": array(1, 64)}
        return out | {f"{name}/out/kernel": array(1, 64, 64) / 8, f"{name}/out/bias": array(64)}

    def mlp(name: str) -> dict[str, np.ndarray]:
        return {**dense(f"{name}/Dense_0", 64, 256), **dense(f"{name}/Dense_1", 256, 64)}

    def layers(root: str) -> dict[str, np.ndarray]:
        blocks = [
            {
                **norm("LayerNorm_0"),
                **attention("MultiHeadDotProductAttention_0"),
                **norm("LayerNorm_1"),
                **mlp("MlpBlock_0"),
            }
            for _ in range(2)
        ]
        if stacked:
            return {f"{root}/encoderblock/{name}": np.stack([b[name] for b in blocks]) for name in blocks[0]}
        return {f"{root}/encoderblock_{i}/{name}": v for i, block in enumerate(blocks) for name, v in block.items()}

    out = {
        "img/embedding/kernel": array(8, 8, 3, 64) / 8,
        "img/embedding/bias": array(64),
        "img/pos_embedding": array(1, 16, 64),
        **layers("img/Transformer"),
        **norm("img/Transformer/encoder_norm"),
        "img/MAPHead_0/probe": array(1, 1, 64),
        **attention("img/MAPHead_0/MultiHeadDotProductAttention_0"),
        **norm("img/MAPHead_0/LayerNorm_0"),
        **mlp("img/MAPHead_0/MlpBlock_0"),
        "txt/Embed_0/embedding": array(50, 64),
        "txt/pos_embedding": array(1, 9, 64),
        **layers("txt/Encoder_0"),
        **norm("txt/Encoder_0/encoder_norm"),
        **dense("txt/head", 64, 64),
        "t": np.array([1.7], dtype=np.float32),
        "b": np.array([-3.0], dtype=np.float32),
    }
    return {prefix + name: value for name, value in out.items()}
