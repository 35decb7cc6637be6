"""Every error that a user of proseco can meet, as one tree.

    ProsecoError
    |- ConfigError          the configuration is wrong; nothing was started
    |- DataError            a corpus, a document or a tokenizer cannot be used
    |- StoreError           a stage folder, a shard or a manifest cannot be used
    |  |- CorruptArtifact   bytes on disk are not the bytes that the manifest names
    |  |- LeaseHeld         somebody else makes the same stage
    |  `- LeaseLost         this process slept, and somebody else makes the stage now
    |- ModelError           weights, heads or a checkpoint do not fit
    |- TrainingError        training stopped on purpose
    |  |- NonFiniteLoss     the loss or the gradient is not a number
    |  `- OutOfMemory       a batch did not fit; the message proposes one that does
    |- SamplingError        a sampler and a checkpoint do not go together
    `- ClusterError         the machines do not give what a stage needs

A message names the thing, its value, the rule it breaks and the remedy. The command line prints the
message alone; a traceback is for defects, and those are not in this tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PASSWORD = re.compile(r"(?<=://)([^\s/:@'\"]*):[^\s/'\"]*@")
"""User and password in a URL; the password may hold an ``@`` itself."""


def without_passwords(text: str) -> str:
    """A text with ``***`` for the passwords of the URLs in it."""
    return PASSWORD.sub(r"\1:***@", text)


class ProsecoError(Exception):
    """Base of everything that a user can cause and can mend. Messages reach logs, so they show no password of a URL."""

    def __init__(self, message: str = ""):
        super().__init__(without_passwords(message))

    @classmethod
    def named(cls, name: str) -> type[ProsecoError] | None:
        """The error of that name in this tree, or None."""
        if cls.__name__ == name:
            return cls
        return next((found for below in cls.__subclasses__() if (found := below.named(name))), None)


@dataclass(frozen=True)
class Problem:
    """One broken rule: where, what stands there, what is allowed, what to do."""

    path: str
    value: object
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path} = {self.value!r}\n      rule:   {self.rule}\n      remedy: {self.remedy}"


class ConfigError(ProsecoError):
    """One or many problems of a configuration, all reported together."""

    def __init__(self, problems: list[Problem] | str):
        self.problems = problems if isinstance(problems, list) else []
        if isinstance(problems, str):
            super().__init__(problems)
            return
        noun = "problem" if len(problems) == 1 else "problems"
        lines = [f"{len(problems)} {noun} in the configuration; nothing was started."]
        lines += [f"  {number}. {problem}" for number, problem in enumerate(problems, 1)]
        super().__init__("\n".join(lines))


class DataError(ProsecoError):
    """A corpus, a document or a tokenizer cannot be used."""


class StoreError(ProsecoError):
    """A stage folder, a shard or a manifest cannot be used."""


class CorruptArtifact(StoreError):
    """Bytes on disk are not the bytes that the manifest names."""


class LeaseHeld(StoreError):
    """Another process makes the same stage."""


class LeaseLost(StoreError):
    """Another process took over what this one was making."""


class ModelError(ProsecoError):
    """Weights, heads or a checkpoint do not fit."""


class TrainingError(ProsecoError):
    """Training stopped on purpose."""


class NonFiniteLoss(TrainingError):
    """The loss or the gradient norm is not a finite number."""


class OutOfMemory(TrainingError):
    """A batch did not fit into memory."""


class SamplingError(ProsecoError):
    """A sampler and a checkpoint do not go together."""


class ClusterError(ProsecoError):
    """The machines do not give what a stage needs."""
