"""The sampler that every preset is an instance of: a schedule, an order, a draw, a corrector, inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from components.diffusion import categorical, noise, select
from components.diffusion.noise import Stream
from components.samplers import planes
from components.samplers.config import SamplerConfig
from components.samplers.contract import Answer, Extras, Query, Sampler, Samples, Vocabulary
from components.samplers.correctors.base import Corrector, Verdict
from components.samplers.inputs.base import Inputs
from components.samplers.orders import Order
from components.samplers.schedules.base import Schedule
from components.samplers.state import Record, State, Written, choose_rows, write
from components.samplers.view import Spread, View, opinions, shapes

NO_EXTRAS = Extras()


def build_sampler(config: SamplerConfig, vocabulary: Vocabulary, extras: Extras = NO_EXTRAS) -> Sampler:
    """The sampler of a config: of one chain a row, or whatever its search is."""
    sampler: Sampler = config.search.load()(config, vocabulary, extras)
    return sampler


@dataclass(frozen=True)
class Survey:
    """At some ticks a call is made in any case, and completions of the row as it then is are kept."""

    every: int
    """At ticks that this divides."""
    guesses: int
    """Completions, in the field ``guess`` [R, guesses, L]."""
    drawn: bool
    """Drawn, else all of them the argmax."""


@dataclass(frozen=True)
class Place:
    """Where rows stand, before they ask and again when they are told. [R, L] bool unless said."""

    steps: int
    """T."""
    masked: Tensor
    window: Tensor
    """Masks of the active block."""
    reach: Tensor
    """Positions up to its end."""
    due: Tensor
    """[R] bool: the corrector decides something at this tick."""
    looping: Tensor
    """[R] bool: inside the corrector's loop."""
    candidates: Tensor
    """Masks that this tick may reveal."""
    shown: Tensor
    """[R, L] int64: what the network is asked about."""


