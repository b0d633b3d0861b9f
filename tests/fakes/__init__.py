"""Fakes of outer systems: real HTTP servers on loopback that validate strictly and misbehave
when they are told to. One file each; `base` has what they have in common.
"""
