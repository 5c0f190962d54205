#!/bin/bash
# Maps, CRF and pseudo masks as three job arrays that follow each other task by task.
#
#   source .venv/bin/activate
#   export TASKS=64
#   examples/slurm/chain.sh train.h5 cam.safetensors runs/voc
#   ARRAY=3,17 examples/slurm/chain.sh train.h5 cam.safetensors runs/voc
#
# The second line redoes tasks 3 and 17 of the same 64 in all three stages. It prints the numbers of the three jobs.
#
# aftercorr starts task I of a stage when task I of the stage before has ended with 0. A task that fails takes those of
# its number with it, and no others: --kill-on-invalid-dep, because they would wait for ever without it. Refused images
# make a task fail with 65; where some are known to be bad, say CAMS='--allow-errors 1%', and the same for the others.
#
# CAMS, REFINE and PSEUDO hold options of the stages, SUBMIT options of sbatch for all three.
set -eu
: "${TASKS:?is missing: in how many tasks? export TASKS=64}"
index=${1:?give INDEX NET FOLDER}
net=${2:?give INDEX NET FOLDER}
out=${3:?give INDEX NET FOLDER}
scripts=$(dirname "${BASH_SOURCE[0]}")

# submit NAME OPTION COMMAND...: prints the number of the job. What holds several words or none has no quotation marks.
submit() {
  sbatch --parsable --job-name="wsss-$1" --array="${ARRAY:-0-$((TASKS - 1))}" $2 --kill-on-invalid-dep=yes \
    ${SUBMIT:-} "$scripts/map.sbatch" "${@:3}"
}

cams=$(submit cams "" cams cnn "$index" --net "$net" -o "$out/cams" ${CAMS:-})
crf=$(submit refine "--dependency=aftercorr:$cams" refine crf "$out/cams" -o "$out/crf" ${REFINE:-})
masks=$(submit pseudo "--dependency=aftercorr:$crf" pseudo "$out/crf" -o "$out/masks" ${PSEUDO:-})
echo "$cams $crf $masks"
