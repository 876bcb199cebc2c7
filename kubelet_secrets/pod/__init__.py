"""Pods of this node: desired against actual, one worker per pod."""
