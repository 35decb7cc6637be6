"""The benchmarks' own rules: what is timed is gated, what became worse is told, and the command finds them."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from components.samplers import preset
from components.samplers.options.schedules import ThresholdConfig
from pipelines import bench
from pipelines.cli import main
from tests.bench import blocks, data, paired, picture, plain, resume, search, threshold, training
from tests.bench.__main__ import BENCHES, DEFAULTS
from tests.bench.__main__ import main as measure
from tests.components.test_export import MODELS, exported

CPU = torch.device("cpu")


def pair(ours, theirs, same=lambda: "equal", **more) -> paired.Pair:
    return paired.Pair("made_up", {"length": 3}, ours, theirs, same, **more)


def result(ratio=2.0, ours_mb=10.0, theirs_mb=40.0, calls=3.0, name="made_up", length=3):
    return {
        "name": name, "setting": {"length": length}, "ratio": ratio, "counts": {"calls": calls}, "clock": "cpu_s",
        "ratios": {"cpu_s": [ratio * 0.9, ratio, ratio * 1.2], "wall_s": [1.0]}, "rate": {},
        "peak_mb": {"ours": ours_mb, "theirs": theirs_mb},
    }  # fmt: skip


def test_sides_take_turns_and_the_middle_ratio_is_told(monkeypatch):
    turns, clock = [], [0.0]
    costs = {"ours": iter([9, 9, 1, 2, 4]), "theirs": iter([9, 5, 4, 4])}  # those of 9 are thrown away

    def side(name):
        turns.append(name)
        clock[0] += next(costs[name])
        torch.zeros(8, 2).addmm_(torch.ones(8, 4), torch.ones(4, 2)).mm(torch.ones(2, 1))
        return {"calls": {"ours": 2.0, "theirs": 6.0}[name]}

    monkeypatch.setattr(paired, "cpu_s", lambda: clock[0])
    found = paired.measure(pair(lambda: side("ours"), lambda: side("theirs"), work=8.0, unit="MB"), 3, CPU)
    assert turns == ["ours", "ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert found["ratios"]["cpu_s"] == [5.0, 2.0, 1.0]
    assert found["ratio"] == 2.0
    assert found["rate"] == {"ours": 4.0, "theirs": 2.0, "unit": "MB"}
    assert found["counts"] == {"calls": 3.0}
    assert found["flops"] == 2 * 8 * 4 * 2 + 2 * 8 * 2
    assert found["share_of_limit"] == {k: pytest.approx(found["flops"] / s / found["limit_flops_s"]) for k, s in (("ours", 2), ("theirs", 4))}
    most = found["ratio"] / found["share_of_limit"]["ours"]
    assert f"of the machine's limit, where it is {most:.1f}x" in paired.line(found)
    assert "4 against 2 MB a CPU s" in paired.line(found)
    assert "3.00x fewer calls" in paired.line(found)


def test_only_turns_for_peaks_begin_with_memory_given_back(monkeypatch):
    """Three of them, whose times are thrown away: otherwise the side that takes more memory would be slower."""
    given_back, forget = [], paired.forget_peak
    monkeypatch.setattr(paired, "forget_peak", lambda: given_back.append(1) or forget())
    paired.measure(pair(dict, dict), 4, CPU)
    assert len(given_back) == 3


def test_of_a_side_with_processes_of_its_own_counts_what_they_tell():
    told = {"ours": {"wall_s": 2.0, "peak_mb": 10.0, "MB read": 1.0}, "theirs": {"wall_s": 6.0, "peak_mb": 40.0, "MB read": 4.0}}
    found = paired.measure(pair(lambda: dict(told["ours"]), lambda: dict(told["theirs"]), clock="wall_s"), 2, CPU)
    assert (found["ratio"], found["counts"], found["peak_mb"]) == (3.0, {"MB read": 4.0}, {"ours": 10.0, "theirs": 40.0})


def test_nothing_is_timed_where_sides_differ():
    def differ() -> str:
        raise AssertionError("the ids differ")

    with pytest.raises(AssertionError, match="the ids differ"):
        paired.measure(pair(lambda: pytest.fail("it ran"), lambda: {}, differ), 1, CPU)


@pytest.mark.parametrize("asked", ["true", "false"])
def test_blocks_that_learn_are_compiled_where_that_is_asked_for_and_by_one_side_alone(asked, monkeypatch, capsys):
    """In the turns, in the gate, and in the process that peaks are measured in; and nothing is counted, which would keep torch from it."""
    compiled, told = [], []
    monkeypatch.setattr(training, "compile_for_cpu", lambda blocks, head: compiled.append(len(blocks)))
    monkeypatch.setattr(training.subprocess, "run", lambda command, **_: told.append(command) or SimpleNamespace(stdout="1.0"))
    given = {"vocab": "31", "length": "8", "rows": "2", "size": "nano", "rounds": "1", "compile": asked}
    monkeypatch.setattr(sys, "argv", ["bench", "train_mdlm", *(f"--{name}={value}" for name, value in given.items())])
    with pytest.raises(SystemExit) as ended:
        measure()
    assert ended.value.code == 0
    assert compiled == [3, 3] * (asked == "true"), "the turns' network and the gate's"
    assert {part for command in told for part in command if part.startswith("compile")} == {f"compile={asked == 'true'}"}
    assert ("of the machine's limit" in capsys.readouterr().out) == (asked == "false")

    monkeypatch.setattr(sys, "argv", ["training", *told[0][told[0].index("-m") + 2 :]])
    training.main()
    assert compiled == [3, 3, 3] * (asked == "true")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells it")
def test_the_most_memory_of_each_side_is_its_own():
    def take(mb: int):
        return lambda: {"rows": float(len(bytearray(b"x") * (mb << 20)))}

    found = paired.measure(pair(take(64), take(200)), 1, CPU)
    assert 64 <= found["peak_mb"]["ours"] < 120
    assert 200 <= found["peak_mb"]["theirs"] < 260


@pytest.mark.parametrize(
    ("now", "told"),
    [(result(), []), (result(ratio=1.85), []), (result(ratio=1.7), ["speed"]), (result(ours_mb=13), []), (result(ours_mb=14), ["memory"]),
     (result(calls=2.6), ["calls"]), (result(ratio=1.0, calls=1.0), ["speed", "calls"]), (result(ratio=1.0, length=4), []), (result(ratio=9.0), [])],
)  # fmt: skip
def test_what_became_worse_is_told_by_metric(now, told, tmp_path):
    """Of the same name and setting alone: 10% of speed and counts, 25% of memory."""
    paired.write(tmp_path / "old.json", [result(), result(ratio=50.0, name="another")])
    lost = paired.worse(tmp_path / "old.json", [now])
    assert [re.search(r"in (\w+) it was", sentence)[1] for sentence in lost] == told
    machine = json.loads((tmp_path / "old.json").read_text())["machine"]
    assert {"cpu", "cpus", "torch", "threads"} <= machine.keys()
    assert machine["cpu"]


def test_a_picture_has_faster_to_the_right_and_says_each():
    found = picture.drawn([result(ratio=0.5, name="slow"), result(ratio=1.0, name="same"), result(ratio=40.0, name="fast")])
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', found)]
    one = float(re.search(r'<line x1="([\d.]+)"[^>]*stroke="#444"', found)[1])
    assert places[0] < places[1] == one < places[2]
    assert all(name in found for name in ("slow", "same", "fast", "0.50x", "40.00x"))
    assert found.startswith("<svg xmlns=")


@pytest.fixture
def corpus(tmp_path) -> Path:
    texts = [f"Line {i} of a story, told {i % 7} times over.\nAnd more: [MASK] é {i * i}" for i in range(300)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.slow
def test_the_gates_of_data_hold_and_notice_an_id(corpus, monkeypatch):
    pytest.importorskip("gigatoken", reason="gigatoken is an optional extra")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    given = DEFAULTS | {"corpus": str(corpus), "vocab": 300, "length": 16, "rows": 4}
    corpus.write_text(corpus.read_text().replace("[MASK] ", ""))
    made = data.tokenize("tokenize", given)
    assert "equal ids" in made.same()
    assert made.work == pytest.approx(sum(len(json.loads(line)["text"].encode()) for line in corpus.read_text().splitlines()) / 1e6)
    assert "equal rows" in data.read_rows("read_rows", given).same()
    with corpus.open("a") as file:
        file.write(json.dumps({"text": "a [MASK] that theirs reads as one"}) + "\n")
    with pytest.raises(AssertionError, match="the ids differ"):
        data.tokenize("tokenize", given).same()


def test_the_gate_of_threshold_holds_and_notices_another_threshold(monkeypatch):
    assert "equal tokens each" in threshold.same(rows=2, length=40)
    for changed in (preset("threshold", draw={"temperature": 0.0}, blocks={"length": 16, "early_end": False}), replace(threshold.sampler(), schedule=ThresholdConfig(0.6))):
        monkeypatch.setattr(threshold, "sampler", lambda changed=changed: changed)
        with pytest.raises(AssertionError, match="differ"):
            threshold.same(rows=2, length=40)


def test_the_plain_threshold_writes_all_that_is_sure_and_at_least_one_of_each_block():
    """Of position p by 1 - p / 10. The token is 1, or 2 behind a 2."""

    def network(tokens: torch.Tensor) -> torch.Tensor:
        sure = 1 - torch.arange(tokens.shape[1]).double() / 10
        logits = torch.full((*tokens.shape, 8), -50.0, dtype=torch.float64)
        best = 1 + (tokens[:, :1] == 2).long()
        logits.scatter_(-1, best[..., None].expand(-1, tokens.shape[1], 1), sure.log()[None, :, None])
        logits[..., 7] = (1 - sure).clamp(min=1e-30).log()
        logits[..., 0] = 9.0  # the mask, which is never written
        return logits

    tokens, calls = plain.threshold(network, torch.tensor([[2]]), 6, 0, 0.75, 3)
    assert tokens.tolist() == [[2] * 6]
    assert calls == 4  # positions 1 and 2, then 3; in the next block, of which none is sure, 4, then 5


@pytest.mark.long
def test_the_gate_of_search_holds_and_notices_other_weights(monkeypatch):
    assert "one law" in search.same_law()
    published = search.sampler
    monkeypatch.setattr(search, "sampler", lambda *given: replace(published(*given), search=replace(published(*given).search, exponent=0.0)))
    with pytest.raises(AssertionError, match="the laws differ"):
        search.same_law()


def test_turns_of_decoding_count_the_calls_of_a_row():
    given = DEFAULTS | {"vocab": 16, "length": 8, "rows": 2, "size": "nano"}
    made = search.build("search", given)
    assert made.ours() == made.theirs() == {"calls": 4 * 8.0}
    made = threshold.build("threshold", given)
    assert made.ours() == made.theirs()
    assert blocks.LENGTH == 32


@pytest.mark.long
@pytest.mark.distributed
def test_the_gate_of_resume_holds_and_each_rank_reads_its_part(monkeypatch):
    told, in_ranks = [], resume.in_ranks
    monkeypatch.setattr(resume, "in_ranks", lambda *asked: told.append(in_ranks(*asked)))
    assert "both have what was saved" in resume.build("resume", DEFAULTS).same()
    _, ours, _, theirs = told
    assert 0 < ours["MB read by a rank"] < 0.6 * theirs["MB read by a rank"]
    assert ours["wall_s"] > 0


def test_the_gate_of_start_holds_and_notices_another_draw(monkeypatch):
    made = resume.start("start", DEFAULTS)
    assert "equal parts" in made.same()
    draw = resume.drawn_in_parts
    monkeypatch.setattr(resume, "drawn_in_parts", lambda model, vocab, part: draw(model, vocab, lambda flat: part(flat) + 1e-3))
    with pytest.raises(AssertionError, match="the weights differ"):
        made.same()


def test_the_command_names_the_benchmarks_and_ends_as_they_do(capfd, tmp_path):
    for line, code, words in ((["--help"], 0, [*BENCHES, *(f"--{name.replace('_', '-')}" for name in DEFAULTS), "--compare", "--plot"]), (["nonsuch"], 2, ["nonsuch", *BENCHES]), (["corrector_stops", "--export", str(tmp_path)], 2, ["holds no config.json"])):
        assert CliRunner().invoke(main, ["bench", *line]).exit_code == code
        said = " ".join("".join(capfd.readouterr()).split())
        assert all(word in said for word in words)


def test_rows_are_as_long_as_a_given_model_can_have(tmp_path, monkeypatch, capsys):
    exported(tmp_path / "m", MODELS["grid"])
    lengths = []
    monkeypatch.setattr(paired, "measure", lambda pair, *_: lengths.append(pair.setting["length"]) or sys.exit(0))
    for more, code in (([], 0), (["--length", "5"], 0), (["--length", "10"], 2)):
        monkeypatch.setattr(sys, "argv", ["bench", "corrector_stops", "--export", str(tmp_path / "m"), *more])
        with pytest.raises(SystemExit) as done:
            measure()
        assert done.value.code == code
    assert lengths == [9, 5]
    assert "in [1, 9], the positions that the model may have" in capsys.readouterr().err


def test_without_tests_the_command_says_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    done = CliRunner().invoke(main, ["bench", "tokenize"])
    assert done.exit_code == 1
    assert "Clone the repository" in done.output
    assert str(tmp_path) in done.output
