"""Generated data for the whole curriculum, with a planted order. It knows no model.

Texts: a question asks with words of one topic, and right texts answer with other words of that
topic. Only the grades say which words belong together, and texts that merely repeat the question's
words are wrong. Images: coloured shapes with captions from a small grammar.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from training.data.graded_list import GradedList
from training.data.image_datasets import CaptionedImage

# A topic: the words that ask for it, the words that answer.
TOPICS = {
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
    *("the", "a", "of", "how", "to", "why", "is", "and"),
    *("with", "for", "many", "old", "new", "good", "when", "often"),
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

# The position of a shape: the pixel of its middle in an image of 256 x 256.
POSITIONS = {"left": (70, 128), "right": (186, 128), "above": (128, 70), "below": (128, 186)}

# The radius of a shape in pixels.
SIZES = {"small": 28, "large": 52}

# Held-out images, and as many held-out questions.
HELD_OUT = 40


def words() -> list[str]:
    """Return every word that occurs."""
    topics = [word for sides in TOPICS.values() for side in sides for word in side.split()]
    return [*topics, *FILLERS, *COLOURS, *SHAPES, *POSITIONS, *SIZES, "picture", "shows", "drawn"]


def question(topic: str, rng: random.Random) -> str:
    """Return two of the topic's asking words among fillers."""
    return _mix(rng.sample(TOPICS[topic][0].split(), 2), 2, rng)


def answer(topic: str, count: int, rng: random.Random) -> str:
    """Return `count` of the topic's answering words among fillers."""
    return _mix(rng.sample(TOPICS[topic][1].split(), count), 8 - count, rng)


def trap(topic: str, query: str, rng: random.Random) -> str:
    """Return a text with the question's own words and the answer to another question."""
    other_topic = rng.choice([name for name in TOPICS if name != topic])
    repeated = [word for word in query.split() if word in TOPICS[topic][0].split()]
    return _mix([*repeated, *rng.sample(TOPICS[other_topic][1].split(), 2)], 4, rng)


def _mix(telling: list[str], fillers: int, rng: random.Random) -> str:
    mixed = telling + [rng.choice(FILLERS) for _ in range(fillers)]
    rng.shuffle(mixed)
    return " ".join(mixed)


def text_lists(count: int, seed: int) -> list[GradedList]:
    """Return questions with 12 texts: 2 answers (grade 2), 2 that touch the topic (1), 8 wrong (0).

    Of the wrong ones, 4 are traps and 4 answer other topics.
    """
    return [_text_list(number, random.Random(f"{seed}-text-{number}")) for number in range(count)]


def _text_list(number: int, rng: random.Random) -> GradedList:
    topic = list(TOPICS)[number % len(TOPICS)]
    other_topics = [name for name in TOPICS if name != topic]
    query = question(topic, rng)

    graded = [(answer(topic, 3, rng), 2.0) for _ in range(2)]
    graded += [(answer(topic, 1, rng), 1.0) for _ in range(2)]
    graded += [(trap(topic, query, rng), 0.0) for _ in range(4)]
    graded += [(answer(rng.choice(other_topics), 3, rng), 0.0) for _ in range(4)]
    rng.shuffle(graded)

    texts = [text for text, _ in graded]
    grades = [grade for _, grade in graded]
    return _list("texts", f"t{number}", query, texts, grades)


def text_pairs(count: int, negatives: int, seed: int) -> list[GradedList]:
    """Return questions with one right text and others at random, as in a bi-encoder's batch."""
    lists = []
    for number in range(count):
        rng = random.Random(f"{seed}-pair-{number}")
        topic = list(TOPICS)[number % len(TOPICS)]
        other_topics = [name for name in TOPICS if name != topic]
        negative_texts = [answer(rng.choice(other_topics), 3, rng) for _ in range(negatives)]
        texts = [answer(topic, 3, rng), *negative_texts]
        grades = [1.0] + [0.0] * negatives
        lists.append(_list("text-pairs", f"p{number}", question(topic, rng), texts, grades))
    return lists


def _list(
    source: str, qid: str, query: str, texts: Sequence[str], grades: Sequence[float]
) -> GradedList:
    """Return a list whose first order counts the words that query and text have in common."""
    query_words = set(query.split())
    return GradedList(
        source=source,
        qid=qid,
        query=query,
        docids=tuple(f"{qid}-{position}" for position in range(len(texts))),
        texts=tuple(texts),
        grades=tuple(grades),
        first=tuple(float(len(query_words & set(text.split()))) for text in texts),
    )


def generate_images(
    folder: Path, training: int, held_out: int
) -> tuple[list[CaptionedImage], list[CaptionedImage]]:
    """Return (training images, held-out images), one of each kind; no kind is in both.

    They are drawn into `folder` once. There are 240 kinds; where fewer are left, fewer come back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = list(product(SIZES, COLOURS, SHAPES, POSITIONS))
    random.Random(0).shuffle(kinds)
    images = [_captioned_image(folder, *kind) for kind in kinds[: training + held_out]]
    return images[held_out:], images[:held_out]


def _captioned_image(
    folder: Path, size: str, colour: str, shape: str, position: str
) -> CaptionedImage:
    path = folder / f"{size}-{colour}-{shape}-{position}.png"
    if not path.exists():
        draw_shape(size, colour, shape, position).save(path)
    return CaptionedImage(
        path=path,
        queries=(
            f"a {size} {colour} {shape} {position}",
            f"{colour} {shape} drawn {size} and {position}",
        ),
        about=(
            f"the picture shows a {shape} {position} {colour} and {size}",
            f"many {size} {colour} {shape} often {position}",
        ),
        caption=f"the {size} {colour} {shape} {position}",
    )


def draw_shape(size: str, colour: str, shape: str, position: str) -> Image.Image:
    """Return an image of 256 x 256 pixels with one shape on white."""
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    x, y = POSITIONS[position]
    r = SIZES[size]
    fill = COLOURS[colour]

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


def image_pairs(
    images: Sequence[CaptionedImage], count: int, negatives: int, seed: int
) -> list[GradedList]:
    """Return captions with their own image and others at random, as in a bi-encoder's batch."""
    lists = []
    for number in range(count):
        rng = random.Random(f"{seed}-picture-{number}")
        # The first of the sample is the right one.
        sample = rng.sample(list(images), 1 + negatives)
        lists.append(
            GradedList(
                source="picture-pairs",
                qid=f"c{number}",
                query=rng.choice(sample[0].queries),
                docids=tuple(image.path.stem for image in sample),
                texts=("",) * len(sample),
                images=tuple(image.path for image in sample),
                grades=(1.0,) + (0.0,) * negatives,
            )
        )
    return lists


def word_overlap(queries: Sequence[str], captions: Sequence[str]) -> Tensor:
    """Return the share of each query's telling words that a caption has, [Q, C].

    It is the teacher of how similar captions are; telling words name a colour, shape, position or
    size.
    """
    telling = {*COLOURS, *SHAPES, *POSITIONS, *SIZES}
    query_words = [set(query.split()) & telling for query in queries]
    caption_words = [set(caption.split()) & telling for caption in captions]
    return torch.tensor(
        [
            [len(query & caption) / max(1, len(query)) for caption in caption_words]
            for query in query_words
        ]
    )
