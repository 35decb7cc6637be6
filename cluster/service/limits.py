"""What the service takes on at most."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.options import Count, NonNegative, Positive, Share, options

Large = Annotated[int, Field(ge=1)]
"""Bytes and positions, of which machines have more than whole numbers elsewhere may be."""


@options
class ServiceLimits:
    """Limits of a service. What is over one of them is refused before it starts."""

    max_body_bytes: Large = 1 << 20
    """Bytes of a request's body."""
    max_bodies_bytes: Large = 1 << 26
    """Bytes of all bodies that are held at once."""
    body_s: Positive = 10.0
    """Seconds in which a body, and before it the head of a request, must have come."""
    max_connections: Count = 4096
    """Connections that are open at once."""
    max_requests: Count = 256
    """Requests at work at once, for each replica."""
    max_rows: Count = 4096
    """Rows of people that a replica holds at once, running or waiting."""
    max_prompts: Count = 64
    """Prompts of a request."""
    max_prompt_chars: Count = 1 << 16
    """Characters of a prompt, or of a text to score."""
    max_samples: Count = 256
    """Rows of a request: prompts x n."""
    max_length: Count = 1 << 14
    """Positions of a row; never more than the trained length where positions were learned."""
    max_cost: Large = 1 << 24
    """Of a request: calls that its sampler may need at most x positions x rows."""
    max_row_bytes: Large = 1 << 26
    """Memory that one row may take in its sampler, for all of its chains."""
    max_texts: Count = 64
    """Texts of a request for scores."""
    deadline_s: Positive = 120.0
    """Seconds after which a request is given up that names no deadline."""
    max_deadline_s: Positive = 600.0
    """The longest deadline that a request may name."""
    heartbeat_s: Positive = 10.0
    """A stream without news sends a comment this often."""
    grace_s: Positive = 20.0
    """Seconds that requests have to end when the service is stopped."""
    follow_s: Positive = 10.0
    """Seconds between looks at who is champion, where a nightly run is served."""
    trial_s: NonNegative = 60.0
    """Seconds for which a new champion has a share of the requests before it has all."""
    trial_share: Share = 0.1
    """That share."""
    max_lanes: Count = 64
    """Rows of one kind that run at once."""
    forward_lanes: Count = 8
    """Inputs of one forward. More are faster on a GPU; the last bits of rows depend on it."""
    max_lanes_bytes: Large = 1 << 30
    """Memory of the rows of one kind that run at once."""
