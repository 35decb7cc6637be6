"""lm-eval's model: its numbers against sums by hand, and a task of our own from its command line."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

from components.api import load, sample
from components.errors import ConfigError, DataError
from components.scorers.conditional import Asked, bound, is_greedy
from tests.components.test_export import exported

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'proseco[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

import pipelines.lm_eval as ours

MASK, LENGTH = 0, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm_eval") / "model"
    exported(folder)
    return folder


def built(folder, **options):
    return get_model("proseco").create_from_arg_obj({"folder": str(folder), **options}, {"batch_size": 4})


def asking(kind: str, *args: object) -> Instance:
    return Instance(kind, {}, args, 0, ("task", 3, 1))


def nll(model, row: list[int], targets: dict[int, int]) -> float:
    """-log f of tokens at masked positions of one row."""
    logits = model.network(torch.tensor([row])).logits[0].detach()
    logits[:, MASK] = -math.inf
    return sum(float(cross_entropy(logits[i], torch.tensor(t))) for i, t in targets.items())


def test_one_token_is_known_exactly_and_what_follows_it_is_unknown(folder):
    lm = built(folder, draws=2)
    ((value, _),) = lm.loglikelihood([asking("loglikelihood", "12", "3")])
    assert value == pytest.approx(-nll(lm.model, [4, 5, *[MASK] * 7], {2: 6}), abs=1e-5)
    assert lm.likelihoods[0].standard_error == pytest.approx(0, abs=1e-6)


def test_the_bound_is_the_mean_over_numbers_of_masks_and_places(folder):
    model = load(folder)
    context, target = [4, 5], [6, 4, 6]
    row = [*context, *target, *[MASK] * 4]
    exact = 0.0
    for n in (1, 2, 3):
        sets = list(itertools.combinations((2, 3, 4), n))
        for chosen in sets:
            noised = [MASK if i in chosen else t for i, t in enumerate(row)]
            exact += 3 / n * nll(model, noised, {i: row[i] for i in chosen}) / len(sets) / 3
    draws = bound(model.network, Asked(torch.tensor(row), 2, 5, MASK), 3000)
    assert float(draws.mean()) == pytest.approx(exact, abs=5 * float(draws.std()) / 3000**0.5)
    assert float(draws.std()) / 3000**0.5 < 0.02 * exact


def test_continuations_of_one_context_meet_the_same_masks_and_pieces_of_a_text_meet_others(folder):
    model, seen = load(folder).network, []

    def watching(tokens, **others):
        seen.append(tokens == MASK)
        return model(tokens, **others)

    def asked(*target: int) -> Asked:
        return Asked(torch.tensor([4, *target, *[MASK] * 4]), 1, 5, MASK)

    for target, seed, number in (
        ((4, 5, 6, 4), 0, 0),
        ((6, 6, 5, 5), 0, 0),
        ((6, 6, 5, 5), 0, 1),
        ((6, 6, 5, 5), 7, 0),
    ):
        bound(watching, asked(*target), 16, seed, number)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[1], seen[3])


def test_greedy_is_what_a_decoder_by_confidence_writes(folder):
    model = load(folder)
    row = [4, 5, *[MASK] * 7]
    for _ in range(3):
        logits = model.network(torch.tensor([row])).logits[0]
        logits[:, MASK] = -math.inf
        chances = logits.detach().softmax(-1)
        place = max((i for i in (2, 3, 4) if row[i] == MASK), key=lambda i: float(chances[i].max()))
        row[place] = int(chances[place].argmax())
    assert is_greedy(model.network, Asked(torch.tensor(row), 2, 5, MASK))
    for place in (2, 3, 4):
        other = [*row]
        other[place] = 5 if row[place] != 5 else 6
        assert not is_greedy(model.network, Asked(torch.tensor(other), 2, 5, MASK))


def test_a_long_text_is_read_in_rows_and_the_last_one_sees_what_fits_before_it(folder):
    lm = built(folder, draws=8)
    text = "123231312" + "123"
    (found,) = lm.loglikelihood_rolling([asking("loglikelihood_rolling", text)])
    ids = [int(c) + 3 for c in text]
    first = bound(lm.model.network, Asked(torch.tensor(ids[:9]), 0, 9, MASK), 8, 0, 0)
    last = bound(lm.model.network, Asked(torch.tensor(ids[3:]), 6, 9, MASK), 8, 0, 1)
    assert found == pytest.approx(-float(first.mean() + last.mean()))
    error = math.hypot(float(first.std()), float(last.std())) / 8**0.5
    assert lm.likelihoods[0].standard_error == pytest.approx(error)
    assert lm.loglikelihood_rolling([asking("loglikelihood_rolling", "")]) == [0.0]


def test_every_likelihood_leaves_its_error_in_the_file(folder, tmp_path):
    path = tmp_path / "errors.jsonl"
    lm = built(folder, draws=4, errors=str(path))
    found = lm.loglikelihood([asking("loglikelihood", "12" * 4, "31"), asking("loglikelihood", "", "123")])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["value"] for line in lines] == [value for value, _ in found]
    assert [line["dropped"] for line in lines] == [1, 0], "8 tokens and 2 more are one too many for 9"
    assert lines[0]["standard_error"] > 0
    assert (lines[0]["task"], lines[0]["doc_id"], lines[0]["draws"]) == ("task", 3, 4)
    with pytest.raises(ConfigError, match="model_args.errors"):
        built(folder, errors=str(path))
    with pytest.raises(DataError, match="10 tokens"):
        lm.loglikelihood([asking("loglikelihood", "", "1" * 10)])


def test_answers_do_not_depend_on_their_company(folder):
    one, other = built(folder, draws=4), get_model("proseco")(folder=str(folder), draws=4, batch_size="1")
    asked = [asking("loglikelihood", c, t) for c in ("", "1", "12 ") for t in ("3", "1213")]
    assert one.loglikelihood(asked) == [other.loglikelihood([a])[0] for a in reversed(asked)][::-1]
    asked = [asking("generate_until", c, {"until": ["3"]}) for c in ("12", "", "312", "12")]
    assert one.generate_until(asked) == [other.generate_until([a])[0] for a in asked]


def test_generations_are_the_samples_of_the_prompt_cut_at_the_first_stop(folder):
    lm = built(folder, sampler="proseco", steps=4, seed=5, **{"corrector.passes": 2})
    rows = sample(load(folder), "proseco", 2, ["12"], seed=5, steps=4, corrector={"passes": 2})
    request = asking("generate_until", "12", {"until": [], "do_sample": False, "temperature": 0.0})
    assert lm.generate_until([request, request]) == [r.text for r in rows], "the same request again is another draw"
    assert rows[0].text != rows[1].text
    text = rows[0].text
    assert ours.cut("abcabd", ["", "bd", "c", "x"]) == "ab"
    (found,) = lm.generate_until([asking("generate_until", "12", {"until": [text[-1], "x"]})])
    assert found == text.split(text[-1])[0]
    assert found != text
    (short,) = lm.generate_until([asking("generate_until", "12", {"max_gen_toks": 3})])
    assert (
        short == sample(load(folder), "proseco", 1, ["12"], length=5, seed=5, steps=4, corrector={"passes": 2})[0].text
    )
    assert len(short) <= 3


@pytest.mark.parametrize("name", ["top_p", "num_beams", "max_gen_tok"])
def test_a_way_to_generate_that_means_nothing_here_is_refused(folder, name):
    with pytest.raises(ConfigError, match=rf"generation_kwargs\.{name} = 3"):
        built(folder).generate_until([asking("generate_until", "12", {name: 3})])
    with pytest.raises(ConfigError, match=r"generation_kwargs\.temperature = 0\.7"):
        built(folder).generate_until([asking("generate_until", "12", {"temperature": 0.7})])


def test_options_are_checked_by_the_one_parser(folder):
    with pytest.raises(ConfigError, match="did you mean steps"):
        built(folder, step=4)
    with pytest.raises(ConfigError, match="model_args.draws = 1"):
        built(folder, draws=1)
    assert ours.nested({"corrector": "prism", "corrector.x": 1}) == {"corrector": {"name": "prism", "x": 1}}


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{row}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
"""


