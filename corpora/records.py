"""One record per corpus: everything specific to a corpus in this project.

A corpus with a record here can be recognised, located, trained on, scored and reported on; corpus.py describes the
fields. Places are relative to the folder to which the corpus, or its keys, were unpacked; audio is also searched for
around the list.
Sources: the corpora's own archives, READMEs and evaluation plans, and the released commands of Liu et al. 2025.
"""

from corpora.corpus import Corpus

# Liu et al. 2025, section IV, and the released commands.
SPEECH = {
    "epochs": 100,
    "batch_size": 12,
    "optimizer": "Adam",
    "lr": 2.5e-7,
    "schedule": "constant",
    "algo": 4,
    "crop": 64600,
    "crop_place": "first",
    "validation": "loss",
    "seed": 1234,
}
SINGING = {
    "epochs": 75,
    "batch_size": 34,
    "optimizer": "AdamW",
    "lr": 1e-6,
    "schedule": "cosine",
    "algo": 8,
    "crop": 64000,
    "crop_place": "random",
    "validation": "eer",
    # The published code loads WavLM through s3prl, which sets both.
    "feature_grad_mult": 0.0,
    "encoder_layerdrop": 0.0,
    "seed": 42,
}

LA_CODECS = ("none", "alaw", "pstn", "g722", "ulaw", "gsm", "opus")
DF_CODECS = ("nocodec", "low_mp3", "high_mp3", "low_m4a", "high_m4a", "low_ogg", "high_ogg", "mp3m4a", "oggm4a")
DF_VOCODERS = ("traditional_vocoder", "waveform_concatenation", "neural_vocoder_autoregressive")
DF_VOCODERS += ("neural_vocoder_nonautoregressive", "unknown")
SUBSETS = {"eval": "eval", "progress": "progress", "hidden": "hidden", "hidden_track": "hidden", "all": None}

_LA_FOLDERS = ("", "ASVspoof2019_LA_cm_protocols/", "ASVspoof_LA_cm_protocols/", "LA/ASVspoof2019_LA_cm_protocols/")
_PARTIAL_FOLDERS = ("", "PartialSpoof_LA_cm_protocols/", "protocols/PartialSpoof_LA_cm_protocols/")
_ANY_COLUMN = dict.fromkeys(("dataset", "attack", "codec", "transmission", "source", "vocoder", "gender"), ())

