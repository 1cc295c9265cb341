"""From and to checkpoints: conversion, averaging, export."""

__all__ = []
