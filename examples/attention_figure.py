"""Draw what the class token of a model looks at in a photograph.

Run: python examples/attention_figure.py PICTURE FIGURE.png [MODEL]
"""

import sys
from pathlib import Path

from vitrail.data import read_picture
from vitrail.explanations import attention_maps, picture_of
from vitrail.explanations.figures import save, two_panel
from vitrail.jobs.models import open_model

if __name__ == "__main__":
    picture, figure, model = [*sys.argv[1:], *["vit_small_patch14_dinov2"][len(sys.argv) - 3 :]]
    artefact = open_model(model)
    preprocess = artefact.preprocess
    image = preprocess(read_picture(picture))
    attention = attention_maps(artefact.model.eval(), image[None])[0]
    seen = picture_of(image, preprocess.mean, preprocess.std)
    save(two_panel(seen, attention, "class token, last layer, mean of heads"), Path(figure))
    print(f"attention on a grid of {attention.shape[0]} x {attention.shape[1]} patches → {figure}")