class RowSampler:
    """See ``components.samplers.contract.Sampler``.

    A tick is: ask the predictor; if the corrector is due, let it look at drafts until it is content;
    then reveal this tick's positions from the last answer, mask or overwrite what the corrector says,
    and go to the next tick that has an event. Rows do this each at a pace of their own.
    """

    width = 1

    def __init__(
        self,
        config: SamplerConfig,
        vocabulary: Vocabulary,
        extras: Extras = NO_EXTRAS,
        survey: Survey | None = None,
    ):
        self.config = config
        self.mask_id = vocabulary.mask_id
        self.end_id = vocabulary.end_id
        self.suppressed = (vocabulary.mask_id, *vocabulary.never)
        self.survey = survey

        self.corrector: Corrector = config.corrector.load()(config.corrector)
        self.schedule: Schedule = config.schedule.load()(config.schedule, self.corrector, extras)
        self.order: Order = config.unmask.load()(config.unmask)
        self.inputs: Inputs = config.inputs.load()(config.inputs, extras)
        reads = self.order.reads | self.schedule.reads
        self.reads_shape = bool(reads & {"entropy", "margin"}) or self.inputs.top_k > 0
        self.picks_ahead = config.schedule.counts and not self.order.reads and not config.corrector.refills

    def ticks(self, length: int) -> int:
        """T for rows of this length."""
        return self.config.ticks(length)

    # --- start ------------------------------------------------------------------------------------

    def start(self, canvas: Tensor, fixed: Tensor, ids: Tensor, seed: int) -> State:
        return self.begin(canvas, fixed, ids, noise.row_keys(seed, ids))

    def begin(self, canvas: Tensor, fixed: Tensor, ids: Tensor, keys: Tensor) -> State:
        """Rows at the start, with random keys of their own [R, 2]."""
        masked = (canvas == self.mask_id) & ~fixed
        zeros = torch.zeros_like(ids)
        steps = self.ticks(canvas.shape[1])
        times = self.schedule.times(steps, canvas.device)
        parts = self.schedule.start(masked, keys, steps) | self.corrector.start(masked, keys, times)
        parts |= self.inputs.start(canvas, fixed) | {"block": zeros - 1}
        guard = self.config.guard
        if guard.edits_per_position:
            parts["num_changes"] = torch.zeros_like(canvas)
        if guard.cooldown:
            parts["written_at"] = torch.zeros_like(canvas)
        if self.survey:
            parts["guess"] = canvas[:, None].expand(-1, self.survey.guesses, -1).contiguous()
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
            parts=parts,
        )
        return self.settle(state)

    # --- where a row stands -----------------------------------------------------------------------

    def masked(self, state: State) -> Tensor:
        return (state.tokens == self.mask_id) & ~state.fixed

    def block_of(self, state: State) -> Tensor:
        """Block of each position [R, L], counted from the first writable one; all 0 without blocks."""
        length = state.tokens.shape[1]
        place = torch.arange(length, device=state.tokens.device)
        if not self.config.blocks.length:
            return torch.zeros_like(state.tokens)
        first = (~state.fixed).long().argmax(-1, keepdim=True)
        return (place - first).clamp(min=0) // self.config.blocks.length

    def scope(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(window: masks of the active block; reach: positions up to its end [R, L]; its number [R])."""
        block = self.block_of(state)
        last = block[:, -1]
        active = torch.where(masked, block, last[:, None] + 1).amin(-1)
        return masked & (block == active[:, None]), block <= active[:, None], active

    def settle(self, state: State) -> State:
        """Begin blocks, move rows that stand before a predictor pass to their next tick with an event, and
        end those that have none."""
        masked = self.masked(state)
        window, _, active = self.scope(state, masked)
        steps = self.ticks(state.tokens.shape[1])
        entering = (active != state.parts["block"]) & window.any(-1)
        left = self.schedule.enter(state, window, steps, self.block_of(state)[:, -1] + 1)
        fields = {n: torch.where(entering, value, state.parts[n]) for n, value in left.items()}
        fields["block"] = torch.where(entering, active, state.parts["block"])
        state = replace(state, parts=state.parts | fields)
        full = ~masked.any(-1)
        own = self.corrector.next_due(state, masked, steps)
        if self.survey:
            own = torch.minimum(own, -(-state.tick // self.survey.every) * self.survey.every)
        if self.inputs.every_tick:
            own = state.tick
        if self.schedule.ends_when_full:
            own = torch.where(full, steps + 1, own)
        following = torch.minimum(self.schedule.next_event(state, window, steps), own).clamp(max=steps + 1)
        lingers = self.corrector.lingers(state, masked, steps)
        tick = torch.where((state.inner == 0) & ~lingers, torch.maximum(following, state.tick), state.tick)
        finished = (tick > steps) & full & ~lingers & (state.inner == 0)
        return replace(state, tick=tick, active=state.active & ~finished)

    def surveys(self, state: State) -> Tensor:
        """[R] bool."""
        if not self.survey:
            return torch.zeros_like(state.active)
        return (state.tick % self.survey.every == 0) & (state.tick <= self.ticks(state.tokens.shape[1]))

    def place(self, state: State) -> Place:
        """Where the rows stand."""
        steps, masked = self.ticks(state.tokens.shape[1]), self.masked(state)
        window, reach, _ = self.scope(state, masked)
        due, looping = self.corrector.due(state, masked, steps), state.inner > 0
        candidates = self.candidates(state, masked, window, due, steps)
        shown = torch.where(looping[:, None], state.draft, state.tokens)
        return Place(steps, masked, window, reach, due, looping, candidates, shown)

    def candidates(self, state: State, masked: Tensor, window: Tensor, due: Tensor, steps: int) -> Tensor:
        """Masked positions that this tick may reveal; all of them in the last fill. [R, L] bool."""
        found = self.schedule.positions(state, window, steps)
        if self.config.schedule.counts:
            quota = self.schedule.quota(state, window, steps)
            if self.picks_ahead:
                found = select.best(self.order.score(state, None, steps), found, quota)
            else:
                found = found & ((quota > 0) | (due & self.corrector.needs_answer))[:, None]
        return torch.where((state.tick > steps)[:, None], masked, found)

    # --- ask --------------------------------------------------------------------------------------

    def query(self, state: State) -> Query:
        p = self.place(state)
        surveyed = (self.surveys(state) & ~p.looping)[:, None] & p.masked
        asks = p.looping | p.candidates.any(-1) | (p.due & self.corrector.needs_answer) | surveyed.any(-1)
        if self.inputs.every_tick:
            asks = asks | p.masked.any(-1)
        active = state.active & asks
        wants = self.corrector.wants(state, p.masked, p.due, p.reach)
        seen, mixed = self.inputs.wants(state, p.masked)
        # A loop that is about to begin draws from its last pass; only one that may be skipped draws here, too.
        begins = p.due & ~p.looping & (self.corrector.num_passes > 0) & (not self.config.corrector.may_skip())
        drawn = ((p.candidates & ~begins[:, None]) | wants.sampled | mixed | surveyed) & active[:, None]
        soft, dense = self.inputs.encode(state, p.shown, p.steps)
        query = Query(
            row=torch.arange(len(state.ids), device=state.ids.device),
            active=active,
            tokens=p.shown,
            time=self.schedule.time(state, p.masked, p.steps),
            wanted=drawn | ((wants.best | wants.current | seen) & active[:, None]),
            drawn=drawn,
            soft=soft,
            dense=dense,
            heads=self.corrector.heads,
        )
        if self.corrector.reads_left_out:
            query = self.leave_one_out(query, state, p.masked, active & p.due & ~p.looping)
        if self.config.guidance.gamma:
            fixed = state.fixed.repeat(len(query.row) // len(state.ids), 1)
            query = planes.doubled(query, fixed, self.config.guidance, self.mask_id)
        return query

    def leave_one_out(self, query: Query, state: State, masked: Tensor, due: Tensor) -> Query:
        """The query with L more planes: each row with one visible token masked, where its probability is wanted."""
        rows, length = state.tokens.shape
        at = torch.eye(length, dtype=torch.bool, device=masked.device)[:, None].expand(-1, rows, -1)
        wanted = (at & (~masked & ~state.fixed & due[:, None])[None]).flatten(0, 1)
        tokens = state.tokens.expand(length, -1, -1).masked_fill(at, self.mask_id).flatten(0, 1)

        def planes(x: Tensor) -> Tensor:
            return x.repeat(length, *[1] * (x.dim() - 1))

        soft = query.soft
        if soft is not None:
            ids = torch.cat([tokens[..., None], planes(soft[0])[..., 1:]], dim=-1)
            alone = torch.nn.functional.one_hot(torch.zeros_like(tokens), ids.shape[-1]).to(soft[1])
            weights = torch.where(at.flatten(0, 1)[..., None], alone, planes(soft[1]))
            soft = torch.cat([soft[0], ids]), torch.cat([soft[1], weights])
        return replace(
            query,
            soft=soft,
            row=torch.cat([query.row, planes(query.row)]),
            active=torch.cat([query.active, wanted.any(-1)]),
            tokens=torch.cat([query.tokens, tokens]),
            time=torch.cat([query.time, planes(query.time)]),
            wanted=torch.cat([query.wanted, wanted]),
            drawn=torch.cat([query.drawn, torch.zeros_like(wanted)]),
        )

    # --- tell -------------------------------------------------------------------------------------

    def advance(self, state: State, answer: Answer) -> tuple[State, Record]:
        p = self.place(state)
        if self.config.guidance.gamma:
            answer = planes.combined(answer, self.config.guidance.gamma)
        view = self.read(state, p, answer)
        verdict = self.guarded(state, self.corrector.decide(state, view, p.due, p.reach, p.steps), view)
        commits = (verdict.commits & state.active)[:, None]
        reveal, learned = self.choose(state, p, view, verdict)
        written = write(
            state, reveal & commits, view.token, verdict.replace & commits, verdict.replacement,
            verdict.remask & commits, self.mask_id,
        )  # fmt: skip
        record = Record(
            state.tokens, written.tokens, torch.where(written.revealed, view.confidence, verdict.probability),
            written.revealed, written.replaced, written.remasked, state.tick, state.inner, learned,
        )  # fmt: skip
        after, filled = self.end_early(self.after(state, p, view, verdict, written))
        return self.settle(after), replace(record, after=after.tokens, revealed=record.revealed | filled)

    def after(self, state: State, p: Place, view: View, verdict: Verdict, written: Written) -> State:
        """The state with everything written that this step decided."""
        commits = verdict.commits & state.active
        changed = written.replaced | written.remasked
        parts = state.parts | {n: choose_rows(state.active, v, state.parts[n]) for n, v in verdict.parts.items()}
        parts |= self.corrector.forget(changed, parts)
        parts |= self.schedule.forget(state, p.masked, written.remasked, p.steps)
        updated = self.inputs.update(state, written, view, p.steps)
        parts |= {n: choose_rows(commits, v, parts[n]) for n, v in updated.items()}
        confidence = torch.where(written.revealed, view.confidence, state.confidence)
        judged = verdict.replace & (commits[:, None] & ~p.masked & ~state.fixed)
        confidence = torch.where(judged, verdict.probability, confidence).masked_fill(written.remasked, 0)
        if "num_changes" in parts:
            parts["num_changes"] = parts["num_changes"] + changed
        if "written_at" in parts:
            fresh = written.revealed | written.replaced
            parts["written_at"] = torch.where(fresh, state.tick[:, None], parts["written_at"])
        if self.survey:
            surveyed = self.surveys(state) & commits
            parts["guess"] = choose_rows(surveyed, self.guess(state, view, self.survey), parts["guess"])
        return replace(
            state,
            tokens=written.tokens,
            confidence=confidence,
            draft=torch.where(state.active[:, None], verdict.draft, state.draft),
            inner=torch.where(state.active, verdict.inner, state.inner),
            tick=state.tick + commits.long(),
            edits=state.edits + changed.sum(-1),
            parts=parts,
        )

    def read(self, state: State, p: Place, answer: Answer) -> View:
        """The flat answer as parts read it."""
        logits = categorical.suppress(answer.logits, self.suppressed)
        at = Spread.of(answer, p.shown)
        draw_logits = logits[answer.draw]
        nothing = torch.zeros(p.shown.shape, device=p.shown.device)
        none = torch.zeros(*p.shown.shape, 0, device=p.shown.device)

        def drawn(tick_step: Tensor | int, stream: Stream) -> tuple[Tensor, Tensor]:
            u = noise.uniform(state.keys, state.tick, tick_step, at.length, stream).flatten()[at.drawn]
            words, probability = categorical.draw(draw_logits, u, self.config.draw)
            return at.draws(words, p.shown), at.draws(probability, nothing)

        token, confidence = drawn(0, Stream.TOKEN)
        sampled, sampled_probability = p.shown, nothing
        if self.corrector.num_passes:
            sampled, sampled_probability = drawn(state.inner, Stream.DRAFT)
        said = {"best": p.shown, "log_best": nothing, "current": nothing, "left_out": nothing}
        if self.corrector.needs_answer:
            said = opinions(at, logits, p.shown)
        form = {"entropy": nothing, "margin": nothing, "top_ids": none, "top_probabilities": none}
        if self.reads_shape:
            form = shapes(at, draw_logits, self.inputs.top_k)
        return View(
            called=at.called(),
            masked=p.masked,
            window=p.window,
            changeable=self.changeable(state, p.masked),
            quota=self.schedule.quota(state, p.window, p.steps),
            token=token,
            confidence=confidence,
            sampled=sampled,
            sampled_probability=sampled_probability,
            heads={name: head[: at.rows] for name, head in answer.heads.items()},
            logits=logits,
            at=at,
            **said,
            **form,
        )

    def guess(self, state: State, view: View, survey: Survey) -> Tensor:
        """Completions [R, P, L] of the canvas, each position from its own prediction."""
        found = []
        for number in range(survey.guesses):
            if survey.drawn:
                u = noise.uniform(state.keys, state.tick, number, view.at.length, Stream.GUESS)
                words = categorical.inverse_cdf(torch.softmax(view.logits, -1), u.flatten()[view.at.position])
            else:
                words = view.logits.argmax(-1)
            found.append(torch.where(view.masked, view.at.wanted(words, state.tokens), state.tokens))
        return torch.stack(found, dim=1)

    def changeable(self, state: State, masked: Tensor) -> Tensor:
        """Visible tokens that may be changed now [R, L] bool."""
        guard = self.config.guard
        found = ~masked & ~state.fixed
        if guard.edits_per_position:
            found = found & (state.parts["num_changes"] < guard.edits_per_position)
        if guard.cooldown:
            found = found & (state.tick[:, None] - state.parts["written_at"] > guard.cooldown)
        return found

    def guarded(self, state: State, verdict: Verdict, view: View) -> Verdict:
        """The verdict within the limits that hold for every corrector."""
        differs = verdict.remask | (verdict.replace & (verdict.replacement != state.tokens))
        changes = view.changeable & differs
        if share := self.config.guard.edit_share:
            budget = ((~state.fixed).sum(-1) * share).long().clamp(min=1)
            changes = select.best(verdict.urgency, changes, budget)
        return replace(verdict, remask=verdict.remask & changes, replace=verdict.replace & (changes | ~differs))

    def choose(self, state: State, p: Place, view: View, verdict: Verdict) -> tuple[Tensor, dict[str, Tensor]]:
        """What this tick reveals [R, L] bool, and what a policy learns from."""
        if self.picks_ahead:
            return p.candidates, {}
        count = view.quota + (verdict.remask.sum(-1) if self.config.corrector.refills else 0)
        score = self.order.score(state, view, p.steps)
        chosen, learned = self.schedule.decide(state, p.candidates, score, view, count)
        return torch.where((state.tick > p.steps)[:, None], p.candidates, chosen), learned

    def end_early(self, state: State) -> tuple[State, Tensor]:
        """Fill what follows an end token with nothing masked before it; says where [R, L]."""
        none = torch.zeros_like(state.fixed)
        if self.end_id is None or not (self.config.blocks.length and self.config.blocks.early_end):
            return state, none
        masked = self.masked(state)
        decided = masked.cumsum(-1) == 0
        ends = (state.tokens == self.end_id) & ~state.fixed & decided
        fill = masked & ends.any(-1, keepdim=True) & ((state.inner == 0) & state.active)[:, None]
        word = torch.full_like(state.tokens, self.end_id)
        written = write(state, fill, word, none, state.tokens, none, self.mask_id)
        confidence = state.confidence.masked_fill(written.revealed, 1)
        return replace(state, tokens=written.tokens, confidence=confidence), written.revealed

    # --- end --------------------------------------------------------------------------------------

    def finish(self, state: State) -> Samples:
        return Samples(state.ids, state.tokens, state.edits)

    def max_calls(self, length: int) -> int:
        planes = 1 + (length if self.corrector.reads_left_out else 0)
        halves = 2 if self.config.guidance.gamma else 1
        ticks = self.ticks(length)
        return halves * planes * (ticks * (1 + self.corrector.num_passes) + 1 + self.corrector.extra_calls)
