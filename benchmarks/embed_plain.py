"""Class-token features of a folder of pictures with Transformers alone: what one writes without Vitrail.

Run: python benchmarks/embed_plain.py MODEL_FOLDER PICTURES [BATCH]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, BitImageProcessor


def embed_plain(model_folder: Path, pictures: Path, batch_size: int = 32) -> int:
    """Writes ``plain.npy`` into the model's folder; tells how many pictures there were."""
    processor = BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    model = AutoModel.from_pretrained(model_folder).eval()
    paths = sorted(pictures.glob("*.jpg"))
    rows = []
    for start in range(0, len(paths), batch_size):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + batch_size]]
        inputs = processor(images=images, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**inputs).last_hidden_state[:, 0].numpy())
    np.save(model_folder / "plain.npy", np.concatenate(rows))
    return len(paths)


if __name__ == "__main__":
    embed_plain(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 32)
