"""Fine-tune a pretrained model on a folder of pictures: one sub-folder per class.

Run: python examples/finetune_folder.py PICTURES [MODEL [EPOCHS]]
"""

import sys

import vitrail

if __name__ == "__main__":
    data, model, epochs = [*sys.argv[1:], *["", "vit_small_patch14_dinov2", "10"][len(sys.argv) - 1 :]]
    config = vitrail.TrainConfig(data=data, model=model, epochs=int(epochs), batch_size=16, workers=0)
    result = vitrail.train(config)
    if result is not None:
        print(f"accuracy {result.scores.accuracy:.2%}, model in {result.out / 'model'}, report {result.report}")
