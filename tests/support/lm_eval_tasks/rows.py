"""Rows of the task files beside this one, as an lm-eval user writes them."""

from typing import Any

from datasets import Dataset

_SUMS = [("3 + 4", 7), ("10 + 5", 15), ("9 - 2", 7), ("6 + 6", 12), ("20 - 5", 15), ("8 + 1", 9), ("2 * 3", 6)]
_SUMS += [("7 + 8", 15), ("5 * 5", 25), ("30 + 12", 42), ("11 - 4", 7), ("4 * 4", 16)]
_FACTS = [
    ("The colour of the sky on a clear day is", ["blue", "green", "a table"], 0),
    ("Water freezes when it is very", ["hot", "cold", "expensive and old"], 1),
    ("A dog is", ["an animal", "a number", "a city in France"], 0),
    ("The capital of France is", ["Berlin", "Madrid", "Paris"], 2),
    ("Two plus two is", ["four", "five", "a hundred and one"], 0),
    ("At night one can see the", ["stars", "sun", "blackboard"], 0),
    ("Fish live in", ["trees", "water", "the sun and the moon"], 1),
    ("We read", ["books", "spoons", "clouds"], 0),
    ("Ice is made of", ["fire", "wood", "frozen water"], 2),
    ("Bees make", ["honey", "bread", "money"], 0),
]


def sums(**_: Any) -> dict[str, Dataset]:
    rows = [{"question": f"What is {text}?", "answer": str(value)} for text, value in _SUMS]
    return {"train": Dataset.from_list(rows[:4]), "test": Dataset.from_list(rows[4:])}


def facts(**_: Any) -> dict[str, Dataset]:
    return {"test": Dataset.from_list([{"start": s, "choices": c, "right": r} for s, c, r in _FACTS])}


def steps(**_: Any) -> dict[str, Dataset]:
    """Additions in the vocabulary of the built-in arithmetic."""
    rows = [
        {
            "problem": f"{a}+{b}?",
            "answer": str(a + b),
            "choices": [f"{a}+{b}={a + b + off}" for off in (1, 0, -1)],
            "right": 1,
        }
        for a in (4, 7, 11)
        for b in (2, 5)
    ]
    return {"test": Dataset.from_list(rows)}
