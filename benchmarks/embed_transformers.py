"""Embeddings of a folder of pictures with plain Transformers, as its documentation does it.

Run: python benchmarks/embed_transformers.py FOLDER MODEL_FOLDER OUT.npy [--batch-size 32]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    processor = AutoImageProcessor.from_pretrained(given.model)
    model = AutoModel.from_pretrained(given.model).eval()
    files = sorted(given.folder.glob("*.jpg"))
    vectors = []
    for start in range(0, len(files), given.batch_size):
        pictures = [Image.open(file).convert("RGB") for file in files[start : start + given.batch_size]]
        inputs = processor(images=pictures, return_tensors="pt")
        with torch.no_grad():
            vectors.append(model(**inputs).last_hidden_state[:, 0])
    np.save(given.out, torch.cat(vectors).numpy())


if __name__ == "__main__":
    main()
