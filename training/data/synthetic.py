"""Generated data for the whole curriculum, with a planted order, and an rnx-mini so small that a
minute trains it.

Texts: a question asks with words of one topic, and right texts answer with other words of that
topic; which words belong together is nowhere written but in the grades, and texts that merely
repeat the question's words are wrong. Pictures: coloured shapes with captions from a small grammar.
The towers are random and frozen; reader and image part are the package's own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from llama_index_rnx.rankers.mini import (
    LAST_SPECIAL,
    ImageConfig,
    ImageProjector,
    ImageScorer,
    ListwiseScorer,
    MiniModel,
    ScorerConfig,
    TextEncoder,
    TextEncoderConfig,
)
from training.data.graded_list import GradedList
from training.data.image_datasets import CaptionedImage

TOPICS = {  # a topic: the words that ask for it, the words that answer
    "bread": ("loaf crust bake dough", "yeast oven flour knead"),
    "bees": ("hive swarm honey sting", "queen pollen brood smoke"),
    "bikes": ("ride tyre gear chain", "pedal saddle spoke oil"),
    "stars": ("sky night planet shine", "orbit lens comet gravity"),
    "boats": ("sail harbour row storm", "mast keel anchor tide"),
    "coffee": ("brew cup roast morning", "bean grinder steam filter"),
    "trees": ("prune branch shade fruit", "root bark sap graft"),
    "money": ("save loan price bank", "coin interest budget tax"),
}
FILLERS = [
    "the",
    "a",
    "of",
    "how",
    "to",
    "why",
    "is",
    "and",
    "with",
    "for",
    "many",
    "old",
    "new",
    "good",
    "when",
    "often",
]
COLOURS = {
    "red": "#d22",
    "green": "#2a2",
    "blue": "#22d",
    "yellow": "#dc1",
    "black": "#111",
    "purple": "#919",
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
PLACES = {"left": (70, 128), "right": (186, 128), "above": (128, 70), "below": (128, 186)}
SIZES = {"small": 28, "large": 52}
HELD_OUT = 40  # pictures, and as many questions
WIDTH = 48


def words() -> list[str]:
    """Every word that occurs."""
    topics = [word for of in TOPICS.values() for side in of for word in side.split()]
    return [*topics, *FILLERS, *COLOURS, *SHAPES, *PLACES, *SIZES, "picture", "shows", "drawn"]


def question(topic: str, chance: random.Random) -> str:
    """Two of the topic's asking words among fillers."""
    return _mixed(chance.sample(TOPICS[topic][0].split(), 2), 2, chance)


def answer(topic: str, count: int, chance: random.Random) -> str:
    """`count` of the topic's answering words among fillers."""
    return _mixed(chance.sample(TOPICS[topic][1].split(), count), 8 - count, chance)


def trap(topic: str, asked: str, chance: random.Random) -> str:
    """The question's own words, and the answer to another one."""
    other = chance.choice([name for name in TOPICS if name != topic])
    repeated = [word for word in asked.split() if word in TOPICS[topic][0].split()]
    return _mixed([*repeated, *chance.sample(TOPICS[other][1].split(), 2)], 4, chance)


def _mixed(found: list[str], fillers: int, chance: random.Random) -> str:
    found = found + [chance.choice(FILLERS) for _ in range(fillers)]
    chance.shuffle(found)
    return " ".join(found)


def text_lists(count: int, seed: int) -> list[GradedList]:
    """Questions with 12 texts: 2 right ones (grade 2), 2 that touch it (1), 4 traps and 4 of other
    topics (0).
    """
    return [_text_list(number, random.Random(f"{seed}-text-{number}")) for number in range(count)]


def _text_list(number: int, chance: random.Random) -> GradedList:
    topic = list(TOPICS)[number % len(TOPICS)]
    asked, others = question(topic, chance), [name for name in TOPICS if name != topic]
    graded = [(answer(topic, 3, chance), 2.0) for _ in range(2)] + [
        (answer(topic, 1, chance), 1.0) for _ in range(2)
    ]
    graded += [(trap(topic, asked, chance), 0.0) for _ in range(4)]
    graded += [(answer(chance.choice(others), 3, chance), 0.0) for _ in range(4)]
    chance.shuffle(graded)
    return _list(
        "texts", f"t{number}", asked, [text for text, _ in graded], [grade for _, grade in graded]
    )


def text_pairs(count: int, others: int, seed: int) -> list[GradedList]:
    """Questions with one right text and others at random: what a bi-encoder's batch is."""
    lists = []
    for number in range(count):
        chance = random.Random(f"{seed}-pair-{number}")
        topic = list(TOPICS)[number % len(TOPICS)]
        wrong = [
            answer(chance.choice([name for name in TOPICS if name != topic]), 3, chance)
            for _ in range(others)
        ]
        texts = [answer(topic, 3, chance), *wrong]
        lists.append(
            _list(
                "text-pairs", f"p{number}", question(topic, chance), texts, [1.0] + [0.0] * others
            )
        )
    return lists


def _list(
    source: str, qid: str, query: str, texts: Sequence[str], grades: Sequence[float]
) -> GradedList:
    asked = set(query.split())
    return GradedList(
        source=source,
        qid=qid,
        query=query,
        docids=tuple(f"{qid}-{place}" for place in range(len(texts))),
        texts=tuple(texts),
        grades=tuple(grades),
        first=tuple(
            float(len(asked & set(text.split()))) for text in texts
        ),  # the given order: words in common
    )


