"""Broken clients of the memory backend: what they make of letters that come from elsewhere."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qbridge_core.backend import DeadLetter, UnsupportedError, check_imports
from qbridge_memory import MemoryClient


class HidesItsImports(MemoryClient):
    """Can import and does not say so."""

    capabilities = replace(MemoryClient.capabilities, imports=False)


class ImportsNothing(MemoryClient):
    """Claims what it cannot."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        raise UnsupportedError("no")


class ImportsBodies(MemoryClient):
    """Publishes a letter like any message: nobody knows any more why it is one."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        given = check_imports(letters)
        for letter in given:
            self.publish(dead_letter_queue, letter.body, headers=letter.headers, message_id=letter.message_id)
        return len(given)


class ForgetsMessageIdsOnImport(MemoryClient):
    """Lets an imported letter be another message."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        return super().import_letters(
            dead_letter_queue, [replace(one, message_id=None) for one in check_imports(letters)]
        )


class ExplainsWhatNobodyKnows(MemoryClient):
    """Makes the queue up that a letter came from."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        made_up = dead_letter_queue.removesuffix("-dead")
        given = check_imports(letters)
        return super().import_letters(
            dead_letter_queue, [replace(one, source_queue=one.source_queue or made_up) for one in given]
        )


class ImportsWhatItCan(MemoryClient):
    """Puts letters there one by one until one makes no sense."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        return sum(super(ImportsWhatItCan, self).import_letters(dead_letter_queue, [one]) for one in letters)
