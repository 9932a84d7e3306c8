"""Optimiser steps: tasks, scores, inputs of losses, updates."""
