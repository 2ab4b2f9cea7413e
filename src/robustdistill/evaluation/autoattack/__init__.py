"""AutoAttack (Croce & Hein 2020), standard L-inf version, with the verdicts of the official code, seed for seed.

The algorithms, their constants and the order of their random draws are those of github.com/fra31/auto-attack,
Copyright (c) 2020 Francesco Croce, MIT License: LICENSE-autoattack.txt in this folder. Read `standard.py` first.
"""
