"""Grades for lists: from other models, from captions, from mined negatives."""

from training.teachers.captions import Finder, Similarity, caption_lists, image_lists
from training.teachers.core_set import core_set, select_rows, utility
from training.teachers.grading import grade_rows
from training.teachers.joint_lists import JointSet, joint_lists, joint_set, matching_noise
from training.teachers.models import EmbedderTeacher, load_teacher
from training.teachers.negatives import (
    Question,
    Retriever,
    mine,
    mine_files,
    remine,
)

__all__ = [
    "EmbedderTeacher",
    "Finder",
    "JointSet",
    "Question",
    "Retriever",
    "Similarity",
    "caption_lists",
    "core_set",
    "grade_rows",
    "image_lists",
    "joint_lists",
    "joint_set",
    "load_teacher",
    "matching_noise",
    "mine",
    "mine_files",
    "remine",
    "select_rows",
    "utility",
]
