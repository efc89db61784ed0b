"""Recipes of this project's own, of no paper: the demo's, and a small detector for a CPU or a laptop's GPU."""

# A wav2vec 2.0 of 123 thousand parameters from random weights, behind it Nes2Net-X: what train.sh trains.
DEMO = {
    "model_name": "wav2vec2_Nes2Net_X",
    "ssl": "tiny",
    "Nes_ratio": [4, 4],
    "algo": 8,
    "crop": 24000,
    "crop_place": "random",
    "epochs": 20,
    "batch_size": 16,
    "optimizer": "AdamW",
    "lr": 0.002,
    "weight_decay": 0.01,
    "schedule": "onecycle",
    "class_weights": [0.5, 0.5],
    "keep": "every",
    "average_best": 3,
    "seed": 1,
}
OWN = {
    "demo": DEMO,
    # The same for one's own data: a schedule that more epochs may follow, and dev figures of whole utterances.
    "small": {
        **DEMO,
        "loss": "weighted_CCE",
        "schedule": "warmup_exponential",
        "warmup_epochs": 2,
        "gamma": 0.9,
        "validation": "eer",
        "keep_best": 3,
    },
}
