"""The sampler that every preset is an instance of: a schedule, an order, a draw, a corrector, inputs.

Who is asked when. A tick is one step of the schedule; a call is one question to the network.

    query     corrector   is it due at this tick? what will it read of the answer?
              schedule    which masks may be revealed at this tick, and how many?
              order       which of them first, where no prediction is needed to know it
              inputs      what does the network see: tokens, mixtures, noisy embeddings?
              planes      further inputs, for leave-one-out scores and for guidance
    advance   draw        a token at each candidate, from the answer
              corrector   which visible tokens change, and is the tick over? (ProSeCo: not before its last pass)
              guard       within which limits?
              schedule    which masks are revealed, by the order's score
              write       the canvas, in one place
              owners      schedule, corrector, inputs, guard and survey bring their fields up to date
              settle      on to the next tick at which something may happen; the end of rows for which there is none

Rows do this each at a pace of their own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.diffusion import categorical, noise
from components.diffusion.noise import Stream
from components.errors import SamplingError
from components.samplers import planes
from components.samplers.config import SamplerConfig
from components.samplers.contract import NO_EXTRAS, Answer, Extras, Query, Sampler, Samples, Vocabulary, Window
from components.samplers.correctors.base import Verdict
from components.samplers.owners import Start
from components.samplers.parts import load_parts
from components.samplers.standing import Standing, settle, stand
from components.samplers.state import Record, State, Written, choose_rows, write
from components.samplers.survey import Survey
from components.samplers.view import OPINIONS, Spread, View, measure_shapes, read_opinions


def build_sampler(config: SamplerConfig, vocabulary: Vocabulary, extras: Extras = NO_EXTRAS) -> Sampler:
    """The sampler of a config: of one chain a row, or whatever its search is."""
    sampler: Sampler = config.search.load()(config, vocabulary, extras)
    return sampler


class RowSampler:
    """One chain a row. See ``components.samplers.contract.Sampler``."""

    width = 1

    def __init__(
        self,
        config: SamplerConfig,
        vocabulary: Vocabulary,
        extras: Extras = NO_EXTRAS,
        survey: Survey = Survey(),  # noqa: B008 (frozen)
    ):
        self.parts = load_parts(config, vocabulary, extras, survey)
        self.config, self.mask_id = config, vocabulary.mask_id
        self.suppressed = (vocabulary.mask_id, *vocabulary.never)

    # --- start ------------------------------------------------------------------------------------

    def start(
        self, canvas: Int[Tensor, "B L"], fixed: Bool[Tensor, "B L"], ids: Int[Tensor, "B"], seeds: Int[Tensor, "B"]
    ) -> State:
        return self.begin(canvas, fixed, ids, noise.row_keys(seeds, ids))

    def begin(
        self, canvas: Int[Tensor, "R L"], fixed: Bool[Tensor, "R L"], ids: Int[Tensor, "R"], keys: Int[Tensor, "R 2"]
    ) -> State:
        """Rows at the start, with random keys of their own."""
        masked = (canvas == self.mask_id) & ~fixed
        zeros = torch.zeros_like(ids)
        steps = self.parts.ticks(canvas.shape[1])
        times = self.parts.schedule.times(steps, canvas.device)
        num_ticks = self.parts.schedule.num_ticks(masked.sum(-1), steps)
        start = Start(
            canvas=canvas, fixed=fixed, masked=masked, keys=keys, steps=steps, num_ticks=num_ticks, times=times
        )
        state = State(
            tokens=canvas,
            fixed=fixed,
            ids=ids,
            keys=keys,
            tick=zeros + 1,
            inner=zeros,
            active=torch.ones_like(ids, dtype=torch.bool),
            draft=canvas,
            confidence=(~masked).float(),
            edits=zeros,
            fields={},
        )
        for owner in self.parts.owners:
            state = state.registered(owner.begin(start))
        return settle(self.parts, state)

    # --- ask --------------------------------------------------------------------------------------

    def query(self, state: State) -> Query:
        s = stand(self.parts, state)
        surveyed = (self.parts.survey.due(state, s.steps) & ~s.looping)[:, None] & s.masked
        asks = s.looping | s.candidates.any(-1) | surveyed.any(-1)
        asks = asks | self.parts.corrector.asks(state, s.masked, s.due)
        if self.parts.inputs.every_tick:
            asks = asks | s.masked.any(-1)
        active = state.active & asks
        wants = self.parts.corrector.wants(state, s.masked, s.due, s.reach)
        seen, mixed = self.parts.inputs.wants(state, s.masked)
        # A loop that is about to begin draws from its last pass; only one that may be skipped draws here, too.
        begins = s.due & ~s.looping & (self.parts.corrector.num_passes > 0) & (not self.config.corrector.may_skip())
        drawn = ((s.candidates & ~begins[:, None]) | wants.sampled | mixed | surveyed) & active[:, None]
        soft, dense = self.parts.inputs.encode(state, s.shown, s.steps)
        query = Query(
            row=torch.arange(len(state.ids), device=state.ids.device),
            active=active,
            tokens=s.shown,
            time=self.parts.schedule.time(state, s.masked, s.steps),
            wanted=drawn | ((wants.best | wants.current | seen) & active[:, None]),
            drawn=drawn,
            soft=soft,
            dense=dense,
            heads=self.parts.corrector.heads,
            window=self.window(state, s),
        )
        if self.parts.corrector.reads_left_out:
            scored = ~s.masked & ~state.fixed & (active & s.due & ~s.looping)[:, None]
            query = planes.left_out(query, scored, self.mask_id)
        if self.config.guidance.gamma:
            query = planes.doubled(query, state.fixed, self.config.guidance, self.mask_id)
        return query

    def window(self, state: State, s: Standing) -> Window | None:
        """The part of each row that may be computed alone."""
        if not self.config.blocks.cache:
            return None
        wants = self.parts.corrector.wants(state, s.masked, s.due, s.reach)
        return self.parts.blocks.window(state, s.shown, s.candidates | wants.best | wants.sampled | wants.current)

    # --- tell -------------------------------------------------------------------------------------

    def advance(self, state: State, answer: Answer) -> tuple[State, Record]:
        s = stand(self.parts, state)
        if self.config.guidance.gamma:
            answer = planes.combined(answer, self.config.guidance.gamma)
        view = self.read(state, s, answer)
        verdict = self.parts.corrector.correct(state, view, s.due, s.reach, s.steps)
        verdict = self.parts.guard.limit(state, verdict, view)
        commits = verdict.commits & state.active
        reveal, learned = self.reveal(state, s, view, verdict)
        written = write(
            state,
            reveal=reveal & commits[:, None],
            revealed=view.token,
            replace=verdict.replace & commits[:, None],
            replacement=verdict.replacement,
            remask=verdict.remask & commits[:, None],
            mask_id=self.mask_id,
        )
        after, filled = self.parts.blocks.end_early(self.move(state, s, view, verdict, written))
        record = Record(
            before=state.tokens,
            after=after.tokens,
            confidence=torch.where(written.revealed, view.confidence, verdict.probability),
            revealed=written.revealed | filled,
            replaced=written.replaced,
            remasked=written.remasked,
            tick=state.tick,
            inner=state.inner,
            learned=learned,
        )
        return settle(self.parts, after), record

    def read(self, state: State, s: Standing, answer: Answer) -> View:
        """The flat answer as parts read it."""
        logits = categorical.suppress_(answer.logits, self.suppressed)
        at = Spread.of(answer, s.shown)
        draw_logits = logits[answer.draw]
        urn = categorical.Urn.of(draw_logits, self.config.draw)
        nothing = torch.zeros(s.shown.shape, device=s.shown.device)

        def drawn(inner: Tensor | int, stream: Stream) -> tuple[Tensor, Tensor]:
            u = noise.uniform(state.keys, state.tick, inner, at.length, stream).flatten()[at.drawn]
            words, probability = urn.draw(u)
            return at.draws(words, s.shown), at.draws(probability, nothing)

        token, confidence = drawn(0, Stream.TOKEN)
        sampled, sampled_probability = s.shown, nothing
        if "sampled" in self.parts.reads:
            sampled, sampled_probability = drawn(state.inner, Stream.DRAFT)
        unread = ("log_best", "best_odds", "current", "current_odds", "left_out")
        opinions = dict.fromkeys(unread, nothing) | {"best": s.shown}
        if self.parts.corrector.needs_answer:
            told = OPINIONS if answer.followed else frozenset[str]()
            opinions = read_opinions(at, logits, s.shown, self.parts.reads | told)
        none = nothing[..., None][..., :0]
        log_odds = nothing
        if "log_odds" in self.parts.reads:
            log_odds = at.draws(categorical.log_odds(draw_logits, token.flatten()[at.drawn]), nothing)
        shape = {"entropy": nothing, "shortfall": nothing, "top_ids": none.long(), "top_probabilities": none}
        if self.parts.inputs.top_k or self.parts.reads & {"entropy", "shortfall"}:
            shape = measure_shapes(at, draw_logits, self.parts.inputs.top_k)
        return View(
            called=at.called(),
            masked=s.masked,
            window=s.window,
            changeable=self.parts.guard.changeable(state, s.masked),
            quota=self.parts.schedule.quota(state, s.window, s.steps),
            token=token,
            confidence=confidence,
            log_odds=log_odds,
            sampled=sampled,
            sampled_probability=sampled_probability,
            heads={name: head[: at.rows] for name, head in answer.heads.items()},
            logits=logits,
            at=at,
            **opinions,
            **shape,
        )

    def reveal(self, state: State, s: Standing, view: View, verdict: Verdict) -> tuple[Tensor, dict[str, Tensor]]:
        """The masks [R, L] bool that this tick reveals, and what a policy learns from that choice."""
        if self.parts.picks_ahead:
            return s.candidates, {}
        count = view.quota + (verdict.remask.sum(-1) if self.config.corrector.refills else 0)
        score = self.parts.order.score(state, view, s.steps)
        chosen, learned = self.parts.schedule.choose(state, s.candidates, score, view, count)
        return torch.where((state.tick > s.steps)[:, None], s.candidates, chosen), learned

    def move(self, state: State, s: Standing, view: View, verdict: Verdict, written: Written) -> State:
        """The state with everything written that this step decided."""
        commits = verdict.commits & state.active
        cached = self.parts.blocks.cached(state, s.shown, self.window(state, s), view.called)
        fields = {n: choose_rows(state.active, v, state[n]) for n, v in {**verdict.fields, **cached}.items()}
        for owner in self.parts.owners:
            new = owner.update(state, written, view, s.steps)
            fields |= {name: choose_rows(commits, value, state[name]) for name, value in new.items()}
        confidence = torch.where(written.revealed, view.confidence, state.confidence)
        kept_or_new = verdict.replace & (commits[:, None] & ~s.masked & ~state.fixed)
        moved = replace(
            state,
            tokens=written.tokens,
            confidence=torch.where(kept_or_new, verdict.probability, confidence),
            draft=torch.where(state.active[:, None], verdict.draft, state.draft),
            inner=torch.where(state.active, verdict.inner, state.inner),
            tick=state.tick + commits.long(),
            edits=state.edits + (written.replaced | written.remasked).sum(-1),
        )
        return moved.having(fields).reset(written.remasked)

    # --- end --------------------------------------------------------------------------------------

    def finish(self, state: State) -> Samples:
        return Samples(state.ids, state.tokens, state.edits)

    def max_calls(self, length: int) -> int:
        ticks = self.parts.ticks(length)
        most = self.config.schedule.most_ticks(ticks, length)
        if found := next(self.config.corrector.never_runs(ticks, most), None):
            raise SamplingError(
                f"In rows of {length} positions {found.rule} ({found.path} = {found.value!r}). Remedy: {found.remedy}."
            )
        corrector = self.parts.corrector
        num_planes = (1 + length if corrector.reads_left_out else 1) * (2 if self.config.guidance.gamma else 1)
        # Every tick has a predictor pass and the corrector's; then come the last fill, block by block, and what the
        # corrector adds.
        fills = self.config.num_blocks(length)
        return num_planes * (ticks * (1 + corrector.num_passes) + fills + corrector.extra_calls)
