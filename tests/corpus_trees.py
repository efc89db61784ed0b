"""Every corpus in small: those of folders alone, and those with lists."""

import itertools
import re
import textwrap
from collections import namedtuple

import numpy as np
import pyarrow
import soundfile
from pyarrow import parquet


def expand(layout):
    """What the shell makes of a word with braces."""
    parts = [part.split(",") if i % 2 else [part] for i, part in enumerate(re.split(r"\{(.*?)\}", layout))]
    return ["".join(parts) for parts in itertools.product(*parts)]


# {corpus: {path of a file: (label, attack, speaker, language, split)}}
TREES = {
    "CodecFake_Wu": {
        "CodecFake/processed/academicodec_hifi_16k_320d+p225_001.wav": "spoof academicodec_hifi_16k_320d p225 - -",
        "CodecFake/processed/encodec_24khz+p272_103.wav": "spoof encodec_24khz p272 - -",
        "CodecFake/processed/encodec_24khz+s5_012.wav": "spoof encodec_24khz s5 - -",
    },
    "DFADD": {
        "DFADD/DATASET_GradTTS/train/p225_003_gradtts.wav": "spoof GradTTS p225 - train",
        "DFADD/DATASET_GradTTS/valid/p226_002_gradtts.wav": "spoof GradTTS p226 - valid",
        "DFADD/DATASET_MatchaTTS/test/p345_251_matcha.wav": "spoof MatchaTTS p345 - test",
        "DFADD/DATASET_VCTK_BONAFIDE/test/p345_251.flac": "bonafide - p345 - test",
        "DFADD/DATASET_VCTK_BONAFIDE/train/p225_003.flac": "bonafide - p225 - train",
        "DFADD/DATASET_VCTK_BONAFIDE/valid/p226_002.flac": "bonafide - p226 - valid",
    },
    "Deepfake_Eval_2024": {
        "Deepfake-Eval-2024/data/test/fake/speech of 3 May_seg1.wav": "spoof - speech of 3 May - test",
        "Deepfake-Eval-2024/data/test/fake/speech of 3 May_seg2.wav": "spoof - speech of 3 May - test",
        "Deepfake-Eval-2024/data/test/real/interview, long_seg10.wav": "bonafide - interview, long - test",
        "Deepfake-Eval-2024/data/train/fake/a_b.mp3": "spoof - a_b - train",
        "Deepfake-Eval-2024/data/train/real/interview_seg_0.wav": "bonafide - interview - train",
    },
    "DiffSSD": {
        "DiffSSD/generated_speech/grad_tts/sentence_1.wav": "spoof grad_tts - - -",
        "DiffSSD/generated_speech/grad_tts/sentence_2.wav": "spoof grad_tts - - -",
        "DiffSSD/generated_speech/your_tts/speaker_1487/sentence_1.wav": "spoof your_tts speaker_1487 - -",
    },
    "FoR": {
        f"FoR/for-norm/{split}/{folder}/file{i}.wav": f"{label} - - - {split}"
        for split in ("testing", "training", "validation")
        for folder, label in (("fake", "spoof"), ("real", "bonafide"))
        for i in (2, 10)
    },
    "HABLA": {
        "HABLA/FinalDataset_16khz/CycleGAN/Argentina-Chile/arf_00295-clm_02121/CycleGAN-arf_00295-clm_02121_1.wav": (
            "spoof CycleGAN arf_00295-clm_02121 - -"
        ),
        "HABLA/FinalDataset_16khz/Diff/Chile-Peru/clf_07508-pem_01523/Diff-clf_07508-pem_01523_1.wav": (
            "spoof Diff clf_07508-pem_01523 - -"
        ),
        "HABLA/FinalDataset_16khz/Real/Chile/clf_07508/clf_07508_00799857148.wav": "bonafide - clf_07508 - -",
        "HABLA/FinalDataset_16khz/Real/Peru/pem_01523/pem_01523_00020267.wav": "bonafide - pem_01523 - -",
    },
    "LibriSeVoc": {
        "LibriSeVoc/diffwave/103_1240_000001_000000_gen.wav": "spoof diffwave 103 - -",
        "LibriSeVoc/gt/103_1240_000001_000000.wav": "bonafide - 103 - -",
        "LibriSeVoc/gt/2002_139469_000010_000000.wav": "bonafide - 2002 - -",
        "LibriSeVoc/wavernn/2002_139469_000010_000000_gen.wav": "spoof wavernn 2002 - -",
    },
    "MLAAD": {
        "MLAAD_v5/fake/de/tts_models_de_thorsten_vits/adam_01_f000002.wav": "spoof tts_models_de_thorsten_vits - de -",
        "MLAAD_v5/fake/en/suno_bark/adam_01_f000002.wav": "spoof suno_bark - en -",
        "MLAAD_v5/fake/zh-cn/suno_bark/adam_01_f000002.wav": "spoof suno_bark - zh-cn -",
    },
    "SONAR": {
        "SONAR_dataset/FlashSpeech/audio1.wav": "spoof FlashSpeech - - -",
        "SONAR_dataset/OpenAI/audio1.wav": "spoof OpenAI - - -",
        "SONAR_dataset/OpenAI/audio2.wav": "spoof OpenAI - - -",
        "SONAR_dataset/real_samples/audio1.wav": "bonafide - - - -",
        "SONAR_dataset/real_samples/audio2.wav": "bonafide - - - -",
    },
    "WaveFake": {
        "WaveFake/generated_audio/common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech/gen_0.wav": (
            "spoof common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech - - -"
        ),
        "WaveFake/generated_audio/jsut_parallel_wavegan/BASIC5000_0001_gen.wav": "spoof jsut_parallel_wavegan jsut - -",
        "WaveFake/generated_audio/ljspeech_melgan/LJ001-0001_gen.wav": "spoof ljspeech_melgan ljspeech - -",
        "WaveFake/generated_audio/ljspeech_melgan/LJ001-0002_gen.wav": "spoof ljspeech_melgan ljspeech - -",
    },
    "BonaFide": {
        "VCTK/wav48/p225/p225_001.wav": "bonafide - - - -",
        "VCTK/wav48/p226/p226_001.wav": "bonafide - - - -",
        "VCTK/wav48/p226/p226_002.wav": "bonafide - - - -",
    },
}
TREES = {  # a speaker may hold blanks, which no other column does
    corpus: {
        path: re.fullmatch(r"(\S+) (\S+) (.+) (\S+) (\S+)", text if isinstance(text, str) else text[0]).groups()
        for path, text in files.items()
    }
    for corpus, files in TREES.items()
}