def pictures(
    folder: Path, known: int, held_out: int
) -> tuple[list[CaptionedImage], list[CaptionedImage]]:
    """(training, held out): at most so many kinds of picture, one of each, drawn into `folder`
    once; no kind is in both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = list(product(SIZES, COLOURS, SHAPES, PLACES))
    random.Random(0).shuffle(kinds)
    made = [_picture(folder, *kind) for kind in kinds[: known + held_out]]
    return made[held_out:], made[:held_out]


def _picture(folder: Path, size: str, colour: str, shape: str, place: str) -> CaptionedImage:
    path = folder / f"{size}-{colour}-{shape}-{place}.png"
    if not path.exists():
        draw_shape(size, colour, shape, place).save(path)
    return CaptionedImage(
        path=path,
        queries=(
            f"a {size} {colour} {shape} {place}",
            f"{colour} {shape} drawn {size} and {place}",
        ),
        about=(
            f"the picture shows a {shape} {place} {colour} and {size}",
            f"many {size} {colour} {shape} often {place}",
        ),
        caption=f"the {size} {colour} {shape} {place}",
    )


def draw_shape(size: str, colour: str, shape: str, place: str) -> Image.Image:
    """256 x 256 pixels on white."""
    image = Image.new("RGB", (256, 256), "white")
    pen, (x, y), r, fill = ImageDraw.Draw(image), PLACES[place], SIZES[size], COLOURS[colour]
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=r // 3)
    else:
        pen.line((x - r, y, x + r, y), fill=fill, width=r // 2)
        pen.line((x, y - r, x, y + r), fill=fill, width=r // 2)
    return image


def picture_pairs(
    known: Sequence[CaptionedImage], count: int, others: int, seed: int
) -> list[GradedList]:
    """Captions with their picture and others at random."""
    lists = []
    for number in range(count):
        chance = random.Random(f"{seed}-picture-{number}")
        right, *wrong = chance.sample(list(known), 1 + others)
        chosen = [right, *wrong]
        lists.append(
            GradedList(
                source="picture-pairs",
                qid=f"c{number}",
                query=chance.choice(right.queries),
                docids=tuple(picture.path.stem for picture in chosen),
                texts=("",) * len(chosen),
                images=tuple(picture.path for picture in chosen),
                grades=(1.0,) + (0.0,) * others,
            )
        )
    return lists


def same_words(queries: Sequence[str], captions: Sequence[str]) -> Tensor:
    """The teacher of caption to caption likeness: the share of the query's telling words, [Q, C]."""
    telling = {*COLOURS, *SHAPES, *PLACES, *SIZES}
    asked = [set(query.split()) & telling for query in queries]
    told = [set(caption.split()) & telling for caption in captions]
    return torch.tensor([[len(one & other) / max(1, len(one)) for other in told] for one in asked])


class TinyTower(nn.Module):
    """A frozen random image tower: pixels [B, 3, 256, 256] -> maps [B, C, 8, 8], of random filters
    and of plain colours.
    """

    channels = 99

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 7, 4, 3), nn.Conv2d(32, 96, 5, 4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.second(self.first(pixels).relu()).relu()  # [B, 96, 16, 16]
        colours = nn.functional.avg_pool2d(pixels, 32)  # [B, 3, 8, 8]
        return torch.cat([nn.functional.avg_pool2d(hidden, 2), colours], dim=1).unsqueeze(
            1
        )  # [B, 1, 99, 8, 8]


def tiny_model(seed: int) -> MiniModel:
    """rnx-mini with a vocabulary of these words and random weights."""
    torch.manual_seed(seed)
    known = {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102, "[UNK]": 100}
    known.update({word: LAST_SPECIAL + 1 + place for place, word in enumerate(words())})
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    size = max(known.values()) + 1
    text = TextEncoderConfig(
        vocabulary=size, width=WIDTH, layers=1, heads=4, intermediate=96, positions=64
    )
    image = ImageScorer(
        ImageConfig(
            dim=WIDTH - 2,
            word_dim=32,
            text_width=WIDTH,
            heads=4,
            head_dim=16,
            text_heads=4,
            bank=128,
            neighbours=4,
            dropout=0.05,
        )
    )
    image.projector = ImageProjector(image.config, TinyTower.channels)
    reader = ScorerConfig(
        vocabulary=size,
        state_width=WIDTH,
        memory_width=32,
        slots=24,
        lexicon=24,
        query_tokens=8,
        width=32,
        heads=4,
        layers=2,
        list_width=32,
        list_heads=2,
        list_layers=1,
    )
    tower = TextEncoder(tokenizer, text)
    for shared in (
        tower.bert.embeddings.position_embeddings,
        tower.bert.embeddings.token_type_embeddings,
    ):
        nn.init.zeros_(
            shared.weight
        )  # so that a random state says which word it is of, and nothing else
    model = MiniModel(tower, TinyTower(), image, ListwiseScorer(reader))
    with torch.no_grad():
        model.reader.base.linear.weight.mul_(
            0.1
        )  # it expects the narrow cosines of a trained tower
    return model
