"""Grades for lists: from other models, from captions, from mined negatives."""

from training.teachers.captions import Finder, Similarity, caption_lists, picture_lists
from training.teachers.core_set import core_set, worth, worth_of_rows
from training.teachers.grading import (
    ensemble,
    grades_of_row,
    read_rows,
    remember_all,
    scored_by,
    soft_grades,
    teacher_scores,
)
from training.teachers.joint_lists import JointSet, joint_lists, joint_set, matching_noise
from training.teachers.models import EmbedderTeacher, load_teacher
from training.teachers.negatives import (
    Question,
    Retriever,
    load_retriever,
    load_score,
    mine,
    read_judged_questions,
    remined,
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
    "ensemble",
    "grades_of_row",
    "joint_lists",
    "joint_set",
    "load_retriever",
    "load_score",
    "load_teacher",
    "matching_noise",
    "mine",
    "picture_lists",
    "read_judged_questions",
    "read_rows",
    "remember_all",
    "remined",
    "scored_by",
    "soft_grades",
    "teacher_scores",
    "worth",
    "worth_of_rows",
]