# A list: its path, what the path of an utterance's audio is, its text, what is to be read, utterance:label:attack, and
# the folder to be named as that of the audio, if it is not found around the list; by: what it is broken down by beside
# the attack, in order. ROOT: the corpus's folder.
Listed = namedtuple("Listed", "path audio text trials audio_dir by", defaults=(None, {}))
LISTS = {
    "ASVspoof2019_LA": Listed(
        "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.train.trn.txt",
        "LA/ASVspoof2019_LA_train/flac/{}.flac",
        """
        LA_0079 LA_T_1138215 - - bonafide
        LA_0079 LA_T_1271820 - - bonafide
        LA_0080 LA_T_1004644 - A01 spoof
        LA_0081 LA_T_1056709 - A05 spoof
        """,
        "LA_T_1138215:bonafide:- LA_T_1271820:bonafide:- LA_T_1004644:spoof:A01 LA_T_1056709:spoof:A05",
    ),
    "PartialSpoof": Listed(
        "database/protocols/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm.dev.trl.txt",
        "database/dev/con_wav/{}.wav",
        """
        LA_0069 CON_D_0000000 - CON spoof
        LA_0069 CON_D_0000001 - CON spoof
        LA_0069 LA_D_1047731 - - bonafide
        LA_0070 LA_D_1105538 - - bonafide
        """,
        "CON_D_0000000:spoof:CON CON_D_0000001:spoof:CON LA_D_1047731:bonafide:- LA_D_1105538:bonafide:-",
    ),
    "ASVspoof2021_LA": Listed(
        "keys/LA/CM/trial_metadata.txt",
        "ASVspoof2021_LA_eval/flac/{}.flac",
        """
        LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval
        LA_0020 LA_E_6866159 g722 loc_tx bonafide bonafide notrim eval
        LA_0020 LA_E_6866160 none - bonafide bonafide notrim eval
        LA_0009 LA_E_9332882 alaw ita_tx A19 spoof notrim eval
        """,
        "LA_E_9332881:spoof:A07 LA_E_6866159:bonafide:- LA_E_6866160:bonafide:- LA_E_9332882:spoof:A19",
        by={"codec": ["none", "alaw", "g722"], "transmission": ["-", "ita_tx", "loc_tx"]},
    ),
    "ASVspoof2021_DF": Listed(
        "keys/DF/CM/trial_metadata.txt",
        "ASVspoof2021_DF_eval/flac/{}.flac",
        """
        LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim eval traditional_vocoder - - - -
        TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval unknown Task1 team20 FF E
        LA_0043 DF_E_2000026 mp3m4a asvspoof bonafide bonafide notrim eval bonafide - - - -
        LA_0043 DF_E_2000027 nocodec asvspoof bonafide bonafide notrim eval bonafide - - - -
        """,
        "DF_E_2000011:spoof:A14 DF_E_2000013:spoof:Task1-team20 DF_E_2000026:bonafide:- DF_E_2000027:bonafide:-",
        by={
            "codec": ["nocodec", "low_m4a", "mp3m4a"],
            "source": ["asvspoof", "vcc2020"],
            "vocoder": ["traditional_vocoder", "unknown"],
        },
    ),
    "ASVspoof5_metainfo": Listed(
        "ASVspoof5.train.metainfor.txt",
        "flac_T/{}.flac",
        """
        T_4850 T_0000000000 F - A05 spoof
        T_0840 T_0000000001 M - A07 spoof
        T_2102 T_0000000002 F - bonafide bonafide
        T_2103 T_0000000003 M - bonafide bonafide
        """,
        "T_0000000000:spoof:A05 T_0000000001:spoof:A07 T_0000000002:bonafide:- T_0000000003:bonafide:-",
        by={"gender": ["F", "M"]},
    ),
    "CtrSVDD": Listed(
        "train.txt",
        "train_set/{}.flac",
        """
        m4singer CtrSVDD_0059 CtrSVDD_0059_T_0000001 - - bonafide
        kiritan CtrSVDD_0060 CtrSVDD_0060_T_0000002 - - bonafide
        m4singer CtrSVDD_0059 CtrSVDD_0059_T_0000003 - A01 deepfake
        kiritan CtrSVDD_0060 CtrSVDD_0060_T_0000004 - A08 deepfake
        """,
        "CtrSVDD_0059_T_0000001:bonafide:- CtrSVDD_0060_T_0000002:bonafide:- CtrSVDD_0059_T_0000003:spoof:A01 "
        "CtrSVDD_0060_T_0000004:spoof:A08",
        by={"dataset": ["kiritan", "m4singer"]},
    ),
    "ASVspoof5": Listed(
        "ASVspoof5.eval.track_1.tsv",
        "flac_E_eval/{}.flac",
        """
        E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -
        E_1607 E_0009538970 M - 0 - AC2 A17 spoof -
        E_2100 E_0009538971 F - 0 - - bonafide bonafide -
        E_2100 E_0009538972 F C11 0 E_0009538973 - bonafide bonafide -
        """,
        "E_0009538969:spoof:A26 E_0009538970:spoof:A17 E_0009538971:bonafide:- E_0009538972:bonafide:-",
        by={"codec": ["-", "C05", "C11"], "gender": ["F", "M"]},
    ),
    "in_the_wild": Listed(
        "release_in_the_wild/meta.csv",
        "release_in_the_wild/{}.wav",
        """
        file,speaker,label
        0.wav,Alec Guinness,spoof
        1.wav,Barack Obama,spoof
        2.wav,"Martin Luther King, Jr.",bona-fide
        3.wav,Alec Guinness,bona-fide
        """,
        "0:spoof:- 1:spoof:- 2:bonafide:- 3:bonafide:-",
    ),
    "ASVspoof2019_PA": Listed(
        "PA/ASVspoof2019_PA_cm_protocols/ASVspoof2019.PA.cm.dev.trl.txt",
        "PA/ASVspoof2019_PA_dev/flac/{}.flac",
        """
        PA_0069 PA_D_0000001 aaa - bonafide
        PA_0069 PA_D_0000002 ccb - bonafide
        PA_0069 PA_D_0005401 aaa AA spoof
        PA_0070 PA_D_0005402 ccb CB spoof
        """,
        "PA_D_0000001:bonafide:- PA_D_0000002:bonafide:- PA_D_0005401:spoof:AA PA_D_0005402:spoof:CB",
        by={"environment": ["aaa", "ccb"]},
    ),
    "ASVspoof2021_PA": Listed(
        "keys/PA/CM/trial_metadata.txt",
        "ASVspoof2021_PA_eval/flac/{}.flac",
        """
        PA_0010 PA_E_1000001 R1 M1 d1 r1 m1 s1 c1 spoof notrim eval
        PA_0010 PA_E_1000002 R2 M2 d1 r1 m1 s2 c1 spoof notrim eval
        PA_0011 PA_E_1000003 R1 M1 d1 - - - - bonafide notrim eval
        PA_0011 PA_E_1000004 R2 M2 d1 - - - - bonafide notrim eval
        """,
        "PA_E_1000001:spoof:- PA_E_1000002:spoof:- PA_E_1000003:bonafide:- PA_E_1000004:bonafide:-",
        by={"room": ["R1", "R2"], "microphone": ["M1", "M2"], "replay_device": ["s1", "s2"]},
    ),
    "ASVspoof2015": Listed(
        "CM_protocol/cm_develop.ndx.txt",
        "wav/{}.wav",
        """
        D1 D1_1000001 human human
        D2 D2_1000001 human human
        D1 D1_1001001 S1 spoof
        D2 D2_1001001 S5 spoof
        """,
        "D1_1000001:bonafide:- D2_1000001:bonafide:- D1_1001001:spoof:S1 D2_1001001:spoof:S5",
    ),
    "partially_spoofed": Listed(
        "HAD_dev_label.txt",
        "con_wav/{}.wav",
        """
        HAD_dev_fake_1 0.3 spoof 0.00-0.10-T 0.10-0.20-F 0.20-0.30-T
        HAD_dev_fake_2 0.3 spoof 0.00-0.30-F
        HAD_dev_real_1 0.3 bonafide 0.00-0.30-T
        HAD_dev_real_2 0.3 bonafide
        """,
        "HAD_dev_fake_1:spoof:- HAD_dev_fake_2:spoof:- HAD_dev_real_1:bonafide:- HAD_dev_real_2:bonafide:-",
    ),
    "Codecfake": Listed(
        "label/train.txt",
        "train/{}.wav",
        """
        SSB13650058.wav real 0
        p225_001.wav real 0
        F01_SSB13650058.wav fake 1
        F06_p225_001.wav fake 6
        """,
        "SSB13650058:bonafide:- p225_001:bonafide:- F01_SSB13650058:spoof:- F06_p225_001:spoof:-",
        by={"codec": ["1", "6"]},
    ),
    "ADD2022": Listed(
        "label.txt",
        "wav/{}.wav",
        """
        ADD_T_00000000.wav genuine
        ADD_T_00000001.wav fake
        ADD_T_00000002.wav genuine
        ADD_T_00000003.wav fake
        """,
        "ADD_T_00000000:bonafide:- ADD_T_00000001:spoof:- ADD_T_00000002:bonafide:- ADD_T_00000003:spoof:-",
    ),
    "ADD2023": Listed(
        "ADD2023_T1.2R2/label.txt",
        "ADD2023_T1.2R2/wav/{}.wav",
        """
        ADD2023_T1.2R2_E_00000001.wav genuine
        ADD2023_T1.2R2_E_00000002.wav fake
        ADD2023_T1.2R2_E_00000003.wav genuine
        ADD2023_T1.2R2_E_00000004.wav fake
        """,
        "ADD2023_T1.2R2_E_00000001:bonafide:- ADD2023_T1.2R2_E_00000002:spoof:- "
        "ADD2023_T1.2R2_E_00000003:bonafide:- ADD2023_T1.2R2_E_00000004:spoof:-",
    ),
    "SpoofCeleb": Listed(
        "metadata/development.csv",
        "flac/development/{}.flac",
        """
        file,speaker,attack
        a00/id10936/0hIuZd2X-00003.flac,id10936,a00
        a00/id10937/0hIuZd2X-00003.flac,id10937,a00
        a06/id10936/0hIuZd2X-00003.flac,id10936,a06
        a07/id10937/0hIuZd2X-00003.flac,id10937,a07
        """,
        "a00/id10936/0hIuZd2X-00003:bonafide:- a00/id10937/0hIuZd2X-00003:bonafide:- "
        "a06/id10936/0hIuZd2X-00003:spoof:a06 a07/id10937/0hIuZd2X-00003:spoof:a07",
    ),
    "SpeechDFArena": Listed(
        "metadata/dfadd.csv",
        "{}.wav",
        """
        file_name,label
        ROOT/DFADD/train/1.wav,spoof
        ROOT/DFADD/train/2.wav,bonafide
        ROOT/DFADD/test/1.wav,spoof
        ROOT/DFADD/test/2.wav,bonafide
        """,
        "ROOT/DFADD/train/1:spoof:- ROOT/DFADD/train/2:bonafide:- ROOT/DFADD/test/1:spoof:- "
        "ROOT/DFADD/test/2:bonafide:-",
        ".",
    ),
    "AntiDeepfake": Listed(
        "protocols/CodecFake.csv",
        "data/CodecFake/{}.wav",
        """
        ID,Label,Duration,SampleRate,Path,Attack,Speaker,Proportion,AudioChannel,AudioEncoding,AudioBitSample,Language
        C-1,fake,0.3,16000,$ROOT/CodecFake/C-1.wav,encodec_24khz,p272,-,1,PCM_S,16,EN
        C-2,fake,0.3,16000,$ROOT/CodecFake/C-2.wav,funcodec,p273,-,1,PCM_S,16,EN
        C-3,real,0.3,16000,$ROOT/CodecFake/C-3.wav,-,p273,-,1,PCM_S,16,EN
        C-4,real,0.3,16000,$ROOT/CodecFake/C-4.wav,-,p272,-,1,PCM_S,16,EN
        """,
        "C-1:spoof:encodec_24khz C-2:spoof:funcodec C-3:bonafide:- C-4:bonafide:-",
        "data",
    ),
    "DeepFense": Listed(
        "test.parquet",
        "audio/{}.flac",
        """
        ID,path,label,dataset_name
        u1,audio/u1.flac,bonafide,ASV19
        u2,audio/u2.flac,spoof,ASV19
        u3,audio/u3.flac,bonafide,MLAAD
        u4,audio/u4.flac,spoof,MLAAD
        """,
        "u1:bonafide:- u2:spoof:- u3:bonafide:- u4:spoof:-",
        by={"dataset_name": ["ASV19", "MLAAD"]},
    ),
    "csv": Listed(  # of one's own
        "mine.csv",
        "{}.wav",
        """
        path,label,attack,microphone
        a/1.wav,bonafide,-,near
        a/2.wav,spoof,cloned,near
        b/1.wav,bonafide,,far
        b/2.wav,spoof,vocoded,far
        """,
        "a/1:bonafide:- a/2:spoof:cloned b/1:bonafide:- b/2:spoof:vocoded",
    ),
}


def record_audio(folder, paths):
    """A third of a second of noise in each file."""
    for i, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, 0.1 * np.random.default_rng(i).standard_normal(4800), 16000)


def unpack(folder, corpus):
    """A corpus in its official layout: (its list, {utterance: (label, attack, path of its audio)})."""
    listed = LISTS[corpus]
    trials = [trial.split(":") for trial in listed.trials.replace("ROOT", str(folder)).split()]
    trials = {utt_id: (label, attack, str(folder / listed.audio.format(utt_id))) for utt_id, label, attack in trials}
    record_audio(folder, [path for _, _, path in trials.values()])
    key, text = folder / listed.path, textwrap.dedent(listed.text).lstrip()
    key.parent.mkdir(parents=True, exist_ok=True)
    if key.suffix == ".parquet":
        names, *rows = (line.split(",") for line in text.splitlines())
        parquet.write_table(pyarrow.table(dict(zip(names, zip(*rows)))), key)
    else:
        key.write_text(text if "$ROOT" in text else text.replace("ROOT", str(folder)))
    return key, trials