CORPORA = {
    "ASVspoof2019_LA": Corpus(
        columns=("speaker", "utt_id", "-", "attack", "key"),
        roots=("", "LA"),
        lists={
            "train": "ASVspoof2019.LA.cm.train.trn.txt",
            "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
            "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
        },
        list_folders=("ASVspoof2019_LA_cm_protocols", "ASVspoof_LA_cm_protocols", "ASVspoof_LA", "."),
        audio={split: (f"ASVspoof2019_LA_{split}/flac",) for split in ("train", "dev", "eval")},
        keys=tuple(f"{folder}ASVspoof2019.LA.cm.eval.trl.txt" for folder in _LA_FOLDERS),
        asv_scores="ASVspoof2019_LA_asv_scores/ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt",
        train_flag="database_path",
        recipe=SPEECH,
        recipe_of_models={"wav2vec2_AASIST": {"lr": 1e-6}},  # the baseline of Liu et al.
        tdcf="2019",
    ),
    "ASVspoof2019_PA": Corpus(
        columns=("speaker", "utt_id", "environment", "attack", "key"),
        first_line={"environment": "[abc]{3}"},  # "-" in lists of LA
        roots=("", "PA"),
        lists={
            "train": "ASVspoof2019.PA.cm.train.trn.txt",
            "dev": "ASVspoof2019.PA.cm.dev.trl.txt",
            "eval": "ASVspoof2019.PA.cm.eval.trl.txt",
        },
        list_folders=("ASVspoof2019_PA_cm_protocols", "."),
        audio={split: (f"ASVspoof2019_PA_{split}/flac",) for split in ("train", "dev", "eval")},
        breakdowns={"attack": (), "environment": ()},
    ),
    "PartialSpoof": Corpus(
        columns=("speaker", "utt_id", "-", "attack", "key"),
        some_line={"attack": ("CON",)},  # its spoofed trials are concatenations
        roots=("", "database"),
        lists={split: f"PartialSpoof.LA.cm.{split}.trl.txt" for split in ("train", "dev", "eval")},
        list_folders=("protocols/PartialSpoof_LA_cm_protocols", "PartialSpoof_LA_cm_protocols", "."),
        audio={split: (f"{split}/con_wav",) for split in ("train", "dev", "eval")},
        keys=tuple(f"{folder}PartialSpoof.LA.cm.eval.trl.txt" for folder in _PARTIAL_FOLDERS),
        segments=(
            *(f"segment_labels/{{split}}_seglab_{unit}.npy" for unit in ("0.01", "0.02")),
            "segment_labels/{split}.rttm",  # written by tools/make_demo_corpus.py --partial
        ),
    ),
    "ASVspoof2021_LA": Corpus(
        columns=("speaker", "utt_id", "codec", "transmission", "attack", "key", "trim", "subset"),
        roots=("", "LA"),
        lists={"eval": "ASVspoof2021.LA.cm.eval.trl.txt"},  # ids only; the key was released later
        list_folders=("ASVspoof_LA_cm_protocols", "ASVspoof2021_LA_eval_cm_protocols", "ASVspoof2021_LA_eval", "."),
        audio={"eval": ("ASVspoof2021_LA_eval/flac",)},
        keys=tuple(f"{folder}CM/trial_metadata.txt" for folder in ("LA/", "keys/LA/", "keys/", "")),
        asv_scores="ASV/ASV[Tt]orch_[Kk]aldi/score.txt",
        asv_key="ASV/trial_metadata.txt",
        track="LA",
        test_length=64600,
        test_protocol="4sec",
        breakdowns={"attack": (), "codec": LA_CODECS, "transmission": ()},
    ),
    "ASVspoof2021_DF": Corpus(
        columns=tuple(
            "speaker utt_id codec source attack key trim subset vocoder task team gender_pair language".split()
        ),
        roots=("", "LA"),
        lists={"eval": "ASVspoof2021.DF.cm.eval.trl.txt"},
        list_folders=("ASVspoof_DF_cm_protocols", "ASVspoof2021_DF_eval_cm_protocols", "ASVspoof2021_DF_eval", "."),
        audio={"eval": ("ASVspoof2021_DF_eval/flac",)},
        keys=tuple(f"{folder}CM/trial_metadata.txt" for folder in ("DF/", "keys/DF/", "keys/", "")),
        track="DF",
        test_length=64600,
        test_protocol="4sec",
        breakdowns={"attack": (), "codec": DF_CODECS, "source": (), "vocoder": DF_VOCODERS},
    ),
    # Columns: room and microphone of the verification system and the talker's distance to it; then, for replayed
    # trials, the attacker's room and microphone, the replay device and its distance.
    "ASVspoof2021_PA": Corpus(
        columns=(
            *("speaker", "utt_id", "room", "microphone", "talker_distance", "attack_room", "attack_microphone"),
            *("replay_device", "attack_distance", "key", "trim", "subset"),
        ),
        roots=("", "PA"),
        lists={"eval": "ASVspoof2021.PA.cm.eval.trl.txt"},
        list_folders=("ASVspoof_PA_cm_protocols", "ASVspoof2021_PA_eval_cm_protocols", "ASVspoof2021_PA_eval", "."),
        audio={"eval": ("ASVspoof2021_PA_eval/flac",)},
        keys=tuple(f"{folder}CM/trial_metadata.txt" for folder in ("PA/", "keys/PA/", "keys/", "")),
        breakdowns=dict.fromkeys(("room", "microphone", "replay_device"), ()),
    ),
    "ASVspoof2015": Corpus(
        columns=("speaker", "utt_id", "attack", "key"),
        bonafide="human",
        audio={"eval": ("wav", ".")},
    ),
    # The files of ASVspoof 5's challenge phase.
    "ASVspoof5_metainfo": Corpus(
        columns=("speaker", "utt_id", "gender", "-", "attack", "key"),
        first_line={"gender": "F|M"},  # CtrSVDD also has six columns
        lists={split: f"ASVspoof5.{split}.metainfor.txt" for split in ("train", "dev")},
        audio={"train": ("flac_T",), "dev": ("flac_D",), "eval": ("flac_E",)},
        breakdowns={"attack": (), "gender": ()},
    ),
    "CtrSVDD": Corpus(
        columns=("dataset", "speaker", "utt_id", "-", "attack", "key"),
        spoof="deepfake",
        lists={split: f"{split}.txt" for split in ("train", "dev", "test")},
        audio={split: (f"{split}_set",) for split in ("train", "dev", "test")},
        keys=("test.txt",),
        train_flag="base_dir",
        recipe=SINGING,
        drop_last=False,
        breakdowns={"dataset": (), "attack": ()},
        published="ctrsvdd",
        published_report="ctrsvdd",
    ),
    "ASVspoof5": Corpus(
        # The sixth column is the codec's seed (the source utterance); the last is unused.
        columns=tuple("speaker utt_id gender codec codec_quality - attack_tag attack key -".split()),
        lists={
            "train": "ASVspoof5.train.tsv",
            "dev": "ASVspoof5.dev.track_1.tsv",
            "eval": "ASVspoof5.eval.track_1.tsv",
        },
        list_folders=(".", "ASVspoof5_protocols"),
        audio={
            "train": ("flac_T",),
            "dev": ("flac_D",),
            "eval": ("flac_E_eval", "eval_full/flac_E_eval", "ASVspoof5_eval/flac_E_eval"),
        },
        keys=("ASVspoof5.eval.track_1.tsv",),
        breakdowns={"attack": (), "codec": (), "gender": ()},
    ),
    "in_the_wild": Corpus(
        columns=("file", "speaker", "label"),
        header=True,
        audio={"eval": (".", "release_in_the_wild")},
        keys=("meta.csv", "release_in_the_wild/meta.csv"),
        track="in_the_wild",
        test_length_of={"Mamba": 64600},
        breakdowns={},
        published="in_the_wild",
    ),
    # Lines `UTT DURATION spoof|bonafide START-END-LABEL ...`: one text form for PartialSpoof, HAD, LlamaPartialSpoof.
    "partially_spoofed": Corpus(
        columns=("utt_id", "duration", "key", "-"),
        open_ended=True,
        first_line={"duration": r"\d+(\.\d+)?", "-": r"([\d.]+-[\d.]+-\S+( |$))*"},
        audio={"eval": ("con_wav", "wav", ".")},
        breakdowns={},
    ),
    # Codecfake of Xie et al.; the codec of bona fide trials is 0.
    "Codecfake": Corpus(
        columns=("utt_id", "key", "codec"),
        bonafide="real",
        spoof="fake",
        absent=("0",),
        first_line={"codec": r"\d{1,2}"},
        lists={"train": "train.txt", "dev": "dev.txt"} | {f"C{i}": f"C{i}.txt" for i in range(1, 8)},
        list_folders=("label", "."),
        audio={split: (split,) for split in ("train", "dev", *(f"C{i}" for i in range(1, 8)))},
        breakdowns={"codec": ()},
    ),
    "ADD2022": Corpus(
        columns=("utt_id", "key"),
        bonafide="genuine",
        spoof="fake",
        first_line={"utt_id": r"ADD_\w+(\.\w+)?"},
        audio={"eval": ("wav", ".")},
        breakdowns={},
    ),
    "ADD2023": Corpus(
        columns=("utt_id", "key"),
        bonafide="genuine",
        spoof="fake",
        first_line={"utt_id": r"ADD2023_\S+"},
        lists={"eval": "label.txt"},
        audio={"eval": ("wav", ".")},
        breakdowns={},
    ),
    # Every set of the arena has such a list, with absolute paths.
    "SpeechDFArena": Corpus(columns=("file_name", "label"), header=True, audio={"eval": (".",)}, breakdowns={}),
    "AntiDeepfake": Corpus(
        columns=tuple(
            "id label duration samplerate path attack speaker proportion audiochannel audioencoding audiobitsample "
            "language".split()
        ),
        header=True,
        audio={"eval": (".",)},  # the folder that `$ROOT/` in its paths stands for
        breakdowns={"attack": (), "language": ()},
    ),
    "DeepFense": Corpus(
        columns=("id", "path", "label", "dataset_name"),
        header=True,
        audio={"eval": (".",)},
        breakdowns={"dataset_name": ()},
    ),
    "SpoofCeleb": Corpus(
        columns=("file", "speaker", "attack"),
        header=True,
        label_column="attack",
        bonafide="a00",
        spoof="",
        lists={"train": "train.csv", "dev": "development.csv", "eval": "evaluation.csv"},
        list_folders=("metadata", "."),
        audio={
            split: (f"flac/{name}", name)
            for split, name in (("train", "train"), ("dev", "development"), ("eval", "evaluation"))
        },
    ),
    # Any table with a header, or a list of names and labels; its breakdowns are all columns that other corpora have.
    "csv": Corpus(
        header=True,
        audio={"eval": (".", "release_in_the_wild")},
        breakdowns={**_ANY_COLUMN, "language": (), "split": (), "codec": LA_CODECS + DF_CODECS, "vocoder": DF_VOCODERS},
    ),
    "list": Corpus(columns=("utt_id",)),  # ids only, of any corpus: audio is searched for in the places of all corpora
    # Corpora without lists; `python -m corpora` writes a table ("csv") for each.
    "CodecFake_Wu": Corpus(
        header=True,
        paths=r"(?P<attack>[^/+]+)\+(?P<speaker>[^/+_]+)_[^/]+",
        layout="processed/encodec_24khz+p272_103.wav",
        bonafide_from="VCTK",
    ),
    "DFADD": Corpus(
        header=True,
        paths=r"DATASET_(?:(?P<bonafide>[^/]*BONAFIDE)|(?P<attack>[^/]+))/(?P<split>train|valid|test)/"
        r"(?:[^/]+/)*(?P<speaker>[^/_]+)_[^/]+",
        layout="DATASET_{GradTTS,VCTK_BONAFIDE}/{train,valid,test}/p345_251.wav",
    ),
    "Deepfake_Eval_2024": Corpus(  # whole recordings, or their segments NAME_seg1, which the bootstrap draws together
        header=True,
        paths=r"(?P<split>train|test)/(?:[^/]+/)?(?:(?P<bonafide>real)|fake)/(?P<speaker>[^/]+?)(?:_seg_?[0-9]+)?",
        layout="data/{train,test}/{real,fake}/NAME_seg1.wav",
    ),
    "DiffSSD": Corpus(
        header=True,
        paths=r"generated_speech/(?P<attack>[^/]+)/(?:(?P<speaker>speaker_[^/]+)/)?[^/]+",
        layout="generated_speech/{grad_tts,your_tts/speaker_1487}/sentence_449.wav",
        bonafide_from="LJSpeech, LibriSpeech",
    ),
    "FoR": Corpus(
        header=True,
        paths=r"(?P<split>training|validation|testing)/(?:(?P<bonafide>real)|fake)/[^/]+",
        layout="for-norm/{training,validation,testing}/{real,fake}/file1.wav",
    ),
    "HABLA": Corpus(  # the speaker of a converted trial is the pair of source and target
        header=True,
        paths=r"FinalDataset_16khz/(?:(?P<bonafide>Real)|(?P<attack>[^/]+))/[^/]+/(?P<speaker>[^/]+)/[^/]+",
        layout="FinalDataset_16khz/{Real/Chile/clf_07508,CycleGAN/Chile-Peru/clf_07508-pem_01523}/clf_07508_0079.wav",
    ),
    "LibriSeVoc": Corpus(
        header=True,
        paths=r"(?:(?P<bonafide>gt)|(?P<attack>diffwave|melgan|parallel_wave_gan|wavegrad|wavenet|wavernn))/"
        r"(?:(?P<speaker>[0-9]+)_)?[^/]+",
        layout="{gt,diffwave,melgan,parallel_wave_gan,wavegrad,wavenet,wavernn}/103_1240_000001_000000.wav",
    ),
    "MLAAD": Corpus(
        header=True,
        paths=r"fake/(?P<language>[^/]+)/(?P<attack>[^/]+)/[^/]+",
        layout="fake/de/tts_models_de_thorsten_vits/file.wav",
        companions=("meta.csv",),
        bonafide_from="M-AILABS",
    ),
    "SONAR": Corpus(
        header=True,
        paths=r"SONAR_dataset/(?:(?P<bonafide>real_samples)|(?P<attack>[^/]+))/[^/]+",
        layout="SONAR_dataset/{real_samples,FlashSpeech,OpenAI}/audio1.wav",
    ),
    "WaveFake": Corpus(  # LJSpeech and JSUT have one speaker each
        header=True,
        paths=r"generated_audio/(?P<attack>(?:(?P<speaker>ljspeech|jsut)_)?[^/]+)/[^/]+",
        layout="generated_audio/{ljspeech_melgan,jsut_parallel_wavegan}/LJ001-0001_gen.wav",
        bonafide_from="LJSpeech, JSUT",
    ),
    "BonaFide": Corpus(  # bona fide speech for corpora with only spoofed speech
        header=True,
        paths=r"(?P<bonafide>.+)",
        layout="any folder of genuine speech: VCTK, LJSpeech, JSUT, M-AILABS, LibriSpeech",
    ),
    "SASV": Corpus(header=True, columns=("asv_score", "cm_score", "sasv_label"), breakdowns={}),
}
DEFAULT_CORPUS = "ASVspoof2019_LA"  # its recipe is used for training sets of unknown corpora


def trained_as(corpus: str | None) -> str:
    """The corpus whose recipe applies to a corpus: itself, or DEFAULT_CORPUS for None or a corpus without a recipe."""
    return corpus if corpus in CORPORA and CORPORA[corpus].recipe else DEFAULT_CORPUS


def recipe_of(corpus: str | None, model_name: str | None = None) -> dict[str, int | float | str]:
    """Default training flags {flag of train.py: value} for a corpus (or None) and a model."""
    record = CORPORA[trained_as(corpus)]
    return SPEECH | record.recipe | record.recipe_of_models.get(model_name, {})
