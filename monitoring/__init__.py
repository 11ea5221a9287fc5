"""Judgement: is the representation still itself, and may this candidate replace it?"""
