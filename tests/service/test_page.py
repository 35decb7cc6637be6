"""The page in a real browser, against the real service."""

from __future__ import annotations

import hashlib
import json

import pytest

from components.api import load, sample
from tests.browser import DESK, PHONE, look, overflowing
from tests.components.test_export import exported
from tests.served import served

CSS = "css selector"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "model"
    exported(folder)
    return folder


@pytest.fixture(scope="module")
def url(folder, chromium):
    with served(folder) as url:
        yield url


def until(driver, said):
    """Wait for a sentence about what is going on."""

    def there(d):
        error = d.find_element(CSS, "#error")
        assert not error.is_displayed() or said in error.text, error.text
        return said in d.find_element(CSS, "#status").text + error.text

    wait_until(driver, there)


def opened(driver, url, size=DESK):
    """The page, ready to be used."""
    return ready(look(driver, f"{url}/", size))


def ready(driver):
    wait_until(driver, lambda d: d.find_elements(CSS, "fieldset option"))
    return driver


def wait_until(driver, condition):
    from selenium.webdriver.support.ui import WebDriverWait  # where it is missing, the fixture has skipped the test

    WebDriverWait(driver, 30, poll_frequency=0.05).until(condition)


def fill(driver, place, value):
    field = driver.find_element(CSS, place)
    field.clear()
    field.send_keys(str(value))


def write(driver, **fields):
    """Fill the form and press the button. Fields are named by their ids, or by their names in the first sampler."""
    for name, value in fields.items():
        fill(driver, f"#{name}, fieldset:first-child [name='{name}']", value)
    driver.find_element(CSS, "button.main").click()
    until(driver, "Written")


def texts(driver):
    return [e.text for e in driver.find_elements(CSS, ".final") if e.is_displayed()]


def cells(driver):
    """Classes of the positions of the first row."""
    return driver.execute_script("return [...document.querySelector('.canvas').children].map(c => c.className)")


def call(driver):
    return int(driver.find_element(CSS, "#clock").get_property("value"))


def drag(driver, to):
    """Move the clock as a hand does."""
    driver.execute_script(
        "const c = document.getElementById('clock'); c.value = arguments[0]; c.dispatchEvent(new Event('input'))", to
    )


def test_what_is_written_is_what_the_api_gives(folder, url, chromium):
    driver = opened(chromium, url)
    assert driver.find_element(CSS, "fieldset select").get_property("value") == "proseco"
    write(driver, prompt="12", seed=3, steps=5)
    (row,) = sample(load(folder), "proseco", 1, ["12"], seed=3, steps=5)
    assert texts(driver) == [row.text]
    assert f"{row.sample.calls} calls, {row.sample.edits} corrections" in driver.find_element(CSS, ".panel").text


def test_a_template_has_its_holes_where_they_were_typed(folder, url, chromium):
    driver = opened(chromium, url)
    write(driver, prompt="12[3]31", steps=3)
    given = [c == "prompt" for c in cells(driver)]
    assert given == [True, True, False, False, False, True, True]


def test_edits_are_drawn_by_what_they_did_and_can_be_played_again(folder, url, chromium):
    driver = opened(chromium, url)
    write(driver, prompt="1", seed=0, steps=6)
    (row,) = sample(load(folder), "proseco", 1, ["1"], seed=0, steps=6, trace=True)
    trace = row.sample.trace
    assert any(e.reason == "replace" for e in trace)
    for number in sorted({e.call for e in trace}):
        drag(driver, number)
        drawn = cells(driver)
        for reason in ("reveal", "replace"):
            wanted = {e.position for e in trace if e.call == number and e.reason == reason}
            assert {i for i, c in enumerate(drawn) if reason in c.split()} == wanted
        later = {e.position for e in trace if e.call > number and e.old == 0}
        assert {i for i, c in enumerate(drawn) if "mask" in c.split()} == later
    drag(driver, 0)
    driver.find_element(CSS, "#forward").click()
    assert call(driver) == min(e.call for e in trace)
    driver.find_element(CSS, "#play").click()
    wait_until(driver, lambda d: call(d) == row.sample.calls)
    assert driver.find_element(CSS, "#play").get_attribute("aria-label") == "Play", "it stops at the end"
    driver.find_element(CSS, "#back").click()
    assert call(driver) == max(e.call for e in trace if e.call < row.sample.calls)


def test_a_position_tells_its_history_to_mouse_and_keyboard(folder, url, chromium):
    driver = opened(chromium, url)
    write(driver, prompt="1", seed=0, steps=6)
    (row,) = sample(load(folder), "proseco", 1, ["1"], seed=0, steps=6, trace=True)
    place = next(e.position for e in row.sample.trace if e.reason == "replace")
    own = [e for e in row.sample.trace if e.position == place]
    driver.find_element(CSS, f".canvas b[data-position='{place}']").click()
    lines = [e.text for e in driver.find_elements(CSS, "#inspector li")]
    assert len(lines) == len(own)
    assert lines[0].startswith(f"call {own[0].call}: revealed, mask to ")
    assert f"probability {own[0].confidence:.3f}" in lines[0]
    driver.find_element(CSS, ".canvas").send_keys("\ue012")  # the left arrow
    assert f"Position {place - 1}" in driver.find_element(CSS, "#inspector").text


