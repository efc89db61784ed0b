#!/usr/bin/env bash
# bash eval.sh ctrsvdd DIR CKPT NAME                      DIR holds test_set/ and test.txt; scores/NAME.txt and its report
# bash eval.sh asvspoof2021 LA|DF DB PROTO RUN EPOCH ...  the average of the named epochs of a run; scores_LA|DF.txt
# bash eval.sh in_the_wild DIR CKPT                       DIR holds the wav files; scores_in_the_wild.txt
set -euo pipefail
start=$PWD
cd "$(dirname "$0")"
. ./setup.sh
usage() { sed -n '2,4s/^# //p' eval.sh >&2; exit 2; }
place() { case $1 in /*) echo "$1" ;; *) echo "$start/$1" ;; esac; }

case ${1:-} in
ctrsvdd)
    [ $# -eq 4 ] || usage
    base=$(place "$2") weights=$(place "$3")
    $PYTHON eval.py --base_dir "$base/test_set" --model_path "$weights" --agg SEA --pool_func mean --dilation 1 --Nes_ratio 8 8 --SE_ratio 1 --model_name WavLM_Nes2Net_X --outputname "$4"
    $PYTHON EER_minDCF.py --labels_file "$base/test.txt" --path "scores/$4.txt"
    ;;
asvspoof2021)
    [ $# -ge 6 ] || usage
    database=$(place "$3") protocols=$(place "$4") run=$(place "$5")
    $PYTHON eval.py --track "$2" --batch_size 2 --is_eval --eval --model_name wav2vec2_Nes2Net_X --pool_func mean --SE_ratio 1 --Nes_ratio 8 8 --test_protocol 4sec --model_ID_to_average "${@:6}" --database_path "$database" --protocols_path "$protocols" --model_folder_path "$run" --eval_output "scores_$2.txt"
    ;;
in_the_wild)
    [ $# -eq 3 ] || usage
    audio=$(place "$2") weights=$(place "$3")
    $PYTHON eval.py --track in_the_wild --model_name wav2vec2_Nes2Net_X --test_protocol full --in_the_wild_path "$audio" --model_path "$weights" --eval_output scores_in_the_wild.txt
    ;;
*) usage ;;
esac
