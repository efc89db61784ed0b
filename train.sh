#!/usr/bin/env bash
# bash train.sh                                   the demo, end to end: corpus, training, average, scores, report
# bash train.sh rivals                            back-ends trained alike on the demo corpus, and one table
# bash train.sh partial                           the demo for speech that is spoofed in part: where in a recording?
# bash train.sh ctrsvdd DIR [FLAG ...]            singing voice: DIR holds train_set/ dev_set/ train.txt dev.txt
# bash train.sh asvspoof2019 DB PROTO [FLAG ...]  speech: DB holds ASVspoof2019_LA_{train,dev}/flac, PROTO the protocols
set -euo pipefail
recipe=${1:-demo}
start=$PWD
cd "$(dirname "$0")"
. ./setup.sh
usage() { sed -n '2,6s/^# //p' train.sh >&2; exit 2; }
place() { case $1 in /*) echo "$1" ;; *) echo "$start/$1" ;; esac; }

case $recipe in
ctrsvdd)
    [ $# -ge 2 ] || usage
    base=$(place "$2")
    $PYTHON train.py --base_dir "$base" --algo 8 --T_max 5 --epochs 75 --lr 0.000001 --batch_size 34 --agg SEA --pool_func mean --dilation 1 --Nes_ratio 8 8 --SE_ratio 1 --model_name WavLM_Nes2Net_X --seed 420 --foldername WavLM_SEA_Nes2Net_X_mean_8x8_SEr1_dila1_algo8_Tmax5_bz34_lr1e6_seed420 "${@:3}"
    ;;
asvspoof2019)
    [ $# -ge 3 ] || usage
    database=$(place "$2") protocols=$(place "$3")
    $PYTHON train.py --track LA --algo 4 --batch_size 12 --lr 0.00000025 --seed 12345 --num_epochs 100 --pool_func mean --SE_ratio 1 --Nes_ratio 8 8 --model_name wav2vec2_Nes2Net_X --database_path "$database" --protocols_path "$protocols" "${@:4}"
    ;;
demo)
    [ $# -eq 0 ] || [ $# -eq 1 ] || usage
    corpus=demo/corpus eval_key=demo/corpus/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt
    echo "== 1/5 demo corpus, from recordings of people and from speech synthesisers"
    $PYTHON tools/make_demo_corpus.py --out $corpus
    echo "== 2/5 training, a checkpoint an epoch, and the average of the 3 best"
    $PYTHON train.py --recipe demo --database_path $corpus --log_dir demo/logs --foldername nes2net_x --resume auto
    run=$(ls -d demo/logs/nes2net_x/* | tail -n 1)
    echo "== 3/5 scores of the eval trials, which nothing was chosen by"
    [ demo/scores.txt -nt "$run/checkpoints/average_best_3.pth" ] || $PYTHON eval.py --protocol $eval_key --audio_dir $corpus/ASVspoof2019_LA_eval/flac --model_path "$run/checkpoints/average_best_3.pth" --eval_output demo/scores.txt
    echo "== 4/5 report: the detector, then what level and duration (probe_level) and the mean spectrum (probe_long-term_spectrum) alone tell"
    for scores in demo/scores.txt $corpus/probe_*.txt; do
        echo "-- $scores"
        $PYTHON EER_minDCF.py --labels_file $eval_key --path "$scores" --attack_groups $corpus/attack_groups.csv
    done
    echo "== 5/5 one file of each class"
    for key in bonafide spoof; do
        trial=$(awk -v key=$key '$5 == key { print $2; exit }' $eval_key)
        $PYTHON easy_inference_demo.py --model_path "$run/checkpoints/average_best_3.pth" --file_to_test "$corpus/ASVspoof2019_LA_eval/flac/$trial.flac"
    done
    ;;
partial)
    [ $# -eq 1 ] || usage
    corpus=demo/partial lists=demo/partial/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm
    ls demo/logs/nes2net_x/*/checkpoints/average_best_3.pth > /dev/null 2>&1 || bash train.sh demo
    echo "== 1/4 demo corpus of partially spoofed speech"
    $PYTHON tools/make_demo_corpus.py --partial --out $corpus --cache demo/packages
    echo "== 2/4 fine-tuning of the demo's detector on units of 0.16 s and on utterances"
    whole=$(ls -d demo/logs/nes2net_x/* | tail -n 1)/checkpoints/average_best_3.pth
    $PYTHON train.py --train_protocol $lists.train.trl.txt --dev_protocol $lists.dev.trl.txt --model_name wav2vec2_Nes2Net_X --model_path "$whole" --labels both --label_step 0.16 --algo 0 --crop 64000 --crop_place random --epochs 6 --batch_size 8 --optimizer AdamW --lr 0.001 --weight_decay 0.01 --schedule onecycle --class_weights 0.5 0.5 --keep every --average_by unit_eer --average_best 3 --seed 1 --log_dir demo/logs --foldername partial --resume auto
    model=$(ls -d demo/logs/partial/* | tail -n 1)/checkpoints/average_best_3.pth
    echo "== 3/4 scores of utterances and of frames: of the dev set, for its thresholds, and of the eval set"
    for split in dev eval; do
        [ demo/partial_$split.frames -nt "$model" ] || $PYTHON eval.py --protocol $lists.$split.trl.txt --model_path "$model" --eval_output demo/partial_$split.txt --frames demo/partial_$split.frames
    done
    echo "== 4/4 report: where it is spoofed, by the detector and by a probe of discontinuities; whether an utterance is"
    segments=$corpus/segment_labels
    $PYTHON EER_minDCF.py --frames demo/partial_eval.frames --labels_file $segments/eval.rttm --dev demo/partial_dev.frames $segments/dev.rttm --unit 0.16 0.32 0.64 --plot demo/partial.png
    $PYTHON EER_minDCF.py --frames $corpus/probe_discontinuities_frames.txt --labels_file $segments/eval.rttm --unit 0.16
    $PYTHON EER_minDCF.py --labels_file $lists.eval.trl.txt --path demo/partial_eval.txt
    ;;
rivals)
    [ $# -eq 1 ] || usage
    echo "== 1/3 demo corpus"
    $PYTHON tools/make_demo_corpus.py --out demo/corpus
    echo "== 2/3 the encoder, trained with a linear layer behind it: all systems start from its weights"
    $PYTHON train.py --database_path demo/corpus --model_name wav2vec2_Linear --ssl tiny --algo 3 --crop 24000 --crop_place random --epochs 25 --batch_size 16 --optimizer AdamW --lr 0.001 --weight_decay 0.01 --schedule onecycle --class_weights 0.5 0.5 --keep every --validate_from 21 --average_best 3 --average_by eer --seed 1 --log_dir demo/rivals --foldername encoder --resume auto
    encoder=$(ls -d demo/rivals/encoder/* | tail -n 1)/checkpoints/average_best_3.pth
    echo "== 3/3 eleven systems, two seeds each, and the table"
    $PYTHON tools/compare.py --corpus demo/corpus --out demo/rivals --ssl_path "$encoder" --back_ends Nes2Net_X AASIST Nes2Net MHFA SLS LGF LLGF TCM ASP_MLP AttM_LSTM Linear --seeds 1 2 --algo 3 --crop 12000 --epochs 5 --lr 0.0005 --validate_from 4 --average_best 2
    ;;
*) usage ;;
esac
