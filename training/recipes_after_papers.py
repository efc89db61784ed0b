"""Recipes of systems whose authors' own are unknown: this project's choices, after their papers. See recipes.py."""

from corpora import recipe_of

# Of WavLM systems whose recipes are unknown, on the raw waveform, as Microsoft's own program takes it.
_AFTER_WAVLM = {
    "ssl": "wavlm_large_raw",
    "epochs": 50,
    "early_stop": 5,
    "batch_size": 32,
    "optimizer": "AdamW",
    "lr": 1e-5,
    "weight_decay": 1e-4,
    "schedule": "constant",
    "loss": "weighted_CCE",
    "class_weights": [0.1, 0.9],
    "algo": 0,
    "crop": 64600,
    "crop_place": "random",
    "validation": "loss",
    "not_carried_over": "all of it: after Guo et al. (MFA) and Tran et al. (LayerASP_MLP, who add a supervised "
    "contrastive loss), whose recipes are unknown; this project's own choice, near that of AttM_LSTM",
}
# After Martín-Doñas and Álvarez 2022.
_VICOMTECH = {
    "model_name": "wav2vec2_Vicomtech",
    "n_output_logits": 1,
    "epochs": 100,
    "early_stop": 10,
    "batch_size": 64,
    "optimizer": "Adam",
    "lr": 3e-4,
    "weight_decay": 0.0,
    "schedule": "constant",
    "SSL_freeze_epoch": 100,
    "loss": "OC_softmax",
    "crop": 64000,
    "crop_place": "random",
    "validation": "loss",
    "not_carried_over": "all of it but low-pass filters as augmentation and the one-class softmax: after Martín-Doñas "
    "and Álvarez, whose recipe is unknown; this project's own choice, near that of LGF with the encoder fixed",
}
# Baselines of Liu et al. 2025, on singing.
_BASELINE = {
    "n_output_logits": 1,
    **recipe_of("CtrSVDD"),
    "not_carried_over": "the sizes of the back-end, which are unknown; this project's own choice. The training is that "
    "of Nes2Net_X_singing",
}
_SLIM = {
    "model_name": "wav2vec2_SLIM",
    "epochs": 50,
    "early_stop": 10,
    "weight_decay": 1e-4,
    "schedule": "constant",
    "SSL_freeze_epoch": 50,
    "algo": 0,
    "crop": 64000,
    "crop_place": "random",
    "validation": "loss",
    "seed": 1234,
}
_AASIST = {"model_name": "wav2vec2_AASIST", **recipe_of("ASVspoof2019_LA", "wav2vec2_AASIST")}
_LATENT = {
    **_AASIST,
    "algo": 0,
    "early_stop": 7,
    "not_carried_over": "all of it but several prototypes of spoof, one of bona fide, and what is made up: after Huang "
    "et al., whose recipe is unknown; this project's own choice, that of AASIST without RawBoost. Their extra "
    "augmentation is unknown; --algo 5 is one",
}

AFTER_PAPERS = {
    # After Zhang et al. 2024.
    "AASIST2": {
        "model_name": "wav2vec2_AASIST2",
        **recipe_of("ASVspoof2019_LA", "wav2vec2_AASIST"),
        "loss": "duration_AM_softmax",
        "dynamic_crop": [16000, 96000],
        "crop_place": "random_if_longer",
        "not_carried_over": "all of it but the margin by duration: after Zhang et al., whose recipe is unknown; "
        "this project's own choice: that of AASIST, chunks of 1 to 6 s, scale 15, a margin of 0.2 in three quarters",
    },
    # After Guo et al. 2024, and after Tran et al. 2024.
    "MFA": {"model_name": "WavLM_MFA", **_AFTER_WAVLM},
    "LayerASP_MLP": {"model_name": "WavLM_LayerASP_MLP", **_AFTER_WAVLM},
    "ResNet": {"model_name": "WavLM_ResNet", **_BASELINE},
    "Res2Net": {"model_name": "WavLM_Res2Net", **_BASELINE},
    "ECAPA_TDNN": {"model_name": "WavLM_ECAPA_TDNN", **_BASELINE},
    "FIR_NB": {**_VICOMTECH, "augment": "FIR-NB"},
    "FIR_WB": {**_VICOMTECH, "augment": "FIR-WB"},
    # After Tran et al. 2024, with their second loss.
    "LayerASP_MLP_SupCon": {
        "model_name": "WavLM_LayerASP_MLP",
        **_AFTER_WAVLM,
        "loss": "weighted_CCE_SupCon",
        "not_carried_over": "all of it but the two losses: after Tran et al., whose recipe is unknown, as are the "
        "temperature and the weight of the contrastive loss; here 0.1 and 1",
    },
    # After Lu et al. 2024; OCKD_MSE is what they compare with.
    "OCKD": {
        **_AASIST,
        "algo": 5,
        "loss": "OCKD",
        "validation": "eer",
        "valid_crop": True,
        "early_stop": 7,
        "keep": "improved",
        "not_carried_over": "all of it but a teacher of both classes, a student of bona fide speech and the cosine: "
        "after Lu et al., whose recipe is unknown; this project's own choice, that of AASIST. --teacher is a detector "
        "of --recipe AASIST",
    },
    # After Rosello et al. 2024.
    "gated_ensemble": {
        "model_name": "wav2vec2_Linear",
        "loss": "gated_ensemble",
        "epochs": 20,
        "early_stop": 5,
        "batch_size": 32,
        "optimizer": "Adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "SSL_freeze_epoch": 20,
        "class_weights": [0.1, 0.9],
        "algo": 5,
        "crop": 64600,
        "crop_place": "random",
        "validation": "eer",
        "valid_crop": True,
        "not_carried_over": "all of it but weights for each utterance: after Rosello et al., whose members, gate and "
        "recipe are unknown; this project's own choice: a linear gate of the mean feature of an encoder that is not "
        "trained. --members are two or more trained detectors",
    },
    # This project's own reading of Wang et al. 2024.
    "FTD": {
        **_AASIST,
        "algo": 0,
        "loss": "FTD",
        "early_stop": 7,
        "not_carried_over": "all of it: of Wang et al.'s FTDKD only title and results were at hand; this project's own "
        "reading of the title, which no figure of theirs belongs to. --teacher is a detector of --recipe AASIST",
    },
    # After Zhu et al. 2024.
    "SLIM_stage1": {
        **_SLIM,
        "loss": "SLIM_stage1",
        "batch_size": 257,
        "optimizer": "AdamW",
        "lr": 1e-3,
        "not_carried_over": "two encoders, tuned for emotion and for speech recognition, of which one stands here for "
        "both: after Zhu et al.; this project's own recipe",
    },
    "SLIM_stage2": {
        **_SLIM,
        "loss": "SLIM_stage2",
        "class_weights": [0.1, 0.9],
        "batch_size": 32,
        "optimizer": "Adam",
        "lr": 1e-4,
        "not_carried_over": "as SLIM_stage1, a detector of which is --teacher; the recipe is this project's own",
    },
    # After Huang et al. 2025, without and with latent space augmentation.
    "LSR": {**_LATENT, "loss": "LSR"},
    "LSR_LSA": {**_LATENT, "loss": "LSR_LSA"},
}