def test_tasks_run_from_the_command_line(folder, tmp_path):
    rows = ("12", "1", "231")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"row": r, "answer": "31"}) + "\n" for r in rows))
    likely = "target_delimiter: ''\nmetric_list: [{metric: perplexity}, {metric: acc}]"
    stop = "generation_kwargs: {until: ['1'], do_sample: false}\nmetric_list: [{metric: exact_match}]"
    for name, kind, more in (("likely", "loglikelihood", likely), ("write", "generate_until", stop)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=kind, more=more))
    command = [
        sys.executable, "-m", "pipelines.lm_eval", "run", "--model", "proseco", "--model_args",
        f"folder={folder},sampler=proseco,steps=3,draws=8,errors={tmp_path}/errors.jsonl",
        "--tasks", "likely,write", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out.json"),
        "--log_samples",
    ]  # fmt: skip
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = tmp_path.rglob("out_*.json")
    found = json.loads(results.read_text())["results"]
    lm = built(folder, draws=8, sampler="proseco", steps=3)
    values, greedy = zip(*lm.loglikelihood([asking("loglikelihood", r, "31") for r in rows]), strict=True)
    assert found["likely"]["perplexity,none"] == pytest.approx(math.exp(-sum(values) / 3))
    assert found["likely"]["acc,none"] == pytest.approx(sum(greedy) / 3)
    assert len((tmp_path / "errors.jsonl").read_text().splitlines()) == 3
    (log,) = tmp_path.rglob("samples_write_*.jsonl")
    written = [json.loads(line)["resps"][0][0] for line in log.read_text().splitlines()]
    assert written == lm.generate_until([asking("generate_until", r, {"until": ["1"]}) for r in rows])