def test_two_samplers_are_compared_at_equal_calls(folder, url, chromium):
    driver = opened(chromium, url)
    driver.find_element(CSS, "#compare").click()
    fill(driver, "fieldset:last-child [name=steps]", 9)
    write(driver, prompt="12", seed=5, steps=3)
    model = load(folder)
    (first,) = sample(model, "proseco", 1, ["12"], seed=5, steps=3, trace=True)
    (second,) = sample(model, "mdlm", 1, ["12"], seed=5, steps=9, trace=True)
    assert texts(driver) == [first.text, second.text]
    assert int(driver.find_element(CSS, "#clock").get_attribute("max")) == max(first.sample.calls, second.sample.calls)
    drag(driver, 2)
    for panel, row in zip(driver.find_elements(CSS, ".panel"), (first, second), strict=True):
        past = [e for e in row.sample.trace if e.call <= 2]
        masked, corrections = 7 - len({e.position for e in past}), sum(e.reason == "replace" for e in past)
        assert f"2 calls, {corrections} corrections, {masked} still masked" in panel.text


FOLLOWED = """
const [done] = arguments;
import("./view.js").then(view => {
  const row = {tokens: [0, 0, 0, 0, 0], pieces: [null, null, null, null, null], mask_id: 0};
  const edit = (call, position) => ({object: "text_completion.edit", call, edits: [
    {position, old: 0, new: 4, text: "1", confidence: 0.5, reason: "reveal"}]});
  const end = calls => ({object: "text_completion", choices: [{text: "11111", proseco: {calls, edits: 0}}]});
  const told = [];
  view.open(["first", "second"]);
  for (const number of [0, 1]) view.tell(number, {object: "text_completion.start", ...row});
  for (const [number, event] of [[0, edit(1, 0)], [0, edit(3, 1)], [1, edit(2, 0)], [1, edit(5, 1)], [0, edit(6, 2)],
                                 [0, end(6)], [1, edit(8, 2)], [1, end(9)]]) {
    view.tell(number, event);
    told.push([Number(document.getElementById("clock").value),
               [...document.querySelectorAll(".summary-line")].map(e => parseInt(e.textContent))]);
  }
  done(told);
});
"""


def test_while_two_samplers_write_both_are_shown_after_equally_many_calls(url, chromium):
    """The first is ahead with calls 1 and 3, then the second with 5; the first ends after 6, the second after 9."""
    told = opened(chromium, url).execute_async_script(FOLLOWED)
    assert [clock for clock, _ in told] == [0, 0, 2, 3, 5, 5, 8, 9]
    assert [calls for _, calls in told] == [[0, 0], [0, 0], [2, 2], [3, 3], [5, 5], [5, 5], [6, 8], [6, 9]]


def test_errors_of_the_server_are_shown_as_they_are(url, chromium):
    driver = opened(chromium, url)
    fill(driver, "#prompt", "x")
    driver.find_element(CSS, "button.main").click()
    until(driver, "symbols that tiny knows")


def test_a_row_can_be_stopped(url, chromium):
    driver = opened(chromium, url)
    fill(driver, "fieldset:first-child [name=steps]", 50_000)
    driver.find_element(CSS, "button.main").click()
    until(driver, "Writing")
    driver.find_element(CSS, "#stop").click()
    until(driver, "Stopped")
    write(driver, steps=3)
    assert not driver.find_element(CSS, "#stop").is_enabled()


def test_a_key_is_asked_for_and_stays_in_the_tab(folder, tmp_path, chromium):
    keys = tmp_path / "keys.yaml"
    keys.write_text(json.dumps([{"name": "me", "sha256": hashlib.sha256(b"secret").hexdigest()}]))
    with served(folder, keys=keys) as url:
        driver = look(chromium, f"{url}/", PHONE)
        until(driver, "key")
        fill(driver, "#key", "secret")
        driver.find_element(CSS, "#access-form button").click()
        ready(driver)
        write(driver, prompt="12", steps=3)
        kept = driver.execute_script("return [sessionStorage.getItem('key'), localStorage.length, document.cookie]")
        assert kept == ["secret", 0, ""]


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_the_page_fits_and_asks_nobody_else(size, url, chromium):
    chromium.get_log("browser"), chromium.get_log("performance")
    driver = opened(chromium, url, size)
    driver.find_element(CSS, "#compare").click()
    write(driver, prompt="12", steps=4)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert overflowing(driver) == []
    assert [line for line in driver.get_log("browser") if line["level"] in ("WARNING", "SEVERE")] == []
    messages = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert f"{url}/v1/completions" in asked
    assert [a for a in asked if not a.startswith(f"{url}/")] == []
