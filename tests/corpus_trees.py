"""Every corpus of folders in small: {corpus: {path of a file: (label, attack, speaker, language, split)}}."""

import re

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
