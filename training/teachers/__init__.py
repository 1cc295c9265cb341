"""Grades for lists: from other models, from captions, from mined negatives."""

from training.teachers.__main__ import (
    EmbedderTeacher,
    ensemble,
    grades_of_row,
    load_teacher,
    read_rows,
    remember_all,
    scored_by,
    soft_grades,
    teacher_scores,
)
from training.teachers.captions import (
    Finder,
    Picture,
    Similarity,
    caption_lists,
    flickr,
    openstax,
    picture_lists,
)
from training.teachers.joint_lists import JointSet, joint_lists, joint_set, matching_noise

__all__ = [
    "EmbedderTeacher",
    "Finder",
    "JointSet",
    "Picture",
    "Similarity",
    "caption_lists",
    "ensemble",
    "flickr",
    "grades_of_row",
    "joint_lists",
    "joint_set",
    "load_teacher",
    "matching_noise",
    "openstax",
    "picture_lists",
    "read_rows",
    "remember_all",
    "scored_by",
    "soft_grades",
    "teacher_scores",
]
