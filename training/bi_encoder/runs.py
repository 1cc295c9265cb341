"""The runs of stage 0, from files to files: the bi-encoder, more heads, calibration, and the
comparison of shared with separate weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.bi_encoder.calibration import calibrate, calibration_table, scores_of
from training.bi_encoder.chain import Chain, ImageSplit, draw_texts
from training.bi_encoder.cooperation import CooperationSettings, CooperationTask, new_encoder
from training.bi_encoder.cooperation_table import result_rows
from training.bi_encoder.export import export
from training.bi_encoder.heads import Head, HeadSettings, HeadTask
from training.bi_encoder.model import BiEncoder, BiEncoderSettings
from training.bi_encoder.shared_encoder import SharedEncoder
from training.bi_encoder.source import EncoderInputs, load_sources
from training.bi_encoder.training import BiEncoderTask
from training.engine import ModuleTask, Record, Trainer, hashes, record_of
from training.mini import ImageTower
from training.weights import fold

BANK_SHARE = 0.75  # of photographs' captions in the bank of the hub correction


def train_stage_zero(
    inputs: EncoderInputs, settings: BiEncoderSettings, work: Path, final: Path
) -> list[float]:
    """Train the bi-encoder, then compute its bank, calibrate it and export it; in this process.

    Args:
        inputs: data, encoders and cache.
        settings: of the bi-encoder.
        work: the folder that a killed run resumes from.
        final: gets `image.safetensors`, `image.json` and `cache/*.npz`.

    Returns:
        The loss of every step. They are in `image.json` under "losses", too.

    Raises:
        RNXError: `work` holds a checkpoint of another run.
    """
    losses = train_retriever(inputs, settings, work)
    calibrate_images(inputs, work, heads=(), final=final, losses=losses)
    return losses


def train_retriever(
    inputs: EncoderInputs, settings: BiEncoderSettings, out: Path, init: Path | None = None
) -> list[float]:
    """Train the bi-encoder and write `model.safetensors` and `settings.json` to `out`; a killed run
    resumes from there. Return the loss of every step.

    init: `model.safetensors` of an earlier run to start from.

    Raises:
        RNXError: `out` holds a checkpoint of another run.
    """
    torch.manual_seed(settings.seed)
    data = load_sources(inputs)
    model = BiEncoder(_load_tower(inputs.tower), settings)
    if init:
        model.load_state_dict(load_file(init))

    record = _record(settings, inputs, init)
    losses = _train(BiEncoderTask(model, data, settings), out, record)
    _save_weights(model.state_dict(), out / "model.safetensors")
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    return losses


def train_head(inputs: EncoderInputs, settings: HeadSettings, out: Path) -> list[float]:
    """Train one more head and write `head.safetensors` and `settings.json` to `out`; a killed run
    resumes from there. Return the loss of every step.

    Raises:
        RNXError: `out` holds a checkpoint of another run.
    """
    torch.manual_seed(settings.seed)
    data = load_sources(inputs, kind="grid")
    head = Head(settings)

    losses = _train(HeadTask(head, data, settings), out, _record(settings, inputs))
    _save_weights(head.pair.state_dict(), out / "head.safetensors")
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    return losses


def calibrate_images(
    inputs: EncoderInputs,
    trained: Path,
    heads: Sequence[tuple[Path, Path]],
    final: Path | None = None,
    bank_share: float = BANK_SHARE,
    losses: Sequence[float] = (),
) -> dict[str, object]:
    """Join the heads, compute bank and hub correction, calibrate the image score, and export.

    Args:
        inputs: data, encoders and cache.
        trained: a folder with `model.safetensors` of `train_retriever`.
        heads: (folder with `head.safetensors`, its tower) of every other head.
        final: the folder of the export; None exports nothing.
        bank_share: share of Flickr8k captions in the bank.
        losses: of the training, for the export.

    Returns:
        The table: scalars and recalls on both development splits.
    """
    data = _load_splits(inputs, [tower for _, tower in heads])
    chain = _load_chain(inputs, trained, heads)
    _fill_bank(chain, data, bank_share)

    photos = scores_of(chain, data["flickr_dev"])
    weights = calibrate(chain.scorer, photos)
    figures = scores_of(chain, data["openstax_dev"])
    rows: dict[str, object] = {
        "scalars": [round(float(weight), 3) for weight in weights],
        "flickr_dev": calibration_table(chain.scorer, photos),
        "openstax_dev": calibration_table(chain.scorer, figures, weights),
    }
    if final:
        export(chain, data, final, rows, losses)
    return rows


def compare_cooperation(
    inputs: EncoderInputs, settings: CooperationSettings, models: Sequence[str]
) -> list[str]:
    """Train bi-encoder and cross-encoder apart ("SEP") or with shared weights ("JOINT"), and return
    the rows of the table on Flickr8k dev.
    """
    data = load_sources(inputs, kind="grid")
    train = data["flickr_train"]
    dev = data["flickr_dev"]
    record = _record(settings, inputs)
    rows: list[str] = []

    if "SEP" in models:
        retriever = new_encoder(settings)
        _cooperate(CooperationTask(retriever, train, settings, ("bi",)), record)

        # There is no pretrained encoder for both to start from, so the cross-encoder starts from
        # the bi-encoder's weights.
        reranker = copy.deepcopy(retriever)
        task = CooperationTask(reranker, train, settings, ("cross",), miner=retriever)
        _cooperate(task, record)
        rows += result_rows("SEP", retriever, reranker, dev, settings)

    if "JOINT" in models:
        shared = new_encoder(settings)
        _cooperate(CooperationTask(shared, train, settings, ("bi", "cross")), record)
        rows += result_rows("JOINT", shared, shared, dev, settings)
    return rows


def _train(task: ModuleTask, out: Path, record: Record) -> list[float]:
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task, out, record)
    trainer.train()
    return trainer.losses


def _cooperate(task: CooperationTask, record: Record) -> SharedEncoder:
    Trainer(task, None, record).train()
    return task.encoder.eval()


def _record(settings: Any, inputs: EncoderInputs, init: Path | None = None) -> Record:
    data = inputs.hashes()
    if init:
        data |= {f"init {name}": digest for name, digest in hashes([init]).items()}
    return record_of(asdict(settings), settings.seed, data)


def _load_tower(path: Path) -> ImageTower:
    return fold(torch.load(path, map_location="cpu", weights_only=True))


def _load_chain(inputs: EncoderInputs, trained: Path, heads: Sequence[tuple[Path, Path]]) -> Chain:
    model = BiEncoder(_load_tower(inputs.tower), BiEncoderSettings(dropout=0.0)).eval()
    weights = load_file(trained / "model.safetensors")
    weights.pop("part.bank", None)
    model.load_state_dict(weights, strict=False)

    towers = [_load_tower(tower) for _, tower in heads]
    return Chain(model, towers, [folder for folder, _ in heads])


def _load_splits(inputs: EncoderInputs, towers: Sequence[Path]) -> dict[str, ImageSplit]:
    """Load the sources of every head, by split; a tower that several heads read is cached once."""
    first = load_sources(inputs)
    others = [load_sources(_with_tower(inputs, tower), kind="grid") for tower in towers]
    return {
        name: ImageSplit(first=source, others=tuple(sources[name] for sources in others))
        for name, source in first.items()
    }


def _with_tower(inputs: EncoderInputs, tower: Path) -> EncoderInputs:
    return EncoderInputs(data=inputs.data, tower=tower, text=inputs.text, cache=inputs.cache)


@torch.inference_mode()
def _fill_bank(chain: Chain, data: Mapping[str, ImageSplit], share: float) -> None:
    """Fill the bank with vectors of training captions, after joining the heads' vectors."""
    size = chain.scorer.config.bank
    flickr = data["flickr_train"]
    openstax = data["openstax"]

    count = round(share * size)
    photo_texts = draw_texts(flickr, min(count, len(flickr.first.rows)))
    figure_texts = draw_texts(openstax, min(size - count, len(openstax.first.rows)))
    if chain.towers:
        chain.join(flickr, photo_texts, openstax, figure_texts)

    vectors = torch.cat(
        [
            chain.captions(flickr, photo_texts).vector,
            chain.captions(openstax, figure_texts).vector,
        ]
    )
    # A row of zeros is near to nothing: with fewer images than that, some rows stay empty. The
    # export keeps fp16.
    chain.scorer.bank.zero_()
    chain.scorer.bank[: len(vectors)] = vectors.half().float()


def _save_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
